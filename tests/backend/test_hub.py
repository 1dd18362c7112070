"""A hub of one's own on 127.0.0.1: what is fetched, what is refused, and to whom the token is shown."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.backend import hub
from ctxtune.backend.folder import resolve_model
from ctxtune.commands.model import show
from ctxtune.commands.pull import pull
from ctxtune.errors import ModelError

from ..commands.test_pull import write_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "a" * 40
NAME = "someone/tiny-model"


class Hub:
    """A hub with one model, whose answers a test may change."""

    def __init__(self, folder: Path) -> None:
        write_model(folder)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.files |= {"pytorch_model.bin": b"pickle", "modeling.py": b"import os", "../evil.json": b"{}"}
        self.changes: dict[str, bytes] = {}
        self.code = 200
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.elsewhere: str | None = None

    def listing(self) -> bytes:
        items = []
        for name, data in self.files.items():
            item: dict[str, Any] = {"rfilename": name, "size": len(data)}
            item["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if name.endswith(".safetensors"):
                item["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            items.append(item)
        return json.dumps({"sha": COMMIT, "siblings": items, "cardData": {"license": "mit"}}).encode()

    def answer(self, path: str) -> bytes:
        if path.startswith("/api/"):
            return self.changes.get("listing", self.listing())
        name = path.rpartition("/")[2]
        return self.changes.get(name, self.files[name])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        site: Hub = self.server.site  # type: ignore[attr-defined]
        site.asked.append(self.path)
        site.tokens.append(self.headers.get("Authorization"))
        moved = site.elsewhere is not None and "/resolve/" in self.path
        self.send_response(302 if moved else site.code)
        if moved:
            self.send_header("Location", f"{site.elsewhere}{self.path}")
        data = b"" if moved or site.code != 200 else site.answer(self.path)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


def serve(site: Hub) -> tuple[ThreadingHTTPServer, str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.site = site  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    site = Hub(tmp_path / "source")
    server, address = serve(site)
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield site
    server.shutdown()
    server.server_close()


def test_a_model_of_a_hub(site: Hub, tmp_path: Path) -> None:
    pulled = pull(NAME)
    assert (pulled.fresh, pulled.licence) == (True, "mit")
    names = {"config.json", "tokenizer.json", "model.safetensors"}
    assert {path.name for path in pulled.folder.iterdir()} == names | {"ctxtune.json"}
    assert all((pulled.folder / name).read_bytes() == site.files[name] for name in names)
    assert all(f"/{COMMIT}/" in path for path in site.asked[1:])
    assert json.loads((pulled.folder / "ctxtune.json").read_text())["from"] == [f"hub:{NAME}@{COMMIT}"]
    assert resolve_model(NAME) == pulled.folder
    assert show(NAME).licence == "mit"
    asked = len(site.asked)
    assert not pull(NAME).fresh
    assert len(site.asked) == asked


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("change", [b"", b"x", b"more"])
def test_bytes_that_are_not_those_of_the_listing(name: str, change: bytes, site: Hub, tmp_path: Path) -> None:
    site.changes[name] = site.files[name] + change if change == b"more" else change
    with pytest.raises(ModelError, match=rf"{name} is not that of {NAME}"):
        pull(NAME)
    assert [path.name for path in (tmp_path / "home" / "models").iterdir()] == [".pull.lock"]


LISTINGS = {
    "no JSON": (b"{", "not understood"),
    "a list": (b"[]", "not understood"),
    "no files": (b'{"sha": "%s"}' % (b"a" * 40), "not understood"),
    "nothing allowed": (
        b'{"sha": "%s", "siblings": [{"rfilename": "x.bin", "size": 1}]}' % (b"a" * 40),
        "no safetensors",
    ),
    "no commit": (b'{"sha": "../..", "siblings": []}', "names no revision"),
    "no hash": (b'{"sha": "a", "siblings": [{"rfilename": "config.json", "size": 1}]}', "not understood"),
    "a size that is a word": (
        b'{"sha": "a", "siblings": [{"rfilename": "config.json", "size": "x", "blobId": "%s"}]}' % (b"a" * 40),
        "not understood",
    ),
}


@pytest.mark.parametrize(("listing", "said"), LISTINGS.values(), ids=LISTINGS)
def test_a_listing_that_is_wrong(listing: bytes, said: str, site: Hub) -> None:
    site.changes["listing"] = listing
    with pytest.raises(ModelError, match=said):
        pull(NAME)


@pytest.mark.parametrize(("code", "said"), [(401, "does not give"), (404, "has no model"), (503, "answers 503")])
def test_a_hub_that_says_no(code: int, said: str, site: Hub) -> None:
    site.code = code
    with pytest.raises(ModelError, match=said):
        pull(NAME)


def test_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        pull(NAME)
    assert "--from" in (caught.value.hint or "")
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(ModelError, match="no web address"):
        pull(NAME)


def test_the_token_is_shown_to_the_hub_alone(site: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Hub(tmp_path / "store")
    server, site.elsewhere = serve(store)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert pull(NAME).fresh
    assert set(site.tokens) == {"Bearer secret"}
    assert set(store.tokens) == {None}
    server.shutdown()
    server.server_close()


def test_the_cache_of_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / "models--someone--tiny-model"
    with pytest.raises(ModelError, match="nor on this machine yet"):
        resolve_model(NAME)
    write_model(root / "snapshots" / COMMIT)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    assert resolve_model(NAME) == root / "snapshots" / COMMIT
    (root / "refs" / "main").write_text("../../../elsewhere")
    assert hub.cached(NAME) is None


@pytest.mark.parametrize("name", ["a/b", "HuggingFaceTB/SmolLM2-135M", "a1/b_c.d"])
def test_what_is_a_hub_id(name: str) -> None:
    assert hub.is_hub_id(name)


@pytest.mark.parametrize("name", ["a", "a/b/c", "./b", "../b", "/b", "a/..", "a/b--c", "a/b?c", "a/b\n", "~/b", ""])
def test_what_is_none(name: str) -> None:
    assert not hub.is_hub_id(name)
