"""OpenMP is told to let idle threads sleep before torch is loaded, however the package is started."""

import os
import subprocess
import sys

import pytest

from workspace import ROOT

# Run at the start of every process: notes the setting at the moment when torch is imported.
WATCH = """
import os, sys

class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            with open(os.environ["SEEN"], "a") as file:
                print(os.getpid(), os.environ.get("OMP_WAIT_POLICY"), file=file)
            if os.environ["STOP"]:
                os._exit(0)

sys.meta_path.insert(0, Watch())
"""
JOBS = """
import os
from dataclasses import dataclass

@dataclass(frozen=True)
class Job:
    name: str = "a job"
    device: str = "cpu"

    def execute(self):
        return os.environ.get("OMP_WAIT_POLICY")

if __name__ == "__main__":
    from jobs_of_a_test import Job
    from weightspace.jobs import local
    from weightspace.params import RuntimeSettings

    settings = RuntimeSettings.model_construct(workers=1)
    print(*local.execute([Job()], settings))
"""
STARTS = {
    "library": "import weightspace as ws; ws.load",
    "command line": "sys.argv[1:] = ['predict', 'tests']; runpy.run_module('weightspace', run_name='__main__')",
    "installed command": "sys.argv[1:] = ['info', '.']; from weightspace.cli.app import main; main()",
    "stage": "runpy.run_path('stages/zoo.py', run_name='__main__')",
    "worker": None,  # the file of the job
}


def seen(start, folder, policy):
    """Values of the setting when torch was imported, one of each process that did."""
    (folder / "sitecustomize.py").write_text(WATCH)
    (folder / "jobs_of_a_test.py").write_text(JOBS)
    code = STARTS.get(start, start)
    command = ["-c", "import runpy, sys; " + code] if code else [str(folder / "jobs_of_a_test.py")]
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | policy
    path = os.pathsep.join(map(str, (folder, ROOT / "src", ROOT / "stages")))
    env |= {"PYTHONPATH": path, "SEEN": str(folder / "seen"), "STOP": "1" if code else ""}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = dict(line.split() for line in (folder / "seen").read_text().splitlines())
    return list(lines.values())


@pytest.mark.parametrize("start", STARTS)
def test_the_policy_is_set_before_torch_is_imported(start, tmp_path):
    assert seen(start, tmp_path, {}) == ["PASSIVE"] * (2 if start == "worker" else 1)


@pytest.mark.parametrize("start", sorted(STARTS.keys() - {"worker"}))  # which has its parent's
def test_a_value_of_the_user_stays(start, tmp_path):
    assert seen(start, tmp_path, {"OMP_WAIT_POLICY": "ACTIVE"}) == ["ACTIVE"]


def test_without_the_package_nothing_is_set(tmp_path):
    """The control: torch by itself is imported with no policy."""
    assert seen("import torch", tmp_path, {}) == ["None"]


def test_the_package_itself_stays_light():
    code = "import sys, weightspace; print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    env = {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
