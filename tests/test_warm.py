"""Programs that start with slow modules imported behave as the plain ones do."""

import os
import signal
import subprocess
import sys
import time

import pytest

import warm
from workspace import ROOT

CODE = """
import os, sys
print(sys.argv, os.getcwd(), os.environ["GIVEN"], sys.stdin.read(), "" in sys.path)
print("to the other", file=sys.stderr)
"""
CASES = {
    "code": ("-c", CODE, "one", "two words"),
    "script": ("script.py", "one"),
    "module": ("-m", "script", "one"),
    "exit code": ("-c", "raise SystemExit(7)"),
    "said": ("-c", "raise SystemExit('what is wrong')"),
    "nothing": ("-c", "raise SystemExit"),
}


def run(python, *words, cwd=ROOT, given="x"):
    path = os.pathsep.join((str(ROOT / "src"), str(cwd)))
    env = os.environ | {"GIVEN": given, "PYTHONPATH": path}
    return subprocess.run(
        [python, *words], cwd=cwd, env=env, input="a line", text=True, timeout=60,
        capture_output=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def python():
    return str(warm.programs() / "python")


@pytest.mark.parametrize("case", CASES)
def test_it_does_what_python_does(case, python, tmp_path):
    (tmp_path / "script.py").write_text(CODE)
    a, b = (run(p, *CASES[case], cwd=tmp_path) for p in (python, sys.executable))
    assert (a.returncode, a.stdout, a.stderr) == (b.returncode, b.stdout, b.stderr)


def test_an_exception_is_shown_and_is_the_exit_code_1(python):
    done = run(python, "-c", "1 / 0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_commands_share_nothing(python, tmp_path):
    """Neither modules of the project, nor the environment, nor random numbers."""
    (tmp_path / "weightspace").mkdir()
    (tmp_path / "weightspace" / "__init__.py").write_text("")
    code = "import numpy, os, weightspace as w; print(w.__file__, numpy.random.random(3))"
    code += "; os.environ['LEFT'] = 'x'"
    first, again = (run(python, "-c", code).stdout for _ in range(2))
    assert first.split()[0] == again.split()[0] == str(ROOT / "src/weightspace/__init__.py")
    assert first != again
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    code = "import os, weightspace as w; print(w.__file__, 'LEFT' in os.environ)"
    done = subprocess.run([python, "-c", code], env=env, text=True, capture_output=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "weightspace/__init__.py"), "False"]


def test_what_is_killed_ends(python):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) as client:
        process = int(client.stdout.readline())
        os.kill(process, 0)  # the control: it is there
        client.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError(f"{process} still runs")


def test_dvc_starts(python):
    done = subprocess.run([warm.programs() / "dvc", "--version"], text=True, capture_output=True)
    plain = subprocess.run(["dvc", "--version"], text=True, capture_output=True)
    assert done.stdout == plain.stdout != ""
