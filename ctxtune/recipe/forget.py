"""What forgetting is measured on, and how much of it is allowed."""

from typing import Annotated

from pydantic import Field, model_validator

from ctxtune.recipe.section import Section, Text


class Forget(Section):
    """The fixed text on which forgetting is measured, before and after, and the budget that training keeps."""

    probe: Text = Field("builtin", description="builtin, none, or a text file of one's own")
    budget: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None, description="the most KL(base || tuned) on the probe, nats a token; null lets it move freely"
    )
    text: Text = Field(
        "builtin",
        description="the text that a budget is trained on, that ewc and contrast read: builtin, or a file; no probe",
    )

    @model_validator(mode="after")
    def _measured(self) -> "Forget":
        if self.budget is not None and self.probe == "none":
            raise ValueError(f"budget {self.budget:g} is a promise about the probe, and probe none measures nothing")
        if self.text == self.probe != "builtin":
            raise ValueError(f"text {self.text} is the probe itself: what is trained on measures nothing")
        return self
