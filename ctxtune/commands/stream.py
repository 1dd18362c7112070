"""The story of questions that come through a pipe: read some -> ask them behind demonstrations -> hand the answers out."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ctxtune.commands.asking import answers_end, together
from ctxtune.commands.choose import Chooser
from ctxtune.commands.fewshot import checked, opened
from ctxtune.commands.written import answer_in
from ctxtune.data.branch import shared
from ctxtune.data.encode import encode_choices
from ctxtune.data.objects import read_json_object
from ctxtune.data.read import Row
from ctxtune.errors import CtxtuneError, DataError, RecipeError
from ctxtune.methods.fewshot import behind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ctxtune.backend.decode import Written
    from ctxtune.backend.prefix import Prefix
    from ctxtune.backend.sample import Seeds
    from ctxtune.backend.trunk import Trunk
    from ctxtune.commands.asking import Asking
    from ctxtune.data.encode import Encoded, EncodeSpec
    from ctxtune.data.stream import Line
    from ctxtune.recipe.load import Resolved
    from ctxtune.recipe.schema import Fewshot

_PREFIXES = 4  # that are held at once
_TIDY = 16  # batches of questions, after which memory is given back


def fewshot_stream(
    resolved: Resolved, batches: Iterable[Sequence[Line]], on_error: str, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """For each line, in order, {line, input, prediction, scores}; what the model writes has a `reason` in place of scores.

    A row that is wrong has {line, error}; `on_error` is `mark`, to go on, or `stop`.

    Raises:
        CtxtuneError: as `fewshot`; a row is wrong, and `on_error` is `stop`: what stood before it has its answer.
    """
    _check_endless(checked(resolved.recipe))
    pool, run, settings = opened(resolved, say)
    from ctxtune.backend.sample import Seeds
    from ctxtune.backend.tidy import give_back, settle

    recipe = resolved.recipe
    chooser = Chooser(pool, settings, recipe.data.separator, run, say)
    teller = _Teller(run, chooser, Seeds(recipe.generate.seed))
    settle()
    for number, batch in enumerate(batches, 1):
        for line, told in teller.told(batch):
            if isinstance(told, dict):
                yield {"line": line, **told}
                continue
            if on_error == "stop":
                raise told
            yield {"line": line, "error": str(told)}
        if number % _TIDY == 0:
            give_back()


def _check_endless(settings: Fewshot) -> None:
    """Refuse, before anything is loaded, what looks at all rows."""
    if settings.calibrate != "none" or settings.prior is not None:
        raise RecipeError(
            "--eval -: calibration looks at all rows, and a stream has no end", "--calibrate none, or a file"
        )
    if settings.select == "cluster":
        raise RecipeError(
            "--eval -: select cluster looks at all questions, and a stream has no end", "--select knn, or a file"
        )
    if settings.seeds > 1:
        raise RecipeError(
            f"--eval -: {settings.seeds} draws would give {settings.seeds} answers to each question", "--seeds 1"
        )


@dataclass
class _Teller:
    """Answers to some questions at a time; what all of them begin with is held, so that memory stays as it is."""

    run: Asking
    chooser: Chooser
    seeds: Seeds
    held: OrderedDict[tuple[int, ...], Prefix] = field(default_factory=OrderedDict)

    def told(self, batch: Sequence[Line]) -> Iterator[tuple[int, dict[str, Any] | CtxtuneError]]:
        """The answer to each line, or what is wrong with it."""
        from ctxtune.backend.trunk import Trunk

        asked = replace(self.run.spec, answer=None)
        rows: dict[int, Row] = {}
        found: dict[int, dict[str, Any] | CtxtuneError] = {}
        for number, raw in batch:
            try:
                row = _row(number, raw)
                asked.render(row)
                rows[number] = row
            except CtxtuneError as error:
                found[number] = error
        groups = self.chooser.groups(list(rows.values()))  # the model may be asked which: before it is opened
        with Trunk(self.run.base) as trunk:
            for part in together(groups):
                specs = [(behind(shots, asked), some) for shots, some in part]
                answer = self._chosen if asked.choices is not None else self._written
                found |= answer(trunk, [(row, spec) for spec, some in specs for row in some])
        yield from ((number, found[number]) for number, _ in batch)

    def _chosen(self, trunk: Trunk, rows: list[tuple[Row, EncodeSpec]]) -> dict[int, dict[str, Any] | CtxtuneError]:
        from ctxtune.evals.choice import Requests, argmax, common_prefix

        found: dict[int, dict[str, Any] | CtxtuneError] = {}
        fit: list[tuple[Row, list[Encoded], tuple[str, ...]]] = []
        for row, spec in rows:
            try:
                one = encode_choices([row], spec)
                fit += [(row, one.requests[0], one.choices[0])] if one.requests else []
                if not one.requests:
                    found[row.line] = DataError(f"{row.where}: longer than {spec.max_length:,} tokens and dropped")
            except CtxtuneError as error:
                found[row.line] = error
        if not fit:
            return found
        groups = [requests for _, requests, _ in fit]
        scores = iter(Requests(trunk, groups, self._prefix(trunk, common_prefix(groups), rows)).loglikelihoods())
        for row, requests, choices in fit:
            lls = [next(scores)[0] for _ in requests]
            said = {"prediction": choices[argmax(lls)], "scores": dict(zip(choices, lls, strict=True))}
            found[row.line] = {"input": row.fields, **said}
        return found

    def _written(self, trunk: Trunk, rows: list[tuple[Row, EncodeSpec]]) -> dict[int, dict[str, Any] | CtxtuneError]:
        from ctxtune.backend.decode import check_prompt, generate_batch

        found: dict[int, dict[str, Any] | CtxtuneError] = {}
        prompts: dict[int, list[int]] = {}
        for row, spec in rows:
            try:
                prompt = spec.encode_question(row)
                check_prompt(self.run.base, prompt, row.where)
                prompts[row.line] = prompt
            except CtxtuneError as error:
                found[row.line] = error
        if not prompts:
            return found
        least = min(map(len, prompts.values())) - 1
        with trunk.closed():
            prefix = self._prefix(trunk, shared([tuple(prompt) for prompt in prompts.values()])[:least], rows)
            settings = answers_end(self.run.recipe)
            both = (trunk, prefix) if prefix is not None else None
            written = generate_batch(self.run.base, list(prompts.values()), settings, self.seeds, both)
        of_line = {row.line: row for row, _ in rows}
        return found | {
            line: _tell(of_line[line], one, self.run.recipe.score.extract)
            for line, one in zip(prompts, written, strict=True)
        }

    def _prefix(self, trunk: Trunk, tokens: tuple[int, ...], rows: list[tuple[Row, EncodeSpec]]) -> Prefix | None:
        """The demonstrations alone: what some questions share beside them others may not."""
        fronts = {id(spec): tuple(spec.encode_front()) for _, spec in rows}
        known = shared([tokens, *fronts.values()])
        if known not in self.held:
            prefix = self.run.prefix(trunk, known, rows=2 - self.chooser.settings.by_question)
            if prefix is None:
                return None
            self.held[known] = prefix
            while len(self.held) > _PREFIXES:
                self.held.popitem(last=False)
        self.held.move_to_end(known)
        return self.held[known]


def _tell(row: Row, written: Written, pattern: str | None) -> dict[str, Any] | CtxtuneError:
    """What was written; where only a part of it is the answer, all of it stands beside."""
    try:
        answer = answer_in(written.text, pattern, row)
    except DataError as error:
        return error
    whole = {"text": written.text} if pattern is not None else {}
    return {"input": row.fields, "prediction": answer, **whole, "reason": written.reason}


def _row(number: int, raw: bytes | None) -> Row:
    where = f"stdin line {number}"
    if raw is None:
        raise DataError(f"{where} is longer than any row")
    if not raw.strip():
        raise DataError(f"{where}: a blank line between rows", "remove it")
    try:
        return Row(read_json_object(raw.decode("utf-8"), where), "stdin", number)
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8: byte {error.start + 1}") from error
