"""Jobs on Ray: the bytes of the local executor, also when a worker is killed."""

import os
import signal
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest

import weightspace
from cases import tiny
from conftest import _here
from weightspace.artifacts import read_parquet
from weightspace.errors import WeightspaceError
from weightspace.evaluate import reconstruction
from weightspace.evaluate.reconstruction import reconstruct_splits
from weightspace.jobs import ray as executor
from weightspace.zoo.generate import generate

pytestmark = pytest.mark.slow
PARAMS = tiny(runtime={"executor": "ray", "workers": 2}, zoo={"runs": 80})


@pytest.fixture(autouse=True)
def _own_ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def observed(notes, killed, task=executor._task):
    """A worker's function that notes each attempt; the first at a ``killed`` job dies half done.

    It is nested, so Ray sends it by value and all else comes from the package it sent.
    """

    def noted(job, inputs):
        from weightspace.evaluate import reconstruction
        from weightspace.zoo import shards

        def write_and_die(path, *_):
            assert list(path.parent.glob("members-*"))  # the table is written, the weights are not
            os.kill(os.getpid(), signal.SIGKILL)

        def refine_and_die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        earlier = len(list(notes.glob(f"{job.name}-*")))
        (notes / f"{job.name}-{earlier}").write_text(f"{os.getpid()} {shards.__file__}")
        if job.name in killed and not earlier:
            shards.write_pieces, reconstruction.decode_latents = write_and_die, refine_and_die
        return task(job, inputs)

    return noted


@pytest.fixture(scope="module")
def _two_workers():
    """One Ray of two workers for the tests that need one: it takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with executor._cluster(PARAMS.runtime):
            yield


@pytest.fixture
def notes(_two_workers, tmp_path, monkeypatch):
    """Folder of the attempts, on a running Ray; shard 1 and part 1 of val are killed once."""
    folder = tmp_path / "notes"
    folder.mkdir()
    killed = {"weights-00001.safetensors", "part 1 of val"}
    monkeypatch.setattr(executor, "_task", observed(folder, killed))
    monkeypatch.setattr(executor, "_cluster", lambda _: nullcontext())
    return folder


def attempts(notes):
    """How often each job was begun, the process and the code file of each attempt."""
    names = Counter(f.name.rpartition("-")[0] for f in notes.iterdir())
    return names, [f.read_text().split() for f in notes.iterdir()]


def test_a_worker_killed_in_the_middle_of_a_shard_changes_nothing(world, tmp_path, notes):
    table = generate(PARAMS, world().folder / "dataset", tmp_path / "zoo", tmp_path / "scratch")
    names, where = attempts(notes)
    assert names == {f"weights-{n:05d}.safetensors": 1 + (n == 1) for n in range(4)}
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


def test_a_worker_killed_in_the_middle_of_an_evaluation_changes_nothing(
    project_root, notes, monkeypatch
):
    monkeypatch.setattr(reconstruction, "MEMBERS", 7)
    found = reconstruct_splits(project_root / "data", PARAMS)
    names, where = attempts(notes)
    parts = {s: -(-len(r.members) // 7) for s, r in found.items()}
    every = {f"part {n} of {s}" for s, count in parts.items() for n in range(count)}
    assert names == {name: 1 + (name == "part 1 of val") for name in every}
    assert len({pid for pid, _ in where}) > 1
    monkeypatch.setattr(reconstruction, "execute", _here)
    here = reconstruct_splits(project_root / "data", PARAMS)
    monkeypatch.setattr(reconstruction, "MEMBERS", 8)
    others = reconstruct_splits(project_root / "data", PARAMS)
    for split, r in found.items():
        assert bytes_of(r) == bytes_of(here[split])
        assert bytes_of(r) != bytes_of(others[split])  # the control: other parts, other numbers


def bytes_of(found):
    """All outputs of a reconstruction."""
    return b"".join(x.numpy().tobytes() for x in found.outputs)


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
