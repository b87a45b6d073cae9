"""What a stage logs of itself."""

import subprocess
import sys

import pytest

from workspace import ROOT

CHILD = "import time; block = b'x' * (150 << 20); print(flush=True); time.sleep(60)"
CODE = f"""
import os, subprocess, sys, time
from _stage import resident
before = resident(os.getpid())
command = [sys.executable, "-c", {CHILD!r}]
children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
for child in children:
    child.stdout.readline()
during = resident(os.getpid())
for child in children:
    child.kill()
    child.wait()
print(*((n - before) >> 20 for n in (during, resident(os.getpid()))))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the sum over processes is read from /proc")
def test_memory_of_workers_is_counted_together():
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT / "stages",
        capture_output=True,
        text=True,
        check=True,
    )
    during, after = map(int, done.stdout.split())
    assert 300 <= during < 400  # two workers of 150 MiB, not the larger one alone
    assert abs(after) < 20
