"""The laws of DESIGN section 6 for virtual tokens that are learned, over families, kinds of prompt and ways to store the base.

What a law says of weights it says here of the base beside its virtual tokens: none of its numbers ever moves. A covering set
of cells runs by default, the full matrix with `pytest -m slow`.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from ctxtune.adapter.attach import attach
from ctxtune.adapter.export import export_peft
from ctxtune.adapter.keys import held_prefix
from ctxtune.adapter.read import open_adapter
from ctxtune.adapter.verify import verify
from ctxtune.backend.load import load_base
from ctxtune.backend.prefix import as_rows, embedding_of, going_on, read_prefix
from ctxtune.backend.trunk import Trunk
from ctxtune.commands.adapt import _Run, adapt
from ctxtune.commands.adapter import merge
from ctxtune.commands.begin import learning_feed
from ctxtune.commands.dry_run import dry_run
from ctxtune.data.encode import encode_pairs
from ctxtune.engine.loop import take_step
from ctxtune.errors import AdapterError, CtxtuneError
from ctxtune.methods.prompt import Opened, open_method
from ctxtune.objectives.labels import Labels
from ctxtune.recipe.schema import Prompt, Train

from .backend.test_prefix import CAUSAL_KINDS
from .backend.test_trunk import rms_norm
from .commands.test_prompt import asked, short
from .conftest import (
    CHOICES,
    DECLINED,
    FOUND,
    HEADLESS_KINDS,
    MASKED,
    NUM_LAYERS,
    WINDOW,
    Killed,
    Listener,
    adapter_tensors,
    kill_at,
    losses,
    review_rows,
    same_tensors,
    write_jsonl,
)  # fmt: skip
from .test_laws import ALL_KINDS, CACHES, QUANTS, Recorder, assert_same_run, bits, child, logits, parameters, token_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from torch import Tensor

    from ctxtune.backend.feed import Feed
    from ctxtune.backend.load import Base
    from ctxtune.backend.prefix import Prefix
    from ctxtune.data.encode import Encoded

KINDS = tuple(kind for kind in CAUSAL_KINDS if kind not in FOUND)
PROMPTS: dict[str, dict[str, Any]] = {
    "prefix": {"kind": "prefix"},
    "prefix-top1": {"kind": "prefix", "top": 1},
    **{kind: {"kind": kind} for kind in ("input", "residual", "ptuning", "suffix")},
}
FRONT = tuple(prompt for prompt in PROMPTS if prompt != "suffix")
KEEPING = ("prefix-top1", "suffix")  # what lies below, or before, never changes
COVER = {
    ("llama-tied", "prefix", "none"), ("gemma3_text-tied", "prefix", "none"), ("gpt2-tied", "prefix", "nf4"),
    ("llama-untied", "prefix-top1", "none"), ("opt-tied", "prefix-top1", "none"), ("mistral-untied", "prefix-top1", "none"),
    ("gpt2-tied", "prefix-top1", "int8"),
    ("gpt2-untied", "input", "none"), ("opt-projected-tied", "input", "none"), ("qwen3-untied", "input", "int8"),
    ("gpt_neox-untied", "residual", "none"), ("qwen2-tied", "residual", "none"), ("llama-untied", "residual", "int8"),
    ("llama-tied", "ptuning", "none"), ("qwen3-sliding-tied", "ptuning", "none"), ("gemma3_text-tied", "ptuning", "nf4"),
    ("llama-untied", "suffix", "none"), ("phi3-untied", "suffix", "none"), ("gemma3_text-tied", "suffix", "none"),
    ("gpt2-untied", "suffix", "nf4"),
}  # fmt: skip
RATE = 1e-2
# More tokens than a sliding window has.
WORDS = "Say: is it a fine film, or dull?"
# All of their layers have a window that ends before the virtual tokens, where the answer begins.
SHORT_SIGHTED = ("mistral-untied", "phi3-untied", "qwen3-sliding-tied")


def cells(prompts: Iterable[str] = PROMPTS) -> pytest.MarkDecorator:
    """Every cell of the matrix; those outside the covering set are slow."""
    table = [
        pytest.param(*cell, marks=[pytest.mark.slow] * (cell not in COVER), id="-".join(cell))
        for cell in itertools.product(KINDS, prompts, QUANTS)
    ]
    return pytest.mark.parametrize(("kind", "prompt", "quant"), table)


@dataclass
class Cell:
    """A finished run of three steps: its folder, its result, its model and its virtual tokens as trained, and what they say."""

    model: Path
    run: Path
    facts: dict[str, Any]
    trained: Base
    method: Opened
    begun: tuple[int, ...]
    said: Tensor

    @property
    def adapter(self) -> Path:
        return self.run / "adapter"


@dataclass
class Lab:
    """Runs each cell once for all laws."""

    folders: dict[str, Path]
    root: Path
    done: dict[tuple[str, ...], Cell] = field(default_factory=dict)

    def cell(self, *cell: str) -> Cell:
        if cell not in self.done:
            self.done[cell] = self._run(*cell)
        return self.done[cell]

    def recipe(self, kind: str, prompt: str, out: Path, more: dict[str, Any]) -> Any:
        """The recipe of a short run."""
        settings = {f"method.{key}": value for key, value in PROMPTS[prompt].items()}
        own = {"method.init": f"text:{WORDS}", "train.lr": RATE, "cache": "memory"}
        return asked(self.folders[kind], self.rows("train", 22, 0), out, own | settings | more)

    def rows(self, name: str, count: int, offset: int) -> Path:
        path = self.root / f"{name}.jsonl"
        return path if path.exists() else write_jsonl(path, short(count, offset))

    def _run(self, kind: str, prompt: str, quant: str) -> Cell:
        run, found = self.root / f"{kind} {prompt} {quant}", []
        save, begin = _Run._save, Opened.begin

        def keep(self: _Run, base: Base, method: Any, *rest: Any) -> dict[str, Any]:
            found.extend([base, method])
            return save(self, base, method, *rest)

        def note(self: Opened, trunk: Trunk, tokens: Any) -> None:
            found.append(tuple(tokens))
            begin(self, trunk, tokens)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_Run, "_save", keep)
            patch.setattr(Opened, "begin", note)
            facts = adapt(self.recipe(kind, prompt, run, {"quant": quant}), False, Listener())
        begun, base, method = found
        with torch.no_grad():
            prefix = None if method.suffix else method.prefix(Trunk(base))
        return Cell(self.folders[kind], run, facts, base, method, begun, spoken(base, prefix, method.tokens))


@pytest.fixture(scope="module")
def lab(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(model_folders, tmp_path_factory.mktemp("laws"))


def spoken(base: Base, prefix: Prefix | None, virtual: tuple[int, ...], mask: Tensor | None = None) -> Tensor:
    """Logits of (3, 16) tokens behind a prefix, or of these with P virtual ones in their middle, by the model's own forward."""
    ids, options = token_ids(), {}
    if prefix is None:
        ids = torch.cat([ids[:, :8], torch.tensor([virtual]).expand(3, -1), ids[:, 8:]], dim=1)
    else:
        options = going_on(Trunk(base), prefix, torch.ones_like(ids) if mask is None else mask)
    with torch.no_grad():
        found: Tensor = base.model(input_ids=ids, **options).logits
    return found


def precise(model: Any) -> Any:
    """The model in float64, in which transformers computes all but one kind of norm."""
    for module in model.double().modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(rms_norm, module)
    return model


def in_double(base: Base) -> Base:
    precise(base.model)
    return replace(base, device=replace(base.device, dtype=torch.float64))


# --- or it is refused with the reason


ENCODERS = tuple(kind for kind in ALL_KINDS if kind.startswith(MASKED))
REASONS = {
    **dict.fromkeys(DECLINED, "is not supported"),
    **{kind: "is not known" for kind in FOUND if kind in CAUSAL_KINDS},
    **dict.fromkeys(ENCODERS, "fills gaps"),
    **dict.fromkeys(HEADLESS_KINDS, "tells choices apart"),
}
PROMPTLY = {
    ("t5-tied", "prefix", "none"), ("mamba-tied", "suffix", "none"), ("olmo2-untied", "prefix-top1", "none"),
    ("falcon-tied", "suffix", "nf4"), ("bert-tied", "residual", "none"), ("distilbert-tied", "ptuning", "none"),
    ("bert-headless", "input", "none"), ("roberta-headless", "suffix", "none"),
}  # fmt: skip
REFUSALS = [
    pytest.param(*cell, id="-".join(cell), marks=[pytest.mark.slow] * (cell not in PROMPTLY))
    for cell in itertools.product(REASONS, PROMPTS, QUANTS)
]


def test_every_kind_is_a_cell_or_refused() -> None:
    """And the covering set has every family, every kind of prompt with three of them, and three of each quantisation."""
    assert {*KINDS, *REASONS} == {*ALL_KINDS, *DECLINED}
    assert {kind for kind, _, _ in COVER} == set(KINDS)
    for prompt in PROMPTS:
        assert len({kind for kind, one, _ in COVER if one == prompt}) >= 3
    for quant in QUANTS:
        assert len({prompt for _, prompt, one in COVER if one == quant}) >= 3


@pytest.mark.parametrize(("kind", "prompt", "quant"), REFUSALS)
def test_a_prompt_is_refused_with_the_reason(
    kind: str, prompt: str, quant: str, lab: Lab, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    """By the run and by the dry run, in one line that is the same, before anything is written."""
    resolved, said = lab.recipe(kind, prompt, tmp_path / "run", {"quant": quant}), set()
    for command in (lambda: dry_run(resolved), lambda: adapt(resolved, False, Listener())):
        with pytest.raises(CtxtuneError, match=REASONS[kind]) as caught:
            command()
        assert "\n" not in str(caught.value)
        assert caught.value.hint
        assert not (tmp_path / "run" / "adapter").exists()
        said.add(str(caught.value))
    assert len(said) == 1
    record_property("refused", str(caught.value))


# --- 1: at the start the adapted model says what it starts from


@dataclass
class Standing:
    """Virtual tokens that have begun as `words` on a base, and eight reviews that stand at them."""

    base: Base
    trunk: Trunk
    method: Opened
    words: tuple[int, ...]
    whole: list[Encoded]
    feed: Feed


@pytest.fixture
def standing(lab: Lab) -> Iterator[Callable[..., Standing]]:
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(kind: str, prompt: str, quant: str, double: bool = False) -> Standing:
            base = load_base(lab.folders[kind], "cpu", quant)
            base = in_double(base) if double else base
            words = tuple(base.tokenizer(WORDS)["input_ids"])
            assert len(words) > 2 * WINDOW
            plain = logits(base.model)
            settings = Prompt(name="prompt", tokens=len(words), **PROMPTS[prompt])
            method = open_method(settings, base.model, base.anatomy)
            trunk = stack.enter_context(Trunk(base, method.start))
            method.begin(trunk, words)
            with trunk.closed():  # who says nothing to them hears nothing of them
                assert torch.equal(logits(base.model), plain)
            pairs = [
                (f"Review: {row['text'][:9]}\nSentiment:", row["label"] + " " + row["text"][:6])
                for row in review_rows(8, 5)
            ]
            before, behind = ((), method.tokens) if method.suffix else (method.tokens, ())
            whole = [
                one.between(before, behind) for one in encode_pairs(base.tokenizer, pairs, delimiter=" ", kind="causal")
            ]
            return Standing(base, trunk, method, words, whole, learning_feed(trunk, method, whole, pack=False))

        yield make


@cells()
def test_law_1_a_prompt_begins_as_its_words(
    kind: str, prompt: str, quant: str, standing: Callable[..., Standing]
) -> None:
    """In float64 to 1e-10; what is put in the place of the words is, but for sums that are split, what these say."""
    here = standing(kind, prompt, quant, double=quant == "none")
    with here.trunk.closed(), torch.no_grad():
        texts = [[here.words[-1 - token] if token < 0 else token for token in one.ids] for one in here.whole]
        said = [here.base.model(input_ids=torch.tensor([text])).logits[0] for text in texts]
        expected = torch.cat([logits[list(one.rows)] for logits, one in zip(said, here.whole, strict=True)])
    bound = 1e-10 if quant == "none" else 1e-5 * float(expected.abs().max())
    for training in (False, True):
        with torch.set_grad_enabled(training):
            found = here.trunk.logits(here.feed.hidden(range(8))).detach()
        assert (found - expected).abs().max() <= bound
    if "vectors" in here.method.params:
        with torch.no_grad():
            assert torch.equal(here.method.vectors(), embedding_of(here.base.model)(torch.tensor(here.words)))


# --- 2: only the numbers of the virtual tokens move


@cells()
def test_law_2_only_the_virtual_tokens_move(kind: str, prompt: str, quant: str, lab: Lab) -> None:
    cell, base = lab.cell(kind, prompt, quant), load_base(lab.folders[kind], "cpu", quant)
    for found, own in (
        (parameters(cell.trained.model), parameters(base.model)),
        (dict(cell.trained.model.named_buffers()), dict(base.model.named_buffers())),
    ):
        assert found.keys() == own.keys()
        for name, tensor in own.items():
            assert bits(found[name]) == bits(tensor), name
    learned = adapter_tensors(cell.run)["prompt_embeddings"]
    if "vectors" in cell.method.params:
        begun = embedding_of(base.model)(torch.tensor(cell.begun)).detach()
        moved = (learned != begun).any(dim=1)
        assert moved.any() if kind in SHORT_SIGHTED else moved.all()
        torch.testing.assert_close(learned.norm(dim=1), begun.norm(dim=1))
        return
    begun = as_rows(read_prefix(Trunk(base), cell.begun, "off", "").layers)[0]
    lower = begun.shape[1] * cell.method.start // NUM_LAYERS
    assert (lower > 0) is (prompt == "prefix-top1")
    assert torch.equal(learned[:, :lower], begun[:, :lower])
    unseen = lower > 0 and kind in SHORT_SIGHTED
    assert torch.equal(learned[:, lower:], begun[:, lower:]) is unseen


# --- 3: saved and loaded in a fresh process


CHILD_SPOKEN = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from ctxtune.backend.prefix import going_on
from ctxtune.commands.behind import open_context
from ctxtune.commands.evaluate import load_with, open_given, resolve

said = {}
for key, model, adapter in json.loads(sys.argv[1]):
    opened = open_given(Path(adapter))
    recipe = resolve(None, {"model": model, "device": "cpu"}, [], opened, Path(adapter)).recipe
    base = load_with(recipe, opened, False, lambda text: None)
    context, ids, options = open_context(base, opened), torch.arange(5, 53).reshape(3, 16), {}
    if context.prefix is None:
        virtual = torch.tensor([context.shown.virtual]).expand(3, -1)
        ids = torch.cat([ids[:, :8], virtual, ids[:, 8:]], dim=1)
    else:
        options = going_on(context.trunk, context.prefix, torch.ones_like(ids))
    with torch.no_grad():
        said[key] = base.model(input_ids=ids, **options).logits.contiguous()
save_file(said, sys.argv[2])
"""


@pytest.fixture(scope="module")
def fresh(lab: Lab, request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """What every cell that is looked at says, all from one fresh process."""
    wanted = {
        tuple(str(item.callspec.params[key]) for key in ("kind", "prompt", "quant"))
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.name.startswith("test_law_3_a_prompt")
    }
    made = {" ".join(names): lab.cell(*names) for names in sorted(wanted)}
    table = [[name, str(cell.model), str(cell.adapter)] for name, cell in made.items()]
    out = lab.root / "fresh.safetensors"
    done = child(CHILD_SPOKEN, json.dumps(table), str(out))
    assert done.returncode == 0, done.stderr
    tensors: dict[str, Tensor] = load_file(out)
    return tensors


@cells()
def test_law_3_a_prompt_loaded_in_a_fresh_process(
    kind: str, prompt: str, quant: str, lab: Lab, fresh: dict[str, Tensor]
) -> None:
    cell = lab.cell(kind, prompt, quant)
    assert (fresh[f"{kind} {prompt} {quant}"] - cell.said).abs().max() == 0.0
    assert all(check.ok for check in verify(open_adapter(cell.run)))


# --- 4: nothing can be merged; taken off, the base is as it was


def hooks(base: Base) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in base.model.modules())


@cells()
def test_law_4_a_prompt_is_not_merged_and_comes_off(
    kind: str, prompt: str, quant: str, lab: Lab, tmp_path: Path
) -> None:
    cell, base = lab.cell(kind, prompt, quant), load_base(lab.folders[kind], "cpu", quant)
    with pytest.raises(AdapterError, match="nothing can be merged") as caught:
        merge(cell.run, tmp_path / "merged")
    assert caught.value.hint
    assert not (tmp_path / "merged").exists()
    adapter, suffix = open_adapter(cell.run), prompt == "suffix"
    before = {name: (parameter, bits(parameter)) for name, parameter in parameters(base.model).items()}
    plain, own = logits(base.model), hooks(base)
    taken = attach(base.model, adapter)
    prefix = None if suffix else held_prefix(Trunk(base), adapter)
    for _ in range(2):  # what is gone on from stays what it is
        assert torch.equal(spoken(base, prefix, cell.method.tokens), cell.said)
    assert torch.equal(logits(base.model), plain)
    assert (hooks(base) > own) is suffix
    taken.detach()
    assert hooks(base) == own
    for name, parameter in parameters(base.model).items():
        assert parameter is before[name][0]
        assert bits(parameter) == before[name][1]
    assert torch.equal(logits(base.model), plain)


# --- 5: what the dry run printed is what was done


@cells()
def test_law_5_the_dry_run_foresees_a_prompt(kind: str, prompt: str, quant: str, lab: Lab) -> None:
    cell = lab.cell(kind, prompt, quant)
    foreseen = dry_run(lab.recipe(kind, prompt, lab.root / "foreseen", {"quant": quant}))
    stored = load_file(cell.adapter / "adapter_model.safetensors")
    for key in ("trainable", "parameters", "weight_bytes", "method", "start_layer", "steps"):
        assert foreseen[key] == cell.facts[key], key
    for key in ("rows", "tokens", "supervised_tokens", "dropped", "truncated"):
        assert foreseen[key] == cell.facts["train"][key], key
    assert foreseen["adapter_tensors"] == len(stored) == 1
    assert foreseen["adapter_tensor_bytes"] == sum(tensor.nbytes for tensor in stored.values())
    assert foreseen["cache_bytes"] == cell.facts["cache"]["bytes"]
    assert (foreseen["cache_bytes"] > 0) is (prompt in KEEPING)
    held = stored["prompt_embeddings"].numel()
    least = held // NUM_LAYERS if prompt == "prefix-top1" else held
    assert foreseen["trainable"] > held if prompt in ("residual", "ptuning") else foreseen["trainable"] == least
    assert not (lab.root / "foreseen").exists()


# --- 6: 2N steps equal N steps, a kill, and N steps more


SOON = {
    ("llama-tied", "prefix", "disk", "none"), ("gpt2-tied", "input", "disk", "none"),
    ("llama-untied", "residual", "disk", "none"), ("llama-tied", "ptuning", "disk", "none"),
    *(("llama-tied", "prefix-top1", cache, "none") for cache in ("disk", "off")),
    *(("gpt2-tied", "suffix", cache, "none") for cache in ("disk", "off")),
    ("llama-tied", "suffix", "memory", "nf4"), ("llama-untied", "prefix-top1", "memory", "int8"),
}  # fmt: skip
RESUMED = [
    pytest.param(*cell, id="-".join(cell), marks=[pytest.mark.slow] * (cell not in SOON))
    for cell in itertools.product(KINDS, PROMPTS, CACHES, QUANTS)
    if cell[1] in KEEPING or cell[2] == "disk"
]


@pytest.mark.parametrize(("kind", "prompt", "cache", "quant"), RESUMED)
def test_law_6_a_prompt_killed_and_resumed(
    kind: str, prompt: str, cache: str, quant: str, lab: Lab, tmp_path: Path
) -> None:
    """Behind a checkpoint, and before the first one; evaluated in between, and the best step is kept."""
    more = {
        "cache": cache, "quant": quant, "train.steps": 6, "train.save_every": 2, "train.eval_every": 2,
        "train.schedule": "cosine", "data.eval": str(lab.rows("dev", 6, 30)),
    }  # fmt: skip
    adapt(lab.recipe(kind, prompt, tmp_path / "straight", more), False, Listener())
    for step in (1, 5):
        with pytest.raises(Killed):
            adapt(lab.recipe(kind, prompt, tmp_path / "broken", more), True, Listener(kill_at(step)))
    adapt(lab.recipe(kind, prompt, tmp_path / "broken", more), True, Listener())
    assert_same_run(tmp_path / "broken", tmp_path / "straight")
    starts = [json.loads((tmp_path / run / "result.json").read_text())["start"] for run in ("broken", "straight")]
    assert starts[0] == starts[1]
    assert len(set(losses(tmp_path / "straight"))) == 6


# --- 7: batches in parts, padded or not, kept or not: the same losses


@cells()
def test_law_7_a_prompt_learns_from_a_batch_in_parts(
    kind: str, prompt: str, quant: str, standing: Callable[..., Standing]
) -> None:
    """Losses and gradients of a batch, of its rows one by one, and of three at a time."""
    here, found = standing(kind, prompt, quant), []
    if "up" in here.method.params:  # at zero nothing before it has a gradient
        torch.nn.init.normal_(here.method.params["up"], std=0.1)
    labels, params = Labels(here.feed), list(here.method.params.values())
    for rows in (None, 1, 3):
        recorder = Recorder(params)
        options = Train(batch=8, micro_batch=rows, clip=None)
        loss, norm = take_step(params, recorder, labels, list(range(8)), 0.0, options)  # type: ignore[arg-type]
        found.append((loss, norm, recorder.grads))
    loss, norm, grads = found[0]
    largest = max(float(grad.abs().max()) for grad in grads)
    assert (largest > 1e-4) is (prompt != "prefix-top1" or kind not in SHORT_SIGHTED)
    for other_loss, other_norm, other_grads in found[1:]:
        assert other_loss == pytest.approx(loss, abs=1e-6, rel=1e-6)
        assert other_norm == pytest.approx(norm, rel=1e-5)
        for ours, theirs in zip(other_grads, grads, strict=True):
            assert (ours - theirs).abs().max() <= 1e-5 * largest


@cells()
def test_law_7_padding_changes_no_loss_at_a_prompt(
    kind: str, prompt: str, quant: str, standing: Callable[..., Standing]
) -> None:
    """Rows side by side, merged, padded or alone; then the same from what is kept, where that is anything."""
    here = standing(kind, prompt, quant)
    labels = Labels(here.feed)
    alone = [labels.loss([i]).item() for i in range(8)]
    assert len(set(here.feed.lengths)) > 3
    for _ in range(1 + (prompt in KEEPING)):
        assert labels.losses(list(range(8))) == pytest.approx(alone, abs=1e-5)
        for part in (list(range(8)), [7, 0], [3, 4, 5]):
            tokens = labels.tokens(part)
            assert labels.loss(part).item() / tokens == pytest.approx(sum(alone[i] for i in part) / tokens, abs=1e-5)
        kept = here.feed.keep("memory", "mark")
        assert (kept is not None) is (prompt in KEEPING)


@cells(KEEPING)
def test_law_7_a_prompt_learns_the_same_from_what_is_kept(
    kind: str, prompt: str, quant: str, lab: Lab, tmp_path: Path
) -> None:
    for cache in ("off", "memory", "disk"):
        more = {"train.steps": 6, "quant": quant, "cache": cache}
        facts = adapt(lab.recipe(kind, prompt, tmp_path / cache, more), False, Listener())
        assert facts["cache"]["place"] == cache
    off, memory, disk = (losses(tmp_path / cache) for cache in ("off", "memory", "disk"))
    assert len(off) == 6
    assert max(off) - min(off) > 1e-3
    assert memory == pytest.approx(off, abs=1e-5)
    assert disk == memory
    assert same_tensors(adapter_tensors(tmp_path / "disk"), adapter_tensors(tmp_path / "memory"))


@pytest.mark.parametrize(("kind", "prompt"), [("llama-tied", "prefix"), ("llama-untied", "suffix")])
def test_law_7_rows_at_a_prompt_are_not_packed(kind: str, prompt: str, lab: Lab, tmp_path: Path) -> None:
    """It is said, and not done."""
    listener = Listener()
    facts = adapt(lab.recipe(kind, prompt, tmp_path / "run", {"train.pack": True}), False, listener)
    assert not facts["packed"]
    assert any("train.pack: virtual tokens stand" in note for note in listener.notes)
    assert losses(tmp_path / "run") == losses(lab.cell(kind, prompt, "none").run)


# --- 8: the twin in PEFT


@pytest.mark.filterwarnings("ignore")  # peft's own
@cells(FRONT)
def test_law_8_peft_says_the_same_behind_a_prompt(kind: str, prompt: str, quant: str, lab: Lab) -> None:
    from peft import PeftModel

    cell = lab.cell(kind, prompt, quant)
    padded = (torch.arange(16) < torch.tensor([16, 9, 4])[:, None]).long()
    base = in_double(load_base(cell.model, "cpu", classes=CHOICES))
    prefix = held_prefix(Trunk(base), open_adapter(cell.adapter))
    kind_of_model: Any = type(base.model)
    theirs = precise(kind_of_model.from_pretrained(cell.model))
    twin = PeftModel.from_pretrained(theirs, str(cell.adapter)).double().eval()
    for mask in (torch.ones_like(padded), padded):
        one = spoken(base, prefix, (), mask)
        with torch.no_grad():
            other = twin(input_ids=token_ids(), attention_mask=mask).logits[:, -16:]
        assert one.dtype is other.dtype is torch.float64
        assert (one - other)[mask.bool()].abs().max() <= 1e-10
    assert (one - logits(base.model))[mask.bool()].abs().max() > 1e-3
    with twin.disable_adapter():
        assert torch.equal(logits(twin), logits(base.model))


@cells(["suffix"])
def test_law_8_a_suffix_has_no_twin(kind: str, prompt: str, quant: str, lab: Lab, tmp_path: Path) -> None:
    cell = lab.cell(kind, prompt, quant)
    assert not (cell.adapter / "adapter_config.json").exists()
    assert "between a prompt and its answer" in (cell.adapter / "README.md").read_text(encoding="utf-8")
    with pytest.raises(AdapterError, match="PEFT has no type for vectors that stand behind") as caught:
        export_peft(open_adapter(cell.run), tmp_path / "peft")
    assert caught.value.hint
