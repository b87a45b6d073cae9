"""Kill `dvc repro` and commands at random moments, go on, and compare what is left with undisturbed runs.

    PYTHONPATH=src python benchmarks/kills.py --kills 100 --out benchmarks/kills.json

A tiny pipeline runs in a clone, with two workers. After a random time a victim is killed with SIGKILL: the
whole process group, as a closed terminal or a power cut of the machine would, or one process of it, a
worker, a stage or DVC, as the kernel does when memory is short. Then `dvc repro` is called again. Where it ends by
itself, every artefact and every figure is compared byte by byte with that of the undisturbed run, and
the pipeline begins anew.

Half of the kills are of commands that write, in a finished project, by SIGKILL or SIGTERM. After each its
output is whole or not there; where a command ends by itself, its output is compared byte by byte, too.
Exit code 1 where a byte differs, an output is partial, or a file or folder of a killed process stays.
"""

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from subprocess import TimeoutExpired

import numpy as np
import pandas as pd
import psutil
from sklearn.datasets import load_digits

import report

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import workspace  # noqa: E402
from weightspace.experiments.parallel import mend_locks  # noqa: E402

TOOK = re.compile(rb"[0-9][0-9.,]* ms")
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
    process, killed, text = clone.start("dvc", "repro"), None, ""
    try:
        text, _ = process.communicate(timeout=seconds)
    except TimeoutExpired:
        killed = kill(process, rng)
        if killed != "all":  # the rest ends by itself
            process.communicate()
        process.wait()
    if not killed and process.returncode:
        raise RuntimeError(f"it does not go on:\n{text}")
    return killed, process.returncode == 0


def remains(clone):
    """Hidden folders and files of processes that are no more."""
    return [str(p.relative_to(clone.root)) for p in (clone.root / "data").rglob(".*.tmp")]


MINE = ["--data", "my.npz", "--classes", "0,1,2"]
# command -> its words, and the name of its output
COMMANDS = {
    "sample": (["sample", *MINE, "--accuracy", "0.5", "-n", "20", "--guidance-steps", "2"], "made"),
    "retrieve": (["retrieve", *MINE, "-n", "20"], "made"),
    "import": (["import", "nets", "--arch", "cnn", "--results", "table.csv"], "made"),
    "encode": (["encode", "nets"], "made.safetensors"),
    "decode": (["decode", "z.safetensors"], "made"),
    "export": (["export", "nets/network-00000.safetensors"], "made"),
    "bundle": (["bundle"], "made.bundle"),
    "demo": (["demo", "--root", "."], "made.html"),
    "report": (["report"], "made.html"),
    "params": (["params"], "made.md"),
}


def prepare(clone):
    """Files that the commands read, below the folder of a finished project."""
    digits = load_digits()
    chosen = digits.target < 3
    images = digits.images[chosen] / 16
    np.savez(clone.root / "my.npz", images=images, labels=digits.target[chosen].astype(str))
    for words in (
        [*COMMANDS["sample"][0], "--out", "nets"],
        ["encode", "nets", "--out", "z.safetensors"],
    ):
        clone.run("python", "-m", "weightspace", *words)
    files = sorted(p.name for p in (clone.root / "nets").glob("*.safetensors"))
    tasks = pd.read_parquet(clone.root / "data" / "dataset" / "tasks.parquet")
    names = " ".join(map(str, tasks["classes"].iloc[0]))  # of digits, the classes are 0 to 9
    rows = [f"{name},{names},{run}" for run, name in enumerate(files)]
    (clone.root / "table.csv").write_text("\n".join(["file,classes,run", *rows]) + "\n")


def output(clone, name):
    """Contents of an output, name -> bytes without the milliseconds a page says it took; None: not there."""
    path = clone.root / name
    if not path.exists():
        return None
    files = path.iterdir() if path.is_dir() else [path]
    return {p.name: TOOK.sub(b"", p.read_bytes()) for p in files}


def remove(path):
    """Remove a file or a folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


class Command:
    """A command that writes, and what an undisturbed run of it gave."""

    def __init__(self, clone, name):
        words, self.out = COMMANDS[name]
        self.clone, self.name = clone, name
        self.words = ("python", "-m", "weightspace", *words, "--out", self.out)
        start = time.monotonic()
        clone.run(*self.words)
        self.seconds, self.expected = time.monotonic() - start, output(clone, self.out)
        remove(clone.root / self.out)

    def attempt(self, rng):
        """Run it until it is killed or ends: by what it was killed, and whether what is there is whole."""
        how = rng.choice((signal.SIGKILL, signal.SIGTERM))
        before = self.hidden()  # what SIGKILL left; the next one that comes to write removes it
        process, killed = self.clone.start(*self.words), None
        try:
            process.communicate(timeout=rng.uniform(0.3, 1.1 * self.seconds))
        except TimeoutExpired:
            os.killpg(process.pid, how)
            process.communicate()
            killed = how.name
        left = output(self.clone, self.out)
        whole = left == self.expected or (left is None and killed is not None)
        left = self.hidden() - before if killed == "SIGTERM" else self.hidden()
        remove(self.clone.root / self.out)
        return killed, whole and (killed == "SIGKILL" or not left)

    def hidden(self):
        """What is being written, or was when a process was killed."""
        return set(self.clone.root.glob(".made*.tmp"))


def kill_commands(clone, kills, rng):
    """Kill commands so often, each until it ends by itself: how often by what, runs that ended, what was not whole."""
    prepare(clone)
    commands = [Command(clone, name) for name in COMMANDS]
    kinds, ended, partial = Counter(), 0, []
    while sum(kinds.values()) < kills or commands:
        command = commands.pop(0) if commands else Command(clone, rng.choice(list(COMMANDS)))
        killed = "once"
        while killed:
            enough = sum(kinds.values()) >= kills
            killed, whole = command.attempt(NEVER if enough else rng)
            partial += [] if whole else [command.name]
            kinds.update([killed] if killed else [])
        ended += 1
    return kinds, ended, partial


class _Never(random.Random):
    """Moments that are never reached."""

    def uniform(self, a, b):
        """Far later than any end."""
        return 10**6


NEVER = _Never(0)


def kill_pipeline(clone, fresh, kills, rng):
    """Kill a pipeline so often: how often what was killed, runs compared, what differed, what was left.

    Where DVC was killed while it wrote its list of locks, that is mended, as `make repro` does, and counted.

    Args:
        clone: where it ran undisturbed.
        fresh: the same where it has not run.
        kills: how many.
        rng: of the moments.

    """
    expected, kinds, compared, different, mended = results(clone), Counter(), 0, set(), 0
    while True:
        enough = sum(kinds.values()) >= kills
        mended += mend_locks(fresh.root)
        killed, ended = go_on(fresh, (NEVER if enough else rng).uniform(0.5, LONGEST), rng)
        kinds.update([killed] if killed else [])
        if ended:
            found = results(fresh)
            different |= {n for n in expected.keys() | found if expected.get(n) != found.get(n)}
            compared += 1
            if enough:
                return kinds, mended, compared, sorted(different), remains(fresh)
            for name in MADE:
                remove(fresh.root / name)
            fresh.restore()


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
        of_pipeline = options.kills // 2
        files = len(results(clone))
        kinds, mended, compared, different, left = kill_pipeline(clone, fresh, of_pipeline, rng)
        signals, ended, partial = kill_commands(clone, options.kills - of_pipeline, rng)
        left += [p.name for p in clone.root.glob(".*.tmp")]
    figures = report.machine() | {
        "kills": dict(kinds),
        "lists_of_locks_mended": mended,
        "files": files,
        "runs_compared": compared,
        "different": different,
        "commands": len(COMMANDS),
        "kills_of_commands": dict(signals),
        "commands_compared": ended,
        "not_whole": partial,
        "left": left,
    }
    report.write(figures, options.out)
    sys.exit(1 if different or partial or left else 0)


if __name__ == "__main__":
    main()
