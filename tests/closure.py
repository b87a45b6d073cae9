"""Import closure of a stage script: every file of the package that it loads, statically."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
# Files that cannot change a result: messages, progress and its curves (stages/_live.py, which is not
# followed), the schema that validates params.yaml (its values are tracked by DVC, and no key may be
# left to a default), tables of names.
NEUTRAL = {"errors.py", "progress.py", "params.py", "registry.py", "__init__.py"}


def _path(module: str) -> Path | None:
    base = SRC / Path(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _imports(path: Path) -> frozenset[Path]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        found |= {p for n in names if n.startswith("weightspace") and (p := _path(n))}
        if "_stage" in names:
            found.add(ROOT / "stages" / "_stage.py")
    return frozenset(found)


def closure(script: Path) -> set[str]:
    """Paths, relative to the root, of everything a script imports, itself included."""
    seen: set[Path] = set()
    todo = [script]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += _imports(path)
    return {str(p.relative_to(ROOT)) for p in seen if p.name not in NEUTRAL}


if __name__ == "__main__":
    for stage in sorted((ROOT / "stages").glob("[!_]*.py")):
        print(stage.stem)
        for dep in sorted(closure(stage)):
            print("     -", dep)
