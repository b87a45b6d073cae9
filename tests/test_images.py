"""A person's own images: what is accepted, how it is converted, what is refused."""

import io
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weightspace import images as module
from weightspace.errors import WeightspaceError
from weightspace.images import ImageSet, convert, make_task, read_images

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
        parts = [{i.numpy().tobytes() for i in task.dataset.images[p][place]} for p in task.parts]
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
    monkeypatch.setattr(module, "MOST_BYTES", 1_000_000)
    with pytest.raises(WeightspaceError, match="too large"):
        read_images(path)


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
