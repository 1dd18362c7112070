"""What all parts of a recipe are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MOST_STEPS = 10_000_000

Text = Annotated[str, Field(min_length=1)]
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Template = Annotated[str, Field(pattern=r"\{\{")]
Rows = Annotated[int, Field(ge=1, le=65_536)]


class Section(BaseModel):
    """What all parts of a recipe share: no unknown key, no conversion of types, no change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
