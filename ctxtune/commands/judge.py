"""The two numbers by which every run is judged: how well it does the task, and how far it moved from the base.

How far is measured on general text, and on the rows to score, whose KL says most of what is forgotten (Shenfeld et al. 2025):

    task_kl = mean over rows of KL(base || tuned) over a row's choices, nats a row, of what the base has said of them anyway;
              of free answers mean over the tokens of the first, over the vocabulary, nats a token
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxtune.backend.feed import Feed
from ctxtune.commands import prepare, texts
from ctxtune.commands.begin import learned_feed, learning_feed
from ctxtune.commands.heartbeat import heartbeat
from ctxtune.data.encode import EncodeSpec
from ctxtune.data.hash import sha256_fields
from ctxtune.data.windows import TextSpec
from ctxtune.engine.checkpoint import read_state
from ctxtune.errors import DataError
from ctxtune.evals.calibrate import log_shares
from ctxtune.evals.choice import Requests, choice_scores, divergence
from ctxtune.evals.forgetting import LENGTH, ROWS, BaseProbe, drift, kept_base, probe_examples, unmoved
from ctxtune.evals.items import Item, summarise
from ctxtune.evals.perplexity import answer_perplexities, text_metrics, window_items
from ctxtune.recipe.plural import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import Tensor

    from ctxtune.backend.trunk import Trunk
    from ctxtune.data.encode import ChoiceSet, Encoded
    from ctxtune.methods.registry import Virtual


_TASK = "kl_base"
_ANSWERS = 64  # free answers that are compared with the base's, at most, about


@dataclass(frozen=True)
class TextSize:
    """The units of a running text that perplexity is counted in."""

    words: int
    num_bytes: int

    @classmethod
    def of(cls, source: prepare.Source, spec: TextSpec) -> TextSize:
        """Of all its documents."""
        documents = [spec.render(row) for row in source.rows]
        return cls(sum(len(one.split()) for one in documents), sum(len(one.encode()) for one in documents))

    def metrics(self, items: Sequence[Item]) -> dict[str, float]:
        """The scores of its windows together."""
        tokens = round(sum(item.weight for item in items))
        return text_metrics(sum(item.said["ll"][0] for item in items), self.words, self.num_bytes, tokens)


@dataclass
class Judge:
    """Scores and drift of a model that is opened as a trunk; each part is None where it was not asked for.

    `say` is told what is measured while it is.
    """

    choices: ChoiceSet | None
    requests: Requests | None
    probe: Feed | None
    end: int = 0  # tokens behind a free answer that end the text: learned, but no part of the answer
    base: BaseProbe | None = None
    say: Callable[[str], None] | None = None
    taught: Sequence[Sequence[float]] = ()  # what a teacher said of the choices of each row
    still: dict[str, float] | None = None  # the drift of what cannot move
    told: list[dict[str, float]] = field(default_factory=list)  # the scores of a run so far
    rows: list[Item] = field(default_factory=list)  # what gave the last of them
    lls: dict[int, list[float]] = field(default_factory=dict)  # id of a row -> what the base said of its choices
    free: Feed | None = None  # the first free answers
    free_base: BaseProbe | None = None
    text: TextSize | None = None  # of a running text

    @classmethod
    def make(
        cls, trunk: Trunk, source: prepare.Source | None, spec: prepare.Spec, probe: str | None,
        say: Callable[[str], None] | None = None, before: int = 0,
    ) -> Judge:  # fmt: skip
        """Encode what is to be scored; `before` virtual tokens will stand before the probe."""
        choices = to_score(source, spec)
        requests = Requests(trunk, choices.requests) if choices is not None else None
        end = int(isinstance(spec, EncodeSpec) and spec.choices is None and spec.kind == "causal")
        feed = probe_feed(trunk, probe, before) if probe is not None else None
        free = Feed(trunk, some) if (some := _first_answers(choices)) else None
        text = TextSize.of(source, spec) if source is not None and isinstance(spec, TextSpec) else None
        return cls(choices, requests, feed, end, say=say, free=free, text=text)

    def behind(self, trunk: Trunk, source: prepare.Source | None, spec: prepare.Spec, virtual: Virtual) -> Judge:
        """The same rows and the same text behind virtual tokens, against what the base has said.

        A suffix stands between a row and its answer. In a running text nothing is asked, and nothing of it stands there: what
        is said of it stays what it was.
        """
        import torch

        choices = to_score(source, spec)
        free = learning_feed(trunk, virtual, some) if (some := _first_answers(choices)) else None
        if virtual.suffix:
            asked = Requests(trunk, choices.requests, suffix=virtual.suffix) if choices is not None else None
            return replace(
                self, choices=choices, requests=asked, probe=None, base=None, still=self._unmoved(), free=free
            )
        learned = partial(virtual.prefix, trunk)
        with torch.no_grad():
            prefix = learned()
        requests = Requests(trunk, choices.requests, prefix, learned) if choices is not None else None
        probe = learned_feed(trunk, virtual, self.probe.examples) if self.probe is not None else None
        return replace(self, choices=choices, requests=requests, probe=probe, free=free)

    def keep(self, where: str, mark: str) -> None:
        """Run the frozen layers once over everything that will be scored again and again."""
        for feed, what in ((self.requests.feed if self.requests else None, "rows to score"), (self.probe, "probe")):
            if feed is not None:
                with heartbeat(self.say, f"running the frozen layers once over the {what}", at_once=False):
                    feed.keep(where, mark)

    def before(self, checkpoint: Path, where: str, mark: str) -> dict[str, Any]:
        """Scores and loss of the base, before anything has moved; `where` and `mark` as of `keep`.

        A resumed run takes them from its checkpoint.
        """
        if self.probe is not None:
            with heartbeat(self.say, "reading the probe that forgetting is measured on"):
                self.base = kept_base(self.probe, where, mark)
        if self.free is not None:
            self.free_base = kept_base(self.free, where, mark)
        kept, items = read_state(checkpoint), []
        if self.requests is not None and self.choices is not None and (kept is None or self.choices.choices):
            with self._scoring("before training"):
                items = self.items(self.requests.kept_scores(where, mark))
            if self.choices.choices:
                self.lls = {id(row): item.said["ll"] for row, item in zip(self.choices.row_of, items, strict=True)}
        if kept is not None:
            return dict(kept["before"])
        return {"scores": self.total(items) if items else {}, "forgetting": self._unmoved()}

    def _unmoved(self) -> dict[str, float]:
        """The drift of a model that is still its base."""
        return asdict(unmoved(self.probe, self.base)) if self.probe is not None and self.base is not None else {}

    def after(self, when: str = "after training", known: dict[str, float] | None = None) -> dict[str, Any]:
        """Scores, unless they are known, and drift of the model as it stands."""
        moved = self.still or {}
        if self.probe is not None and self.base is not None:
            with heartbeat(self.say, f"measuring forgetting {when}"):
                moved = asdict(drift(self.probe, self.base))
        if known is None:
            known = self.choose(when) if self.requests is not None else {}
        if self.free is not None and self.free_base is not None:
            moved = {**moved, "task_kl": drift(self.free, self.free_base).kl}
        if _TASK in known:
            moved = {**moved, "task_kl": known[_TASK]}
        scores = {name: value for name, value in known.items() if not name.startswith(_TASK)}
        return {"scores": scores, "forgetting": moved}

    def choose(self, when: str = "") -> dict[str, float]:
        """The scores alone, which are put down in `told`; `loss` chooses the best checkpoint."""
        with self._scoring(when):
            self.rows = self.items()
            self.told.append(self.total(self.rows))
        return self.told[-1]

    def _scoring(self, when: str) -> AbstractContextManager[None]:
        count = len(self.choices.row_of) if self.choices is not None else 0
        return heartbeat(self.say, f"scoring {counted(count, 'row')} {when}".rstrip(), at_once=bool(when))

    def items(self, known: Sequence[tuple[Tensor, Tensor]] | None = None) -> list[Item]:
        """What every row gave, by what the model says or has said."""
        if self.requests is None or self.choices is None:
            raise ValueError("nothing to score")
        each = iter(known or self.requests.token_scores())
        if self.text is not None:
            return window_items(
                [float(nats.sum()) for nats, _ in each], [one.labels for (one,) in self.choices.requests]
            )
        read = self.requests.feed.trunk.base.anatomy.kind != "classifier"
        items = []
        for i, (row, gold) in enumerate(zip(self.choices.row_of, self.choices.gold, strict=True)):
            tokens = list(islice(each, len(self.choices.requests[i])))
            lls = [float(nats.sum()) for nats, _ in tokens]
            if self.choices.choices:
                scores = choice_scores(lls, gold, self.choices.choices[i], read)
                if self.taught:
                    scores["kl_teacher"] = divergence(self.taught[i], lls)
                if read and id(row) in self.lls:
                    scores[_TASK] = divergence(log_shares(np.array(self.lls[id(row)])).tolist(), lls)
            else:
                # A conversation is in several parts where its chat template rewrites earlier turns.
                said = [[told[: len(told) - self.end] for told in part] for part in tokens]
                scores = {"loss": -sum(lls), "greedy_acc": float(all(likeliest.all() for _, likeliest in said))}
                lls = [sum(float(nats.sum()) for nats, _ in said)]
            items.append(Item(sha256_fields(row.fields), row.line, scores, {"ll": lls, "gold": gold}))
        return items

    def total(self, items: Sequence[Item]) -> dict[str, float]:
        """The scores of all rows together."""
        if self.choices is None or self.choices.choices:
            return summarise(items)
        if self.text is not None:
            return self.text.metrics(items)
        tokens = sum(len(one.labels) - self.end for row in self.choices.requests for one in row)
        return {**summarise(items), **answer_perplexities([item.said["ll"][0] for item in items], tokens)}


def _first_answers(choices: ChoiceSet | None) -> list[Encoded]:
    """The first rows with free answers, as far as these are about as long as a probe together."""
    found: list[Encoded] = []
    for row in choices.requests if choices is not None and not choices.choices else ():
        if sum(len(one.labels) for one in found) >= ROWS * LENGTH or len(found) >= _ANSWERS:
            break
        found += row
    return found


def to_score(source: prepare.Source | None, spec: prepare.Spec) -> ChoiceSet | None:
    """Rows with their choices, if there are rows.

    Raises:
        DataError: all of them are too long.
    """
    choices = prepare.to_score(source.rows, spec) if source is not None else None
    if choices is not None and not choices.requests:
        raise DataError("all eval rows were too long and dropped", "raise data.max_length")
    return choices


def probe_feed(trunk: Trunk, text: str, before: int = 0) -> Feed:
    """The probe as examples of this model, with room for so many tokens before each."""
    tokenizer = trunk.base.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    mask = getattr(tokenizer, "mask_token_id", None)
    examples = probe_examples(ids, trunk.base.anatomy.kind, mask, trunk.base.max_length - before)
    if not examples:
        raise DataError("forget.probe: a text of one token leaves nothing to predict", "name a longer text")
    return Feed(trunk, examples)


def builtin_probe(trunk: Trunk, before: int = 0) -> Feed:
    """The text that ctxtune brings along, as examples of this model, with room for so many tokens before each."""
    text = texts.probe_text("builtin")
    assert text is not None
    return probe_feed(trunk, text, before)
