"""Completion scripts for bash, zsh and fish, written from the command tree.

    python completions/generate.py            write them
    python completions/generate.py --check    fail if one of them is stale

The scripts hold everything they offer, so that completing a word never starts Python.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(__file__).resolve().parent
HEADER = "# Completion of ctxtune in {shell}, written by completions/generate.py. {use}\n"


@dataclass(frozen=True)
class Takes:
    """What may stand in a place: some words, `end` put after each; any file or folder as well."""

    words: tuple[str, ...] = ()
    files: bool = False
    end: str = " "


@dataclass(frozen=True)
class Option:
    """One option with all its spellings; `takes` is None for a switch."""

    spellings: tuple[str, ...]
    help: str
    takes: Takes | None
    repeats: bool


@dataclass(frozen=True)
class Command:
    """A command or a group of commands; `path` begins with the program."""

    path: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    arguments: tuple[tuple[str, Takes], ...]
    children: tuple[Command, ...]

    def walk(self) -> Iterator[Command]:
        yield self
        for child in self.children:
            yield from child.walk()


def known_values() -> dict[str, Takes]:
    """Parameter -> what it takes; `command parameter` goes before `parameter`. Everything that takes a value is here."""
    from ctxtune.backend.catalogue import CATALOGUE
    from ctxtune.recipe import gallery, keys, mask, start

    def literals(key: str, method: str | None = None) -> Takes:
        owners = keys.owners()[key]
        kinds = owners.values() if method is None else [owners[method]]
        fields = [kind.model_fields[key.rpartition(".")[2]] for kind in kinds]
        return Takes(tuple(dict.fromkeys(value for field in fields for value in get_args(field.annotation))))

    models, recipes, free, files = tuple(CATALOGUE), tuple(gallery.names()), Takes(), Takes(files=True)
    return {
        "recipe": Takes(recipes, files=True),
        "new name": Takes(recipes),
        "model": Takes(models, files=True),
        "pull name": Takes(models),
        "set": Takes(tuple(f"{key}=" for key in keys.owners()), end=""),
        "arch": literals("method.arch"),
        "method": Takes(("full", "freeze", "mask", "prompt")),
        "optimizer": literals("train.optimizer"),
        "tokenizer": files,
        "cache": literals("cache"),
        "device": literals("device"),
        "metric": literals("score.metric"),
        "quant": literals("quant"),
        "dtype": literals("dtype"),
        "merge dtype": Takes(("float32", "float16", "bfloat16")),
        "to": Takes(("peft", "lora", "model")),
        "export dtype": Takes(("float32", "float16", "bfloat16")),
        "lr": Takes(("auto",)),
        "pretrain lr": Takes(("auto", "transfer")),
        "nproc": free,
        "nnodes": free,
        "rdzv": free,
        "accelerate": files,
        "ewc": Takes(("auto",)),
        "layers": Takes(("auto",)),
        "alpha": Takes(("grid",)),
        "scale alpha": free,
        "against": Takes(("base",), files=True),
        "show against": files,
        "unfreeze": literals("method.unfreeze"),
        "shape": literals("method.shape"),
        "learn": literals("method.learn"),
        "mask select": Takes(
            (*(name for name in literals("method.select", "mask").words if name != "file"), mask.FILE), end=""
        ),
        "select": literals("method.select", "fewshot"),
        "kind": literals("method.kind"),
        "tokens": Takes(("auto",)),
        "distill-from": Takes(("fewshot",)),
        "init": Takes((*(name for name in start.NAMES if name != "adapter"), start.TEXT, start.ADAPTER), end=""),
        **{name: literals(f"method.{name}") for name in ("order", "calibrate")},
        "on-error": Takes(("stop", "mark")),
        "as": Takes(("lm-eval",)),
        "prior": Takes(("auto",)),
        **dict.fromkeys(
            ("adapter", "adapters", "other", "train", "eval", "out", "from", "save", "scores", "replay"), files
        ),
        **dict.fromkeys(
            (
                "answer",
                "batch",
                "budget",
                "candidates",
                "choices",
                "density",
                "depth",
                "epochs",
                "forget-budget",
                "lr-decay",
                "l1",
                "l2",
                "max-tokens",
                "minutes",
                "older-than",
                "params",
                "rank",
                "sample",
                "seeds",
                "shots",
                "steps",
                "top",
                "vocabulary",
                "weights",
            ),
            free,
        ),
        **dict.fromkeys(("dataset", "messages", "prompt", "revision", "row", "rows", "seed", "temperature"), free),
        **dict.fromkeys(("min-p", "repetition-penalty", "stop", "system", "top-k", "top-p"), free),
    }


def read_tree() -> Command:
    """The commands as Typer has them."""
    # The checkout that this file lies in, whatever else is installed.
    sys.path.insert(0, str(FOLDER.parent))
    from typer.main import get_command

    from ctxtune.cli.main import app

    return _command(get_command(app), ("ctxtune",), known_values())


def _command(command: Any, path: tuple[str, ...], values: dict[str, Takes]) -> Command:
    def takes(name: str) -> Takes:
        for key in (f"{path[-1]} {name}", name):
            if key in values:
                return values[key]
        raise SystemExit(f"completions/generate.py: say in known_values what {name!r} of {' '.join(path)!r} takes")

    options, arguments = [], []
    for param in command.params:
        if param.param_type_name == "argument":
            arguments.append((param.name, takes(param.name)))
        elif not param.hidden:
            spellings = (*param.opts, *param.secondary_opts)
            value = None if param.is_flag else takes(spellings[0].lstrip("-"))
            options.append(Option(spellings, _sentence(param.help), value, param.multiple))
    options.append(Option(("-h", "--help"), "Show this message and exit.", None, False))
    children = [_command(child, (*path, name), values) for name, child in getattr(command, "commands", {}).items()]
    return Command(path, _sentence(command.help), tuple(options), tuple(arguments), tuple(children))


def _sentence(text: str | None) -> str:
    """The first paragraph on one line."""
    return " ".join((text or "").split("\n\n")[0].split())


def quote(text: str) -> str:
    """A word of bash and zsh, whatever is in it."""
    return "'" + text.replace("'", "'\\''") + "'"


def bash(root: Command) -> str:
    """One function that finds the command and then looks up what may follow."""
    lines = [HEADER.format(shell="bash", use="Use: source ctxtune.bash"), BASH_OFFER]
    lines += ["_ctxtune() {", BASH_WORDS.strip("\n")]
    paths = "|".join(f'"{" ".join(command.path)}"' for command in root.walk() if command is not root)
    lines += [BASH_PATH.replace("PATHS", paths).strip("\n"), "    case $at in"]
    for command in root.walk():
        lines.append(f'    "{" ".join(command.path)}")')
        lines += _bash_values(command)
        names = " ".join(child.path[-1] for child in command.children)
        spellings = " ".join(spelling for option in command.options for spelling in option.spellings)
        place = command.arguments[0][1] if command.arguments else Takes(tuple(names.split()))
        lines.append(f"        case $cur in -*) {_bash_offer(Takes(tuple(spellings.split())))} ;;")
        lines += [f"        *) {_bash_offer(place)} ;; esac", "        ;;"]
    return "\n".join([*lines, "    esac", "}", "complete -F _ctxtune ctxtune", ""])


def _bash_values(command: Command) -> list[str]:
    found: dict[Takes, list[str]] = {}
    for option in command.options:
        if option.takes is not None:
            found.setdefault(option.takes, []).extend(option.spellings)
    if not found:
        return []
    cases = [f"        {'|'.join(names)}) {_bash_offer(takes)}; return ;;" for takes, names in found.items()]
    return ["        case $prev in", *cases, "        esac"]


def _bash_offer(takes: Takes) -> str:
    if not takes.words and not takes.files:
        return ":"
    how = "files" if takes.files else "open" if not takes.end else "words"
    return f"_ctxtune_offer {how} {quote(' '.join(takes.words))}"


BASH_OFFER = """\
_ctxtune_offer() {
    local word
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(
        compgen -W "$2" -- "$cur"
        if [[ $1 == files ]]; then compgen -f -- "$cur"; fi
    )
    case $1 in
    files) compopt -o filenames 2>/dev/null ;;
    open) compopt -o nospace 2>/dev/null ;;
    esac
    return 0
}
"""
# bash makes a word of its own of the = in --option=value.
BASH_WORDS = """
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} at=ctxtune word
    COMPREPLY=()
    if [[ $cur == '=' ]]; then
        cur=
        [[ $prev == -* ]] || return 0
    elif [[ $prev == '=' ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
        [[ $prev == -* ]] || return 0
    fi
"""
BASH_PATH = """
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$at $word" in
        PATHS) at="$at $word" ;;
        esac
    done
"""


def zsh(root: Command) -> str:
    """One function a command; a group hands the rest of the line to the one that was named."""
    use = "Use: put it as _ctxtune into a folder of $fpath, or source it after compinit"
    lines = ["#compdef ctxtune", HEADER.format(shell="zsh", use=use), ZSH_BOTH]
    for command in root.walk():
        specs = [spec for option in command.options for spec in _zsh_option(option)]
        lines.append(f"{_zsh_name(command)}() {{")
        if command.children:
            lines += _zsh_group(command, specs)
        else:
            specs += [quote(f"{i}:{name}:{_zsh_action(takes)}") for i, (name, takes) in enumerate(command.arguments, 1)]
            lines.append("    _arguments -s -S \\\n        " + " \\\n        ".join(specs))
        lines += ["}", ""]
    return "\n".join([*lines, ZSH_END])


def _zsh_group(command: Command, specs: list[str]) -> list[str]:
    names = [quote(f"{child.path[-1]}:{child.help}") for child in command.children]
    calls = [f"        {child.path[-1]}) {_zsh_name(child)} ;;" for child in command.children]
    specs = [*specs, "'1: :->command'", "'*:: :->rest'"]
    return [
        '    local curcontext="$curcontext" context state state_descr line',
        "    local -A opt_args",
        "    local -a commands=(\n        " + "\n        ".join(names) + "\n    )",
        "    _arguments -s -S -C \\\n        " + " \\\n        ".join(specs) + " && return",
        "    case $state in",
        "    command) _describe -t commands command commands ;;",
        "    rest)\n        case $line[1] in",
        *calls,
        "        esac ;;",
        "    esac",
    ]  # fmt: skip


def _zsh_name(command: Command) -> str:
    return "_" + "_".join(command.path)


def _zsh_option(option: Option) -> list[str]:
    """Specifications for _arguments: one a spelling, each of which rules the others out unless the option repeats."""
    text = "".join(f"\\{letter}" if letter in "[]:\\" else letter for letter in option.help)
    once = "*" if option.repeats else f"({' '.join(option.spellings)})" if len(option.spellings) > 1 else ""
    value = "" if option.takes is None else f":{option.spellings[0].lstrip('-')}:{_zsh_action(option.takes)}"
    equals = "" if option.takes is None else "="
    return [quote(f"{once}{name}{equals}[{text}]{value}") for name in option.spellings]


def _zsh_action(takes: Takes) -> str:
    words = " ".join(takes.words)
    if takes.files:
        return f"{{_ctxtune_or_file {words}}}" if words else "_files"
    if not takes.end:
        return f"{{compadd -S '' -- {words}}}"
    return f"({words})" if words else " "


ZSH_BOTH = """\
_ctxtune_or_file() {
    _alternative "names:name:($*)" "files:file:_files"
}
"""
ZSH_END = """\
if [[ $funcstack[1] == _ctxtune ]]; then
    _ctxtune "$@"
else
    compdef _ctxtune ctxtune
fi
"""


def fish(root: Command) -> str:
    """One line an option; a function says at which command the line stands."""
    use = "Use: put it into ~/.config/fish/completions"
    paths = " ".join(quote(" ".join(command.path)) for command in root.walk() if command is not root)
    lines = [HEADER.format(shell="fish", use=use), FISH_AT.replace("PATHS", paths), "complete -c ctxtune -f"]
    for command in root.walk():
        at = f"complete -c ctxtune -n '__ctxtune_at {' '.join(command.path)}'"
        lines += [f"{at} -a {child.path[-1]} -d {_fish_quote(child.help)}" for child in command.children]
        lines += [f"{at}{_fish_takes(takes)}" for _, takes in command.arguments if takes.words or takes.files]
        for option in command.options:
            names = "".join(
                f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in option.spellings
            )
            value = "" if option.takes is None else " -r" + _fish_takes(option.takes)
            lines.append(f"{at}{names}{value} -d {_fish_quote(option.help)}")
    return "\n".join([*lines, ""])


def _fish_takes(takes: Takes) -> str:
    words = f" -a {_fish_quote(' '.join(takes.words))}" if takes.words else ""
    return (" -F" if takes.files else " -f") + words


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


FISH_AT = """\
function __ctxtune_at
    set -l at ctxtune
    for word in (commandline -opc)
        if contains -- "$at $word" PATHS
            set at "$at $word"
        end
    end
    test "$at" = "$argv"
end
"""

SHELLS: dict[str, Callable[[Command], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def main(arguments: list[str]) -> int:
    """Write the scripts, or with --check compare them; returns the exit code."""
    root = read_tree()
    stale = []
    for shell, write in SHELLS.items():
        path, text = FOLDER / f"ctxtune.{shell}", write(root)
        if arguments == ["--check"]:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(path.name)
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"stale: {', '.join(stale)}; run python completions/generate.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
