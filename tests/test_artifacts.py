"""Artefacts on disk: what is written stays written, also after a power cut."""

import ast
import errno
import hashlib
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save

from cases import section, tiny
from conftest import train_zoo
from weightspace.artifacts import (
    ABANDONED_DAYS,
    AUTOENCODER_FILE,
    DTYPES,
    IMAGES_FILE,
    MEMBERS_FILE,
    META_KEY,
    PCA_FILE,
    READOUT_FILE,
    SHARED_ENCODER_FILE,
    TASKS_FILE,
    begins,
    canonical,
    check_file,
    check_new,
    held,
    lock,
    new_folder,
    read_meta,
    remove_abandoned,
    save_tensors,
    sha256_of,
    sync_folder,
    tensor_pieces,
    write_bytes,
)
from weightspace.errors import WeightspaceError
from weightspace.weights.pca import stream_pca
from weightspace.zoo import generate as generator

SRC = Path(__file__).parent.parent / "src"
FILES = (IMAGES_FILE, TASKS_FILE, MEMBERS_FILE, PCA_FILE, AUTOENCODER_FILE)
FILES += (SHARED_ENCODER_FILE, READOUT_FILE)
LINKS = ("replace", "link")  # what puts a name into a folder


@pytest.fixture
def events(monkeypatch):
    """What was done to names and disk, in order: ``(what, path)``; a sync says of which kind."""
    noted, fsync = [], os.fsync

    def synced(handle):
        kind = "sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file"
        noted.append((kind, Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    def linked(name, do):
        def link(source, target, **keys):
            do(source, target, **keys)
            noted.append((name, Path(target).absolute()))

        return link

    monkeypatch.setattr(os, "fsync", synced)
    for name in LINKS:
        monkeypatch.setattr(os, name, linked(name, getattr(os, name)))
    return noted


def not_durable(events):
    """Names that no later sync of their folder brought to the disk."""
    lost = []
    for i, (what, path) in enumerate(events):
        if what in LINKS and ("sync folder", path.parent) not in events[i:]:
            lost.append(path)
    return lost


def test_a_name_without_a_later_sync_of_its_folder_is_noticed():
    renamed, synced = ("replace", Path("/a/b")), ("sync folder", Path("/a"))
    assert not_durable([renamed, synced]) == []
    assert not_durable([synced, renamed]) == [Path("/a/b")]
    assert not_durable([renamed, ("sync folder", Path("/"))]) == [Path("/a/b")]


def test_a_file_is_synced_then_renamed_then_its_folder_is_synced(tmp_path, events):
    write_bytes(tmp_path / "new" / "file", b"text")
    assert [what for what, _ in events] == ["sync folder", "sync file", "replace", "sync folder"]
    assert events[0] == ("sync folder", tmp_path)  # that has the name of the new one
    assert events[2:] == [
        ("replace", tmp_path / "new" / "file"),
        ("sync folder", tmp_path / "new"),
    ]


def test_tensors_are_written_as_safetensors_itself_writes_them(tmp_path):
    """Of all types and shapes; the hash is that of the file."""
    tensors = {f"of {dtype}": torch.arange(7).to(dtype) for dtype in DTYPES}
    tensors |= {
        "scalar": torch.tensor(2.5),
        "nothing": torch.zeros(0, 3),
        "transposed": torch.arange(6.0).reshape(2, 3).mT,
        "a part": torch.arange(9)[3:5],
        "one of seven": torch.arange(14.0)[2::12],
        'a "name" \\ ä\n': torch.ones(2, 1, 3, dtype=torch.bfloat16),
    }
    meta = {"b": [1, 2.5, None], "a": 'ü "quoted" \\ text'}
    path = tmp_path / "file"
    save_tensors(path, "example", tensors, meta)
    whole = {name: x.contiguous() for name, x in tensors.items()}
    known = read_meta(path)
    assert known == {"kind": "example", "sha256": known["sha256"], **meta}
    text = canonical(known)
    assert path.read_bytes() == save(whole, metadata={META_KEY: text})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256_of(tensor_pieces("example", tensors, meta)) == digest
    assert sha256_of(tensor_pieces("another", tensors, meta)) != digest


def test_tensors_are_written_without_a_copy():
    x = torch.zeros(5)
    _, values = tensor_pieces("example", {"x": x}, {})
    x[0] = 1
    assert bytes(values) == x.numpy().tobytes()


@pytest.mark.parametrize("relative", [False, True])
def test_a_folder_is_synced_into_its_own(relative, tmp_path, events, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with new_folder(Path("out") if relative else tmp_path / "out") as folder:
        write_bytes(folder / "file", b"text")
    assert events[-2:] == [("replace", tmp_path / "out"), ("sync folder", tmp_path)]
    assert not not_durable(events)


def test_a_folder_that_fails_leaves_no_parents_and_what_a_killed_process_left_is_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    folder = tmp_path / "a"
    killed, file = (folder / f".{name}.{process.pid}.tmp" for name in ("out", "table"))
    killed.mkdir(parents=True)
    file.write_text("part")
    other = folder / f".out.{os.getppid()}.tmp"  # of a process that lives
    other.mkdir()
    foreign = folder / f".out.{process.pid}.tmp.txt"
    foreign.touch()
    with held(killed), new_folder(folder / "out"):
        assert killed.exists()  # of that number in another container
        assert not file.exists()
    (folder / "out").rmdir()
    for name in ("a/out", "b/c/out"):
        with pytest.raises(KeyError), new_folder(tmp_path / name):
            raise KeyError
    assert set(tmp_path.rglob("*")) == {folder, other, foreign}


@pytest.mark.parametrize("check", [check_new, lambda path: check_file(path, begins("mine"))])
def test_names_that_cannot_be_written_are_refused_before(check, tmp_path):
    (tmp_path / "file").write_text("yours")
    for name in ("file", "file/out", "a" * 300, "/proc/1/out"):
        with pytest.raises(WeightspaceError):
            check(tmp_path / name)
    check(tmp_path / "new" / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]
    (tmp_path / "file").write_text("of mine")  # the words are there, and not at its beginning
    with pytest.raises(WeightspaceError):
        check(tmp_path / "file")


def test_links_of_a_zoo_are_synced_before_its_table_and_the_zoo_before_the_rest_goes(
    tmp_path, events
):
    train_zoo(tiny(), tmp_path)
    zoo = tmp_path / "zoo"
    links = [i for i, (what, _) in enumerate(events) if what == "link"]
    assert len(links) == 2
    table = events.index(("replace", zoo / "members.parquet"))
    assert ("sync folder", zoo) in events[max(links) : table]
    assert events[-1] == ("sync folder", tmp_path)
    assert not not_durable(events)


def test_a_folder_that_cannot_be_synced_is_one_line_unless_none_can(tmp_path, monkeypatch):
    def fail(code):
        def fsync(handle):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fsync)

    fail(errno.EINVAL)  # of file systems that know no sync of folders
    sync_folder(tmp_path)
    fail(errno.EIO)
    with pytest.raises(WeightspaceError, match="cannot write: Input/output error") as error:
        sync_folder(tmp_path)
    assert "\n" not in str(error.value)


def work_folder(path, days):
    """A work folder with one file, both untouched for so many days."""
    path.mkdir(parents=True)
    (path / "file").write_text("work")
    age(path, days)
    return path


def age(path, days):
    """Make a folder and its files so old."""
    then = time.time() - days * 24 * 60 * 60
    for file in (*path.iterdir(), path):
        os.utime(file, (then, then))


OLD, YOUNG = ABANDONED_DAYS + 0.1, ABANDONED_DAYS - 0.1


def test_only_old_folders_of_the_pattern_that_nobody_holds_are_removed(tmp_path, capsys):
    old, held_, young, other = (
        work_folder(tmp_path / name, days)
        for name, days in (("a-old", OLD), ("a-held", OLD), ("a-young", YOUNG), ("b-old", OLD))
    )
    written = work_folder(tmp_path / "a-written", OLD)
    (written / "file").write_text("today")  # changes the file's time and not the folder's
    os.utime(written, (0, 0))
    (tmp_path / "a-link").symlink_to(other)
    with held(held_):
        remove_abandoned(tmp_path, "a-*")
    assert not old.exists()
    assert all((f / "file").exists() for f in (held_, young, written, other, tmp_path / "a-link"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}: removed 1 abandoned work folder")
    remove_abandoned(tmp_path, "a-*")
    assert not held_.exists()  # the control: it was the lock that kept it
    capsys.readouterr()
    remove_abandoned(tmp_path, "a-*")
    remove_abandoned(tmp_path / "nowhere", "a-*")
    assert not capsys.readouterr().err  # nothing to say


HOLDER = """
import sys, time
from pathlib import Path
from weightspace.artifacts import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_that_another_process_holds_is_left_alone_until_it_is_killed(tmp_path):
    folder = work_folder(tmp_path / "a", OLD)
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"held\n"
        remove_abandoned(tmp_path, "*")
        assert folder.exists()
        process.kill()
        process.wait()
    remove_abandoned(tmp_path, "*")
    assert not folder.exists()


def test_a_zoo_removes_what_earlier_ones_left_and_not_its_own(world, tmp_path, monkeypatch, capsys):
    """Its own old folder is continued, not removed; folders of no zoo are left."""
    scratch, own = tmp_path / "scratch", "0123456789abcdef"
    monkeypatch.setattr(generator, "work_key", lambda *_: own)
    old, young = (work_folder(scratch / f"{d:016x}", d + 0.1) for d in (ABANDONED_DAYS, 0))
    notes = work_folder(scratch / "notes", OLD)
    mine = work_folder(scratch / own, OLD)

    def train(jobs, _):
        assert not old.exists()
        assert (mine / "file").exists()
        return (job.execute() for job in jobs)

    monkeypatch.setattr(generator, "execute", train)
    generator.generate(tiny(), world().folder / "dataset", tmp_path / "zoo", scratch)
    assert sorted(scratch.iterdir()) == sorted([young, notes])
    (line,) = capsys.readouterr().err.splitlines()
    assert "removed 1 abandoned" in line


def test_pca_removes_aligned_copies_that_a_killed_one_left_and_holds_its_own(world, tmp_path):
    zoo = world().zoo
    train, settings = zoo.select("train"), section("pca", components=6, align="matching")
    old, young = (work_folder(tmp_path / f"aligned-{d}", d) for d in (OLD, YOUNG))
    read, seen = zoo.reader(train), set()

    def reading(who, name, rows):
        for folder in set(tmp_path.glob("aligned-*")) - {young, old}:
            assert lock(folder) is None
            seen.add(folder)
        return read(who, name, rows)

    stream_pca(zoo.spec, reading, len(train), settings, tmp_path)
    assert len(seen) == 1
    assert list(tmp_path.iterdir()) == [young]


def texts(path):
    """All texts in a file's code."""
    return {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}


def test_file_names_of_artefacts_are_in_one_file():
    """So a stage and the code that reads what it wrote cannot disagree."""
    names = {file.name for file in FILES}
    code = [*SRC.rglob("*.py"), *(SRC.parent / "stages").glob("*.py")]
    assert {path.name for path in code if names & texts(path)} == {"artifacts.py"}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_artefacts_are_outputs_of_the_stages_of_their_folders(file):
    stages = yaml.safe_load((SRC.parent / "dvc.yaml").read_text())["stages"]
    by = "evaluate_properties" if file == READOUT_FILE else file.parent.name
    assert f"data/{file.parent}" in stages[by]["outs"]
    assert file.suffix in (".safetensors", ".parquet")
