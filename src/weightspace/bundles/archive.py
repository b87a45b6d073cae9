"""A bundle: the files of a finished project in one zip archive, its large tensors in fewer bits.

Names in it are those below the project's folder. It is read in memory: nothing is unpacked to a disk,
so that a place where nobody may write is as good as any. :func:`open_bundle` makes its path the root of
a project for everything that reads artefacts.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from weightspace.artifacts import META_KEY, check_archive, mount, read_json, sha256_of
from weightspace.bundles.locate import CARD, ENDING
from weightspace.bundles.numbers import unpacked
from weightspace.errors import problem
from weightspace.metadata import Meta, Sha256, Text, as_of_today, check_meta, parse_json

FORMAT = 1  # of what a bundle holds; another one is refused
MANIFEST = "bundle.json"
UNPACKED_BYTES = 1 << 31  # that a bundle may unpack to
AGAIN = "get the file again, or make it again with `weightspace bundle`"


class Manifest(Meta):
    """What a bundle says of itself; the rest is for people."""

    format: int
    bits: Annotated[float, Field(ge=1, le=32)]
    commit: str | None
    made_from: dict[Text, Sha256]


@dataclass(frozen=True)
class Bundle:
    """An open bundle: an archive in the sense of :func:`weightspace.artifacts.mount`.

    Attributes:
        path: its file, absolute.
        sha256: hash of all of it.
        files: the archive, in memory.
        manifest: what it says of itself.

    """

    path: Path
    sha256: str
    files: zipfile.ZipFile
    manifest: Manifest

    def read(self, name: str) -> bytes:
        """Content of a file, by its name below the project's folder.

        Raises:
            WeightspaceError: it is not in the bundle, or damaged.

        """
        if not self.has(name):
            raise problem(
                "is in no bundle",
                where=self.path / name,
                do="give --root the folder of the project that the bundle was made from",
            )
        with _reading(self.path):
            return self.files.read(name)

    def has(self, name: str) -> bool:
        """Whether a file is in it."""
        return name in self.files.NameToInfo

    def tensors(self, name: str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of a file, those as near to the project's as the bits allow.

        Args:
            name: of the file below the project's folder.
            kind: that it must have.

        Raises:
            WeightspaceError: not in the bundle, damaged, or of another kind.

        """
        content, where = self.read(name), self.path / name
        with _reading(where):
            (size,) = struct.unpack_from("<Q", content)
            meta = parse_json(json.loads(content[8 : 8 + size])["__metadata__"][META_KEY])
            tensors = unpacked(safetensors.torch.load(content))
        if not isinstance(meta, dict) or meta.get("kind") != kind:
            raise problem("artefact of another kind", where=where, expected=f"'{kind}'", do=AGAIN)
        meta = as_of_today(kind, meta, where)
        check_meta(kind, meta, where, AGAIN)
        return tensors, meta


def open_bundle(path: Path) -> Bundle:
    """Open a bundle, and read paths below it from it from now on.

    Args:
        path: its file, absolute.

    Raises:
        WeightspaceError: no complete bundle, one of another format, or not the bytes that the card
            beside it states.

    """
    if MANIFEST not in check_archive(path, UNPACKED_BYTES):
        raise problem("not a bundle of a project", where=path, do=AGAIN)
    with _reading(path):
        content = path.read_bytes()
        files = zipfile.ZipFile(io.BytesIO(content))
        given = parse_json(files.read(MANIFEST).decode())
    sha256, card = sha256_of([content]), path.with_suffix(CARD)
    if path.suffix == ENDING and card.is_file():
        check_sha256(path, sha256, str(read_json(card).get("sha256")), f"{card.name} says")
    version = given.get("format") if isinstance(given, dict) else None
    if version != FORMAT:
        raise problem(
            "bundle of another version",
            where=path,
            got=f"format {version}",
            expected=FORMAT,
            do="install the version of weightspace that made it, or make it again",
        )
    try:
        manifest = Manifest.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"'{'.'.join(map(str, first['loc']))}' in {MANIFEST}: {first['msg']}"
        raise problem(what, where=path, do=AGAIN) from error
    bundle = Bundle(path, sha256, files, manifest)
    mount(path, bundle)
    return bundle


def check_sha256(where: object, sha256: str, expected: str, who: str) -> None:
    """Refuse a file of another hash.

    Args:
        where: the file, for the message.
        sha256: hash that it has.
        expected: hash that it must have.
        who: says that.

    """
    if sha256 != expected:
        got, other = f"sha256 {sha256[:16]}", f"{expected[:16]}, as {who}"
        raise problem("other contents", where=where, got=got, expected=other, do=AGAIN)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say in one line that an archive, or a file in it, is damaged."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        SafetensorError,
        OSError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        NotImplementedError,
        struct.error,
    ) as error:
        raise problem(f"not a complete bundle ({error})", where=path, do=AGAIN) from error
