"""A person's own images: what is accepted, how it is converted, what is refused."""

import gzip
import io
import shutil
import struct
import zipfile
from contextlib import suppress
from importlib import import_module

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from weightspace.data import images as module
from weightspace.data.images import ImageSet, convert, make_task, read_images
from weightspace.data.sources import SOURCES
from weightspace.data.sources import base as sources
from weightspace.errors import WeightspaceError

LABELS = np.arange(6) % 3


def pixels(*shape):
    """Some images in [0, 1]."""
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (pixels(6, 5, 4), (6, 1, 5, 4)),
        (pixels(6, 5, 4, 1), (6, 1, 5, 4)),
        (pixels(6, 5, 4, 3), (6, 3, 5, 4)),
        (pixels(6, 3, 5, 4), (6, 3, 5, 4)),
        (pixels(6, 5, 4).astype(np.float64), (6, 1, 5, 4)),
        (pixels(6, 5, 4) > 0.5, (6, 1, 5, 4)),
    ],
)
def test_layouts_become_one(images, shape):
    found = ImageSet.of(images, LABELS)
    assert found.images.shape == shape
    assert found.images.dtype == np.float32
    assert found.names == ["0", "1", "2"]


def test_bytes_are_read_as_255ths():
    images = np.array([0, 51, 255], np.uint8).reshape(3, 1, 1)
    assert np.allclose(ImageSet.of(images, LABELS[:3]).images.ravel(), [0, 0.2, 1])


def test_text_labels_keep_their_names():
    found = ImageSet.of(pixels(3, 2, 2), np.array(["ü", "猫", "a b"]))
    assert [found.names[i] for i in found.labels] == ["ü", "猫", "a b"]


BAD_ARRAYS = {
    "two axes": (pixels(6, 4), LABELS),
    "five axes": (pixels(6, 1, 4, 4, 1), LABELS),
    "no channel axis": (pixels(6, 4, 4, 2), LABELS),
    "two channel axes": (pixels(6, 3, 4, 3), LABELS),
    "empty": (pixels(0, 4, 4), LABELS[:0]),
    "0..255 as float": (255 * pixels(6, 4, 4), LABELS),
    "negative": (pixels(6, 4, 4) - 0.5, LABELS),
    "whole numbers": (np.ones((6, 4, 4), np.int64), LABELS),
    "complex": (pixels(6, 4, 4).astype(complex), LABELS),
    "NaN": (np.full((6, 4, 4), np.nan), LABELS),
    "infinity": (np.full((6, 4, 4), np.inf), LABELS),
    "labels too few": (pixels(6, 4, 4), LABELS[:5]),
    "labels one-hot": (pixels(6, 4, 4), np.eye(3)[LABELS]),
    "labels real": (pixels(6, 4, 4), LABELS / 2),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused_in_one_line(case):
    with pytest.raises(WeightspaceError) as caught:
        ImageSet.of(*BAD_ARRAYS[case])
    assert "\n" not in str(caught.value)


def test_a_batch_of_the_same_size_is_left_alone():
    x = pixels(2, 1, 4, 4)
    same, notes = convert(x, (1, 4, 4))
    assert (same == x).all()
    assert not notes


@pytest.mark.parametrize("sizes", [(28, 8), (8, 4), (9, 3), (10, 7)])
def test_reduction_keeps_the_mean_of_each_image(sizes):
    before, after = sizes
    x = pixels(3, 1, before, before)
    small, notes = convert(x, (1, after, after))
    assert small.shape == (3, 1, after, after)
    assert np.allclose(small.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-5)
    assert len(notes) == 1


def test_reduction_by_a_whole_factor_is_the_block_mean():
    x = pixels(2, 1, 6, 9)
    small, _ = convert(x, (1, 2, 3))
    assert np.allclose(small[:, 0], x[:, 0].reshape(2, 2, 3, 3, 3).mean((2, 4)), atol=1e-6)


def test_colour_and_grey():
    red = np.zeros((1, 3, 2, 2), np.float32)
    red[:, 0] = 1
    grey, notes = convert(red, (1, 2, 2))
    assert np.allclose(grey, 0.299)
    assert notes
    assert convert(grey, (3, 2, 2))[0].shape == (1, 3, 2, 2)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 4, 2)])
def test_enlarging_and_stretching_are_refused(shape):
    with pytest.raises(WeightspaceError, match="4x4 pixels"):
        convert(pixels(2, 1, 4, 4), shape)


def test_a_task_has_disjoint_parts_in_the_asked_order(world):
    like = world().dataset
    x, labels = pixels(90, 8, 8), np.arange(90) % 3
    task = make_task(ImageSet.of(x, labels), ["2", "0", "1"], like, 0)
    assert task.images_per_class == {"train": 20, "test": 10}
    for place, name in enumerate((2, 0, 1)):
        mine = {i.tobytes() for i in ((x[labels == name] - like.mean) / like.std)[:, None]}
        parts = [{i.numpy().tobytes() for i in task.images[p][place]} for p in task.parts]
        assert parts[0] | parts[1] == mine
        assert not parts[0] & parts[1]


def test_no_more_images_are_used_than_help(world, monkeypatch):
    monkeypatch.setattr(module, "MOST_IMAGES", 7)
    given = ImageSet.of(pixels(90, 8, 8), np.arange(90) % 3)
    task = make_task(given, list("012"), world().dataset, 0)
    assert task.images_per_class == {"train": 7, "test": 7}


@pytest.mark.parametrize("each", [2, 30])
def test_images_without_any_contrast_are_no_special_case(project, each):
    black = np.zeros((3 * each, 8, 8), np.uint8)
    task = project.task((black, np.arange(3 * each) % 3), list("012"))
    found = project.sample(task, accuracy=0.5, n=2).table
    assert np.allclose(found["train_accuracy"], 1 / 3)
    assert np.isfinite(found["train_loss"]).all()


def test_few_images_are_all_used_and_that_is_said(world):
    task = make_task(
        ImageSet.of(pixels(9, 8, 8), np.arange(9) % 3), list("012"), world().dataset, 0
    )
    assert task.images_per_class == {"train": 3}
    assert "measured on the same images" in task.notes[-1]


@pytest.mark.parametrize(
    "classes", [["0", "1"], ["0", "1", "1"], ["0", "1", "9"], [], list("0123")]
)
def test_wrong_classes_are_refused(world, classes):
    given = ImageSet.of(pixels(40, 8, 8), np.arange(40) % 4)
    with pytest.raises(WeightspaceError):
        make_task(given, classes, world().dataset, 0)


def test_one_image_of_a_class_is_too_few(world):
    given = ImageSet.of(pixels(5, 8, 8), np.array([0, 0, 1, 1, 2]))
    with pytest.raises(WeightspaceError, match="class '2' has 1 image"):
        make_task(given, list("012"), world().dataset, 0)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, images=np.zeros((1000, 64, 64)), labels=np.zeros(1000, int))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(sources, "SOURCE_BYTES", 1_000_000)
    with pytest.raises(WeightspaceError, match="too large"):
        read_images(path)


HEAD = bytes([0, 0, 8, 3]) + struct.pack(">3I", 36, 5, 5)  # of 900 values
BYTES = np.random.default_rng(1).integers(0, 256, (36, 8, 8), dtype=np.uint8)


def write_npz(folder):
    np.savez(folder / "my.npz", images=BYTES, labels=np.arange(36) % 3)
    return folder / "my.npz"


def write_idx(folder):
    place = folder / "idx"
    place.mkdir()
    for name, data in {
        "images-idx3": BYTES,
        "labels-idx1": np.arange(36, dtype=np.uint8) % 3,
    }.items():
        head = bytes([0, 0, 8, data.ndim]) + struct.pack(f">{data.ndim}I", *data.shape)
        (place / f"my-{name}-ubyte.gz").write_bytes(gzip.compress(head + data.tobytes()))
    return place


def write_classes(folder):
    for i, pixels in enumerate(BYTES):
        place = folder / "classes" / str(i % 3)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i:02}.png")
    return folder / "classes"


SOURCES_OF_A_PERSON = {"npz": write_npz, "idx": write_idx, "folder": write_classes}


@pytest.mark.parametrize("kind", SOURCES_OF_A_PERSON)
def test_every_source_gives_the_same_images(kind, tmp_path):
    found = read_images(SOURCES_OF_A_PERSON[kind](tmp_path), (1, 8, 8))
    assert found.names == ["0", "1", "2"]
    assert found.images.shape == (36, 1, 8, 8)
    mine = {(x.tobytes(), int(y)) for x, y in zip(found.images, found.labels, strict=True)}
    wanted = (BYTES / np.float32(255)).astype(np.float32)[:, None]
    assert mine == {(x.tobytes(), i % 3) for i, x in enumerate(wanted)}


@pytest.mark.parametrize("kind", SOURCES_OF_A_PERSON)
def test_every_source_makes_a_task(kind, tmp_path, project):
    path = SOURCES_OF_A_PERSON[kind](tmp_path)
    task = project.task(path, ["2", "0", "1"])
    assert task.images_per_class == {"train": 12}
    assert task.source == path.name
    assert ("central square" in task.notes[0]) == (kind == "folder")


@pytest.mark.parametrize(("shape", "mean"), [((1, 4, 4), [0.299]), ((3, 4, 4), [1, 0, 0])])
def test_class_folders_become_what_is_needed(shape, mean, tmp_path):
    for name, size in {"a": (9, 9), "b": (30, 12)}.items():
        (tmp_path / name).mkdir()
        Image.new("RGB", size, (255, 0, 0)).save(tmp_path / name / "x.png")
    found = read_images(tmp_path, shape)
    assert found.images.shape == (2, *shape)
    assert np.allclose(found.images.mean((0, 2, 3)), mean, atol=0.005)


def test_of_large_class_folders_only_what_is_used_is_read(tmp_path, project, monkeypatch):
    """Two of three classes of 60, the smaller one of 45; at most 2 x 20; every other file is text."""
    place, read = write_classes(tmp_path), []
    for i in range(60):
        for name in "01":
            Image.fromarray(BYTES[i % 36]).save(place / name / f"more-{i}.png")
        (place / "2" / f"{i}.png").write_text("no image")  # not asked for
    folders = import_module(SOURCES["folder"])
    monkeypatch.setattr(module, "MOST_IMAGES", 20)
    monkeypatch.setattr(folders, "_read", lambda p, *a, f=folders._read: read.append(p) or f(p, *a))
    found = read_images(place, (1, 8, 8), ["1", "0"], seed=3)
    assert found.names == ["1", "0"]
    assert np.bincount(found.labels).tolist() == [40, 40]
    assert len(read) == len(set(read)) == 80
    again, other = (read_images(place, (1, 8, 8), ["1", "0"], seed=s) for s in (3, 4))
    assert (again.images == found.images).all()
    assert (other.images != found.images).any()
    with pytest.raises(WeightspaceError, match="no class '7'"):
        read_images(place, (1, 8, 8), ["1", "7"])
    with pytest.raises(WeightspaceError, match="wrong choice of classes"):
        project.task(place, ["1", "0"])
    assert len(read) == 240


@pytest.mark.parametrize("each", [2, 23, 24, 90, 1500, 2000, 3000, 100_000])
def test_a_class_that_was_cut_is_divided_as_the_whole_one(each):
    parts = module._parts(each)
    assert module._parts(sum(parts.values())) == parts
    assert max(parts.values()) <= module.MOST_IMAGES
    assert ("test" in parts) == (each >= module.HOLD_OUT_FROM)
    assert 2 * parts.get("test", 0) >= parts["train"] * (each >= module.HOLD_OUT_FROM) - 2


# what is wrong with a folder of images -> source, what is done to it, words of the message
DAMAGES = {
    "an image is text": (
        "folder",
        lambda p: (p / "0" / "a.png").write_text("no"),
        "not a readable",
    ),
    "an image is cut": (
        "folder",
        lambda p: (p / "0" / "00.png").write_bytes((p / "0" / "00.png").read_bytes()[:-30]),
        "not a readable",
    ),
    "an image loops": (
        "folder",
        lambda p: (p / "0" / "a.png").symlink_to(p / "0" / "a.png"),
        "not a readable",
    ),
    "a class is empty": ("folder", lambda p: (p / "7").mkdir(), "class has no images"),
    "no classes": ("folder", lambda p: [shutil.rmtree(d) for d in p.iterdir()], "no images that"),
    "labels are missing": (
        "idx",
        lambda p: (p / "my-labels-idx1-ubyte.gz").unlink(),
        "label file is missing",
    ),
    "no gzip": (
        "idx",
        lambda p: (p / "my-images-idx3-ubyte.gz").write_bytes(b"images"),
        "cannot read",
    ),
    "cut gzip": (
        "idx",
        lambda p: (p / "my-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(HEAD + bytes(900))[:-9]
        ),
        "cannot read",
    ),
    "images of labels": (
        "idx",
        lambda p: shutil.copy(p / "my-labels-idx1-ubyte.gz", p / "my-images-idx3-ubyte.gz"),
        "wrong magic",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_folders_are_one_line(case, tmp_path):
    kind, damage, words = DAMAGES[case]
    path = SOURCES_OF_A_PERSON[kind](tmp_path)
    damage(path)
    with pytest.raises(WeightspaceError, match=words) as caught:
        read_images(path)
    assert "\n" not in str(caught.value)


def archive():
    """Bytes of a good archive."""
    file = io.BytesIO()
    np.savez(file, images=pixels(6, 4, 4), labels=LABELS)
    return file.getvalue()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_archives_are_refused_or_read(tmp_path_factory, data):
    good = bytearray(archive())
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    path.write_bytes(bytes(good[: data.draw(st.integers(0, len(good)))]))
    with suppress(WeightspaceError):
        assert np.isfinite(read_images(path).images).all()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(head=st.binary(max_size=200))
def test_arrays_of_any_bytes_are_refused_or_read(tmp_path_factory, head):
    path = tmp_path_factory.getbasetemp() / "fuzz2.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images.npy", b"\x93NUMPY\x01\x00" + head)
        file.writestr("labels.npy", head)
    with pytest.raises(WeightspaceError):
        read_images(path)
