"""Faults of the machine under every command that writes: one line, nothing partial, equal bytes next time."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import warm
from test_door import WORKS, completed, contents, line, remove, run, work  # noqa: F401
from weightspace import artifacts
from weightspace.artifacts import (
    AUTOENCODER_FILE,
    IMAGES_FILE,
    MEMBERS_FILE,
    PCA_FILE,
    READOUT_FILE,
    SHARED_ENCODER_FILE,
    write_bytes,
)
from weightspace.errors import WeightspaceError
from weightspace.project.project import load

ROOT = Path(__file__).resolve().parent.parent
OUT = ["--out", "made"]
# commands that write a folder or a file, all of it or nothing
WRITERS = {
    "demo": line("demo", "out", "made.html"),
    "bundle": line("bundle", "out", "made.bundle"),
    "sample": line("sample", "out", "made"),
    "import": line("import", "out", "made"),
    "encode": line("encode", "out", "made.safetensors"),
    "decode": line("decode", "out", "made"),
    "export": line("export", "out", "made"),
    "retrieve": [*line("retrieve"), *OUT],
    "params": line("params", "out", "made.md"),
    "report": line("report", "out", "made.html"),
    "suite": line("suite", "out", "made.md"),
}
SEVERAL = ("suite", "bundle")  # one file after the other: what --resume continues, a card
FAULTS = {"full disk": 2, "terminated": 143, "interrupted": 130}


class Disk:
    """Notes what was brought to the disk, and has a fault at one of these moments.

    A power cut takes whatever was not: contents of files, and names in folders.
    """

    def __init__(self, patch):
        self.files, self.folders, self.count, self.lost = {}, {}, 0, []
        self.at, self.fault, replace = 0, "", os.replace
        patch.setattr(os, "fsync", self.sync)
        patch.setattr(os, "replace", lambda a, b: (self.before_rename(Path(a)), replace(a, b)))

    def sync(self, handle):
        """A file or a folder is brought to the disk."""
        self.count += 1
        if self.count == self.at:
            self.fail()
        path, state = Path(f"/proc/self/fd/{handle}").readlink(), os.fstat(handle)
        if path.is_dir():
            self.folders[state.st_ino] = {p.name for p in path.iterdir()}
        else:
            self.files[state.st_ino] = state.st_size

    def fail(self):
        """The fault."""
        if self.fault == "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.fault == "terminated":
            handler = signal.getsignal(signal.SIGTERM)
            assert callable(handler)  # called, not sent: a signal that nobody hears ends all tests
            handler(signal.SIGTERM, None)
        if self.fault == "interrupted":
            raise KeyboardInterrupt

    def before_rename(self, source):
        """All that gets a name must be on the disk before."""
        self.lost += [p for p in (source, *source.rglob("*")) if not self.has(p)]

    def has(self, path):
        """Whether a power cut would leave a file or a folder as it is."""
        state = path.stat()
        if path.is_dir():
            return self.folders.get(state.st_ino) == {p.name for p in path.iterdir()}
        return self.files.get(state.st_ino) == state.st_size

    def names(self, path):
        """Whether a power cut would leave the name of a path."""
        return path.name in self.folders.get(path.parent.stat().st_ino, ())


@pytest.fixture
def disk(monkeypatch):
    """What is on the disk; signals are as at the start of a process, whatever Ray did in this one."""
    monkeypatch.setattr(artifacts, "_swept", set())
    monkeypatch.setattr("weightspace.project.onnx.onnx_bytes", lambda network: bytes(9000))  # slow
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield Disk(monkeypatch)
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


TOOK = re.compile(rb"[0-9][0-9.,]* ms")


def bytes_of(paths):
    """Contents of files, without the milliseconds that a page says it took."""
    return {p: TOOK.sub(b"", p.read_bytes()) for p in paths if p.is_file()}


@pytest.mark.parametrize("command", WRITERS)
def test_faults_leave_all_or_nothing_and_the_next_run_gives_equal_bytes(command, run, work, disk):  # noqa: F811
    words, before = WRITERS[command], contents(work)
    remains = [work / ".made.4194999.tmp", work / ".other.md.4194998.tmp"]
    remains[0].mkdir()  # of processes that were killed
    (remains[0] / "part").write_bytes(b"part")
    remains[1].write_bytes(b"part")
    code, _, err = run(words)
    assert code == 0, err
    made = contents(work).keys() - before.keys()
    assert not disk.lost, "a power cut would leave it partial"
    assert all(disk.names(path) for path in made if path.parent == work)
    assert not any(path.exists() for path in remains)
    whole, count = bytes_of(made), disk.count
    remove(made)
    for fault, expected in FAULTS.items():
        for at in sorted({1, 2, count // 2, count - 1, count} - {0}):
            disk.count, disk.at, disk.fault = 0, at, fault
            code, _, err = run(words)
            case = (fault, at, count, err)
            assert code == expected, case
            assert err.startswith("error: ") or "\nerror: " in err, case
            assert err.splitlines()[-1].isprintable(), case
            left = contents(work).keys() - before.keys()
            assert bytes_of(left).items() <= whole.items(), case  # no other file, no part of one
            if command not in SEVERAL:
                assert left in (set(), made), case
            remove(left)
    disk.at = 0
    assert run(words)[0] == 0
    assert bytes_of(contents(work).keys() - before.keys()) == whole
    remove(made)
    assert contents(work) == before


# In a process of its own: a limit of the system is of everything that a process writes.
LIMITED = """
import io, json, resource, sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from weightspace.cli import app

sys.dont_write_bytecode = True  # compiled modules would be cut off, and stay
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
ends, before = {}, set(Path().rglob("*"))
for name, words in json.load(sys.stdin).items():
    sys.argv, text, code = ["weightspace", *words], io.StringIO(), 0
    with redirect_stderr(text), redirect_stdout(io.StringIO()):
        try:
            app.main()
        except SystemExit as end:
            code = end.code
    ends[name] = code, text.getvalue(), [str(p) for p in set(Path().rglob("*")) - before]
print(json.dumps(ends))
"""


def test_a_file_that_may_not_grow_is_one_line(work, project_root):  # noqa: F811
    """The system itself refuses: no file may have more than a few bytes."""
    words = {name: completed(w, work, project_root) for name, w in WRITERS.items()}
    words.pop("suite")  # it needs git and DVC; the disk is full under it above
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [warm.programs() / "python", "-c", LIMITED],
        cwd=work, env=environment, text=True, input=json.dumps(words), timeout=300,
        check=False, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert ends.keys() == words.keys()
    for name, (code, err, left) in ends.items():
        assert code == 2, (name, err)
        assert err.splitlines()[-1].startswith("error: "), name
        assert "File too large" in err, name
        assert not left, name


@pytest.mark.parametrize("command", WRITERS)
def test_a_folder_that_is_read_only_is_one_line_before_any_work(command, run, work, monkeypatch):  # noqa: F811
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def no_work(*_):
        raise AssertionError("work before it was known that nothing can be written")

    before, real = contents(work), Path.open
    for name in ("mkdir", "touch"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, mode="r", *a, **k: refuse() if "w" in mode else real(path, mode, *a, **k),
    )
    monkeypatch.setattr("weightspace.project.project.load", no_work)
    code, out, err = run(WRITERS[command])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Read-only file system" in err
    assert contents(work) == before


# two at once


def test_two_commands_with_one_output_give_one_whole_output(run, work, project_root):  # noqa: F811
    """They write at the same time; one gets the name, the other one line. Inputs are only read."""
    words = ["decode", "--root", str(project_root), "--out", "both", "z.npz"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_WAIT_POLICY": "PASSIVE"}
    before, inputs = contents(work), contents(project_root)
    commands = [
        subprocess.Popen(
            [warm.programs() / "weightspace", *words],
            cwd=work, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in commands]
    for err, code in ended:
        assert code in (0, 2)
        assert code == 0 or (err.startswith("error: both: ") and err.count("\n") == 1)
    assert 0 in [code for _, code in ended]
    made = contents(work).keys() - before.keys()
    both = bytes_of(made)
    assert contents(project_root) == inputs
    run(["decode", "--root", str(project_root), "--out", "alone", "z.npz"])
    alone = bytes_of(contents(work / "alone"))
    assert {p.name: b for p, b in both.items()} == {p.name: b for p, b in alone.items()}
    remove(contents(work).keys() - before.keys())


# artefacts that are replaced


READ = [IMAGES_FILE, MEMBERS_FILE, PCA_FILE, AUTOENCODER_FILE, SHARED_ENCODER_FILE, READOUT_FILE]


@pytest.mark.parametrize("file", READ, ids=str)
def test_an_artefact_that_is_replaced_while_it_is_used_is_noticed(file, project_root, tmp_path):
    """What is written would say that it comes from the new one."""
    root = shutil.copytree(project_root, tmp_path / "project")
    project = load(root)
    weights = project.zoo.weights(project.zoo.members.iloc[:2])
    z = project.encode(weights)
    project.save(tmp_path / "before", ["a.safetensors"], weights, [{"classes": ["0", "1", "2"]}])
    project.save_latents(tmp_path / "before.safetensors", z, ["a", "b"])
    path = root / "data" / file
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, (time.time() + 5, time.time() + 5))
    copy.replace(path)
    for write in (
        lambda: project.save(
            tmp_path / "new", ["a.safetensors"], weights, [{"classes": ["0", "1", "2"]}]
        ),
        lambda: project.save_latents(tmp_path / "new.safetensors", z, ["a", "b"]),
    ):
        with pytest.raises(WeightspaceError, match=r"changed while .*again") as error:
            write()
        assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("new*"))
    assert len(load(root).encode(weights)) == 2  # the control: a new start reads the new one


def test_a_file_is_replaced_and_never_written_into(tmp_path):
    """A reader that has mapped the old one to memory keeps it."""
    path = tmp_path / "x"
    write_bytes(path, b"old")
    with path.open("rb") as reader:
        write_bytes(path, b"new bytes")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new bytes"


def test_commands_that_write_are_all_tried():
    """The control: a command with an output is among them."""
    have_out = {command for command, words in WORKS.items() if "out" in words}
    assert have_out <= set(WRITERS)
