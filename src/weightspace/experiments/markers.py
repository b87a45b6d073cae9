"""Markers: how DVC sees a member that comes from outside the package.

dvc.yaml names the selected member of a family as ``src/weightspace/FAMILY/${key}.py``, so that editing
another member reruns nothing. A member from outside has no file there; a marker takes its place:

* For one of a distribution, a file of comments with family, name, distribution, version and the hash of
  its source: a new version is another file, and DVC reruns the stages that use it, and no others.
* For one of the project, a symbolic link to ``src/members/FAMILY/NAME.py``: DVC reads through it, so that
  an edit is seen at once and no hash can be out of date.

``python -m weightspace plugins --write`` writes the markers of all members there are and adds them to
git's index, because experiments in the queue or in temporary copies see no untracked file; ``make repro``
calls it. Markers belong into git like dvc.lock, whose hashes are theirs. Where the marker of a selected
member is missing, the stage ``check`` writes it. Every stage verifies the markers of the selected members
and refuses to run with a member that DVC did not see.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from weightspace.artifacts import write_bytes
from weightspace.errors import problem
from weightspace.params import Params
from weightspace.registry import FAMILIES, SOURCE, Outside, find, read_marker

DO = "run `make repro` or `python -m weightspace plugins --write`"


def selected(params: Params) -> list[Outside]:
    """The members from outside that the settings select."""
    members = (find(family.name, family.selected(params)) for family in FAMILIES.values())
    return [member for member in members if member]


def write_markers(members: Iterable[Outside]) -> list[Path]:
    """Write the markers that are missing or out of date; their paths.

    Raises:
        WeightspaceError: the package is not in a project, or a file that is no marker is in the way.

    """
    written = []
    for member in members:
        path = _path(member)
        if SOURCE.name != "src":
            raise problem(
                "the package is not in a project", where=SOURCE, expected="src/weightspace"
            )
        if path.is_file() and read_marker(path) is None:
            raise problem("in the way of a marker", where=path, do="rename the file or the member")
        if _is_true(member, path):
            continue
        path.unlink(missing_ok=True)
        if member.local:
            path.symlink_to(_target(member, path))
        else:
            write_bytes(path, member.marker.encode())
        written.append(path.relative_to(SOURCE.parent))
    return written


def track(paths: list[Path]) -> list[Path]:
    """Add markers to git's index, where there is a repository; the same paths."""
    if paths and (SOURCE.parent / ".git").exists():
        subprocess.run(["git", "add", "--", *paths], cwd=SOURCE.parent, check=False)
    return paths


def verify_markers(params: Params) -> None:
    """Refuse a selected member from outside that is not the one of its marker.

    Raises:
        WeightspaceError: no marker, or one of another version or source; one line.

    """
    for member in selected(params):
        path = _path(member)
        if not _is_true(member, path):
            facts = read_marker(path)
            raise problem(
                f"{member.family} '{member.name}' of {member.distribution} is not what DVC saw",
                where=path.relative_to(SOURCE.parent),
                got="no marker" if facts is None else f"version {facts.get('version', 'unknown')}",
                expected=f"version {member.version}, sha256 {member.digest[:12]}",
                do=DO,
            )


def _path(member: Outside) -> Path:
    """File of its marker."""
    return FAMILIES[member.family].folder / f"{member.name}.py"


def _target(member: Outside, path: Path) -> str:
    """What the link of a project's member says."""
    return os.path.relpath(member.files[f"{member.name}.py"], path.parent)


def _is_true(member: Outside, path: Path) -> bool:
    """Whether the file is the member's marker as it has to be."""
    if member.local:
        return path.is_symlink() and os.readlink(path) == _target(member, path)  # noqa: PTH115
    return path.is_file() and not path.is_symlink() and path.read_text() == member.marker
