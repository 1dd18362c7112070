"""`python -m ctxtune` is the `ctxtune` command."""

from ctxtune.cli import interrupt


def main() -> None:
    """The command; its imports take half a second, in which Ctrl-C must not show where they were."""
    interrupt.ends_at_once()
    from ctxtune.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
