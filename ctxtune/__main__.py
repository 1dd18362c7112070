"""`python -m ctxtune` is the `ctxtune` command."""

from ctxtune.cli.main import main

if __name__ == "__main__":
    main()
