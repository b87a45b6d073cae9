"""Stages side by side: those that do not need one another overlap, what failed stops what follows."""

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

import warm
from weightspace.errors import WeightspaceError
from weightspace.experiments.parallel import mend_locks, repro

# Each of two stages ends only when the other has begun.
MEET = "touch began_{a}; for i in $(seq 300); do [ -e began_{b} ] && break; sleep 0.1; done; "
PIPELINE = """
stages:
  first:
    desc: both need it
    cmd: cat source > first
    deps: [source]
    outs: [first]
  left:
    desc: one side
    cmd: "{left}[ -e began_right ] && cat first > left"
    deps: [first]
    outs: [left]
  right:
    desc: other side
    cmd: "{right}[ -e began_left ] && cat first > right"
    deps: [first]
    outs: [right]
  last:
    desc: needs both
    cmd: cat left right > last
    deps: [left, right]
    outs: [last]
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("PATH", f"{warm.programs()}{os.pathsep}{os.environ['PATH']}")
    subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    sides = {"left": MEET.format(a="left", b="right"), "right": MEET.format(a="right", b="left")}
    (tmp_path / "dvc.yaml").write_text(PIPELINE.format(**sides))
    (tmp_path / "source").write_text("1")
    return tmp_path


def test_stages_overlap_and_run_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repro(root, jobs=2)
    assert (root / "last").read_text() == "11"
    for path in root.glob("began_*"):
        path.unlink()
    repro(root, jobs=1)  # nothing to do: no stage waits for another
    assert "up to date" in capsys.readouterr().out
    assert not list(root.glob("began_*"))


def test_dvc_itself_finds_nothing_to_do(root: Path) -> None:
    repro(root, jobs=2)
    status = subprocess.run(["dvc", "status"], cwd=root, capture_output=True, text=True, check=True)
    assert "up to date" in status.stdout


@pytest.mark.parametrize("left", ["", '{"read": {"sou'])
def test_a_list_of_locks_that_a_killed_dvc_left_incomplete_is_removed(
    left: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locks = root / ".dvc" / "tmp" / "rwlock"
    locks.parent.mkdir(exist_ok=True)
    locks.write_text(left)
    stuck = subprocess.run(["dvc", "repro"], cwd=root, capture_output=True, check=False)
    assert stuck.returncode != 0  # the control
    with locks.with_name("rwlock.lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        assert not mend_locks(root)  # it may be being written
    repro(root, jobs=2)
    assert (root / "last").read_text() == "11"
    assert "list of locks" in capsys.readouterr().err
    assert not mend_locks(root)  # a complete list stays


def test_what_follows_a_failed_stage_does_not_run(root: Path) -> None:
    text = (root / "dvc.yaml").read_text()
    (root / "dvc.yaml").write_text(text.replace("cat first > left", "false"))
    with pytest.raises(WeightspaceError, match="stage left failed"):
        repro(root, jobs=2)
    assert (root / "right").read_text() == "1"  # the other was left to finish
    assert not (root / "last").exists()
