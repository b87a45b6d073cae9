"""The layout: who may import whom, what the command line loads, how long a function may be."""

import ast
import doctest
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from weightspace.registry import read_marker

SRC = Path(__file__).resolve().parent.parent / "src"
# Imports go to an earlier entry, or stay inside one. A name stands for a module or a subpackage.
ORDER = (
    "errors",
    "rng",
    "registry",
    "progress",
    "params",
    "metadata",
    "artifacts",
    "runtime",
    "data",
    "weights",
    "jobs",
    "nets",
    "zoo",
    "learning",
    "autoencoders",
    "dataset_encoders",
    "shared_encoders",
    "sampling",
    "evaluate",
    "bundles",
    "project",
    "report",
    "leaderboard",
    "experiments",
    "cli",
    "__main__",
)
FAMILIES = {
    "weightspace.nets": "NETS",
    "weightspace.autoencoders": "AUTOENCODERS",
    "weightspace.dataset_encoders": "DATASET_ENCODERS",
    "weightspace.shared_encoders": "SHARED_ENCODERS",
    "weightspace.data.sources": "SOURCES",
    "weightspace.jobs": "EXECUTORS",
    "weightspace.zoo.readers": "READERS",
}
MODULES = sorted(
    ".".join(f.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
    for f in (SRC / "weightspace").rglob("*.py")
    if read_marker(f) is None  # in place of a member from outside
)
PUBLIC = {
    "weightspace.leaderboard.evaluate",
    "weightspace.data.images",
    "weightspace.project.network",
    "weightspace.project.project",
    "weightspace.project.samples",
}  # what the package itself hands out
LONGEST = 65
MOST_ENTRIES = 25
FEWEST_EXAMPLES = 30


def source(module):
    """Syntax tree of a module."""
    path = SRC / Path(*module.split("."))
    return ast.parse(
        (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    )


def imports(tree):
    """Every module that a tree imports, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in full}
    return names


def layer(module):
    """Number of a module's layer; the package itself, which imports nothing at run time, is lowest."""
    parts = module.split(".")
    if len(parts) == 1:
        return -1
    return ORDER.index(parts[1])


def upward(module, tree):
    """Imports of a module from a higher layer."""
    own = {name for name in imports(tree) if name.split(".")[0] == "weightspace"}
    return {name for name in own if layer(name) > layer(module)}


def members():
    """Family -> the modules of its members."""
    return {f: set(getattr(import_module(f), table).values()) for f, table in FAMILIES.items()}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    facade = module == "weightspace"  # names for type checkers; at run time it imports on demand
    assert not upward(module, source(module)) - (PUBLIC if facade else set())


def test_an_upward_import_would_be_found():
    tree = ast.parse("def late():\n    from weightspace.zoo import store\n")
    assert upward("weightspace.nets.cnn", tree) == {"weightspace.zoo.store"}
    assert not upward("weightspace.shared_encoders", tree)


def circle(trees):
    """Modules that import each other in a circle, imports for type checkers counted; none: empty.

    Without the package itself, which each of its modules imports by being there.
    """
    graph = {module: imports(tree) & trees.keys() for module, tree in trees.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return set(error.args[1])
    return set()


def test_no_modules_import_each_other():
    trees = {module: source(module) for module in MODULES if module != "weightspace"}
    assert circle(trees) == set()
    late = "if TYPE_CHECKING:\n    from weightspace.weights import matching\n"  # the control
    changed = trees | {"weightspace.weights.spec": ast.parse(late)}
    assert {"weightspace.weights.spec", "weightspace.weights.matching"} <= circle(changed)


def test_the_top_of_the_package_can_be_read_at_a_glance():
    names = {path.name for path in (SRC / "weightspace").iterdir()}
    entries = names - {"__pycache__", "__init__.py", "__main__.py", "py.typed"}
    assert len(entries) <= MOST_ENTRIES
    assert {Path(name).stem for name in entries} == set(ORDER) - {"__main__"}


@pytest.mark.parametrize("family", FAMILIES)
def test_members_of_a_family_are_on_disk_and_do_not_know_each_other(family):
    leaves = members()[family]
    folder = SRC / Path(*family.split("."))
    files = {f"{family}.{f.stem}" for f in folder.glob("[!_]*.py") if read_marker(f) is None}
    files -= {f"{family}.base"}
    assert leaves == files  # no file without its line in the table, no line without its file
    for leaf in leaves:
        assert not imports(source(leaf)) & (leaves - {leaf})


@pytest.mark.parametrize("module", MODULES)
def test_members_are_found_by_name_only(module):
    """Nobody imports a member directly: it would become a dependency of every stage."""
    every = set().union(*members().values())
    assert not imports(source(module)) & every


@pytest.mark.parametrize("module", MODULES)
def test_the_package_does_not_import_dvc(module):
    assert not {name for name in imports(source(module)) if name.split(".")[0] == "dvc"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_entry_of_a_table_resolves(family):
    from weightspace.registry import resolve

    table = getattr(import_module(family), FAMILIES[family])
    for name in table:
        assert resolve(table, name, "test").__name__ == table[name]


def test_the_command_line_starts_without_torch():
    code = "import sys, weightspace.cli.app; print(*(n in sys.modules for n in ('torch', 'pandas', 'typer')))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(SRC)},
    )
    assert done.stdout.split() == ["False", "False", "True"]


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module):
    lengths = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(source(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST}


def sizes(tree):
    """Limits in bytes that a module sets: name -> their expression."""
    named = [(n.targets[0], n.value) for n in tree.body if isinstance(n, ast.Assign)]
    return {t.id: ast.unparse(v) for t, v in named if getattr(t, "id", "").endswith("_BYTES")}


def test_a_limit_in_bytes_has_one_name_and_one_value():
    every = [(name, value) for module in MODULES for name, value in sizes(source(module)).items()]
    assert len(every) >= 4
    assert len({name for name, _ in every}) == len(every)


def test_a_second_limit_of_one_name_would_be_found():
    assert sizes(ast.parse("MOST_BYTES = 1 << 30\nrest = 2")) == {"MOST_BYTES": "1 << 30"}


def examples(modules):
    """Names of all that has an example in its docstring, which `make test` runs."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    return {t.name for module in modules for t in finder.find(module) if t.examples}


def test_many_docstrings_have_an_example():
    not_here = {"weightspace.__main__", "weightspace.nets._gpu", "weightspace.nets._kernels"}
    modules = [import_module(m) for m in MODULES if m not in not_here]  # the last need Triton
    assert len(examples(modules)) >= FEWEST_EXAMPLES
    assert examples([ast]) == set()  # the control: docstrings of another package without any


PACKAGES = [module for module in MODULES if (SRC / Path(*module.split("."))).is_dir()]


def undeclared(package, names):
    """Public modules of a package that its ``__all__`` leaves out, and entries that are nothing."""
    children = {m.rpartition(".")[2] for m in MODULES if m.rpartition(".")[0] == package}
    public = {name for name in children if not name.startswith("_")}
    there = {name for name in names if name in children or hasattr(import_module(package), name)}
    left_out = set() if package == "weightspace" else public - set(names)  # it hands out names only
    return left_out | (set(names) - there)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_is_public(package):
    names = import_module(package).__all__
    assert names == sorted(names)
    assert undeclared(package, names) == set()
    assert undeclared(package, [*names, "nothing"]) == {"nothing"}  # the control


def test_a_module_that_is_left_out_is_noticed():
    assert undeclared("weightspace.learning", ["mlp"]) >= {"loop"}
