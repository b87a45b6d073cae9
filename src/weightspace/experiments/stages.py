"""The code that each stage depends on, found by following its imports, and written to dvc.yaml.

In dvc.yaml the dependencies of a stage begin with what a person chooses: its script, its data, the
selected members of families. Below the line ``# code, generated`` stands every file of the package
that the script, or any member of a family named above that line, imports.
"""

from __future__ import annotations

import ast
import difflib
import re
from functools import cache
from pathlib import Path

from weightspace.artifacts import write_bytes
from weightspace.errors import problem
from weightspace.registry import read_marker

MARK = "# code, generated"
# Files that cannot change a result: messages, progress, the schema that validates params.yaml (its
# values are tracked by DVC, and no key may be left to a default), tables of names, markers.
NEUTRAL = {"errors.py", "progress.py", "params.py", "registry.py", "markers.py", "__init__.py"}
DEPENDENCY = " " * 6 + "- "


@cache
def imports(path: Path, root: Path) -> frozenset[Path]:
    """Files of the project that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    # The package itself hands out names on first use; a stage gets nothing through it.
    files = {f for n in names if n.startswith("weightspace.") for f in _files(root / "src", n)}
    return frozenset(files | ({root / "stages" / "_stage.py"} if "_stage" in names else set()))


def _files(source: Path, module: str) -> list[Path]:
    """File of a module; none where a name is not a module."""
    base = source / Path(*module.split("."))
    return [f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()][:1]


def closure(scripts: list[Path], root: Path) -> set[str]:
    """Paths, relative to the root, of everything that scripts import, themselves included."""
    seen: set[Path] = set()
    waiting = list(scripts)
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += imports(path, root)
    return {p.relative_to(root).as_posix() for p in seen if p.name not in NEUTRAL}


def chosen_code(dependencies: list[str], root: Path) -> list[Path]:
    """Files named by hand, and every member of a family of which one is selected by ``${...}``."""
    out = []
    for name in dependencies:
        if name.endswith(".py"):
            out += sorted(root.glob(re.sub(r"\$\{[\w.]+\}", "*", name)))
    members = (p for p in out if p.name != "base.py" and not p.name.startswith("_"))
    return [path for path in members if read_marker(path) is None]  # no member from outside


def generated(text: str, root: Path) -> str:
    """The text of dvc.yaml with its generated blocks made anew.

    Raises:
        WeightspaceError: a stage has no line ``# code, generated``.

    """
    lines: list[str] = []
    by_hand: list[str] | None = None  # dependencies of the stage at hand, above the mark
    skipping = False
    for line in text.splitlines():
        if skipping and line.startswith(DEPENDENCY):
            continue
        skipping = False
        if line == "    deps:":
            by_hand = []
        elif by_hand is not None and line.strip() == MARK:
            code = closure(chosen_code(by_hand, root), root) - set(by_hand)
            selected = {f.relative_to(root).as_posix() for f in chosen_code(by_hand, root)}
            lines.append(line)
            lines += [DEPENDENCY + name for name in sorted(code - selected)]
            by_hand, skipping = None, True
            continue
        elif by_hand is not None and line.startswith(DEPENDENCY):
            by_hand.append(line.removeprefix(DEPENDENCY))
        elif by_hand is not None:
            raise problem(
                "dependencies of a stage without the generated block",
                where="dvc.yaml",
                got=line.strip(),
                expected=f"a line '{MARK}'",
            )
        lines.append(line)
    return "\n".join(lines) + "\n"


def check_stages(root: Path) -> None:
    """Refuse a dvc.yaml whose generated blocks are not those of the code.

    Raises:
        WeightspaceError: some are not, or there is no dvc.yaml.

    """
    before, after = _before_and_after(root)
    if after != before:
        raise problem(
            "the code that stages depend on has changed",
            where="dvc.yaml",
            got=f"{_differing(before, after)} lines of other code",
            do="run `python -m weightspace stages --write`",
        )


def write_stages(root: Path) -> bool:
    """Write the generated blocks of dvc.yaml; whether anything changed.

    Raises:
        WeightspaceError: there is no dvc.yaml, or a stage has no generated block.

    """
    before, after = _before_and_after(root)
    if after != before:
        write_bytes(root / "dvc.yaml", after.encode())
    return after != before


def _before_and_after(root: Path) -> tuple[str, str]:
    """Text of dvc.yaml as it is, and with its generated blocks made anew."""
    try:
        before = (root / "dvc.yaml").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise problem("no pipeline in this folder", where=root / "dvc.yaml") from error
    imports.cache_clear()  # files may have changed since they were read
    return before, generated(before, root.resolve())


def _differing(before: str, after: str) -> int:
    """Lines that only one of two texts has."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return sum(line.startswith(("- ", "+ ")) for line in lines)
