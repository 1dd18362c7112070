"""The bundled recipes: `templates/` of a checkout, which a wheel carries as `ctxtune/_templates`."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def template_folder() -> Path:
    """Where the bundled recipes lie; their data is in `data/` beside them."""
    installed = PACKAGE / "_templates"
    return installed if installed.is_dir() else PACKAGE.parent / "templates"


def names() -> list[str]:
    """The names of the bundled recipes."""
    return sorted(path.stem for path in template_folder().glob("*.yaml"))


def find(name: str) -> Path | None:
    """The file of a bundled recipe, by its exact name."""
    return template_folder() / f"{name}.yaml" if name in names() else None


def list_templates() -> list[tuple[str, str]]:
    """Each bundled recipe and what its first line, a comment, says it is for."""
    return [(name, _purpose(template_folder() / f"{name}.yaml")) for name in names()]


def _purpose(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("#").strip()
