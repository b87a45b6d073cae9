"""The Makefile: every target does something, every target that a page names exists."""

import re
import shlex
import subprocess

import pytest
import typer

from weightspace.cli.app import app
from workspace import ROOT

TEXT = (ROOT / "Makefile").read_text()
TARGETS = re.search(r"^\.PHONY:(.*)$", TEXT, re.MULTILINE)[1].split()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "benchmarks").glob("*.yaml"))


def with_recipe(text):
    """Targets of a Makefile that have a recipe, as GNU make reads it."""
    command = ["make", "--print-data-base", "--question", "--no-builtin-rules", "--file", "-"]
    done = subprocess.run(command, input=text, cwd=ROOT, capture_output=True, text=True)
    rules = re.findall(r"^([\w.-]+):.*\n((?:[#\t].*\n)*)", done.stdout, re.MULTILINE)
    return {name for name, lines in rules if "recipe to execute" in lines}


def named(text):
    """Targets that a page names, in a line of a block or between backquotes."""
    return set(re.findall(r"(?:^|`)make (?:\w+=\S+ )*([a-z_-]+)\b(?!=)", text, re.MULTILINE))


def test_every_target_has_a_recipe():
    assert set(TARGETS) <= with_recipe(TEXT)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_without_its_recipe_is_found(target):
    without, count = re.subn(rf"^({target}:.*\n)(?:\t.*\n)+", r"\1", TEXT, flags=re.MULTILINE)
    assert count == 1
    assert set(TARGETS) - with_recipe(without) == {target}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_targets_that_a_page_names_exist(page):
    assert named(page.read_text()) <= set(TARGETS)


def test_names_of_targets_are_found_in_a_page():
    page = "As `make one` and `make TWO=2 two-of X=1` do:\n\n```bash\nmake three Y=1\n```\nmakes, make of"
    assert named(page) == {"one", "two-of", "three"}


NO_COMMANDS = {"clean", "docs", "leaderboard", "lint", "test", "test-slow"}  # of the package


@pytest.mark.parametrize("target", sorted({*TARGETS} - NO_COMMANDS))
def test_recipes_call_commands_that_exist_with_files_that_exist(target, tmp_path):
    settings = ("SET=pca.components=8", f"IMAGES={tmp_path}", "RESUME=1", "RUNS=7", "WIDTH=4")
    command = ["make", "--dry-run", target, *settings]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    calls = [shlex.split(x) for x in lines if x.startswith("python -m weightspace ")]
    assert calls
    known = typer.main.get_command(app).commands
    for words in calls:
        assert words[3] in known
        assert not [w for w in words if w.startswith("benchmarks/") and not (ROOT / w).is_file()]
        known[words[3]].make_context(words[3], words[4:])  # its options and arguments are valid
