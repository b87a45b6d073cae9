"""Readers of idx files and of params.yaml on damaged and hostile files, with a fixed budget.

The readers of archives and checkpoints have theirs in test_images.py and test_checkpoints.py.
"""

import gzip
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from test_params import FILE
from weightspace.data.images import read_images
from weightspace.errors import WeightspaceError
from weightspace.params import Params, load_params

BUDGET = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
PIXELS = np.arange(96, dtype=np.uint8).reshape(6, 4, 4)
IMAGES = struct.pack(">4B3I", 0, 0, 8, 3, 6, 4, 4) + PIXELS.tobytes()
LABELS = struct.pack(">4B1I", 0, 0, 8, 1, 6) + bytes([0, 1, 2, 0, 1, 2])
HUGE = struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3)  # a header of 79 billion billion bytes
NONE = struct.pack(">4B3I", 0, 0, 8, 3, 0, 4, 4), struct.pack(">4B1I", 0, 0, 8, 1, 0)
FIRST, SECOND = "my-images-idx3-ubyte", "my-labels-idx1-ubyte"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that every example writes anew."""
    return tmp_path_factory.mktemp("fuzz")


def result(read, path):
    """What a reader returns, or the line with which it refuses; any other error is a failure."""
    try:
        return read(path), ""
    except WeightspaceError as error:
        return None, str(error)


def damaged(good):
    """Strategy: bytes of a good file with some changed, cut off or added at the end."""
    changes = st.lists(
        st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), min_size=0, max_size=4
    )

    def damage(drawn):
        spots, keep, more = drawn
        data = bytearray(good)
        for place, value in spots:
            data[place] = value
        return bytes(data[:keep]) + more

    keep = st.one_of(st.just(len(good)), st.integers(0, len(good)))
    return st.tuples(changes, keep, st.one_of(st.just(b""), st.binary(max_size=9))).map(damage)


def write(folder, images, labels, packed):
    """The pair of files, plain or gzip."""
    for old in folder.iterdir():
        old.unlink()
    for name, data in ((FIRST, images), (SECOND, labels)):
        (folder / (name + ".gz" if packed else name)).write_bytes(
            gzip.compress(data, mtime=0) if packed else data
        )


@BUDGET
@given(images=damaged(IMAGES), labels=damaged(LABELS), packed=st.booleans())
@example(images=IMAGES, labels=LABELS, packed=True)
@example(images=HUGE, labels=LABELS, packed=False)
@example(images=NONE[0], labels=NONE[1], packed=False)
def test_idx_files_are_refused_or_read_whole(folder, images, labels, packed):
    write(folder, images, labels, packed)
    found, line = result(read_images, folder)
    assert "\n" not in line
    if found is None:
        assert (images, labels) != (IMAGES, LABELS)
        return
    count = int.from_bytes(images[4:8], "big")
    assert (found.images * 255).round().astype(np.uint8).tobytes() == images[16:]
    assert len(found.labels) == len(found.images) == count


@BUDGET
@given(data=st.data())
def test_damaged_gzip_is_refused_or_read(folder, data):
    write(folder, IMAGES, LABELS, packed=True)
    path = folder / f"{FIRST}.gz"
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    with suppress(WeightspaceError):
        assert read_images(folder).images.shape[1:] == (1, 4, 4)


TEXT = FILE.read_text()
HOSTILE = [
    "{}", "[]", "~", "''", "-1", "1e999", ".nan", ".inf", "2001-99-99", "0x", "9" * 5000, "!!binary x",
    "!!python/object/apply:os.system ['true']", "&a [*a]", "&a {b: *a}", "*a", "{? [1] : 2}", "{1: 2}",
    "\x00", "\ud7ff", "[" * 3000, "{a: " * 3000, "!!timestamp x", "!!int x", "!!float x", "!!set {a}",
    "!!bool x", "!!omap [a]", "1_0", "0o7", "'a\\nb'", "|\n  text", "12:30:45", "=", "<<", "0b2", "08",
]  # fmt: skip


def check(folder, data):
    """Read settings: complete ones, or one line."""
    path = folder / "params.yaml"
    path.write_bytes(data)
    found, line = result(load_params, path)
    assert isinstance(found, Params) or line
    assert "\n" not in line
    assert len(line) < 2000


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_values_in_params_are_one_line(tmp_path, value):
    for key in ("seed: 0", "dataset:", "  runs: 1600"):
        assert TEXT.count(f"\n{key}") == 1
        check(tmp_path, TEXT.replace(f"\n{key}", f"\n{key.split(':')[0]}: {value}").encode())
    check(tmp_path, value.encode())


def test_a_bomb_of_aliases_is_one_line(tmp_path):
    """Nine lists of nine, nested: 9 ** 9 entries for who writes them out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    check(tmp_path, "\n".join(lines).encode())
    check(tmp_path, ("\n".join(lines) + "\nseed: *a8\n").encode())


@BUDGET
@given(data=damaged(TEXT.encode()))
def test_damaged_params_are_one_line_or_read(folder, data):
    check(folder, data)


@BUDGET
@given(line=st.integers(0, TEXT.count("\n") - 1), value=st.text(max_size=12))
def test_any_text_as_a_value_is_one_line_or_read(folder, line, value):
    lines = TEXT.splitlines()
    lines[line] = lines[line].split(":")[0] + ": " + value
    check(folder, "\n".join(lines).encode(errors="surrogatepass"))


def test_a_folder_or_a_link_to_itself_is_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("folder", "loop", "none"):
        with pytest.raises(WeightspaceError, match=name) as caught:
            load_params(tmp_path / name)
        assert "\n" not in str(caught.value)
