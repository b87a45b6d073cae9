"""`dvc repro` with stages side by side, where none of them needs another.

DVC runs one stage after the other. Its locks are of paths and held only while it looks at files, so that
several `dvc repro --single-item` may run at once; they write the same `dvc.lock`.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from weightspace.errors import problem
from weightspace.experiments.dvc import call
from weightspace.report.stages import Stage, cost_of, load_stages

WAIT = "--wait-for-lock"
# Advice that DVC repeats after every stage.
NOISE = ("Use `dvc push`", "To track the changes", "To enable auto staging", "\t")
_printing = threading.Lock()


def repro(root: Path, jobs: int) -> None:
    """Run every stage whose inputs changed, and what follows from it.

    Args:
        root: folder of dvc.yaml.
        jobs: stages at once, at most.

    Raises:
        WeightspaceError: no pipeline, DVC is missing, or a stage failed; those after it did not run.

    """
    stages = load_stages(root)
    if mend_locks(root):
        print(
            "DVC was killed while it wrote its list of locks; the list is removed", file=sys.stderr
        )
    waiting = to_run(stages, changed(root))
    if not waiting:
        print("Data and pipelines are up to date.")
        return
    running: dict[Future[int], str] = {}
    failed: list[str] = []
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            for name in [] if failed else ready(stages, waiting, set(running.values()), root):
                if len(running) < jobs:
                    running[pool.submit(run_stage, name, root)] = name
                    waiting.remove(name)
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                failed += [name] if future.result() else []
    if failed:
        raise problem(
            f"stage {', '.join(failed)} failed",
            where="repro",
            do="read the lines above; what is finished is kept, run it again to continue",
        )


def mend_locks(root: Path) -> bool:
    """Remove DVC's list of locks where a killed DVC left it empty or cut short; whether it was.

    DVC writes the list anew at every change, and no DVC starts while it is no JSON. Its own lock is held
    meanwhile, so that nothing is removed that is being written.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    if not path.is_file():
        return False
    with path.with_name("rwlock.lock").open("a") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            json.loads(path.read_bytes())
        except BlockingIOError:
            return False
        except ValueError:
            path.unlink()
            return True
    return False


def changed(root: Path) -> set[str]:
    """Stages whose code, settings, inputs or outputs are not those of dvc.lock."""
    result = call("dvc", "--cd", str(root), WAIT, "status", "--json")
    start = result.stdout.find("{")
    if result.returncode or start < 0:
        raise problem(
            f"dvc status failed ({result.stdout.strip()})",
            where="repro",
            do="run `dvc status` to see why",
        )
    return set(json.loads(result.stdout[start:]))


def to_run(stages: list[Stage], changed_ones: set[str]) -> set[str]:
    """Stages that changed, and all that come after them.

    >>> first, second = Stage("a", "", ("data/a",), ()), Stage("b", "", (), ("a",))
    >>> sorted(to_run([first, second], {"a"}))
    ['a', 'b']

    """
    out = {stage.name for stage in stages} & changed_ones
    for stage in stages:  # in the order of dvc.yaml, where a stage comes after those it needs
        if out & set(stage.needs):
            out.add(stage.name)
    return out


def ready(stages: list[Stage], waiting: set[str], running: set[str], root: Path) -> list[str]:
    """Stages that can start, those first on which most others wait, then those that took longest.

    Args:
        stages: of the pipeline.
        waiting: names of those still to run.
        running: names of those that run.
        root: has the cost of the run before.

    """
    open_ones = waiting | running
    able = [s for s in stages if s.name in waiting and not open_ones & set(s.needs)]
    after = {s.name: len(to_run(stages, {s.name})) for s in able}
    took = {s.name: cost_of(root, s.name).get("seconds", 0) for s in able}
    return [s.name for s in sorted(able, key=lambda s: (-after[s.name], -took[s.name]))]


def run_stage(name: str, root: Path) -> int:
    """Run one stage if it changed, its lines under its name; the exit code."""
    command = ["dvc", "--cd", str(root), WAIT, "repro", "--single-item", name]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    with process:
        for line in process.stdout or ():
            if line.strip() and not line.startswith(NOISE) and "lock file" not in line:
                text = f"{name}: {line.removeprefix(name + ': ').rstrip()}"
                with _printing:
                    print(text, file=sys.stderr, flush=True)
    return process.returncode
