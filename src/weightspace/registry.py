"""Families of interchangeable parts: name -> module, resolved on demand.

A member of a family comes from one of three places; a name that two of them have is an error.

* The package: one file, one line in its family's table (:class:`Members`) and one test case.
* An installed distribution: an entry point of the group ``weightspace.FAMILY``, NAME = "a.module".
* The project: the file ``src/members/FAMILY/NAME.py``.

Members from outside the package have the functions of a built-in one, and a class ``Settings`` (of
:class:`weightspace.params.Settings`) that validates their section of params.yaml.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from weightspace.errors import WeightspaceError, nearest, problem

SOURCE = Path(__file__).resolve().parent.parent  # the folder that holds the package
PROJECT = "src/members"  # as the distribution of what the project brings
MARK = "# In place of a member from outside, for DVC. Written by `python -m weightspace plugins --write`."


@dataclass(frozen=True)
class Family:
    """A family whose members may come from outside.

    Attributes:
        name: its section of params.yaml, group of entry points and folder in ``src/members``.
        package: of the built-in members; it holds the table, NAME in capitals.
        key: the setting that selects a member.

    """

    name: str
    package: str
    key: str

    @property
    def folder(self) -> Path:
        """Folder of the package, which dvc.yaml names for the selected member."""
        return SOURCE / Path(*self.package.split("."))

    @property
    def table(self) -> Mapping[str, str]:
        """Built-in members, name -> module."""
        table: Mapping[str, str] = getattr(import_module(self.package), self.name.upper())
        return table

    def selected(self, params: Any) -> str:
        """Name of the member that settings, those of :class:`weightspace.params.Params`, select."""
        section, key = self.key.split(".")
        return str(getattr(getattr(params, section), key))


FAMILIES = {
    family.name: family
    for family in (
        Family("sources", "weightspace.data.sources", "dataset.source"),
        Family("nets", "weightspace.nets", "zoo.architecture"),
        Family("autoencoders", "weightspace.autoencoders", "autoencoder.model"),
        Family(
            "dataset_encoders", "weightspace.dataset_encoders", "shared_encoder.dataset_encoder"
        ),
        Family("shared_encoders", "weightspace.shared_encoders", "shared_encoder.model"),
    )
}


class Members(dict[str, str]):
    """Table of the built-in members of a family that is open to members from outside.

    Args:
        family: a key of :data:`FAMILIES`.
        members: name -> module.

    """

    def __init__(self, family: str, members: Mapping[str, str]) -> None:
        super().__init__(members)
        self.family = family


@dataclass(frozen=True)
class Outside:
    """A member from outside the package.

    Attributes:
        family: a key of :data:`FAMILIES`.
        name: of the member.
        module: where its functions are.
        distribution: what brings it: a distribution, or ``src/members``.
        released: version of the distribution; empty for the project's own.

    """

    family: str
    name: str
    module: str
    distribution: str
    released: str = ""

    @property
    def local(self) -> bool:
        """Whether it is a file of the project."""
        return self.distribution == PROJECT

    @cached_property
    def files(self) -> dict[str, Path]:
        """Its source: the file, or every Python file of the package that it is in."""
        parts = self.module.split(".")
        if self.local:
            folder = members_folder() or SOURCE / "members"
            return {f"{parts[-1]}.py": folder.joinpath(*parts[1:]).with_suffix(".py")}
        spec = find_spec(parts[0])  # a package at the top is found without being imported
        if spec is None or spec.origin is None:
            raise problem(
                f"module '{parts[0]}' is missing", where=f"distribution {self.distribution}"
            )
        if not spec.submodule_search_locations:
            return {Path(spec.origin).name: Path(spec.origin)}
        root = Path(spec.origin).parent
        return {f.relative_to(root).as_posix(): f for f in sorted(root.rglob("*.py"))}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its source."""
        digest = hashlib.sha256()
        for name, path in self.files.items():
            data = path.read_bytes()
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        return digest.hexdigest()

    @property
    def version(self) -> str:
        """Version of the distribution; of a project's own file, the first digits of its hash."""
        return self.released or self.digest[:12]

    @property
    def marker(self) -> str:
        """Text of its marker."""
        facts = {
            "family": self.family,
            "member": self.name,
            "distribution": self.distribution,
            "version": self.version,
            "sha256": self.digest,
        }
        return "\n".join([MARK, *(f"# {k}: {v}" for k, v in facts.items())]) + "\n"

    def load(self) -> ModuleType:
        """Import it.

        Raises:
            WeightspaceError: it cannot be imported, or another module has its name.

        """
        where = f"{self.family} '{self.name}' of {self.distribution}"
        try:
            module = import_module(self.module)
        except WeightspaceError:
            raise
        except Exception as error:  # code of others fails in every way
            raise problem(
                f"cannot be imported ({type(error).__name__}: {error})", where=where
            ) from error
        file = Path(module.__file__ or "")
        if self.local and file.resolve() != self.files[f"{self.name}.py"].resolve():
            raise problem(f"another module is called '{self.module}'", where=where, got=file)
        return module


@cache
def members_folder() -> Path | None:
    """Folder of the project's members; None for a package that is installed by itself.

    On a machine of a Ray cluster the package and the members are two folders on the path.
    """
    if SOURCE.name == "src":
        return SOURCE / "members"
    spec = find_spec("members") if SOURCE.name.startswith("_ray_pkg_") else None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]) if folders else None


@cache
def outside(family: str) -> dict[str, tuple[Outside, ...]]:
    """Members from outside by name, several where a name is taken twice."""
    members = [
        Outside(family, p.name, p.value, p.dist.name, p.dist.version)
        for p in entry_points(group=f"weightspace.{family}")
        if p.dist is not None
    ]
    members.sort(key=lambda member: member.distribution)
    if folder := members_folder():
        files = sorted((folder / family).glob("[!_]*.py"))
        members += [Outside(family, f.stem, f"members.{family}.{f.stem}", PROJECT) for f in files]
    names = sorted({m.name for m in members})
    return {name: tuple(m for m in members if m.name == name) for name in names}


def find(family: str, name: str) -> Outside | None:
    """The member from outside of that name, if there is one.

    Raises:
        WeightspaceError: two places have a member of that name; both named.

    """
    members = outside(family).get(name, ())
    holders = [m.distribution for m in members]
    if name in FAMILIES[family].table:
        holders = ["weightspace", *holders]
    if len(holders) > 1:
        raise problem(
            f"{family} '{name}' is a member of {holders[0]} and of {holders[1]}",
            do="uninstall or rename one of them",
        )
    return members[0] if members else None


def resolve(family: Mapping[str, str], name: str, key: str) -> ModuleType:
    """Import the module of a family's member.

    Args:
        family: table name -> dotted module path.
        name: the member asked for.
        key: the params key that asks, for the error message.

    """
    names = set(family)
    if isinstance(family, Members):
        if member := find(family.family, name):
            return member.load()
        if name not in family and (line := absent(family.family, name)):
            raise problem(line, where=f"params.yaml: {key}")
        names |= set(outside(family.family))
    if name not in family:
        raise problem(f"unknown {key} '{name}'", where="params.yaml", do=nearest(name, names))
    return import_module(family[name])


def origins(*members: tuple[str, str]) -> dict[str, dict[str, dict[str, str]]]:
    """What an artefact says about the members from outside that it needs; nothing of built-in ones.

    Args:
        members: family and name of each member.

    """
    facts = {
        f"{family}.{name}": {"distribution": member.distribution, "version": member.version}
        for family, name in members
        if (member := find(family, name))
    }
    return {"members": facts} if facts else {}


def read_marker(path: Path) -> dict[str, str] | None:
    """Facts of a marker; None where the file is none, or not there."""
    if not path.is_file():
        return {"distribution": PROJECT} if path.is_symlink() else None
    if path.is_symlink():
        return {"distribution": PROJECT}
    head, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if head != MARK:
        return None
    pairs = (line.removeprefix("# ").partition(": ") for line in lines)
    return {key: value for key, _, value in pairs}


def absent(family: str, name: str) -> str | None:
    """Say what to do about a marker whose member is not there; None without such a marker."""
    path = FAMILIES[family].folder / f"{name}.py"
    facts = None if outside(family).get(name) else read_marker(path)
    if facts is None:
        return None
    shown = path.relative_to(SOURCE.parent)
    if facts["distribution"] == PROJECT:
        return f"{family} '{name}' is not in {PROJECT}; bring its file back, or remove {shown}"
    release = f"{facts['distribution']}=={facts['version']}"
    return (
        f"{family} '{name}' is of the distribution {facts['distribution']}, which is not installed; "
        f"pip install {release}, or remove {shown}"
    )


def every() -> list[Outside]:
    """All members from outside.

    Raises:
        WeightspaceError: two of one name.

    """
    members = (find(family, name) for family in FAMILIES for name in outside(family))
    return [member for member in members if member]


def listing() -> Iterator[tuple[str, str, str]]:
    """Family, member and where it comes from, of all members and of markers without one."""
    for name, family in FAMILIES.items():
        origins = dict.fromkeys(family.table, "weightspace")
        origins |= {
            m.name: m.distribution if m.local else f"{m.distribution} {m.version}"
            for m in every()
            if m.family == name
        }
        for path in sorted(family.folder.glob("*.py")):
            facts = read_marker(path)
            if facts and path.stem not in origins:
                origins[path.stem] = f"{facts['distribution']}, which is not there"
        yield from ((name, member, origin) for member, origin in origins.items())
