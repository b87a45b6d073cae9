"""Published bundles from their address: what arrives has the expected hash, or nothing is written.

Needs the extra ``weightspace[fetch]``.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from weightspace.artifacts import READ_BYTES, file_sha256, write_bytes
from weightspace.bundles.archive import check_sha256
from weightspace.bundles.locate import ENDING
from weightspace.data.fetch import TIMEOUT
from weightspace.errors import problem
from weightspace.metadata import check_names

SHA256 = re.compile(r"[0-9a-f]{64}")


def is_address(name: str) -> bool:
    """Whether a name is an address: of the web, or a DOI.

    >>> [is_address(x) for x in ("https://example.org/a.bundle", "doi:10.1/x/a.bundle", "digits")]
    [True, True, False]
    """
    return "://" in name or name.startswith("doi:")


def fetch_bundle(address: str, sha256: str | None, folder: Path) -> str:
    """Fetch a bundle to a folder, unless it is there; a line that says so.

    Args:
        address: of the file, ``https://...`` or ``doi:...``.
        sha256: hash that it must have.
        folder: where it goes; made if it is not there.

    Raises:
        WeightspaceError: no hash, not reachable, or other contents; nothing is written then, and a
            file that was there before stays.

    """
    name = PurePosixPath(address.partition("?")[0]).name
    check_names([name], "address")
    if not name.endswith(ENDING):
        raise problem(f"not the address of a {ENDING} file", where=address, got=name)
    if sha256 is None or not SHA256.fullmatch(sha256):
        raise problem(
            "the hash of the file is needed", where="--sha256", got=sha256, expected="64 hex digits"
        )
    path = folder / name
    if path.exists():
        check_sha256(path, file_sha256(path), sha256, "was asked for")
        return f"{path}: there already, as expected"
    write_bytes(path, _downloaded(address, sha256, name))
    return f"{path}: fetched; use it with --root {path}"


def _downloaded(address: str, sha256: str, name: str) -> bytes:
    """Content of a file that has the hash.

    Args:
        address: of the file.
        sha256: that it must have.
        name: of the file.

    """
    if find_spec("pooch") is None:
        raise problem(
            "fetching a bundle needs the extra 'fetch'",
            got="no package pooch",
            do="pip install 'weightspace[fetch]', or in the project's folder pip install '.[fetch]'",
        )
    import pooch

    pooch.get_logger().setLevel("WARNING")
    http = _http if address.startswith("http") else None  # of others pooch knows what to use
    with TemporaryDirectory() as folder:
        try:
            file = Path(pooch.retrieve(address, None, name, folder, downloader=http))
        except (OSError, ValueError) as error:  # no network, no server, no such file or protocol
            raise problem(f"cannot be fetched ({error})", where=address, do="try again") from error
        check_sha256(address, file_sha256(file), sha256, "was asked for")
        return file.read_bytes()


def _http(address: str, out: str, _: object) -> None:
    """Download a file as pooch does, and close the connection whatever happens.

    Args:
        address: of the file.
        out: where it goes.

    """
    import requests

    with requests.get(address, stream=True, timeout=TIMEOUT) as reply, Path(out).open("wb") as file:
        reply.raise_for_status()
        for piece in reply.iter_content(READ_BYTES):
            file.write(piece)
