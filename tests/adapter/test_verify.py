"""Whatever is done to an adapter's files: a clear error or the truth, in little time, and never torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
import struct
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctxtune.adapter.container import layer_tensors
from ctxtune.adapter.export import export_peft
from ctxtune.adapter.read import check_base, open_adapter
from ctxtune.adapter.verify import verify
from ctxtune.adapter.write import write_adapter
from ctxtune.backend.fingerprint import fingerprint
from ctxtune.commands.adapter import merge
from ctxtune.commands.evaluate import load_for
from ctxtune.commands.switch import Switch
from ctxtune.errors import AdapterError, CtxtuneError
from ctxtune.recipe.schema import Recipe

from .conftest import build, logits
from .test_attach import LORAS, lora_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import Made


def failed(place: Path, base: str | None = None) -> dict[str, str]:
    return {check.name: check.detail for check in verify(open_adapter(place), base) if not check.ok}


def test_a_good_adapter_passes(make: Callable[..., Made]) -> None:
    for kind in ("llama-tied", "gpt2-untied", "bert-tied"):
        made = make(kind)
        checks = verify(open_adapter(made.adapter), fingerprint(made.base))
        assert [check.name for check in checks] == [
            "structure",
            "manifest",
            "configuration",
            "bytes",
            "numbers",
            "base",
        ]
        assert all(check.ok for check in checks)


def test_bytes_that_changed_on_the_way(make: Callable[..., Made], tmp_path: Path) -> None:
    """Finite numbers in the place of others: the structure holds, only the hash tells; nobody uses such an adapter."""
    made = make("llama-tied")
    file = made.adapter / "adapter_model.safetensors"
    whole, header = file.read_bytes(), open_adapter(made.adapter).header
    tensors = hashlib.sha256(whole[header.data_start :]).hexdigest()
    assert header.metadata["ctxtune_sha256"] == tensors
    export_peft(open_adapter(made.adapter), tmp_path / "peft")
    assert open_adapter(tmp_path / "peft").header.metadata["ctxtune_sha256"] == tensors
    middle = (header.data_start + len(whole)) // 2
    file.write_bytes(whole[:middle] + b"01234567" + whole[middle + 8 :])
    assert set(failed(made.adapter)) == {"bytes"}
    base = SimpleNamespace(folder=made.base, model=build("llama-tied"))
    for use in (
        lambda: Switch(base, False, print).use(made.adapter),
        lambda: merge(made.adapter, tmp_path / "merged", str(made.base)),
        lambda: load_for(Recipe.model_construct(model=str(made.base)), [open_adapter(made.adapter)], False, print),
    ):
        with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is damaged: the sha256 of its tensors is"):
            use()
    file.write_bytes(whole.replace(b"ctxtune_sha256", b"ctxtune_sha255"))  # one without, as of old
    said = {check.name: check.detail for check in verify(open_adapter(made.adapter)) if check.ok}
    assert said["bytes"] == "no hash: written before there were any"


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("name", LORAS)
def test_adapters_of_peft_pass(name: str, tmp_path: Path) -> None:
    lora_folder(*LORAS[name], tmp_path / "lora", torch.float32)
    assert not failed(tmp_path / "lora", "sha256:whatever")


@pytest.mark.filterwarnings("ignore")  # peft's own
def test_what_peft_says_of_its_base(tmp_path: Path) -> None:
    """It names it, and nothing tells whether this is the same."""
    lora_folder(*LORAS["plain"], tmp_path / "lora", torch.float32)
    path = tmp_path / "lora" / "adapter_config.json"
    for base, said in {"org/tiny": "names its base 'org/tiny' without", "": "does not say which base"}.items():
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))
        assert f"the adapter {said}" in str(check_base(open_adapter(tmp_path / "lora"), "sha256:whatever"))


@pytest.mark.filterwarnings("ignore")  # peft's own
def test_a_container_that_is_not_known_is_refused_before_the_base_is_looked_for(tmp_path: Path) -> None:
    lora_folder(*LORAS["plain"], tmp_path / "lora", torch.float32)
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "peft_type": "IA3"}))
    recipe = Recipe.model_construct(model="./nowhere")
    for use in (
        lambda: merge(tmp_path / "lora", tmp_path / "merged", "./nowhere"),
        lambda: load_for(recipe, [open_adapter(tmp_path / "lora")], False, print),
    ):
        with pytest.raises(AdapterError, match="adapters of type IA3 are not supported"):
            use()


def test_one_tensor_is_one(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    path = made.adapter / "adapter_model.safetensors"
    name, tensor = next(iter(load_file(path).items()))
    save_file({name: tensor}, tmp_path / "one.safetensors")
    said = verify(open_adapter(tmp_path / "one.safetensors"))[0].detail
    assert said == f"1 tensor fills {(tmp_path / 'one.safetensors').stat().st_size:,} bytes without a gap"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_numbers_that_are_none(dtype: torch.dtype, value: float, make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    weight = torch.full((5, 7), torch.finfo(dtype).max, dtype=dtype)
    manifest = dataclasses.replace(made.manifest, trainable=35)
    write_adapter(tmp_path / "a", layer_tensors({"m": {"weight": weight}}), manifest, None, "card")
    assert not failed(tmp_path / "a")
    weight[2, 3] = value
    write_adapter(tmp_path / "a", layer_tensors({"m": {"weight": weight}}), manifest, None, "card")
    assert "'base_model.model.m.ln_tuning_layers.weight' holds 1 numbers" in failed(tmp_path / "a")["numbers"]


def test_manifest_that_promises_more(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    tensors = layer_tensors({"m": {"weight": torch.ones(2)}})
    write_adapter(tmp_path / "a", tensors, made.manifest, None, "card")
    assert "only 2 are stored" in failed(tmp_path / "a")["manifest"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["model.norm"], "target_modules lacks model.layers.1"),
        (None, "must be a list"),
        ([1], "must be a list"),
        ("(", "is no pattern"),
        (r"model\.norm", "does not match"),
    ],
)
def test_configuration_that_disagrees(targets: Any, message: str, make: Callable[..., Made]) -> None:
    made = make("llama-tied")
    path = made.adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "target_modules": targets}))
    assert message in failed(made.adapter)["configuration"]
    path.write_text(json.dumps({**config, "target_modules": [*config["target_modules"], "model.other"]}))
    assert failed(made.adapter) == {"configuration": "no tensor is for 'model.other'"}


def test_another_base_is_refused(make: Callable[..., Made]) -> None:
    made = make("llama-tied")
    adapter = open_adapter(made.adapter)
    other = "sha256:" + "0" * 64
    assert check_base(adapter, fingerprint(made.base)) is None
    with pytest.raises(
        AdapterError, match=r"was made on .*llama-tied \([0-9a-f]{12}\), and this base is 0{12}"
    ) as caught:
        check_base(adapter, other)
    assert "--force" in (caught.value.hint or "")
    assert "was made on" in (check_base(adapter, other, force=True) or "")
    assert set(failed(made.adapter, other)) == {"base"}


def test_places_that_are_no_adapter(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "adapter_model.bin").write_bytes(b"\x80")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place, message in {
        "missing": "no adapter at", "empty": "holds no adapter_model.safetensors", "pickle": "can run code",
        "loop": "cannot be read|no adapter at", "n\0": "cannot be read|no adapter at", "n" * 5000: "cannot be read",
    }.items():  # fmt: skip
        with pytest.raises(AdapterError, match=message):
            open_adapter(tmp_path / place)
    for text, message in {"{": "not valid JSON", "[]": "not a JSON object", "{}": "peft_type is missing"}.items():
        (made.adapter / "adapter_config.json").write_text(text)
        with pytest.raises(AdapterError, match=message):
            open_adapter(made.adapter)
    (made.adapter / "adapter_config.json").write_bytes(b"\xff\xfe\0")
    with pytest.raises(AdapterError, match="not valid JSON"):
        open_adapter(made.adapter)


def mutations(data: bytes) -> Iterator[bytes]:
    """300 ways to break a safetensors file."""
    chance = random.Random(0)
    header = 8 + struct.unpack("<Q", data[:8])[0]
    for size in [0, 1, 7, 8, 9, header - 1, header, header + 1, len(data) - 1]:
        yield data[:size]
    yield from (data[: chance.randrange(len(data))] for _ in range(41))
    yield data + b"\0"
    yield data * 2
    for length in (0, 1, 2**31, 2**32, 2**63, 2**64 - 1, header, header - 9, len(data) - 8):
        yield struct.pack("<Q", length) + data[8:]
    for _ in range(140):  # one bit in the header
        place = chance.randrange(header)
        yield data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
    text = data[8:header].decode()
    swaps = [('"F32"', '"F64"'), ('"F32"', '"BF16"'), ('"F32"', '"I8 "'), ("[32", "[33"), ("[32", "[-2")]
    swaps += [("data_", "date_"), ("ctxtune", "ctxtuna"), ("ln_tuning", "lm_tuning")]
    swaps += [('"format\\":', '"farmat\\":'), ('\\"seed\\": 0', '\\"seed\\": x')]
    digits = [place for place, letter in enumerate(text) if letter.isdigit()]
    for old, new in swaps:
        assert old in text
        yield data[:8] + text.replace(old, new).encode() + data[header:]
    for _ in range(300 - 52 - 9 - 140 - len(swaps)):  # one digit: lying offsets and shapes
        place = chance.choice(digits)
        yield data[:8] + (text[:place] + chance.choice("0123456789") + text[place + 1 :]).encode() + data[header:]


def test_three_hundred_mutations(make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    data = (made.adapter / "adapter_model.safetensors").read_bytes()
    refused, count, lines = 0, 0, 0
    begun = time.monotonic()
    for broken in mutations(data):
        count += 1
        (made.adapter / "adapter_model.safetensors").write_bytes(broken)
        (tmp_path / "lone.safetensors").write_bytes(broken)
        for place in (made.adapter, tmp_path / "lone.safetensors"):
            try:
                verify(open_adapter(place), made.manifest.base.fingerprint)
            except AdapterError as error:
                refused += 1
                lines += str(error).count("\n")
    assert count == 300
    assert lines == 0
    assert refused > 350  # the rest changed a text, which the structure cannot know
    assert time.monotonic() - begun < 30


@pytest.mark.filterwarnings("ignore")  # peft's own
def test_mutated_configurations(make: Callable[..., Made], tmp_path: Path) -> None:
    """The same for adapter_config.json, of both types; attaching must not fail otherwise either."""
    from ctxtune.adapter.attach import attached

    lora_folder(*LORAS["patterns"], tmp_path / "lora", torch.float32)
    chance = random.Random(1)
    values = [None, True, -1, 1e400, "", "(", "x" * 1000, [], [[]], {}, {"a": []}, {"": {}}]
    model = build("llama-tied")
    for folder in (make("llama-tied").adapter, tmp_path / "lora"):
        config = json.loads((folder / "adapter_config.json").read_text())
        for key in config:
            for value in chance.sample(values, 4):
                (folder / "adapter_config.json").write_text(json.dumps({**config, key: value}))
                try:
                    adapter = open_adapter(folder)
                    verify(adapter)
                    with attached(model, adapter):
                        pass
                except AdapterError:
                    pass


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("kind", ["llama-tied", "bert-tied"])
def test_export_of_the_lone_file(kind: str, make: Callable[..., Made], tmp_path: Path) -> None:
    from peft import PeftModel

    made = make(kind, "all")
    lone = tmp_path / "lone.safetensors"
    shutil.move(made.adapter / "adapter_model.safetensors", lone)
    export_peft(open_adapter(lone), tmp_path / "peft")
    assert not failed(tmp_path / "peft", made.manifest.base.fingerprint)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config == json.loads((made.adapter / "adapter_config.json").read_text())
    model = PeftModel.from_pretrained(build(kind), tmp_path / "peft").eval()
    assert torch.allclose(logits(model), made.logits, rtol=0, atol=2e-4)
    (tmp_path / "peft" / "mine.txt").write_text("mine")
    with pytest.raises(CtxtuneError, match=r"holds 'mine\.txt'"):
        export_peft(open_adapter(lone), tmp_path / "peft")


@pytest.mark.parametrize("command", ["show", "verify", "verify --model", "export"])
def test_no_torch(command: str, make: Callable[..., Made], tmp_path: Path) -> None:
    made = make("llama-tied")
    verb, _, model = command.partition(" ")
    words = [verb, str(made.adapter), "--json"]
    words += [model, str(made.base)] if model else []
    words += ["--out", str(tmp_path / "out")] if verb == "export" else []
    code = (
        "import sys; from ctxtune.cli.adapter import app; app(sys.argv[1:], standalone_mode=False); "
        "sys.exit(bool({'torch', 'transformers', 'peft', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts.get("ok", True) is True
    if verb == "show":
        assert facts["manifest"] == made.manifest.as_dict()


def test_verify_fails_with_the_exit_code_of_models(make: Callable[..., Made]) -> None:
    made = make("llama-tied")
    (made.adapter / "adapter_config.json").write_text('{"peft_type": "LN_TUNING"}')
    code = (
        "import sys; from ctxtune.cli.adapter import app; from ctxtune.errors import CtxtuneError\n"
        "try: app(sys.argv[1:], standalone_mode=False)\n"
        "except CtxtuneError as error: sys.exit(error.exit_code)"
    )
    words = ["verify", str(made.adapter), "--json"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert json.loads(done.stdout)["ok"] is False
