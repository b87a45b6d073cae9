"""Where a project is: a folder, the file of a bundle, or the name of one that the package has.

Imported by every command before its work, so without torch.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from weightspace.errors import problem

ENDING, CARD = ".bundle", ".json"  # of a bundle's file and of the card beside it
HOME = Path(__file__).absolute().parent
SETTINGS = "params.yaml"  # what makes a folder a project
FEWEST, MOST = 3.0, 16.0  # bits of a number, after deflate
FIRST = "digits"  # bundle that commands name as an example


def names() -> list[str]:
    """Bundles that the package has."""
    return sorted(path.stem for path in HOME.glob(f"*{ENDING}"))


def named(path: Path) -> str:
    """What gives a bundle as a root: its name where the package has it, else the name of its file."""
    return path.stem if path.parent == HOME else path.name


def is_bundle(path: Path) -> bool:
    """Whether a file is a bundle, as far as its first bytes and its end tell."""
    return zipfile.is_zipfile(path) and path.suffix == ENDING


def locate(root: Path | str) -> Path:
    """Folder of a project, or absolute path of a bundle's file.

    A folder of a project comes before a bundle of the same name; a folder of anything else does not.

    Args:
        root: folder, file, or name of a bundle of the package.

    Raises:
        WeightspaceError: nothing of that kind.

    """
    path = Path(root)
    if path.is_file():
        return path.absolute()
    if (path / SETTINGS).is_file():
        return path
    if str(root) in names():
        return HOME / f"{root}{ENDING}"
    known = ", ".join(names()) or "none in this installation"
    raise problem(
        "no project" if path.is_dir() else "no such project",
        where=path,
        got=f"a folder without {SETTINGS}" if path.is_dir() else None,
        expected=f"a folder where `make repro` has run, a {ENDING} file, or a name ({known})",
        do=f"give --root, such as --root {FIRST}",
    )
