"""Encoders without a head get a classifier: transformers' own modules, at zero, whatever else the files hold."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctxtune.adapter.attach import attach
from ctxtune.adapter.read import open_adapter
from ctxtune.backend.classes import class_names
from ctxtune.backend.classifier import is_untrained
from ctxtune.backend.feed import Feed, check_kept, is_exact
from ctxtune.backend.load import load_base
from ctxtune.backend.trunk import Trunk
from ctxtune.data.encode import Encoded
from ctxtune.errors import ModelError
from ctxtune.evals.choice import Requests

from ..conftest import CHOICES, HEADLESS_KINDS, NUM_LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctxtune.backend.load import Base

TEXTS = [tuple(range(5, 5 + length)) for length in (9, 4, 17, 6)]


def stored(kind: str, folders: dict[str, Path], folder: Path, names: list[str]) -> Path:
    """A model with a random classifier, as transformers saves it."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(
        folders[kind],
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={n: i for i, n in enumerate(names)},
    )
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.normal_()
    model.save_pretrained(folder)
    for file in folders[kind].glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize("kind", HEADLESS_KINDS)
def test_it_is_transformers_model_with_a_last_layer_of_zeros(kind: str, model_folders: dict[str, Path]) -> None:
    from transformers import AutoModelForSequenceClassification

    names = ["a", "b", "c"]
    base = load_base(model_folders[kind], "cpu", classes=names)
    plain = AutoModelForSequenceClassification.from_pretrained(model_folders[kind], num_labels=3)
    assert type(base.model) is type(plain)
    own = dict(base.model.named_parameters())
    assert own.keys() == dict(plain.named_parameters()).keys()
    zeros = [name for name, value in own.items() if not value.any()]
    last = "classifier.out_proj" if kind.startswith("roberta") else "classifier"
    assert {f"{last}.weight", f"{last}.bias"} <= set(zeros) <= {name for name in own if name.startswith("classifier")}
    for name, value in plain.named_parameters():
        assert name.startswith("classifier.") or torch.equal(own[name], value), name
    assert is_untrained(base.model, base.anatomy)
    config: Any = base.model.config
    assert class_names(config) == names
    assert (config.num_labels, config.label2id["c"]) == (3, 2)
    again = dict(load_base(model_folders[kind], "cpu", classes=names).model.named_parameters())
    assert all(torch.equal(value, again[name]) for name, value in own.items())


def test_a_pooler_that_is_missing_is_drawn(model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(model_folders["bert-headless"], tmp_path / "encoder")
    tensors = load_file(folder / "model.safetensors")
    left = {name: value for name, value in tensors.items() if "pooler" not in name}
    assert len(left) == len(tensors) - 2
    save_file(left, folder / "model.safetensors", {"format": "pt"})
    one, other = (load_base(folder, "cpu", classes=CHOICES).model for _ in range(2))
    weight = one.get_parameter("bert.pooler.dense.weight")
    assert 0.015 < weight.std().item() < 0.025
    assert torch.equal(weight, other.get_parameter("bert.pooler.dense.weight"))
    assert not one.get_parameter("bert.pooler.dense.bias").any()


def test_what_transformers_itself_reads(model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = dict(load_base(model_folders["roberta-headless"], "cpu", classes=CHOICES).model.named_parameters())

    def fail(*arguments: object) -> None:
        raise RuntimeError("an odd tensor")

    monkeypatch.setattr("ctxtune.backend.assemble.assemble", fail)
    found = dict(load_base(model_folders["roberta-headless"], "cpu", classes=CHOICES).model.named_parameters())
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize("start", [0, 2, NUM_LAYERS])
@pytest.mark.parametrize("kind", HEADLESS_KINDS)
def test_logits_are_those_of_the_plain_forward(
    kind: str, start: int, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    base = load_base(stored(kind, model_folders, tmp_path / "stored", ["x", "y", "z"]), "cpu")
    examples = [Encoded(ids, (0,), (number % 3,)) for number, ids in enumerate(TEXTS)]
    with torch.no_grad():
        alone = torch.cat([base.model(input_ids=torch.tensor([ids])).logits for ids in TEXTS])
        with Trunk(base, start) as trunk:
            feed = Feed(trunk, examples)
            feed.keep("memory", "sha256:base")
            assert is_exact(check_kept(feed))
            assert (trunk.logits(feed.hidden(range(4))) - alone).abs().max() <= 2e-5
            asked = [Encoded(ids, (0,), (place,)) for ids in TEXTS for place in range(3)]
            requests = Requests(trunk, [asked[i : i + 3] for i in range(0, len(asked), 3)])
            assert len(requests.feed.examples) == len(TEXTS)
            lls = [ll for ll, _ in requests.loglikelihoods()]
    assert lls == pytest.approx(alone.log_softmax(-1).flatten().tolist(), abs=2e-5)


@pytest.mark.parametrize("kind", HEADLESS_KINDS)
def test_a_classifier_in_the_files_is_used(kind: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = stored(kind, model_folders, tmp_path / "stored", ["x", "y", "z"])
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for classes in (None, ["x", "y", "z"]):
        base = load_base(folder, "cpu", classes=classes)
        assert not is_untrained(base.model, base.anatomy)
        assert all(torch.equal(base.model.get_parameter(name), value) for name, value in plain.named_parameters())
    for classes in (["x", "z", "y"], ["x", "y"]):
        with pytest.raises(ModelError, match=r"tells 3 classes apart: x, y, z; data\.choices lists others"):
            load_base(folder, "cpu", classes=classes)


def test_classes_without_names_are_counted(model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = stored("bert-headless", model_folders, tmp_path / "stored", ["LABEL_0", "LABEL_1"])
    assert load_base(folder, "cpu", classes=CHOICES).anatomy.kind == "classifier"
    with pytest.raises(ModelError, match="tells 2 classes apart"):
        load_base(folder, "cpu", classes=[*CHOICES, "neither"])


def test_the_head_of_another_task_is_refused(model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = stored("bert-headless", model_folders, tmp_path / "stored", CHOICES)
    config = json.loads((folder / "config.json").read_text())
    for told, said in ((["BertForTokenClassification"], "BertForTokenClassification"), ({"a": 1}, "an unnamed model")):
        (folder / "config.json").write_text(json.dumps({**config, "architectures": told}))
        with pytest.raises(ModelError, match=f"is that of {said}"):
            load_base(folder, "cpu", classes=CHOICES)


@pytest.mark.parametrize("kind", ["bert-headless", "llama-tied"])
def test_a_billion_classes_are_not_named(kind: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(model_folders[kind], tmp_path / "many")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_labels": 10**9}))
    with pytest.raises(ModelError, match=r"num_labels is 1,000,000,000, more than 100,000 classes"):
        load_base(folder, "cpu", classes=CHOICES)


@pytest.mark.parametrize("kind", HEADLESS_KINDS)
def test_without_classes_it_says_what_is_missing(kind: str, model_folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="without the head that fills a mask: it can only learn to choose") as caught:
        load_base(model_folders[kind], "cpu")
    assert "--choices" in str(caught.value.hint)


def test_a_model_with_a_head_stays_on_cloze(open_base: Callable[[str], Base]) -> None:
    for kind in ("bert-tied", "roberta-tied"):
        base = open_base(kind)
        assert base.anatomy.kind == "masked"
        assert not is_untrained(base.model, base.anatomy)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", HEADLESS_KINDS)
def test_adapters_that_peft_made_for_classes(kind: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    """PEFT stores the whole classifier beside its pairs, under no infix."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(5)
    plain = AutoModelForSequenceClassification.from_pretrained(model_folders[kind], num_labels=3)
    theirs = get_peft_model(plain, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    theirs.eval().save_pretrained(tmp_path / "lora")
    ours = load_base(model_folders[kind], "cpu", classes=["a", "b", "c"])
    attach(ours.model, open_adapter(tmp_path / "lora"))
    ids = torch.tensor([TEXTS[0]])
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        assert (ours.model(input_ids=ids).logits - expected).abs().max() <= 2e-5 * max(1.0, float(expected.abs().max()))
