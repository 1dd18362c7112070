"""A row and the recipe's templates become a prompt, an answer and the choices.

A template is Jinja in the sandbox of `bounds.py`: it sees the fields of one row and nothing else, and the same row
gives the same text every time. A null field counts as missing, for `default` and `is defined` too.
"""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta
from jinja2.exceptions import SecurityError

from ctxtune.data.bounds import MAX_CHARACTERS, MAX_TEMPLATE, VALUE, Bounds, Budget, MissingName, TooMuch
from ctxtune.data.choices import Choices, choices_of, gold, short
from ctxtune.errors import DataError, RecipeError
from ctxtune.recipe.data import Data

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import jinja2

    from ctxtune.data.read import Row

# What a template may raise on a row: its own errors, and Python's for an operation that the values do not allow.
FAILURES = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Template:
    """A compiled template; `names` are the fields it reads, `key` is where the recipe spells it."""

    text: str
    key: str
    names: tuple[str, ...]
    _code: jinja2.Template
    _value: jinja2.Template | None = None

    def render(self, row: Row) -> str:
        """The text for one row."""
        pieces: list[str] = []
        with self._failures(row):
            length = 0
            for piece in self._code.generate(_fields(row)):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_CHARACTERS:
                    raise TooMuch(f"more than {MAX_CHARACTERS:,} characters")
        return "".join(pieces)

    def value(self, row: Row) -> object:
        """What a template of one `{{ ... }}` stands for in one row, such as a list; the text of any other template."""
        if self._value is None:
            return self.render(row)
        with self._failures(row):
            context = self._value.new_context(_fields(row))
            for _ in self._value.root_render_func(context):
                pass
            value = context.vars[VALUE]
            if isinstance(value, StrictUndefined):
                str(value)  # raises what it is that is missing
        return value

    @contextmanager
    def _failures(self, row: Row) -> Iterator[None]:
        """What a template raises on a row, in words that name the row and the template."""
        try:
            yield
        except MissingName as error:
            raise _missing(self, row, error) from error
        except TooMuch as error:
            raise DataError(f"{row.where}: the template {self.key} makes {error}") from error
        except SecurityError as error:
            raise RecipeError(f"{self.key}: {_line(error)}") from error
        except FAILURES as error:
            raise DataError(f"{row.where}: the template {self.key} fails: {_line(error)}") from error


@dataclass(frozen=True)
class Rendered:
    """What a row says: `gold` is the answer's place among the choices, None for free answers."""

    prompt: str
    answer: str | None
    choices: tuple[str, ...] | None
    gold: int | None


def compile_template(text: str, key: str) -> Template:
    """Parse a template; errors name the recipe's key and the template's line."""
    if len(text) > MAX_TEMPLATE:
        raise RecipeError(f"{key}: a template of {len(text):,} characters, more than {MAX_TEMPLATE:,}")
    environment = Bounds()
    try:
        text.encode()
        tree = environment.parse(text)
        names = sorted(meta.find_undeclared_variables(tree) - environment.globals.keys())
        code = environment.compile_tree(tree)
        value = environment.compile_value(environment.parse(text))
    except TemplateSyntaxError as error:
        raise RecipeError(f"{key} line {error.lineno}: {error.message}", _syntax_hint(error, environment)) from error
    except UnicodeEncodeError as error:
        raise RecipeError(f"{key}: half of a surrogate pair is not text") from error
    except (RecursionError, SyntaxError, MemoryError) as error:
        raise RecipeError(f"{key}: the template is nested too deeply") from error
    except FAILURES as error:
        raise RecipeError(f"{key}: {_line(error)}") from error
    return Template(text, key, tuple(names), code, value)


def render_row(
    row: Row, prompt: Template, answer: Template | None, choices: Sequence[str] | Template | None, instruction: str
) -> Rendered:
    """Prompt, answer and the answer's place among the choices; the instruction stands before the prompt as it is."""
    asked = instruction + prompt.render(row)
    said = None if answer is None else answer.render(row)
    if answer is not None and said is not None and not said.strip():
        raise DataError(f"{row.where}: the answer is empty ({answer.key} is {answer.text!r})")
    if choices is None:
        return Rendered(asked, said, None, None)
    offered = choices_of(row, choices) if isinstance(choices, Template) else Choices(tuple(choices))
    if answer is None:
        return Rendered(asked, None, offered.texts, None)
    right = gold(row, answer, offered)
    return Rendered(asked, offered.texts[right], offered.texts, right)


def _fields(row: Row) -> dict[str, object]:
    """The fields that a template sees, and what it may spend."""
    fields = {name: value for name, value in row.fields.items() if value is not None}
    return {**fields, Budget.NAME: Budget()}


def _missing(template: Template, row: Row, error: MissingName) -> DataError:
    name = error.name
    if name is None:
        return DataError(f"{row.where}: the template {template.key} fails: {_line(error)}")
    if name in row.fields:
        return DataError(f"{row.where}: field {name!r} is null", f"{template.key} needs it: fill it in")
    near = difflib.get_close_matches(name, row.fields, n=1)
    return DataError(
        f"{row.where}: no field {name!r}; the fields are: {', '.join(row.fields) or 'none'}",
        f"did you mean {near[0]!r} in {template.key}" if near else _hint(template, row),
    )


def _hint(template: Template, row: Row) -> str:
    """What to write where a field is missing; a template that nobody wrote is not quoted."""
    if template.text not in (Data.model_fields["prompt"].default, Data.model_fields["answer"].default):
        return f"{template.key} is {short(template.text)}"
    if "messages" in row.fields:
        return "if the rows are chats: --messages messages"
    names = [f"'{{{{ {name} }}}}'" for name in row.fields if name.isidentifier()]
    if not names:
        return "name the fields in letters, digits and _, so that a template can read them"
    asked, *more = names
    if not more or row.fields.keys() == {"text", "file"}:
        return f"to learn texts as they are: --prompt '' --answer {asked}"
    return f"say what is asked and what is right, as in --prompt {asked} --answer {more[0]}"


def _syntax_hint(error: TemplateSyntaxError, environment: Bounds) -> str | None:
    said = error.message or ""
    if said.startswith("No filter named"):
        return f"the filters are {', '.join(sorted(name for name in environment.filters if name.isidentifier()))}"
    return "write {{ field }} for a field's value" if "unexpected" in said or "expected token" in said else None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
