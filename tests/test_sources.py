"""Image sources: what they give is of one form, what is wrong with a file is one line."""

import gzip
import io
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cases import section
from weightspace.data.dataset import PARTS, make_dataset
from weightspace.data.sources import SOURCES, glyphs
from weightspace.data.sources import base as sources
from weightspace.data.sources.base import as_images, source_of
from weightspace.errors import WeightspaceError
from weightspace.registry import resolve

NEED, CLASSES = 9, 4
LABELS = np.arange(CLASSES * NEED) % CLASSES
# every image differs from every other: noise, and the label in one corner
PIXELS = np.random.default_rng(0).integers(0, 256, (len(LABELS), 6, 6), dtype=np.uint8)
PIXELS[:, 0, 0] = LABELS
FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian package dataset-fashion-mnist
MODULES = {name: resolve(SOURCES, name, "test") for name in SOURCES}


def idx_bytes(data, magic=None, shape=None):
    shape = data.shape if shape is None else shape
    magic = bytes([0, 0, 8, len(shape)]) if magic is None else magic
    return magic + struct.pack(f">{len(shape)}I", *shape) + data.tobytes()


def write_idx(folder, images=PIXELS, labels=LABELS, prefix="train", pack=bytes, end="", **keys):
    folder.mkdir(exist_ok=True)
    name = f"{prefix}-%s-ubyte{end}"
    (folder / (name % "images-idx3")).write_bytes(pack(idx_bytes(images, **keys)))
    (folder / (name % "labels-idx1")).write_bytes(pack(idx_bytes(labels.astype(np.uint8))))
    return folder


def write_npz(path, **arrays):
    np.savez(path, **({"images": PIXELS, "labels": LABELS} | arrays))
    return path


def write_folder(folder, order=1):
    for i in range(len(LABELS))[::order]:
        place = folder / f"class {LABELS[i]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[i]).save(place / f"{i:02}.png")
    return folder


# source -> settings, after files are written to a folder
CASES = {
    "digits": lambda _: {},
    "folder": lambda tmp: {
        "path": str(write_folder(tmp / "classes")),
        "folder": {"size": 6, "colours": "grey"},
    },
    "glyphs": lambda _: {"glyphs": {"classes": 40}},
    "idx": lambda tmp: {"path": str(write_idx(tmp / "idx"))},
    "npz": lambda tmp: {"path": str(write_npz(tmp / "some.npz"))},
}


def load(name, keys, need=NEED, seed=0):
    sources = section("sources", **keys)
    return MODULES[name].load(Path(sources.path), sources.of(name), need, seed)


def test_every_source_has_a_case():
    assert set(CASES) == set(SOURCES)


@pytest.mark.parametrize("name", CASES)
def test_form(name, tmp_path):
    images, labels, names = load(name, CASES[name](tmp_path))
    assert images.dtype == np.float32
    assert images.ndim == 4
    assert labels.dtype == np.int64
    assert labels.shape == images.shape[:1]
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.max() > 0.8  # the whole range is used
    assert len(set(names)) == len(names)
    counts = np.bincount(labels, minlength=len(names))
    assert len(counts) == len(names)
    assert counts.min() >= NEED
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


@pytest.mark.parametrize("name", CASES)
def test_same_every_time(name, tmp_path):
    keys = CASES[name](tmp_path)
    first, second = load(name, keys), load(name, keys)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", CASES)
def test_makes_a_dataset_of_distinct_samples(name, tmp_path, drawn_once):
    counts = {"train": 4, "val": 2, "test": 3}
    settings = section("dataset", source=name, samples_per_class=counts, tasks=24)
    sources = section("sources", **CASES[name](tmp_path))
    dataset = make_dataset(settings, sources, 0)
    images = torch.cat([dataset.images[p].flatten(0, 1).flatten(1) for p in PARTS])
    assert len(images.unique(dim=0)) == len(images) == 9 * len(dataset.class_names)
    short = settings.model_copy(
        update={"samples_per_class": settings.samples_per_class.model_copy(update={"val": 300})}
    )
    _, labels, _ = MODULES[name].load(Path(sources.path), sources.of(name), 4 + 300 + 3, 0)
    if np.bincount(labels).min() < 4 + 300 + 3:  # some sources make as many as are asked for
        with pytest.raises(WeightspaceError, match=r"samples_per_class.*has too few images"):
            make_dataset(short, sources, 0)


@pytest.mark.parametrize("name", ["folder", "idx", "npz"])
def test_images_keep_their_labels(name, tmp_path):
    images, labels, names = load(name, CASES[name](tmp_path))
    assert (np.rint(images[:, 0, 0, 0] * 255) == labels).all()
    assert [n.removeprefix("class ") for n in names] == ["0", "1", "2", "3"]
    found = {x.tobytes() for x in np.rint(images * 255).astype(np.uint8)}
    assert found == {x.tobytes() for x in PIXELS}


def test_idx_plain_and_gzip_and_several_pairs(tmp_path):
    plain = load("idx", {"path": str(write_idx(tmp_path / "a"))})
    packed = write_idx(tmp_path / "b", pack=gzip.compress, end=".gz")
    again = load("idx", {"path": str(packed)})
    assert all(np.array_equal(a, b) for a, b in zip(plain, again, strict=True))
    half = len(LABELS) // 2
    write_idx(tmp_path / "c", PIXELS[half:], LABELS[half:], "train")
    parts = write_idx(tmp_path / "c", PIXELS[:half], LABELS[:half], "t10k", gzip.compress, ".gz")
    assert np.array_equal(plain[0], load("idx", {"path": str(parts)})[0])


@pytest.mark.parametrize("bounds", ["auto", [1, CLASSES]])
def test_labels_may_start_above_zero(bounds, tmp_path):
    folder = write_idx(tmp_path / "letters", labels=LABELS + 1)
    _, labels, names = load("idx", {"path": str(folder), "idx": {"labels": bounds}})
    assert (labels == LABELS).all()
    assert names == ["1", "2", "3", "4"]


@pytest.mark.skipif(not FASHION.is_dir(), reason="apt-get install dataset-fashion-mnist")
@pytest.mark.parametrize("size", ["original", 12])
def test_fashion_mnist(size):
    images, labels, names = load("idx", {"path": str(FASHION), "idx": {"size": size}})
    side = 28 if size == "original" else size
    assert images.shape == (70_000, 1, side, side)
    assert np.bincount(labels).tolist() == [7000] * 10
    assert names == [str(i) for i in range(10)]
    assert images.mean() == pytest.approx(0.286, abs=0.005)  # mean of Fashion-MNIST, at any size
    assert labels[:4].tolist() == [9, 2, 1, 1]  # the file t10k comes before train


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": PIXELS[:, None]},
        {"images": PIXELS[..., None]},
        {"images": (PIXELS / 255).astype(np.float64)},
        {"labels": LABELS[:, None].astype(np.uint8)},
    ],
    ids=["channel first", "channel last", "floats", "column of labels"],
)
def test_npz_forms_are_equal(arrays, tmp_path):
    expected = load("npz", {"path": str(write_npz(tmp_path / "a.npz"))})
    found = load("npz", {"path": str(write_npz(tmp_path / "b.npz", **arrays))})
    for a, b in zip(expected, found, strict=True):
        assert np.array_equal(a, b)


def test_npz_keys_and_colours(tmp_path):
    colours = np.stack([PIXELS, 255 - PIXELS, PIXELS // 2], -1)
    np.savez(tmp_path / "c.npz", x=colours, y=LABELS)
    keys = {"path": str(tmp_path / "c.npz"), "npz": {"images_key": "x", "labels_key": "y"}}
    images, _, _ = load("npz", keys)
    assert images.shape == (len(LABELS), 3, 6, 6)
    assert np.allclose(images[:, 0] + images[:, 1], 1)


def test_areas_are_averaged():
    pixels = np.random.default_rng(1).integers(0, 256, (5, 3, 12, 8), dtype=np.uint8)
    assert np.array_equal(as_images(pixels, "original"), pixels.astype(np.float32) / 255)
    blocks = pixels.reshape(5, 3, 4, 3, 4, 2).mean((3, 5)) / 255
    assert np.allclose(as_images(pixels, 4), blocks, atol=1e-6)


def test_folder_does_not_depend_on_the_order_of_writing(tmp_path):
    keys = {"folder": {"size": 6}}
    a, b = (
        load("folder", keys | {"path": str(write_folder(tmp_path / name, order))}, need=5)
        for name, order in (("a", 1), ("b", -1))
    )
    assert a[0].shape == (CLASSES * 5, 3, 6, 6)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _mean(tmp_path, image, suffix, **keys):
    place = tmp_path / "one" / "a"
    place.mkdir(parents=True)
    image.save(place / f"x{suffix}")
    images, _, _ = load("folder", {"path": str(place.parent), "folder": {"size": 4} | keys}, 1)
    return images.mean((0, 2, 3))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp", ".ppm"])
def test_folder_reads_many_types(suffix, tmp_path):
    image = Image.new("RGB", (16, 16), (200, 100, 0))
    assert _mean(tmp_path, image, suffix) == pytest.approx([200 / 255, 100 / 255, 0], abs=0.02)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (8, 8), 51), [0.2] * 3),
        (Image.new("1", (8, 8), 1), [1] * 3),
        (Image.new("RGBA", (8, 8), (255, 255, 255, 0)), [0] * 3),
        (Image.new("LA", (8, 8), (255, 51)), [0.2] * 3),
        (Image.new("RGB", (8, 8), (0, 51, 255)).convert("P"), [0, 0.2, 1]),
        (Image.fromarray(np.full((8, 8), 13300, np.uint16)), [0.2] * 3),
    ],
    ids=["grey", "bits", "transparent", "half transparent", "palette", "16 bits"],
)
def test_folder_reads_kinds_of_pixels(image, expected, tmp_path):
    assert _mean(tmp_path, image, ".png") == pytest.approx(expected, abs=0.005)


def test_folder_crops_the_middle_and_makes_grey(tmp_path):
    pixels = np.zeros((8, 24), np.uint8)
    pixels[:, 8:16] = 255
    assert _mean(tmp_path, Image.fromarray(pixels), ".png", colours="grey") == pytest.approx([1])


def test_folder_draws_classes(tmp_path):
    path = str(write_folder(tmp_path / "classes"))
    keys = {"path": path, "folder": {"size": 6, "classes": 2}}
    images, labels, names = load("folder", keys)
    assert len(images) == 2 * NEED
    assert len(names) == 2
    corner = np.rint(images[:, 0, 0, 0] * 255).astype(int)
    assert [names[i] for i in labels] == [f"class {c}" for c in corner]
    assert len({tuple(load("folder", keys, seed=s)[2]) for s in range(8)}) > 1


def test_hidden_files_and_files_beside_classes_are_left_out(tmp_path):
    folder = write_folder(tmp_path / "classes")
    for name in ("notes.txt", ".hidden", "class 0/.DS_Store"):
        (folder / name).write_text("no image")
    assert len(load("folder", {"path": str(folder)})[0]) == len(LABELS)


@pytest.fixture(scope="module")
def drawn():
    """Thousands of drawn letters by face, which no setting changes: drawn once for all tests."""
    return {}


@pytest.fixture
def drawn_once(drawn, monkeypatch):
    """Letters of tests that are not about drawing itself, as `test_same_every_time` is."""
    draw = glyphs._draw

    def remembered(font, letter):
        key = font.path, letter
        if key not in drawn:
            drawn[key] = draw(font, letter)
        return drawn[key]

    monkeypatch.setattr(glyphs, "_draw", remembered)


@pytest.fixture
def letters(drawn_once):
    """Images of all letters, few of each."""
    return load("glyphs", {}, need=4)


def test_glyphs_are_about_seven_hundred_letters(letters):
    names = letters[2]
    assert 650 <= len(names) <= 750
    assert len({"A", "Α", "А"} & set(names)) == 1  # Latin, Greek, Cyrillic
    assert len({"X", "x", "Χ", "Х"} & set(names)) == 1


def test_a_letter_depends_on_no_other(letters):
    images, labels, names = letters
    fewer = load("glyphs", {"glyphs": {"classes": 60}}, need=4)
    least = load("glyphs", {"glyphs": {"classes": 20}}, need=4)
    assert len(fewer[2]) == 60
    assert set(least[2]) < set(fewer[2]) < set(names)
    for number, name in enumerate(fewer[2]):
        assert np.array_equal(fewer[0][fewer[1] == number], images[labels == names.index(name)])


def test_glyphs_vary_by_face_alone_when_nothing_else_may(drawn_once):
    still = {"classes": 3, "rotation": 0, "scale": [0.9, 0.9], "shear": 0, "shift": 0, "noise": 0}
    images, labels, _ = load("glyphs", {"glyphs": still}, need=200)
    for number in range(3):
        faces = np.unique(images[labels == number].reshape(200, -1), axis=0)
        assert 6 < len(faces) <= 12  # some letters are the same in a face and its oblique
    moved, _, _ = load("glyphs", {"glyphs": still | {"shift": 0.1}}, need=200)
    assert len(np.unique(moved.reshape(600, -1), axis=0)) == 600


def test_letters_do_not_share_their_draws(drawn_once):
    images, labels, _ = load("glyphs", {"glyphs": {"classes": 2}}, need=200)
    noisy = [images[labels == c, 0, 0, 0] > 0 for c in range(2)]  # noise below 0 is cut off
    assert 0.4 < (noisy[0] == noisy[1]).mean() < 0.6


@pytest.mark.parametrize("seed", [0, 1])
def test_glyphs_follow_the_seed(seed, letters):
    images, _, names = load("glyphs", {}, need=4, seed=seed)
    assert names == letters[2]
    assert np.array_equal(images, letters[0]) == (seed == 0)


def test_letters_that_look_alike_are_one():
    shapes = torch.zeros(5, 12, glyphs.CANVAS, glyphs.CANVAS)
    shapes[0, :, 8:16], shapes[2, :, :, 8:16] = 1, 1
    shapes[1] = shapes[0] * 0.5  # the same shape, fainter
    shapes[3] = shapes[0]
    shapes[3, :7] = shapes[2, :7]  # like the first in five of twelve faces
    assert glyphs._different(shapes, 0.9) == [0, 2, 3]  # the last one has no ink
    assert glyphs._different(shapes, 0.2) == [0, 2]


def test_glyphs_have_the_asked_size(drawn_once):
    images, _, _ = load("glyphs", {"glyphs": {"classes": 3, "size": 20}}, need=2)
    assert images.shape == (6, 1, 20, 20)


def _write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _folder_with(tmp, name, data=None):
    folder = write_folder(tmp / "classes")
    place = folder / name
    if data is None:
        place.mkdir()
    else:
        _write(place, data)
    return folder


def _linked(tmp, name, target):
    folder = write_folder(tmp / "classes")
    (folder / name).symlink_to(target)
    return folder


def _without(folder, name):
    (folder / name).unlink()
    return folder


def _cut(tmp, pack=bytes, end=""):
    folder = write_idx(tmp / "idx", pack=pack, end=end)
    file = folder / f"train-images-idx3-ubyte{end}"
    file.write_bytes(file.read_bytes()[:-9])
    return folder


def _write_zip(path):
    """An archive whose header announces 10^15 bytes."""
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", header.getvalue())
    return path


OBJECTS = np.array([1, "a", None] * 12, dtype=object)
NAN = np.where(np.arange(36)[:, None, None] == 5, np.nan, PIXELS / 255)
# what is wrong -> source, writer, words of the message
BAD = {
    "no idx folder": ("idx", lambda t: t / "none", "no such folder"),
    "idx path is a file": ("idx", lambda t: _write(t / "f", b"x"), "no such folder"),
    "no idx files": ("idx", lambda t: t, r"no idx image files.*\*images\*idx3-ubyte\*"),
    "no label file": (
        "idx",
        lambda t: _without(write_idx(t / "i"), "train-labels-idx1-ubyte"),
        "label file is missing.*train-labels-idx1-ubyte",
    ),
    "plain and gzip": (
        "idx",
        lambda t: write_idx(write_idx(t / "i"), pack=gzip.compress, end=".gz"),
        "the same file plain and gzip",
    ),
    "wrong magic": (
        "idx",
        lambda t: write_idx(t / "i", magic=b"\0\0\x0d\3"),
        "train-images.*wrong magic number.*found 00000d03.*expected 00000803",
    ),
    "empty idx file": (
        "idx",
        lambda t: _write(write_idx(t / "i") / "train-labels-idx1-ubyte", b"").parent,
        "wrong magic number.*an empty file",
    ),
    "header cut": (
        "idx",
        lambda t: _write(write_idx(t / "i") / "train-images-idx3-ubyte", b"\0\0\x08\3\0").parent,
        "truncated.*found 5 bytes, expected 16",
    ),
    "truncated": ("idx", _cut, r"truncated, or longer.*found 1303 bytes.*expected 1312"),
    "truncated gzip": ("idx", lambda t: _cut(t, gzip.compress, ".gz"), "cannot read"),
    "not gzip": ("idx", lambda t: write_idx(t / "i", end=".gz"), "cannot read.*[Nn]ot a gzip"),
    "too long": (
        "idx",
        lambda t: write_idx(t / "i", shape=(35, 6, 6)),
        "truncated, or longer",
    ),
    "huge header": (
        "idx",
        lambda t: write_idx(t / "i", shape=(2**32 - 1,) * 3),
        "too large together",
    ),
    "idx counts": (
        "idx",
        lambda t: write_idx(t / "i", labels=LABELS[:-1]),
        "counts of images and labels differ.*36 images, 35 labels",
    ),
    "idx sizes": (
        "idx",
        lambda t: write_idx(write_idx(t / "i"), PIXELS[:, :5], prefix="t10k"),
        "image sizes differ",
    ),
    "no images": (
        "idx",
        lambda t: write_idx(t / "i", PIXELS[:0], LABELS[:0]),
        "no images",
    ),
    "idx gap": (
        "idx",
        lambda t: write_idx(t / "i", labels=np.where(LABELS == 2, 9, LABELS)),
        "label 2 has no images",
    ),
    "no npz file": ("npz", lambda t: t / "a.npz", "no such file"),
    "npz path is a folder": ("npz", lambda t: t, "no such file"),
    "not an archive": ("npz", lambda t: _write(t / "a.npz", b"no zip"), "not a complete archive"),
    "zip of something": (
        "npz",
        lambda t: write_npz(t / "a.npz", images=OBJECTS),
        "cannot be read.*Object arrays",
    ),
    "object labels": (
        "npz",
        lambda t: write_npz(t / "a.npz", labels=OBJECTS),
        "cannot be read.*Object arrays",
    ),
    "truncated npz": (
        "npz",
        lambda t: _write(t / "b.npz", write_npz(t / "a.npz").read_bytes()[:-40]),
        "not a complete archive",
    ),
    "damaged npz": (
        "npz",
        lambda t: _write(
            t / "b.npz", write_npz(t / "a.npz").read_bytes().replace(PIXELS.tobytes()[:9], b"x" * 9)
        ),
        "cannot be read.*CRC",
    ),
    "more than fits in memory": ("npz", lambda t: _write_zip(t / "a.npz"), "cannot be read"),
    "no such array": (
        "npz",
        lambda t: np.savez(t / "a.npz", x=PIXELS, labels=LABELS) or t / "a.npz",
        "no array 'images'.*found labels, x.*images_key",
    ),
    "npz counts": (
        "npz",
        lambda t: write_npz(t / "a.npz", labels=LABELS[1:]),
        "counts of images and labels differ.*36 images, 35 labels",
    ),
    "NaN": ("npz", lambda t: write_npz(t / "a.npz", images=NAN), "NaN"),
    "pixels 0 to 255 as floats": (
        "npz",
        lambda t: write_npz(t / "a.npz", images=PIXELS.astype(float)),
        "pixels out of range.*to 255.*expected 0 to 1",
    ),
    "pixels below 0": (
        "npz",
        lambda t: write_npz(t / "a.npz", images=PIXELS / 255 - 0.5),
        "pixels out of range",
    ),
    "int64 pixels": (
        "npz",
        lambda t: write_npz(t / "a.npz", images=PIXELS.astype(int)),
        "not images.*int64.*expected uint8",
    ),
    "two axes": (
        "npz",
        lambda t: write_npz(t / "a.npz", images=PIXELS[:, 0]),
        r"not images.*shape \(36, 6\)",
    ),
    "two axes of channels": (
        "npz",
        lambda t: write_npz(t / "a.npz", images=np.stack([PIXELS] * 3, 1)[..., :3]),
        r"not images.*shape \(36, 3, 6, 3\)",
    ),
    "five channels": (
        "npz",
        lambda t: write_npz(t / "a.npz", images=np.stack([PIXELS] * 5, 1)),
        r"not images.*shape \(36, 5, 6, 6\)",
    ),
    "no rows": (
        "npz",
        lambda t: write_npz(t / "a.npz", images=PIXELS[:0], labels=LABELS[:0]),
        "not images",
    ),
    "float labels": (
        "npz",
        lambda t: write_npz(t / "a.npz", labels=LABELS / 1),
        "not labels.*float64",
    ),
    "one-hot labels": (
        "npz",
        lambda t: write_npz(t / "a.npz", labels=np.eye(CLASSES, dtype=int)[LABELS]),
        r"not labels.*\(36, 4\)",
    ),
    "negative label": (
        "npz",
        lambda t: write_npz(t / "a.npz", labels=LABELS - 1),
        "label out of range.*labels -1 to 2.*expected labels 0 to 2",
    ),
    "huge label": (
        "npz",
        lambda t: write_npz(t / "a.npz", labels=np.where(LABELS == 3, 2**62, LABELS)),
        "label 3 has no images",
    ),
    "no class folder": ("folder", lambda t: t / "none", "no such folder"),
    "no classes": ("folder", lambda t: _write(t / "x.png", b"").parent, "no class folders"),
    "empty class": ("folder", lambda t: _folder_with(t, "class 9"), "class 9: class has no images"),
    "text": (
        "folder",
        lambda t: _folder_with(t, "class 0/a.txt", b"text"),
        "a.txt: not a readable image",
    ),
    "broken image": (
        "folder",
        lambda t: _folder_with(t, "class 0/a.png", b"\x89PNG\r\n\x1a\n" + b"rubbish" * 30),
        "a.png: not a readable image",
    ),
    "truncated image": (
        "folder",
        lambda t: _folder_with(
            t, "class 0/a.png", (write_folder(t / "o") / "class 0" / "00.png").read_bytes()[:-30]
        ),
        "a.png: not a readable image",
    ),
    "folder in a class": (
        "folder",
        lambda t: _folder_with(t, "class 0/more"),
        "more: not a readable image",
    ),
    "link to itself": ("folder", lambda t: _linked(t, "me", "me"), "me: no such folder"),
    "link to nothing": ("folder", lambda t: _linked(t, "off", "gone"), "off: no such folder"),
    "link to the parent": ("folder", lambda t: _linked(t, "up", "."), "not a readable image"),
    "looping image": (
        "folder",
        lambda t: _linked(t, "class 0/a.png", "a.png"),
        "a.png: not a readable image",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line(case, tmp_path):
    name, write, words = BAD[case]
    path = write(tmp_path)
    with pytest.raises(WeightspaceError, match=words) as error:
        load(name, {"path": str(path)}, need=100)
    message = str(error.value)
    assert "\n" not in message
    assert re.match(re.escape(str(tmp_path)), message)  # names the file or folder


def test_an_idx_file_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    black = np.zeros((len(LABELS), 60, 60), np.uint8)
    folder = write_idx(tmp_path / "idx", black, pack=gzip.compress, end=".gz")
    assert (folder / "train-images-idx3-ubyte.gz").stat().st_size < 10_000
    load("idx", {"path": str(folder)})
    monkeypatch.setattr(sources, "SOURCE_BYTES", 50_000)
    with pytest.raises(WeightspaceError, match="too large"):
        load("idx", {"path": str(folder)})


@pytest.mark.parametrize(("name", "section"), [("idx", "idx"), ("npz", "npz")])
def test_labels_outside_the_given_range(name, section, tmp_path):
    keys = CASES[name](tmp_path)
    with pytest.raises(
        WeightspaceError, match=r"label out of range.*0 to 3.*expected labels 0 to 2"
    ):
        load(name, keys | {section: {"labels": [0, 2]}})
    with pytest.raises(WeightspaceError, match=r"label 4 has no images.*every label from 0 to 5"):
        load(name, keys | {section: {"labels": [0, 5]}})


@pytest.mark.parametrize(("name", "count"), [("glyphs", 5000), ("folder", 5)])
def test_more_classes_than_there_are(name, count, tmp_path, drawn_once):
    keys = CASES[name](tmp_path)
    keys[name] = keys[name] | {"classes": count}
    words = f"sources.{name}.classes: too few classes.*expected at least {count}"
    with pytest.raises(WeightspaceError, match=words):
        load(name, keys)


@pytest.mark.parametrize("name", ["folder", "idx", "npz"])
def test_the_source_of_a_path_is_found(name, tmp_path):
    assert source_of(Path(CASES[name](tmp_path)["path"])) == name


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda t: t / "none", "no such file or folder"),
        (lambda t: t, "no images that a source reads"),
        (lambda t: _write(t / "a.zip", b""), "no images that a source reads"),
        (lambda t: _linked(t, "me", "me") / "me", "no such file or folder"),
    ],
)
def test_a_path_without_images_is_one_line(write, words, tmp_path):
    with pytest.raises(WeightspaceError, match=words) as error:
        source_of(write(tmp_path))
    assert "\n" not in str(error.value)
