"""Artefacts on disk: what is written stays written, also after a power cut."""

import errno
import os
import stat
from pathlib import Path

import pytest

from cases import tiny
from conftest import train_zoo
from weightspace.artifacts import new_folder, sync_folder, write_bytes
from weightspace.errors import WeightspaceError

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
    assert [what for what, _ in events] == ["sync file", "replace", "sync folder"]
    assert events[1:] == [
        ("replace", tmp_path / "new" / "file"),
        ("sync folder", tmp_path / "new"),
    ]


@pytest.mark.parametrize("relative", [False, True])
def test_a_folder_is_synced_into_its_own(relative, tmp_path, events, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with new_folder(Path("out") if relative else tmp_path / "out") as folder:
        write_bytes(folder / "file", b"text")
    assert events[-2:] == [("replace", tmp_path / "out"), ("sync folder", tmp_path)]
    assert not not_durable(events)


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
