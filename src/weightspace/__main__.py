"""``python -m weightspace``."""

from weightspace.cli import main

if __name__ == "__main__":
    main()
