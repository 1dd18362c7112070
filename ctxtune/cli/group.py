"""A group of commands, as typer makes it, but quick to reach the help of what it holds."""

from typing import Any

from typer.core import TyperGroup


class Group(TyperGroup):
    """typer converts every value but a flag's own True and False through pydantic, whose import takes longer than all the
    rest of `--help`. Its own help option has no default, and so a None to convert: here it is a plain False."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option -h, --help."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option
