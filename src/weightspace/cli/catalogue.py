"""What there is to choose from: members of families, named tasks, bundles. Nothing here loads torch."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

from weightspace.bundles.locate import CARD, HOME, names
from weightspace.errors import nearest, problem
from weightspace.jobs import EXECUTORS
from weightspace.params import read_yaml
from weightspace.registry import FAMILIES, SOURCE, find, listing
from weightspace.zoo.readers import READERS

TASKS = SOURCE / "weightspace" / "leaderboard" / "tasks"
Entry = dict[str, str]


def catalogue(section: str | None = None) -> dict[str, list[Entry]]:
    """Section -> entries with ``name``, ``summary`` and ``origin``.

    Args:
        section: the only one; None for all.

    Raises:
        WeightspaceError: no section of that name.

    >>> [entry["name"] for entry in catalogue("shared_encoders")["shared_encoders"]][:2]
    ['flow', 'point']

    """
    sections: dict[str, list[Entry]] = {name: [] for name in FAMILIES}
    for family, name, origin in listing():
        sections[family].append(_entry(name, _summary(family, name), origin))
    executors = [_entry(k, _first_line(_file(m)), "weightspace") for k, m in EXECUTORS.items()]
    layouts = [_entry(k, _first_line(_file(m)), "weightspace") for k, m in READERS.items()]
    sections |= {"executors": executors, "layouts": layouts}
    sections |= {"tasks": list(_tasks()), "bundles": list(_bundles())}
    if section is None:
        return sections
    if section not in sections:
        raise problem("nothing of that name to list", got=section, do=nearest(section, sections))
    return {section: sections[section]}


def lines(sections: dict[str, list[Entry]]) -> Iterator[str]:
    """The same for people: a heading for each section, a line for each entry.

    >>> print(*lines({"nets": [{"name": "cnn", "summary": "Small.", "origin": "other 1.0"}]}), sep="|")
    nets: zoo.architecture in params.yaml|  cnn  Small. (other 1.0)
    """
    keys = {name: family.key for name, family in FAMILIES.items()}
    chosen = {name: f": {key} in params.yaml" for name, key in keys.items()}
    chosen |= {
        "executors": ": runtime.executor in params.yaml",
        "layouts": " of other people's zoos: weightspace import --layout",
    }
    for section, entries in sections.items():
        yield section + chosen.get(section, "")
        width = max((len(entry["name"]) for entry in entries), default=0)
        for entry in entries:
            origin = "" if entry["origin"] == "weightspace" else f" ({entry['origin']})"
            yield f"  {entry['name']:<{width}}  {entry['summary']}{origin}".rstrip()
        if not entries:
            yield "  none"


def _entry(name: str, summary: str, origin: str) -> Entry:
    return {"name": name, "summary": summary, "origin": origin}


def _summary(family: str, name: str) -> str:
    """First line of what a member says of itself; empty where it says nothing, or is not there."""
    if module := FAMILIES[family].table.get(name):
        return _first_line(_file(module))
    member = find(family, name)
    if member is None:
        return ""
    last = member.module.rpartition(".")[2]
    files = [f for n, f in member.files.items() if Path(n).stem == last]
    return _first_line(files[0]) if files else ""


def _file(module: str) -> Path:
    """File of a module of the package, which is not imported."""
    return SOURCE.joinpath(*module.split(".")).with_suffix(".py")


def _first_line(path: Path) -> str:
    """First line of the docstring of a file."""
    try:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, SyntaxError):  # code of others
        return ""
    return (text or "").partition("\n")[0].replace("``", "`")


def _tasks() -> Iterator[Entry]:
    """Named tasks of the package."""
    for path in sorted(TASKS.rglob("*.yaml")):
        task = read_yaml(path)
        name = path.relative_to(TASKS).with_suffix("").as_posix()
        yield _entry(name, f"{task['title']} (version {task['version']})", "weightspace")


def _bundles() -> Iterator[Entry]:
    """Bundles of the package, as their cards describe them."""
    for name in names():
        card = json.loads((HOME / f"{name}{CARD}").read_text(encoding="utf-8"))
        size = "x".join(str(n) for n in card["images"])
        summary = (
            f"P(W | D, R) of {card['architecture']}, on {size} images of {card['trained_on']}; "
            f"{card['bytes'] / 1e6:.1f} MB, {card['bits']:.1f} bits a number"
        )
        yield _entry(name, summary, "weightspace")
