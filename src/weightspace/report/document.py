"""README and docs: figures in marked blocks come from the committed metrics, outputs from real runs."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from weightspace.artifacts import write_bytes
from weightspace.errors import problem
from weightspace.report import evidence, headline, scale, speed, stages, tables
from weightspace.report.markdown import BLOCK, EXAMPLE, replace_blocks, replace_outputs

# name of a block -> what makes its text from the files of a project
BLOCKS: dict[str, Callable[[Path], str]] = {
    "draws": headline.draws,
    "measured": headline.measured,
    "facts": headline.facts,
    "time": headline.time_and_memory,
    "results": tables.as_markdown,
    "speed": speed.table,
    "stages": stages.table,
    "evidence": evidence.tables,
    "growth": scale.growth,
    "widths": scale.widths,
    "cluster": scale.cluster,
    "memory": scale.memory,
}
NEEDED = ("data", "params.yaml", "examples")  # what examples see of the project


def pages(root: Path) -> list[Path]:
    """README and every page of docs."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def renewed(text: str, root: Path) -> str:
    """Give a page with every generated block as the committed metrics have it now."""
    unknown = sorted({match["name"] for match in BLOCK.finditer(text)} - set(BLOCKS))
    if unknown:
        raise problem("no such block", got=unknown[0], do=f"one of: {', '.join(BLOCKS)}")
    return replace_blocks(text, {name: partial(make, root) for name, make in BLOCKS.items()})


def document(root: Path, *, write: bool, outputs: bool) -> list[str]:
    """Renew README and docs.

    Args:
        root: folder of the project.
        write: write pages that differ; otherwise they are an error.
        outputs: run the examples too, for which the pipeline must be finished.

    Returns:
        Names of the pages that differed.

    Raises:
        WeightspaceError: pages differ and shall not be written, or an example fails.

    """
    if outputs and not (root / "data" / "shared_encoder").is_dir():
        raise problem("the pipeline is not finished", where=root, do="run `make repro` first")
    changed = []
    for path in pages(root):
        before = path.read_text()
        after = renewed(before, root)
        if outputs and EXAMPLE.search(after):
            after = run_examples(after, root)
        if after != before:
            changed.append(str(path.relative_to(root)))
            if write:
                write_bytes(path, after.encode())
    if changed and not write:
        raise problem("not up to date", where=", ".join(changed), do="run `make tables`")
    return changed


def run_examples(text: str, root: Path) -> str:
    """Run the examples of a page in an empty folder that has the project's data and settings."""
    names: dict[str, Any] = {}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for name in NEEDED:
            (Path(folder) / name).symlink_to((root / name).resolve())

        def run(language: str, code: str) -> str:
            return run_python(code, names) if language == "python" else run_shell(code)

        os.chdir(folder)
        try:
            return replace_outputs(text, run)
        finally:
            os.chdir(before)


def run_python(code: str, names: dict[str, Any]) -> str:
    """Run Python in a namespace; what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


def run_shell(code: str) -> str:
    """Run commands with this Python and package first; what they print, on both streams."""
    source = str(Path(__file__).parents[2])
    env = os.environ | {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH")))),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise problem(f"an example failed: {done.stdout.strip()}", got=code.strip())
    return done.stdout
