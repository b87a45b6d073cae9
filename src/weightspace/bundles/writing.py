"""Make the file of a bundle from the folder of a finished project."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from weightspace import __version__
from weightspace.artifacts import (
    AUTOENCODER_CARD,
    AUTOENCODER_FILE,
    IMAGES_FILE,
    PCA_FILE,
    READOUT_FILE,
    SHARED_ENCODER_CARD,
    SHARED_ENCODER_FILE,
    TASKS_FILE,
    canonical,
    content_sha256,
    file_sha256,
    load_tensors,
    sha256_of,
    tensor_pieces,
)
from weightspace.bundles.archive import FORMAT, MANIFEST
from weightspace.bundles.locate import FEWEST, SETTINGS
from weightspace.bundles.numbers import packed
from weightspace.errors import problem

DATA = Path("data")
AS_THEY_ARE = (IMAGES_FILE, TASKS_FILE, AUTOENCODER_CARD, SHARED_ENCODER_CARD)
IN_FEWER_BITS = {
    PCA_FILE: "pca",
    AUTOENCODER_FILE: "autoencoder",
    SHARED_ENCODER_FILE: "shared_encoder",
}
NEVER = (1980, 1, 1, 0, 0, 0)  # time of every file in the archive: same project, same bytes
STEP = 0.1  # by which bits are lowered until a bundle is small enough
Contents = dict[str, bytes]


def make(
    root: Path, commit: str | None, bits: float, most_bytes: int | None
) -> tuple[bytes, float]:
    """Bytes of a bundle, and the bits of its numbers.

    Args:
        root: folder of a finished project.
        commit: of the project.
        bits: of a number, from ``FEWEST`` to ``MOST``.
        most_bytes: size that it may have; numbers get fewer bits where that is needed.

    Raises:
        WeightspaceError: a file of the project is missing or damaged, or the bundle is too large.

    """
    same = dict(_same(root))
    if most_bytes is not None:  # what numbers of all these bits take, and some more
        files = sum((root / DATA / name).stat().st_size for name in IN_FEWER_BITS)
        bits = min(bits, max(FEWEST, 32 * most_bytes / files * 1.2))
    while True:
        contents = same | _fewer(root, bits)
        contents[MANIFEST] = _manifest(root, commit, bits)
        data = _zipped(contents)
        if most_bytes is None or len(data) <= most_bytes:
            return data, bits
        if bits - STEP < FEWEST:
            raise problem(
                "bundle is too large", where=root, got=len(data), expected=f"{most_bytes} bytes"
            )
        bits = round(bits - STEP, 3)


def _same(root: Path) -> Iterator[tuple[str, bytes]]:
    """Files that a bundle has as they are: settings, images, tasks, cards, metrics."""
    paths = [root / SETTINGS, *(root / DATA / name for name in AS_THEY_ARE)]
    paths += sorted((root / "metrics").glob("*.json"))
    for path in paths:
        if path.is_file():  # the project was loaded before: what is missing is not needed
            yield path.relative_to(root).as_posix(), path.read_bytes()


def _fewer(root: Path, bits: float) -> Contents:
    """Files with large tensors; in a bundle each refers to the others as they are there."""
    out: Contents = {}
    basis = ""
    for name, kind in IN_FEWER_BITS.items():
        tensors, meta = load_tensors(root / DATA / name, kind)
        if "pca" in meta:
            meta["pca"] = meta["pca"] | {"sha256": basis}
        stored = packed(tensors, bits)
        out[(DATA / name).as_posix()] = b"".join(tensor_pieces(kind, stored, meta))
        if kind == "pca":
            basis = content_sha256(kind, stored, meta)
    path = root / DATA / READOUT_FILE
    if path.is_file():
        tensors, meta = load_tensors(path, "readout")
        few = {name: tensors[name][:1] for name in ("member", "z")}  # the zoo stays behind
        meta["autoencoder"] = sha256_of([out[(DATA / AUTOENCODER_FILE).as_posix()]])
        out[(DATA / READOUT_FILE).as_posix()] = b"".join(
            tensor_pieces("readout", tensors | few, meta)
        )
    return out


def _manifest(root: Path, commit: str | None, bits: float) -> bytes:
    """What the bundle says of itself: format, bits, and what it was made from."""
    names = [SETTINGS, *((DATA / name).as_posix() for name in (IMAGES_FILE, *IN_FEWER_BITS))]
    manifest = {
        "format": FORMAT,
        "weightspace": __version__,
        "bits": bits,
        "commit": commit,
        "made_from": {name: file_sha256(root / name) for name in names},
    }
    return canonical(manifest).encode()


def _zipped(contents: Contents) -> bytes:
    """An archive of stable bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(contents.items()):
            archive.writestr(zipfile.ZipInfo(name, NEVER), content, zipfile.ZIP_DEFLATED, 9)
    return file.getvalue()
