"""``python -m scone_cli``: the same command as ``scone``."""

from scone_cli.console.cli import main

if __name__ == "__main__":
    main()
