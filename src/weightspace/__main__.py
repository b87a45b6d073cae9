"""``python -m weightspace``."""

from weightspace.cli.app import main

if __name__ == "__main__":
    main()
