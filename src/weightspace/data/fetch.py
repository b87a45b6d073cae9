"""Public image files from their home: what arrives is what is expected, or nothing is written."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

from weightspace.artifacts import write_bytes
from weightspace.errors import nearest, problem

TIMEOUT = 60  # seconds without a byte
MOST_FETCHED_BYTES = 1 << 28  # of a file, packed and unpacked


class Files(NamedTuple):
    """Gzip files of an image set.

    Attributes:
        home: address of the folder that they are in.
        contents: file -> sha256 of its contents unpacked, which do not depend on the header.
        other: another way to get them.

    """

    home: str
    contents: dict[str, str]
    other: str


# Home and names: README of github.com/zalandoresearch/fashion-mnist. The Debian package has the same deflated
# bytes without name and time in the gzip headers; with them its files have the md5 sums of that README.
IMAGE_SETS = {
    "fashion-mnist": Files(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        {
            "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        "install the Debian package dataset-fashion-mnist (/usr/share/datasets/fashion-mnist)",
    )
}


def fetch(name: str, folder: Path, home: str | None = None) -> Iterator[str]:
    """Fetch the files of an image set that are not in a folder yet; a line for each of its files.

    Args:
        name: an entry of ``IMAGE_SETS``.
        folder: where they go; made if it is not there.
        home: another address of the folder that they are in.

    Raises:
        WeightspaceError: no such set, not reachable, or a file with other contents; it is not written,
            and one that was there before stays.

    """
    if name not in IMAGE_SETS:
        raise problem(f"no image set '{name}'", do=nearest(name, IMAGE_SETS))
    files = IMAGE_SETS[name]
    for file, expected in files.contents.items():
        path = folder / file
        if path.exists():
            _check(_read(path), expected, path, "remove it and run again")
            yield f"{path}: there already, as expected"
            continue
        address = f"{home or files.home}/{file}"
        data = _download(address, files.other)
        _check(data, expected, address, files.other)
        write_bytes(path, data)
        yield f"{path}: fetched"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise problem(f"cannot read ({error.strerror})", where=path, expected="a file") from error


def _download(address: str, other: str) -> bytes:
    """All bytes of an address."""
    try:
        with urlopen(address, timeout=TIMEOUT) as reply:
            size = reply.headers["Content-Length"]
            data: bytes = reply.read(MOST_FETCHED_BYTES)
    except (OSError, HTTPException, ValueError) as error:  # no network, no server, no such file
        if isinstance(error, HTTPError):
            error.close()  # it is the reply, too
        raise problem(f"cannot be fetched ({error})", where=address, do=other) from error
    if size is not None and len(data) != int(size):  # a read of so many bytes does not say it
        raise problem(
            "broke off", where=address, got=f"{len(data)} bytes", expected=size, do="run again"
        )
    return data


def _check(data: bytes, expected: str, where: object, do: str) -> None:
    """Compare the sha256 of the contents of a gzip file."""
    try:
        contents = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MOST_FETCHED_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise problem(f"no gzip file ({error})", where=where, do=do) from error
    actual = hashlib.sha256(contents).hexdigest()
    if actual != expected:
        raise problem(
            "other contents",
            where=where,
            got=f"sha256 {actual}",
            expected=f"{expected}, unpacked",
            do=do,
        )
