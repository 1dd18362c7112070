"""`python -m ctxtune` is the `ctxtune` command."""

from ctxtune.cli.main import run

if __name__ == "__main__":
    run()
