"""A search for words on tiny models: its scores are those of `ctxtune fewshot`, and nothing is read or used twice."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.commands import search as story
from ctxtune.commands.asking import Asking
from ctxtune.commands.clock import Clock
from ctxtune.commands.dry_search import dry_search
from ctxtune.commands.evaluate import evaluate
from ctxtune.commands.fewshot import fewshot
from ctxtune.commands.tried import Tries, shown, written
from ctxtune.errors import CtxtuneError, DataError, RecipeError
from ctxtune.methods.search import questions
from ctxtune.recipe.dump import dump
from ctxtune.recipe.load import Resolved, load

from ..conftest import write_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ctxtune.data.read import Row
    from ctxtune.methods.search import Candidate

LABELS = ["no", "yes"]  # short: the tiny models read 64 tokens
WORDS = ["good", "fun", "dull", "great", "bad", "fine", "poor", "nice", "sad", "warm"]
POOL = [
    {"text": f"{one} {other}", "label": LABELS[(at * 3 + other_at) % 2]}
    for at, one in enumerate(WORDS)
    for other_at, other in enumerate(WORDS[:8])
]
ASKED = [{"text": f"{one} film", "label": LABELS[at % 2]} for at, one in enumerate(WORDS)]


@pytest.fixture(autouse=True)
def short_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as the tiny models can read."""
    monkeypatch.setattr(story, "forms", lambda prompt, choices: [prompt, "{{ text }} =", "{{ text }}:", "'{{ text }}'"])
    monkeypatch.setattr(story, "instructions", lambda prompt, choices, behind: ["Say, so: ", "It is, or not: "])


@pytest.fixture
def recipe(model_folders: dict[str, Path], tmp_path: Path) -> Callable[..., Resolved]:
    """A few-shot recipe on a tiny model."""

    def make(kind: str = "llama-tied", pool: Any = POOL, asked: Any = ASKED, **more: object) -> Resolved:
        given = {
            "model": str(model_folders[kind]), "method.name": "fewshot", "device": "cpu", "data.prompt": "It: {{ text }} =",
            "data.answer": "{{ label }}", "data.choices": LABELS, "data.separator": "\n", "method.shots": 1, "cache": "off",
            "data.train": str(write_jsonl(tmp_path / "pool.jsonl", pool)),
            "data.eval": str(write_jsonl(tmp_path / "asked.jsonl", asked)) if asked else None,
            **{name.replace("__", "."): value for name, value in more.items()},
        }  # fmt: skip
        return load(None, given, [])

    return make


@pytest.fixture
def find(recipe: Callable[..., Resolved], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the search."""

    def run(out: str = "found", count: int = 8, words: str | None = "Good, bad?", **more: Any) -> Any:
        facts = story.search(recipe(**more), tmp_path / out, count, words, [].append)
        json.loads(json.dumps(facts), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
        return facts

    return run


def begun(resolved: Resolved, count: int = 8) -> story.Start:
    return story.begun(resolved, count, "Good, bad?", [].append, Clock())


def by_fewshot(resolved: Resolved, candidate: Candidate, rows: Sequence[Row], folder: Path) -> tuple[float, float]:
    """Loss and accuracy of `ctxtune fewshot` by the candidate's recipe, written and read again."""
    path = write_jsonl(folder / "rows.jsonl", [row.fields for row in rows])
    text = dump(Resolved(written(resolved.recipe, candidate), resolved.origin, folder, "here"), folder)
    (folder / "candidate.yaml").write_text(text, encoding="utf-8")
    again = load(str(folder / "candidate.yaml"), {"data.eval": str(path)})
    scores = fewshot(again, print, folder / "items.jsonl")["scores"]
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    said = [item["said"] for item in items]
    losses = [math.log(sum(math.exp(ll) for ll in one["ll"])) - one["ll"][one["gold"]] for one in said]
    return sum(losses) / len(losses), scores["acc"]


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2-tied", "gemma3_text-tied"])
def test_candidates_score_as_fewshot_scores_their_recipe(
    kind: str, recipe: Callable[..., Resolved], tmp_path: Path
) -> None:
    resolved = recipe(kind)
    start = begun(resolved, 16)
    trials = start.tries(start.candidates, 16)
    trials = start.tries(start.candidates, 24)
    fit = [(one, trial) for one, trial in zip(start.candidates, trials, strict=True) if not trial.unfit]
    assert len(fit) > 5
    assert len({trial.loss for _, trial in fit}) == len(fit)
    for candidate, trial in fit[:6]:
        loss, acc = by_fewshot(resolved, candidate, start.tries.rows[:24], tmp_path)
        assert trial.loss == pytest.approx(loss, abs=2e-5)
        assert trial.acc == acc


def test_the_recipe_that_is_written_gives_the_scores_that_were_told(find: Callable[..., Any], tmp_path: Path) -> None:
    facts = find(method__seed=3)
    again = fewshot(load(str(tmp_path / "found" / "recipe.yaml"), {}), print)
    assert again["scores"] == facts["scores"]["best" if facts["better"] else "first"]
    assert json.loads((tmp_path / "found" / "result.json").read_text(encoding="utf-8")) == facts


def test_with_no_demonstrations_it_is_what_eval_says(find: Callable[..., Any], tmp_path: Path) -> None:
    facts = find(method__shots=0)
    again = evaluate(str(tmp_path / "found" / "recipe.yaml"), {}, [], None, False, print)["scores"]
    told = facts["scores"]["best" if facts["better"] else "first"]
    assert {name: told[name] for name in again} == pytest.approx(again, abs=2e-5)


def test_equal_seeds_find_the_same(find: Callable[..., Any]) -> None:
    first, second, other = find("a"), find("b"), find("c", method__seed=1)
    for facts in (first, second, other):
        del facts["seconds"], facts["recipe"]
    assert first == second
    assert first["rounds"] != other["rounds"]


def test_the_rows_to_score_decide_nothing(find: Callable[..., Any], tmp_path: Path) -> None:
    flipped = [{**row, "label": LABELS[1 - LABELS.index(row["label"])]} for row in ASKED]
    plain, other, none = find("a"), find("b", asked=flipped), find("c", asked=None)
    for name in ("rounds", "best", "better", "confirmed"):
        assert plain[name] == other[name] == none[name]
    assert plain["scores"] != other["scores"]
    assert "scores" not in none


def better_words(monkeypatch: pytest.MonkeyPatch, start: story.Start, luck: bool) -> None:
    """The right answer is the likelier, by a nat, behind the last candidate alone; on new rows only without `luck`."""
    best, plain = start.candidates[-1], Asking.items
    confirm = [row.line for row in start.confirm]

    def items(self: Asking, rows: list[Row], *more: Any) -> Any:
        found = plain(self, rows, *more)
        if len(found) > len(rows):
            return found  # data.eval, with what is asked beside it
        data = self.recipe.data
        if (data.instruction, data.prompt) == (best.instruction, best.prompt):
            for row, item in zip(rows, found, strict=True):
                right = item.said["gold"]
                item.said["ll"][right] = max(item.said["ll"]) + (-20 if luck and row.line in confirm else 1)
                item.scores["acc"] = float(not luck or row.line not in confirm)
        return found

    monkeypatch.setattr(Asking, "items", items)


@pytest.mark.parametrize("luck", [False, True])
def test_better_words_are_kept_if_new_rows_confirm_it(
    luck: bool,
    find: Callable[..., Any],
    recipe: Callable[..., Resolved],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = begun(recipe())
    better_words(monkeypatch, start, luck)
    facts = find()
    best = start.candidates[-1]
    assert (facts["best"]["instruction"], facts["best"]["prompt"]) == (best.instruction, best.prompt)
    assert facts["better"] is not luck
    found = load(str(tmp_path / "found" / "recipe.yaml"), {})
    kept = start.candidates[0] if luck else best
    assert (found.recipe.data.instruction, found.recipe.data.prompt) == (kept.instruction, kept.prompt)
    gain = facts["confirmed"]["gain"]
    assert gain["loss"] == pytest.approx(facts["confirmed"]["best"]["loss"] - facts["confirmed"]["first"]["loss"])
    assert (gain["loss"] < 0) is not luck
    assert gain["loss_stderr"] > 0


def test_no_row_has_two_uses(recipe: Callable[..., Resolved]) -> None:
    start = begun(recipe(method__shots=2))
    seeds = sorted({one.seed for one in start.candidates})
    assert len(seeds) > 1
    taken = [start.tries.pool[place].line for place in shown(start.tries, seeds)]
    drawn = [start.tries.pool[place].line for seed in seeds for place in start.tries.places(seed)]
    assert set(drawn) == set(taken)
    uses = [*taken, *(row.line for row in start.tries.rows), *(row.line for row in start.confirm)]
    assert len(uses) == len(set(uses))
    labels = [row.fields["label"] for row in start.tries.rows[:16]]
    assert 6 <= labels.count("no") <= 10


def test_the_same_question_elsewhere_is_not_scored(recipe: Callable[..., Resolved]) -> None:
    start = begun(recipe(pool=[*POOL, *POOL]))
    questions_of = {str(start.tries.pool[place].fields["text"]) for place in shown(start.tries, [0, 1, 2, 3])}
    assert questions_of
    assert not questions_of & {str(row.fields["text"]) for row in [*start.tries.rows, *start.confirm]}


def test_nothing_is_asked_or_read_twice(recipe: Callable[..., Resolved], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, int, int]] = []
    plain = Asking.items

    def items(self: Asking, rows: list[Row], *more: Any) -> Any:
        data = self.recipe.data
        asked.extend((data.instruction, data.prompt, self.recipe.method.seed, row.line) for row in rows)
        return plain(self, rows, *more)

    monkeypatch.setattr(Asking, "items", items)
    start = begun(recipe(), 16)
    start.eval = []
    facts, _ = story._done(start, recipe().recipe, print)
    tried = questions(start.rounds)
    assert len(asked) == sum(tried) + 2 * len(start.confirm) * (facts["best"] != facts["first"])
    assert len(set(asked)) == len(asked)

    tries = begun(recipe()).tries
    counts = tries.run.counts
    first = [one for one in start.candidates if not tries.asked(one).items_of(tries.rows[:1]).count(None)][:6]
    counts.clear()
    tries(first, 16)
    fronts = counts["prefix"]
    assert counts["read"] < counts["whole"] / 2
    counts.clear()
    behind = sum(len(one.run.last.tokens) for one in tries._now.values() if one.run.last is not None)
    tries(first, 20)
    assert fronts > 60
    assert behind > 60
    alone = Tries(tries.run, tries.settings, tries.pool, tries.labels, tries.rows[16:])
    twice, tries.run.counts["read"] = counts["read"], 0
    alone(first, 4)
    assert twice <= tries.run.counts["read"] - fronts / 2


def test_a_stop_leaves_nothing(find: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tries, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        find()
    assert not (tmp_path / "found").exists()


def test_a_folder_that_holds_something_is_refused(find: Callable[..., Any], tmp_path: Path) -> None:
    find()
    with pytest.raises(RecipeError, match="holds a complete run") as caught:
        find()
    assert caught.value.hint == "choose another --out"


@pytest.mark.parametrize(
    ("error", "told", "given"),
    [
        (RecipeError, r"data\.choices is missing: candidates are compared", {"data__choices": None}),
        (RecipeError, r"data\.train is missing", {"data__train": None, "method__shots": 0}),
        (RecipeError, r"select knn, order auto: a search draws", {"method__select": "knn"}),
        (RecipeError, r"order best: a search draws", {"method__order": "best"}),
        (RecipeError, r"replay lm-eval: a search draws", {"method__replay": "lm-eval"}),
        (RecipeError, r"method\.calibrate batch: a search compares", {"method__calibrate": "batch"}),
        (RecipeError, r"method\.seeds 3: a search compares", {"method__seeds": 3}),
        (RecipeError, r"--candidates 1: there is nothing to choose from", {"count": 1}),
        (RecipeError, r"data\.eval -: a pipe is read once", {"data__eval": "-"}),
        (DataError, r"data\.train: 24 rows of 25 are no demonstrations, a search takes 32", {"pool": POOL[:25]}),
        (RecipeError, r"method\.shots: 30 demonstrations take", {"method__shots": 30}),
    ],
)
def test_what_cannot_be_searched_is_told(
    error: type[CtxtuneError], told: str, given: dict[str, Any], find: Callable[..., Any], tmp_path: Path
) -> None:
    if given.get("pool"):
        given = {**given, "method__select": "fixed"}
    with pytest.raises(error, match=told):
        find(**given)
    assert not (tmp_path / "found").exists()


def test_rows_with_choices_of_their_own(find: Callable[..., Any]) -> None:
    pool, asked = ([{**row, "of": LABELS} for row in rows] for rows in (POOL, ASKED))
    facts = find(pool=pool, asked=asked, data__choices="{{ of }}", count=4, words=None)
    assert facts["rounds"][0]["candidates"] == 4
    assert "yes" not in " ".join(one["instruction"] + one["prompt"] for one in facts["rounds"][0]["best"])


def test_what_it_would_cost_is_about_what_it_costs(recipe: Callable[..., Resolved], find: Callable[..., Any]) -> None:
    told = dry_search(recipe(), 8, "Good, bad?", print)
    facts = find()
    assert told["candidates"] == facts["candidates"] == 8
    assert [(one["candidates"], one["rows"]) for one in told["rounds"]] == [
        (one["candidates"], one["rows"]) for one in facts["rounds"]
    ]
    assert told["read"] == pytest.approx(facts["tokens"]["read"], rel=0.4)
    assert told["whole"] == pytest.approx(facts["tokens"]["whole"], rel=0.4)
