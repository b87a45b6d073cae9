"""What a stage logs of itself."""

import subprocess
import sys

import pytest

from workspace import ROOT

CHILD = "import time; block = b'x' * (150 << 20); print(flush=True); time.sleep(60)"
CODE = f"""
import os, subprocess, sys, time
from _stage import Memory, resident
before = resident(os.getpid())
memory = Memory(daemon=True)
memory.start()
command = [sys.executable, "-c", {CHILD!r}]
children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
for child in children:
    child.stdout.readline()
during = resident(os.getpid())
alone = before + max(resident(child.pid) for child in children)
end = time.monotonic() + 20
while memory.seen < during - (1 << 20) and time.monotonic() < end:
    time.sleep(0.05)  # it looks once a second
for child in children:
    child.kill()
    child.wait()
assert memory.peak >= memory.seen
print(*((n - before) >> 20 for n in (during, resident(os.getpid()), memory.seen, alone)))
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
    during, after, seen, alone = map(int, done.stdout.split())
    assert 300 <= during < 360  # two workers of 150 MiB and their interpreters
    assert abs(after) < 20
    assert abs(seen - during) < 10  # what is logged, also when they are gone
    assert 150 <= alone < 180  # the control: the larger one alone
