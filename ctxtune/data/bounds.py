"""The Jinja sandbox in which templates run: no Python, no chance, no endless work.

Jinja's immutable sandbox keeps a template away from the interpreter, but not from `'a' * 10**9`. Here the language is
cut down to what text needs (`if`, `for`, `set`, the filters below, the methods of `TEXT_METHODS`), and whatever can
grow is paid for from a budget that each row gets anew: a turn of a loop costs 1,000, a character handled by a filter 1.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, TemplateAssertionError, TemplateError, UndefinedError, nodes, pass_context
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_TEMPLATE = 100_000  # characters of a template
MAX_CHARACTERS = 1_000_000  # of one rendered text, and of any value on the way to it
MAX_WORK = 10_000_000  # what one row may spend
MAX_BITS = 1024  # of an integer
TURN = 1_000  # what a turn of a loop costs
VALUE = "result"  # the variable that holds the value of a template of one expression

FORBIDDEN: dict[type[nodes.Node], str] = {
    nodes.Macro: "macro", nodes.CallBlock: "call", nodes.FilterBlock: "filter", nodes.With: "with",
    nodes.AssignBlock: "a set block", nodes.Include: "include", nodes.Import: "import", nodes.FromImport: "from",
    nodes.Extends: "extends", nodes.Block: "block", nodes.ScopedEvalContextModifier: "autoescape",
}  # fmt: skip
TEXT_METHODS = frozenset({
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdigit", "islower",
    "isnumeric", "isspace", "isupper", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace",
    "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase",
    "title", "upper",
})  # fmt: skip
METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (str, TEXT_METHODS),
    (dict, frozenset({"get", "items", "keys", "values"})),
    (list, frozenset({"count", "index"})),
)


class TooMuch(TemplateError):
    """A template wants more text or more work than one row may have."""


class MissingName(UndefinedError):
    """A field that the row does not have, or that is null there."""

    def __init__(self, name: str | None, message: str) -> None:
        super().__init__(message)
        self.name = name


class Missing(StrictUndefined):
    """Jinja's strict undefined, which says by `MissingName` which name of the template it stands for."""

    def __init__(self, hint: str | None = None, obj: Any = missing, name: str | None = None, exc: Any = None) -> None:
        if exc is None:
            exc = partial(MissingName, name) if obj is missing else UndefinedError
        super().__init__(hint, obj, name, exc)


class Budget:
    """What one rendering may still spend; it travels in the template's context under a name no template can spell."""

    NAME = "the budget"

    def __init__(self) -> None:
        self.left = MAX_WORK

    def spend(self, work: int) -> None:
        """Pay, or stop the rendering."""
        self.left -= work
        if self.left < 0:
            raise TooMuch("too much work: its loops turn too often or its texts are too long")


class Bounds(ImmutableSandboxedEnvironment):
    """The environment of every template of a recipe."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=Missing, keep_trailing_newline=True, finalize=_printed)
        self.globals = {"range": self.globals["range"]}
        self.filters = {**{name: _paid(FILTERS[name]) for name in PLAIN_FILTERS}, **OWN_FILTERS}

    def compile_tree(self, tree: nodes.Template) -> Any:
        """Check the parsed template and compile it with its loops and `~` bound to the budget."""
        _check(tree)
        return self.from_string(_Bind().visit(tree))

    def compile_value(self, tree: nodes.Template) -> Any:
        """The same for a template that is nothing but one `{{ ... }}`: its value becomes `VALUE`; None for any other."""
        match tree.body:
            case [nodes.Output(nodes=[expression])] if not isinstance(expression, nodes.TemplateData):
                _check(tree)
                assign = nodes.Assign(nodes.Name(VALUE, "store", lineno=1), expression, lineno=1)
                return self.from_string(_Bind().visit(nodes.Template([assign], lineno=1)))
        return None

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Methods are named one by one; a loop's own facts are free."""
        if isinstance(obj, LoopContext):
            return super().is_safe_attribute(obj, attr, value)
        return any(isinstance(obj, kind) and attr in allowed for kind, allowed in METHODS)

    def wrap_str_format(self, value: Any) -> None:
        """No `format`: its widths know no bound."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method; `replace` is the one that can make a text grow."""
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and getattr(__obj, "__name__", "") == "replace":
            return _replace(__context, owner, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators that can make a value grow."""
        if all(isinstance(value, int) for value in (left, right)):
            _check_bits(operator, left, right)
        elif operator == "%" and isinstance(left, str):
            raise TypeError("% does not format text here: write ~ or round(2)")
        elif operator == "*" and not all(isinstance(value, int | float) for value in (left, right)):
            raise TypeError("* is for numbers here, not for texts and lists")
        elif operator == "+" and isinstance(left, str | list) and isinstance(right, str | list):
            _spend(context, len(left) + len(right))
        return super().call_binop(context, operator, left, right)


class _Bind(NodeTransformer):
    """Loops count their turns and `~` its characters, through two filters whose names no template can spell."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filter(node.iter, " turns")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), " concat")


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _check(node: nodes.Node, loops: int = 0) -> None:
    """Refuse, with the template's line, what a template for one row has no use for."""
    word = FORBIDDEN.get(type(node))
    if word:
        raise TemplateAssertionError(f"{word} is not allowed in a template for rows", node.lineno)
    if isinstance(node, nodes.Getattr) and node.attr.startswith("__"):
        raise TemplateAssertionError(f"the attribute {node.attr!r} is not allowed", node.lineno)
    if isinstance(node, nodes.Assign) and any(node.node.find_all((nodes.List, nodes.Tuple, nodes.Dict))):
        raise TemplateAssertionError("set is for texts and numbers, not for lists", node.lineno)
    if isinstance(node, nodes.For):
        loops += 1
        if loops > 2 or node.recursive:
            raise TemplateAssertionError("loops may stand in each other twice, and not call themselves", node.lineno)
    for child in node.iter_child_nodes():
        _check(child, loops)


def _printed(value: Any) -> Any:
    """Only texts and numbers are printed: the name of a method or a Python list in a prompt is always a mistake."""
    if isinstance(value, str | int | float | Undefined):
        return value
    if isinstance(value, list | tuple | dict):
        raise TypeError("a list or an object has no text of its own: write | join(', ') or | tojson")
    if callable(value):
        raise TypeError("a method is not called: write ()")
    raise TypeError("null has no text" if value is None else f"{type(value).__name__} has no text: write | list")


def _check_bits(operator: str, left: int, right: int) -> None:
    bits = {"*": left.bit_length() + right.bit_length(), "**": left.bit_length() * max(right, 0)}
    if bits.get(operator, 0) > MAX_BITS:
        raise TooMuch("a number that is too large")


def _spend(context: Context, characters: int) -> None:
    if characters > MAX_CHARACTERS:
        raise TooMuch(f"more than {MAX_CHARACTERS:,} characters")
    budget = context.get(Budget.NAME)
    assert isinstance(budget, Budget)
    budget.spend(characters)


def _paid(plain: Callable[..., Any]) -> Callable[..., Any]:
    """One of Jinja's own filters, paid by the length of what it is put on."""
    kind = getattr(plain, "jinja_pass_arg", None)

    @pass_context
    def paid(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, str | list | dict | range):
            _spend(context, len(value))
        front = () if kind is None else (context.environment if kind.name == "environment" else context.eval_ctx,)
        return plain(*front, value, *args, **kwargs)

    return paid


@pass_context
def _turns(context: Context, values: Any) -> Iterator[Any]:
    budget = context.get(Budget.NAME)
    assert isinstance(budget, Budget)
    for value in values:
        budget.spend(TURN)
        yield value


@pass_context
def _concat(context: Context, values: list[Any]) -> str:
    return _join(context, values)


@pass_context
def _join(context: Context, values: Any, separator: str = "") -> str:
    texts = [str(_printed(value)) for value in values]
    _spend(context, sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


@pass_context
def _replace(context: Context, text: str, old: str, new: str, count: int = -1) -> str:
    _spend(context, len(text) + max(text.count(old), 1) * len(new))
    return text.replace(old, new, count)


@pass_context
def _round(context: Context, value: float, digits: int = 0) -> float:
    if abs(digits) > 15:
        raise ValueError("round knows at most 15 digits")
    return round(value, digits) if digits else round(value)


@pass_context
def _string(context: Context, value: Any) -> str:
    return str(_printed(value))


@pass_context
def _tojson(context: Context, value: Any) -> str:
    """JSON as a model reads it: letters stay letters, nothing is escaped for the web."""
    pieces = []
    for piece in json.JSONEncoder(ensure_ascii=False).iterencode(value):
        _spend(context, len(piece))
        pieces.append(piece)
    return "".join(pieces)


PLAIN_FILTERS = (
    "abs", "capitalize", "d", "default", "first", "float", "int", "items", "last", "length", "list", "lower", "reverse",
    "sort", "title", "trim", "unique", "upper", "wordcount",
)  # fmt: skip
OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "join": _join,
    "replace": _replace,
    "round": _round,
    "string": _string,
    "tojson": _tojson,
    " turns": _turns,
    " concat": _concat,
}
