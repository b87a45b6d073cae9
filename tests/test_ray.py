"""Shards on Ray: the bytes of the local executor, also when a worker is killed."""

import os
import signal
from pathlib import Path

import pytest

import weightspace
from cases import tiny
from weightspace.artifacts import read_parquet
from weightspace.errors import WeightspaceError
from weightspace.zoo.executors import ray as executor
from weightspace.zoo.generate import generate

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def observed(notes, killed, train=executor._shard):
    """A worker's function that notes each attempt; the first at shard ``killed`` dies half done.

    It is nested, so Ray sends it by value and all else comes from the package it sent.
    """

    def shard(job, dataset):
        from weightspace.zoo import shards

        def write_and_die(path, *_):
            assert list(path.parent.glob("members-*"))  # the table is written, the weights are not
            os.kill(os.getpid(), signal.SIGKILL)

        earlier = len(list(notes.glob(f"{job.shard}-*")))
        (notes / f"{job.shard}-{earlier}").write_text(f"{os.getpid()} {shards.__file__}")
        if job.shard == killed and not earlier:
            shards.save_shard = write_and_die
        return train(job, dataset)

    return shard


def test_a_worker_killed_in_the_middle_of_a_shard_changes_nothing(world, tmp_path, monkeypatch):
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setattr(executor, "_shard", observed(notes, killed=1))
    params = tiny(runtime={"executor": "ray", "workers": 2}, zoo={"runs": 80})
    table = generate(params, world().folder / "dataset", tmp_path / "zoo", tmp_path / "scratch")
    assert sorted(f.name for f in notes.iterdir()) == ["0-0", "1-0", "1-1", "2-0", "3-0"]
    where = [f.read_text().split() for f in notes.iterdir()]
    assert len({pid for pid, _ in where}) > 1
    # the code came with the task: not the driver's file, not an installed one, the same text
    own = Path(weightspace.__file__).parent / "zoo" / "shards.py"
    sent = {Path(file) for _, file in where}
    assert own not in sent
    assert all("_ray_pkg_" in str(file) for file in sent)
    assert len(table) == 240
    short = world().zoo.folder  # trained by no executor: its two shards are the first two of four
    for name in ("weights-00000.safetensors", "weights-00001.safetensors"):
        assert (tmp_path / "zoo" / name).read_bytes() == (short / name).read_bytes()
    assert table.iloc[:120].equals(read_parquet(short / "members.parquet"))
    assert not list((tmp_path / "scratch").iterdir())


def test_no_cluster_is_one_line(world, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    params = tiny(runtime={"executor": "ray"})
    with pytest.raises(WeightspaceError, match=r"RAY_ADDRESS=127\.0\.0\.1:1: no Ray") as error:
        generate(params, world().folder / "dataset", tmp_path / "zoo", tmp_path / "scratch")
    assert "\n" not in str(error.value)


def test_without_ray_it_is_one_line(monkeypatch):
    monkeypatch.setattr(executor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightspaceError, match=r"Ray is not installed.*weightspace\[ray\]"):
        executor.verify()
