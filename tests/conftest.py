"""Tiny random models of every family with real tiny tokenizers, made once a session, and the means to run things on them.

Every parameter is random, norms and biases included, so that nothing is right by being one or zero. No test touches
the network or the user's own folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.cli import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ctxtune.backend.anatomy import Anatomy
    from ctxtune.backend.load import Base
    from ctxtune.engine.loop import StepFacts
    from ctxtune.recipe.load import Resolved

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The models are so small that threads only wait for each other.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

KINDS = ("llama-tied", "llama-untied", "gpt2-tied", "gpt2-untied", "bert-tied")
CONTEXT = 64
NUM_LAYERS = 4
WINDOW = 5
# Kind -> what its configuration has beside the sizes that all share. Sliding windows are shorter than the texts.
WIDER: dict[str, dict[str, Any]] = {
    "qwen2-tied": {"num_key_value_heads": 2},
    "qwen3-untied": {"num_key_value_heads": 2, "head_dim": 8},
    "qwen3-sliding-tied": {
        "num_key_value_heads": 2, "head_dim": 8, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2,
    },
    "gemma3_text-tied": {
        "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "mistral-untied": {"num_key_value_heads": 2, "sliding_window": WINDOW},
    "gpt_neox-untied": {},
    "opt-tied": {"ffn_dim": 48},
    "opt-projected-tied": {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "phi3-untied": {"num_key_value_heads": 2, "sliding_window": WINDOW},
    "roberta-tied": {"max_position_embeddings": CONTEXT + 2, "type_vocab_size": 1},
}  # fmt: skip
# Families that are not in the table: found by structure. Granite scales what it embeds, adds and says; Falcon's blocks hand
# on tuples; DistilBERT's head is three modules.
FOUND: dict[str, dict[str, Any]] = {
    "olmo2-untied": {"num_key_value_heads": 2},
    "granite-tied": {
        "num_key_value_heads": 2, "logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
    },
    "falcon-tied": {},
    "distilbert-tied": {"hidden_dim": 48},
}  # fmt: skip
FAMILY_KINDS = (*KINDS, *WIDER, *FOUND)
# Families that are declined: XLNet and T5 by the table, the others by their structure.
DECLINED: dict[str, dict[str, Any]] = {
    "xlnet-tied": {"d_head": 8, "d_inner": 48},
    "t5-tied": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": NUM_LAYERS},
    "mamba-tied": {"state_size": 4},
    "mixtral-untied": {"num_key_value_heads": 2, "num_local_experts": 2},
}
MASKED = ("bert", "distilbert", "roberta")
# Encoders whose files hold no head: they learn a classifier over CHOICES.
HEADLESS_KINDS = ("bert-headless", "roberta-headless")
PROMPT = "Review: {{ text }}\nSentiment:"
CHOICES = ["negative", "positive"]
GOOD = ("a fine and moving film", "great fun", "it was good, very good", "a joy from start to end, warm and wise")
BAD = ("dull and far too long", "terrible", "it was bad, very bad", "a mess from start to end, cold and slow")
CORPUS = [
    f"Review: {text}\nSentiment: {label}" for label, texts in zip(CHOICES, (BAD, GOOD), strict=True) for text in texts
]


LIKE_LLAMA = ("llama", "mistral", "qwen2", "phi3", "qwen3", "gemma3_text", "olmo2", "granite")
QUERY_NORMS = ("qwen3", "gemma3_text", "olmo2")
BLOCK = dict.fromkeys(LIKE_LLAMA, r"model\.layers\.") | {
    "gpt2": r"transformer\.h\.", "bert": r"bert\.encoder\.layer\.", "roberta": r"roberta\.encoder\.layer\.",
    "gpt_neox": r"gpt_neox\.layers\.", "opt": r"model\.decoder\.layers\.", "falcon": r"transformer\.h\.",
    "distilbert": r"distilbert\.transformer\.layer\.",
}  # fmt: skip
ATTN = (
    dict.fromkeys((*LIKE_LLAMA, "opt"), r"self_attn")
    | dict.fromkeys(QUERY_NORMS, r"self_attn\.[qkvo]_proj")
    | dict.fromkeys(("bert", "roberta"), r"attention\.(self|output\.dense)")
    | {"gpt2": r"attn", "gpt_neox": r"attention", "falcon": r"self_attention", "distilbert": r"attention"}
)
MLP = dict.fromkeys((*LIKE_LLAMA, "gpt2", "gpt_neox", "falcon"), r"mlp") | {
    "bert": r"(intermediate|output)\.dense", "roberta": r"(intermediate|output)\.dense", "opt": r"fc[12]",
    "distilbert": r"ffn",
}  # fmt: skip
NORMS = (
    dict.fromkeys((*LIKE_LLAMA, "gpt_neox"), r"(input_layernorm|post_attention_layernorm)")
    | dict.fromkeys(("bert", "roberta"), r"(attention\.output|output)\.LayerNorm")
    | {
        "gpt2": r"ln_[12]",
        "opt": r"(self_attn|final)_layer_norm",
        "olmo2": r"(post_(attention|feedforward)_layernorm|self_attn\.[qk]_norm)",
        "falcon": r"input_layernorm",
        "distilbert": r"(sa|output)_layer_norm",
        "qwen3": r"(input_layernorm|post_attention_layernorm|self_attn\.[qk]_norm)",
        "gemma3_text": r"(input_layernorm|(post_attention|pre_feedforward|post_feedforward)_layernorm|self_attn\.[qk]_norm)",
    }
)
LAST_NORM = dict.fromkeys(LIKE_LLAMA, r"model\.norm\.") | {
    "gpt2": r"transformer\.ln_f\.", "bert": r"(?!)", "roberta": r"(?!)", "gpt_neox": r"gpt_neox\.final_layer_norm\.",
    "opt": r"model\.decoder\.final_layer_norm\.", "falcon": r"transformer\.ln_f\.", "distilbert": r"(?!)",
}  # fmt: skip
EMBEDDINGS = dict.fromkeys(LIKE_LLAMA, r"model\.embed_tokens\.") | {
    "gpt2": r"transformer\.w[tp]e\.", "bert": r"bert\.embeddings\.", "roberta": r"roberta\.embeddings\.",
    "gpt_neox": r"gpt_neox\.embed_in\.", "opt": r"model\.decoder\.(embed_tokens|embed_positions|project_in)\.",
    "falcon": r"transformer\.word_embeddings\.", "distilbert": r"distilbert\.embeddings\.",
}  # fmt: skip
HEAD = dict.fromkeys((*LIKE_LLAMA, "gpt2", "gpt_neox", "roberta", "falcon"), r"lm_head\.") | {
    "bert": r"cls\.", "opt": r"(lm_head|model\.decoder\.project_out)\.",
    "distilbert": r"vocab_(transform|layer_norm|projector)\.",
}  # fmt: skip
CLASSIFIER = {"bert": r"(bert\.pooler|classifier)\.", "roberta": r"classifier\."}


def names_pattern(layers: str, anatomy: Anatomy) -> str:
    """The pattern of the names that a choice stands for."""
    family = anatomy.family
    block, any_block = BLOCK[family], BLOCK[family] + r"\d\."
    head = (CLASSIFIER if anatomy.kind == "classifier" else HEAD)[family]
    return {
        "all": r"",
        "last:1": rf"{block}3\.",
        "last:4": any_block,
        "first:1": rf"{block}0\.",
        "first:3": rf"{block}[012]\.",
        "1-2": rf"{block}[12]\.",
        "2": rf"{block}2\.",
        "1-2.mlp": rf"{block}[12]\.{MLP[family]}\.",
        "last:2.attn": rf"{block}[23]\.{ATTN[family]}\.",
        "0.norms": rf"{block}0\.{NORMS[family]}\.",
        "attn": any_block + ATTN[family] + r"\.",
        "mlp": any_block + MLP[family] + r"\.",
        "norms": rf"({any_block}{NORMS[family]}\.|{LAST_NORM[family]})",
        "last:2+norms": rf"({block}[23]\.|{any_block}{NORMS[family]}\.|{LAST_NORM[family]})",
        "embeddings": EMBEDDINGS[family],
        "head": head,
        "last:1 + head": rf"({block}3\.|{head})",
        "2+2+last:2.mlp": rf"({block}2\.|{block}3\.{MLP[family]}\.)",
    }[layers]


def cover(items: list[pytest.Item]) -> None:
    """Of what is tried with every kind of model in several ways, a third runs by default: each kind, and each way.

    The laws choose their cells themselves.
    """
    cells: dict[tuple[str, str], list[pytest.Item]] = {}
    kinds: dict[str, list[str]] = {}
    for item in items:
        spec = getattr(item, "callspec", None)
        kind = spec.params.get("kind") if spec is not None else None
        if isinstance(kind, str) and item.path.name not in ("test_laws.py", "test_mask_laws.py", "test_prompt_laws.py"):
            test = item.nodeid.partition("[")[0]
            cells.setdefault((test, kind), []).append(item)
            if kind not in kinds.setdefault(test, []):
                kinds[test].append(kind)
    for (test, kind), ways in cells.items():
        first = kinds[test].index(kind) % min(3, len(ways))
        for place, item in enumerate(ways):
            if place % 3 != first and len(ways) > 1:
                item.add_marker(pytest.mark.slow)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The full matrix runs when it is asked for: `pytest -m slow`."""
    cover(items)
    if "slow" in config.option.markexpr:
        return
    later = [item for item in items if item.get_closest_marker("slow")]
    if later:
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """fsync returns at once: no power fails here. Processes of their own wait for the disk as a user's do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # it too refuses what is no open file
        yield


@pytest.fixture(autouse=True)
def ctxtune_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, new in every test."""
    home = tmp_path / "home"
    monkeypatch.setenv("CTXTUNE_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def _not_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line is quiet for the rest of its process; here the next one speaks."""
    monkeypatch.setattr(console.Quiet, "on", False)


class Folders(dict[str, "Path"]):
    """Kind -> the folder of a model with its tokenizer, made when it is asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        for kind in KINDS:
            self[kind]

    def __missing__(self, kind: str) -> Path:
        folder = self[kind] = self.root / kind
        save_model(kind, folder)
        return folder


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> the folder of a model with its tokenizer: those of KINDS, and any other that is looked up."""
    return Folders(tmp_path_factory.mktemp("models"))


def save_model(kind: str, folder: Path, seed: int = 0) -> None:
    """Write a random model of a kind, and its tokenizer."""
    import torch

    from ctxtune.backend.library import hush

    hush()
    tokenizer = make_tokenizer(kind)
    torch.manual_seed(seed)
    model = make_model(kind, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


TURNS = "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}\n{% endfor %}"
ASKING = TURNS + "{% if add_generation_prompt %}<a>{% endif %}"


def save_chatty(model: Path, folder: Path, context: int) -> Path:
    """A copy of a model with room for a conversation, whose tokenizer has a chat template."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": context}))
    (folder / "chat_template.jinja").write_text(ASKING)
    return folder


def make_model(kind: str, tokenizer: Any) -> Any:
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertModel,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
    )

    family, vocab = kind.partition("-")[0], len(tokenizer)
    tied = kind.endswith("-tied")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": NUM_LAYERS, "num_attention_heads": 4}
    if family == "llama":
        heads = {"num_key_value_heads": 2, "max_position_embeddings": CONTEXT}
        ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
        return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ends, vocab_size=vocab, tie_word_embeddings=tied))
    if family == "gpt2":
        shape = {"n_embd": 32, "n_layer": NUM_LAYERS, "n_head": 4, "n_positions": CONTEXT, "vocab_size": vocab}
        return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0, tie_word_embeddings=tied))
    if family == "bert":
        bert = BertConfig(**sizes, vocab_size=vocab, max_position_embeddings=CONTEXT)
        return BertModel(bert) if kind in HEADLESS_KINDS else BertForMaskedLM(bert)
    if kind in HEADLESS_KINDS:
        return make_wider(family, sizes | WIDER["roberta-tied"], tokenizer, True).roberta
    return make_wider(family, sizes | (WIDER | FOUND | DECLINED)[kind], tokenizer, tied)


def make_wider(family: str, settings: dict[str, Any], tokenizer: Any, tied: bool) -> Any:
    """A model of one of the other families, by transformers' own table of them."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    loaders = dict.fromkeys(MASKED, AutoModelForMaskedLM) | {"t5": AutoModelForSeq2SeqLM}
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = {"max_position_embeddings": CONTEXT, "vocab_size": len(tokenizer), "tie_word_embeddings": tied}
    if family == "xlnet":  # it knows no limit, and refuses to be told one
        del shape["max_position_embeddings"]
    config = AutoConfig.for_model(family, **{**shape, **ends, **settings})
    return loaders.get(family, AutoModelForCausalLM).from_config(config)


def make_tokenizer(kind: str) -> Any:
    """Byte-level BPE (Llama puts BOS before a text, GPT-2 has no pad, RoBERTa stands between two ends), WordPiece for BERT."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if kind.startswith(("bert", "distilbert")):
        pieces = Tokenizer(models.WordPiece(word_pieces(), unk_token="[UNK]"))
        pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
        pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        pieces.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=pieces, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
            mask_token="[MASK]",
        )  # fmt: skip
    bare = kind.startswith(("gpt", "qwen"))
    names = ["<|endoftext|>"] if bare else ["<s>", "</s>", "<pad>"]
    if kind.startswith("roberta"):
        names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS * 4,
        trainers.BpeTrainer(vocab_size=300, special_tokens=names, initial_alphabet=alphabet, show_progress=False),
    )
    if kind.startswith("roberta"):
        bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
        marks = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
        return PreTrainedTokenizerFast(
            tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **marks
        )
    if bare:
        return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=names[0], eos_token=names[0])
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def word_pieces() -> dict[str, int]:
    """The words of the reviews and every letter; `positive` is two pieces. The trainer breaks ties differently each time."""
    words = sorted({word for text in CORPUS for word in re.findall(r"[a-z]+", text.lower())} - {"positive"})
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*words, "posit", "##ive", *letters, *(f"##{letter}" for letter in letters), *"!,.:;'-", *"0123456789"]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    return {piece: number for number, piece in enumerate(dict.fromkeys(names))}


@pytest.fixture
def open_base(model_folders: dict[str, Path]) -> Callable[[str], Base]:
    """open_base(kind): the model as ctxtune loads it, a new one at each call."""
    from ctxtune.backend.load import load_base

    return lambda kind: load_base(model_folders[kind], "cpu", classes=CHOICES)


def review_rows(count: int, offset: int = 0) -> list[dict[str, str]]:
    """Rows of several lengths; no two of 48 are alike."""
    rows = []
    for i in range(offset, offset + count):
        label = i % 2
        texts = (BAD, GOOD)[label]
        text = texts[i // 2 % 4] + (", " + texts[(i // 8 + 1) % 4] if i // 8 % 3 else "") + "!" * (i // 24)
        rows.append({"text": text, "label": CHOICES[label]})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """22 rows to learn from: no multiple of the batch."""
    return write_jsonl(tmp_path / "reviews.jsonl", review_rows(22))


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """10 rows to score on."""
    return write_jsonl(tmp_path / "dev.jsonl", review_rows(10, 30))


@pytest.fixture
def resolve(model_folders: dict[str, Path], tmp_path: Path) -> Callable[..., Resolved]:
    """resolve(kind, train, out, {"train.lr": 1e-3, ...}): the recipe of a short run over the reviews."""

    def resolve(kind: str, train: Path | str, out: str = "run", more: dict[str, Any] | None = None) -> Resolved:
        return resolve_recipe(model_folders[kind], train, tmp_path / out, more)

    return resolve


def resolve_recipe(model: Path, train: Path | str, out: Path, more: dict[str, Any] | None = None) -> Resolved:
    from ctxtune.recipe.load import load

    flags: dict[str, Any] = {
        "model": str(model), "data.train": str(train), "data.prompt": PROMPT, "data.answer": "{{ label }}",
        "data.choices": CHOICES, "method.name": "freeze", "method.layers": "last:1", "train.batch": 8,
        "train.steps": 3, "train.lr": 1e-3, "device": "cpu", "forget.probe": "none", "cache": "memory", "out": str(out),
    }  # fmt: skip
    return load(None, flags | (more or {}))


class Listener:
    """A run's listener that remembers; `at` is called with every step."""

    def __init__(self, at: Callable[[StepFacts], None] = lambda facts: None) -> None:
        self.notes: list[str] = []
        self.steps: list[StepFacts] = []
        self.at = at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, facts: StepFacts) -> None:
        self.steps.append(facts)
        self.at(facts)


class Killed(BaseException):
    """Stands for the end of a process: nobody may catch it."""


def kill_at(step: int) -> Callable[[StepFacts], None]:
    """Ends the run when `step` has been done."""

    def at(facts: StepFacts) -> None:
        if facts.step == step:
            raise Killed

    return at


@pytest.fixture
def adapt(resolve: Callable[..., Resolved], reviews: Path) -> Callable[..., dict[str, Any]]:
    """adapt(kind, out, more, resume, at): a whole run over the reviews; returns its facts."""
    from ctxtune.commands import adapt as command

    def adapt(
        kind: str = "llama-tied",
        out: str = "run",
        more: dict[str, Any] | None = None,
        resume: bool = False,
        at: Callable[[StepFacts], None] = lambda facts: None,
        train: Path | str = reviews,
    ) -> dict[str, Any]:
        return command.adapt(resolve(kind, train, out, more), resume, Listener(at))

    return adapt


def adapter_tensors(run: Path) -> dict[str, Any]:
    """Name -> tensor of the adapter that a run wrote."""
    from safetensors.torch import load_file

    tensors: dict[str, Any] = load_file(run / "adapter" / "adapter_model.safetensors")
    return tensors


def same_tensors(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal names, equal bits."""
    import torch

    return one.keys() == other.keys() and all(
        torch.equal(tensor.view(torch.uint8), other[name].view(torch.uint8)) for name, tensor in one.items()
    )


def losses(run: Path) -> list[float]:
    """The loss of every step, as the run's log has it."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Base]:
    """The models that runs have trained, as they stood when the adapter was written."""
    return capture(monkeypatch)


def capture(monkeypatch: pytest.MonkeyPatch) -> list[Base]:
    from ctxtune.commands.adapt import _Run

    found: list[Base] = []
    save = _Run._save

    def keep(self: Any, base: Base, *rest: Any) -> dict[str, Any]:
        found.append(base)
        return save(self, base, *rest)

    monkeypatch.setattr(_Run, "_save", keep)
    return found


def rolling(tokens: list[int], prefix: int, length: int) -> Iterator[tuple[list[int], list[int]]]:
    """lm_eval.utils.get_rolling_token_windows with a context of one token, then make_disjoint_window."""
    first = min(length, len(tokens))
    yield [prefix, *tokens[: first - 1]], tokens[:first]
    predicted = first
    while predicted < len(tokens):
        count = min(len(tokens) - predicted, length)
        end = predicted + count
        yield tokens[end - length - 1 : end - 1], tokens[end - count : end]
        predicted += count


def text_by_hand(base: Base, text: str, length: int) -> float:
    """The log-probability of a text, one plain forward pass a window."""
    import torch

    total = 0.0
    tokens = base.tokenizer(text, add_special_tokens=False)["input_ids"]
    for fed, targets in rolling(tokens, base.tokenizer.bos_token_id, length):
        assert len(fed) <= length
        with torch.no_grad():
            nats = base.model(input_ids=torch.tensor([fed])).logits[0].double().log_softmax(-1)
        rows = range(len(fed) - len(targets), len(fed))
        total += sum(nats[row, token].item() for row, token in zip(rows, targets, strict=True))
    return total
