"""Kill `dvc repro` at random moments, go on, and compare what is left with an undisturbed run.

    PYTHONPATH=src python benchmarks/kills.py --kills 100 --out benchmarks/kills.json

A tiny pipeline runs in a clone, with two workers. After a random time a victim is killed with SIGKILL: the
whole process group, as a closed terminal or a power cut of the machine would, or one process of it, a
worker, a stage or DVC, as the kernel does when memory is short. Then `dvc repro` is called again. Where it ends by
itself, every artefact and every figure is compared byte by byte with that of the undisturbed run, and
the pipeline begins anew. Exit code 1 where a byte differs or a folder of a killed process stays.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from subprocess import TimeoutExpired

import psutil

import report

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import workspace  # noqa: E402

LONGEST = 12.0  # seconds until a kill, at most
MADE = ("data", "metrics", "dvc.lock", "dvclive", ".work", ".dvc/cache")


def results(clone):
    """Hash of every artefact and figure; what differs between any two runs, times, is left out."""
    hashes = clone.hashes("data", "metrics")
    return {name: h for name, h in hashes.items() if not name.startswith("metrics/cost")}


def kill(process, rng):
    """Kill a process group, or one process of it; gives what was killed."""
    children = psutil.Process(process.pid).children(recursive=True)
    if not children or rng.random() < 0.5:
        os.killpg(process.pid, signal.SIGKILL)
        return "all"
    victim = rng.choice(children)
    try:
        line = " ".join(victim.cmdline())
        victim.kill()
    except psutil.NoSuchProcess:
        return "gone"
    if "spawn_main" in line:
        return "worker"
    return "stage" if "stages/" in line else "other"


def go_on(clone, seconds, rng):
    """Run the pipeline until it is killed or ends: what was killed, and whether it ended well by itself."""
    process, killed = clone.start("dvc", "repro"), None
    try:
        process.communicate(timeout=seconds)
    except TimeoutExpired:
        killed = kill(process, rng)
        if killed != "all":  # the rest ends by itself
            process.communicate()
        process.wait()
    return killed, process.returncode == 0


def remains(clone):
    """Hidden folders and files of processes that are no more."""
    return [str(p.relative_to(clone.root)) for p in (clone.root / "data").rglob(".*.tmp")]


def main():
    """Kill until there were enough, run to the end, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        clone = workspace.clone(Path(folder) / "project", workspace.TINY | {"runtime.workers": 2})
        fresh = clone.copy(Path(folder) / "fresh")
        clone.dvc("repro")
        expected, kinds, compared, different = results(clone), Counter(), 0, []
        clone = fresh
        while sum(kinds.values()) < options.kills:
            killed, ended = go_on(clone, rng.uniform(0.5, LONGEST), rng)
            if killed:
                kinds[killed] += 1
            if ended:
                found = results(clone)
                different += [n for n in expected.keys() | found if expected.get(n) != found.get(n)]
                compared += 1
                for name in MADE:
                    path = clone.root / name
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                clone.restore()
        clone.dvc("repro")
        found = results(clone)
        different += [n for n in expected.keys() | found if expected.get(n) != found.get(n)]
        left = remains(clone)
    figures = report.machine() | {
        "kills": dict(kinds),
        "files": len(expected),
        "runs_compared": compared + 1,
        "different": sorted(set(different)),
        "left": left,
    }
    report.write(figures, options.out)
    sys.exit(1 if different or left else 0)


if __name__ == "__main__":
    main()
