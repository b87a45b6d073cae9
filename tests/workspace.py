"""Temporary clones of the working tree with tiny settings, and DVC as a subprocess in them."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "test"), ("EMAIL", "test@example.org"))
}
# Small enough for a stage to be mostly its imports; runs in every split (the check stage verifies).
TINY = {
    "dataset.samples_per_class": {"train": 12, "val": 6, "test": 6},
    "dataset.tasks": 60,
    "zoo.runs": 36,
    "zoo.runs_per_shard": 3,
    "zoo.batch_size": 8,
    "zoo.epochs": [1, 1],
    "zoo.snapshots": 3,
    "zoo.first_step": [1, 1],
    "nets.cnn.channels": [3, 4],
    "nets.mlp.hidden": [6],
    "pca.components": 4,
    "autoencoder.latent": 8,
    "autoencoders.mlp.hidden": [16],
    "autoencoders.functional.width": 16,
    "autoencoders.functional.depth": 1,
    "outputs.probes": 10,
    "autoencoder.own_queries": 4,
    "autoencoder.other_queries": 2,
    "autoencoder.epochs": 2,
    "shared_encoder.width": 16,
    "shared_encoder.depth": 1,
    "shared_encoders.flow.images_per_class": 4,
    "shared_encoders.flow.steps": 2,
    "shared_encoders.flow.critic_width": 16,
    "shared_encoders.flow.critic_depth": 1,
    "shared_encoders.flow.critic_steps": 2,
    "shared_encoders.flow.critic_rounds": 2,
    "shared_encoders.flow.critic_draws": 12,
    "shared_encoders.flow.critic_epochs": 1,
    "shared_encoder.epochs": 2,
    "evaluate.targets": 3,
    "evaluate.draws": 2,
    "evaluate.val_draws": 2,
    "evaluate.finetune_tasks": 2,
    "evaluate.ensemble": 2,
    "guidance.sampling_steps": 1,
    "guidance.encoding_steps": 1,
    "evaluate.random_inputs": 8,
    "evaluate.bootstrap": 10,
    "evaluate.novelty_networks": 4,
    "evaluate.two_sample_networks": 40,
    "baselines.hypernetwork.width": 16,
    "baselines.hypernetwork.steps": 4,
    "baselines.hypernetwork.conditions": 4,
    "baselines.hypernetwork.images_per_class": 4,
    "runtime.workers": 1,
}


FEW_STEPS = {"zoo.batch_size": 12}  # of each epoch: what the baselines by training take
# Folder of programs that do not import what is slow; conftest.py sets it, benchmarks do without.
quick_programs: Callable[[], Path] | None = None


def locate(settings: dict, name: str) -> tuple[dict, str]:
    """Section and key of a setting that is given as a dotted name."""
    *sections, key = name.split(".")
    for section in sections:
        settings = settings[section]
    return settings, key


@dataclass(frozen=True)
class Done:
    """A finished command: exit code, and standard output and error together."""

    code: int
    text: str

    @property
    def errors(self) -> list[str]:
        """The lines that a person is meant to read."""
        return [line for line in self.text.splitlines() if line.startswith("error: ")]


@dataclass(frozen=True)
class Workspace:
    """A repository of its own with the project's files."""

    root: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """Environment of a person who works there: the clone's package, its own home."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_", "PYTEST"))}
        # The bin folder of this environment and not of what its python is a link to.
        bin_folder = str(Path(sys.executable).parent)
        return (
            env
            | IDENTITY
            | {
                "PATH": os.pathsep.join((bin_folder, env.get("PATH", os.defpath))),
                "PYTHONPATH": str(self.root / "src"),
                "HOME": str(self.root.parent),
                "DVC_NO_ANALYTICS": "1",
                "OMP_WAIT_POLICY": "PASSIVE",
                "COLUMNS": "200",
            }
            | self.extra
        )

    def start(self, *command: str, quick: bool = False) -> subprocess.Popen:
        """Start a command in a process group of its own; with ``quick`` by :data:`quick_programs`."""
        env = self.env
        if quick and quick_programs:
            env["PATH"] = os.pathsep.join((str(quick_programs()), env["PATH"]))
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=env,
            text=True,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *command: str, ok: bool = True) -> Done:
        """Run a command to its end; with ``ok`` a failure shows what it printed."""
        process = self.start(*command, quick=True)
        text, _ = process.communicate()
        done = Done(process.returncode, text)
        assert not ok or done.code == 0, f"{' '.join(command)} failed:\n{text}"
        return done

    def dvc(self, *arguments: str, ok: bool = True) -> Done:
        """Run DVC."""
        return self.run("dvc", *arguments, ok=ok)

    def dvc_all(self, *commands: tuple[str, ...]) -> Done:
        """Run commands of DVC one after the other in one process."""
        return self.run("python", "-c", IN_TURN, json.dumps(commands))

    def stages(self, *patterns: str) -> Done:
        """Run stage scripts by name, without DVC, in one process, which loads torch once."""
        code = "import runpy, sys\nsys.path.insert(0, 'stages')\n"
        code += "for script in sys.argv[1:]: runpy.run_path(script, run_name='__main__')"
        scripts = [f for p in patterns for f in sorted((self.root / "stages").glob(f"{p}.py"))]
        return self.run("python", "-c", code, *map(str, scripts))

    def pytest(self, *arguments: str, ok: bool = True) -> Done:
        """Run tests there; that modules were imported before pytest could look at them is no error."""
        ignore = ("-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider")
        return self.run("python", "-m", "pytest", *ignore, *arguments, ok=ok)

    def commit(self, message: str) -> None:
        """Commit everything that git does not ignore."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def read(self, path: str) -> str:
        """Text of a file."""
        return (self.root / path).read_text()

    def write(self, path: str, text: str) -> None:
        """Replace a file by a new one."""
        (self.root / path).unlink(missing_ok=True)
        (self.root / path).write_text(text)

    def set(self, settings: dict) -> None:
        """Change keys of params.yaml, given as dotted names."""
        data = yaml.safe_load(self.read("params.yaml"))
        for name, value in settings.items():
            table, key = locate(data, name)
            table[key] = value
        self.write("params.yaml", yaml.safe_dump(data, sort_keys=False))

    def restore(self) -> None:
        """Bring every file of git back to its last commit."""
        self.run("git", "checkout", "--quiet", "--", ".")

    def hashes(self, *folders: str) -> dict[str, str]:
        """Hash of every file below some folders."""
        files = [f for folder in folders for f in (self.root / folder).rglob("*") if f.is_file()]
        return {
            str(f.relative_to(self.root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
        }

    def lock(self) -> dict:
        """Stages of dvc.lock."""
        return yaml.safe_load(self.read("dvc.lock"))["stages"]

    def hash_of(self, stage: str, path: str) -> str:
        """Hash of one output of a stage as DVC recorded it."""
        return next(out["md5"] for out in self.lock()[stage]["outs"] if out["path"] == path)

    def copy(self, root: Path) -> "Workspace":
        """Another workspace in the same state, DVC's cache included."""
        shutil.copytree(self.root, root, symlinks=True)
        return Workspace(root)


def clone(root: Path, settings: dict | None = None) -> Workspace:
    """Repository at ``root`` with the files of the working tree, never run, and its own settings.

    The files are the ones that git tracks or would track, as they are now, without the committed
    results, which belong to other settings.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        source, target = ROOT / name, root / name
        if source.is_file() and name != "dvc.lock" and not name.startswith("metrics/"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    workspace = Workspace(root)
    workspace.set(TINY | (settings or {}))
    workspace.run("git", "init", "--quiet", "--initial-branch", "main")
    workspace.commit("the project with tiny settings")
    return workspace


IN_TURN = """
import json, sys
from dvc.cli import main

for words in json.loads(sys.argv[1]):
    if code := main(words):
        raise SystemExit(code)
"""

# Run by every stage script at its end: which files of the package it loaded.
TRACE = """
import atexit, json, os, sys
from pathlib import Path

def note():
    main = Path(sys.argv[0])
    if main.parent.name == "stages":
        files = [m.__file__ for n, m in sys.modules.items() if n.startswith("weightspace")]
        files = [os.path.relpath(f) for f in files if f]
        Path(os.environ["LOADED"], main.stem + ".json").write_text(json.dumps(files))

atexit.register(note)
"""


def run_once(root: Path) -> Workspace:
    """A clone below ``root`` where every stage ran, DVC took over what it made, and all is committed.

    As after `dvc repro`, by which test_docs.py runs stages.

    What each stage loaded is written to ``loaded/`` beside the clone, relative to the clone.
    """
    workspace = clone(root / "clone", FEW_STEPS)
    for name in ("trace", "loaded"):
        (root / name).mkdir()
    (root / "trace" / "sitecustomize.py").write_text(TRACE)
    path = os.pathsep.join((str(root / "trace"), workspace.env["PYTHONPATH"]))
    traced = Workspace(workspace.root, {"PYTHONPATH": path, "LOADED": str(root / "loaded")})
    stages = yaml.safe_load(workspace.read("dvc.yaml"))["stages"]
    for name in stages:
        traced.run("python", f"stages/{name}.py")
    traced.dvc("commit", "--force")
    workspace.commit("results")
    return workspace
