"""`weightspace ls`: everything there is to choose from, without loading torch."""

import ast
import json
import subprocess
import sys

import pytest

from weightspace import registry
from weightspace.bundles.locate import names
from weightspace.cli import catalogue as module
from weightspace.cli.catalogue import catalogue, lines
from weightspace.errors import WeightspaceError
from weightspace.jobs import EXECUTORS
from weightspace.registry import FAMILIES
from weightspace.zoo.readers import READERS
from workspace import ROOT

HEAVY = ("torch", "numpy", "pandas", "sklearn")


def test_every_member_is_listed_with_the_first_line_of_its_file():
    sections = catalogue()
    assert list(sections) == [*FAMILIES, "executors", "layouts", "tasks", "bundles"]
    tables = {name: family.table for name, family in FAMILIES.items()}
    tables |= {"executors": EXECUTORS, "layouts": READERS}
    for section, table in tables.items():
        listed = {entry["name"]: entry for entry in sections[section]}
        assert set(table) <= set(listed)
        for name, dotted in table.items():
            source = (ROOT / "src" / dotted.replace(".", "/")).with_suffix(".py").read_text()
            said = ast.get_docstring(ast.parse(source)).splitlines()[0].replace("``", "`")
            assert listed[name]["summary"] == said
            assert listed[name]["origin"] == "weightspace"
    assert [entry["name"] for entry in sections["bundles"]] == names()


def test_a_member_from_outside_is_listed_and_not_imported(tmp_path, monkeypatch):
    info = tmp_path / "waves-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: waves\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[weightspace.sources]\nwaves = waves_source\n")
    (tmp_path / "waves_source.py").write_text(
        '"""Waves of any length.\n\nMore."""\nraise OSError\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry.outside.cache_clear()
    try:
        listed = {entry["name"]: entry for entry in catalogue("sources")["sources"]}
    finally:
        registry.outside.cache_clear()
    assert listed["waves"]["summary"] == "Waves of any length."
    assert listed["waves"]["origin"] == "waves 1.2"
    assert "  waves   Waves of any length. (waves 1.2)" in lines({"sources": list(listed.values())})


def test_tasks_of_the_package_are_listed(tmp_path, monkeypatch):
    (tmp_path / "sampling").mkdir()
    (tmp_path / "sampling" / "one.yaml").write_text("title: Draws\nversion: 3\n")
    monkeypatch.setattr(module, "TASKS", tmp_path)
    (entry,) = catalogue("tasks")["tasks"]
    assert entry["name"] == "sampling/one"
    assert entry["summary"] == "Draws (version 3)"
    monkeypatch.setattr(module, "TASKS", tmp_path / "nowhere")
    assert list(lines(catalogue("tasks"))) == ["tasks", "  none"]


def test_another_section_is_refused_with_a_hint():
    with pytest.raises(WeightspaceError, match="autoencoders"):
        catalogue("autoencoder")


def test_the_command_prints_lines_or_json_and_loads_nothing_heavy():
    code = (
        "import sys; from weightspace.cli.app import app; app(sys.argv[1:], standalone_mode=False);"
        f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-c", code, "ls", *words],
            capture_output=True,
            text=True,
            timeout=120,
            env={"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip() == "[]"
        return done.stdout

    text, data = run(), json.loads(run("--json"))
    assert data == catalogue()
    for section, entries in data.items():
        assert f"\n{section}" in f"\n{text}"
        assert all(entry["summary"] in text for entry in entries)
    assert list(json.loads(run("bundles", "--json"))) == ["bundles"]
