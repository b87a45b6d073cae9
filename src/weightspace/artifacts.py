"""The only module that reads and writes artefacts.

Rules, all for the sake of identical bytes and safe caches:

* a file is written under a temporary name, synced and renamed, then its folder is synced: a reader
  sees the old file, the new one or none, also after a power cut, and a hard-linked DVC cache is
  never modified in place;
* tensors are safetensors with **one** metadata key of canonical JSON (with several keys the order,
  and so the bytes, differ between runs);
* every tensor file says its ``kind``, so that a foreign file is refused by name.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import shutil
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from weightspace.errors import WeightspaceError, problem

# What the stages leave below the data folder. No other module names these files.
DATASET_FOLDER, ZOO_FOLDER = Path("dataset"), Path("zoo")
IMAGES_FILE, TASKS_FILE = DATASET_FOLDER / "images.safetensors", DATASET_FOLDER / "tasks.parquet"
MEMBERS_FILE = ZOO_FOLDER / "members.parquet"  # next to it the shards, see zoo/store.py
OUTPUTS_FILES = {split: Path("outputs") / f"{split}.safetensors" for split in ("train", "val")}
PCA_FILE = Path("pca") / "pca.safetensors"
AUTOENCODER_FILE = Path("autoencoder") / "autoencoder.safetensors"
SHARED_ENCODER_FILE = Path("shared_encoder") / "shared_encoder.safetensors"
READOUT_FILE = Path("readout") / "readout.safetensors"

META_KEY = "weightspace"
# Types of tensors and their names in a safetensors file, in the order in which it holds them
DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
Piece = bytes | memoryview  # of a file
SETTLED = 2.0  # seconds after which a file's time tells every further change; 2 s is that of FAT
GIVEN_BYTES = 1 << 30  # that a file given by a person may unpack to; four times that in memory
MINUTE, DAY = 60.0, 24 * 60 * 60.0  # in seconds
ABANDONED_DAYS = 7  # a killed run of the same code and settings may still be continued for so long


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: see :func:`write_pieces`."""
    write_pieces(path, [data])


def write_pieces(path: Path, pieces: Iterable[Piece]) -> None:
    """Write a file atomically: temporary name in the same folder, fsync, rename, fsync the folder."""
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _no_write(path, error) from error


def _temporary(path: Path) -> Path:
    """Hidden name next to a file or folder that this process writes."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _no_write(path: Path, error: OSError) -> WeightspaceError:
    return problem(
        f"cannot write: {error.strerror}",
        where=path,
        do="free space or fix access, then run again",
    )


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: before, a power cut may undo a rename or a link."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # that of file systems without such an operation
            raise _no_write(folder, error) from error
    finally:
        os.close(handle)


def check_new(out: Path) -> None:
    """Refuse a name that :func:`new_folder` could not use, before anything is computed."""
    with _hidden(out):
        pass


def check_file(out: Path, is_earlier: Callable[[Path], bool], inputs: Iterable[Path] = ()) -> None:
    """Refuse a file that must not be written over, before anything is computed.

    Args:
        out: the file to write; a new one, or one that the same command wrote before.
        is_earlier: says of an existing file whether the same command wrote it.
        inputs: files that the command reads; ``out`` may be none of them.

    Raises:
        WeightspaceError: a folder, an input, a file of something else, or no file can be written.

    """
    new = "give the name of a new file"
    try:
        folder = next(parent for parent in out.absolute().parents if parent.exists())
        probe = folder / _temporary(out.absolute()).name
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _no_write(out, error) from error
    if out.is_dir():
        raise problem("is a folder", where=out, do=new)
    if out.is_symlink() and not out.exists():
        raise problem("is a link to nothing", where=out, do=new)
    if not out.exists():
        return
    if any(path.exists() and out.samefile(path) for path in inputs):
        raise problem("is an input of this command, which would write over it", where=out, do=new)
    if not is_earlier(out):
        raise problem("is there, and this command did not write it", where=out, do=new)


def begins(pattern: str) -> Callable[[Path], bool]:
    """For :func:`check_file`: says whether the beginning of a file matches a regular expression."""

    def matches(path: Path) -> bool:
        with path.open("rb") as file:
            head = file.read(4096).decode(errors="replace")
        return re.match(pattern, head) is not None

    return matches


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Fill a folder all or nothing: a hidden one next to it, renamed when the block ends well.

    Args:
        out: the folder; it may exist if it is empty.

    Yields:
        The folder to write to.

    Raises:
        WeightspaceError: ``out`` is a file, is not empty, or cannot be written; said before the
            block is entered.

    """
    with _hidden(out) as temporary:
        yield temporary
        with _writing(out):
            temporary.replace(out)
            sync_folder(out.absolute().parent)


@contextmanager
def _hidden(out: Path) -> Iterator[Path]:
    """Make the hidden folder that becomes ``out``; what is left of it at the end is removed.

    Hidden folders of the same name that killed processes left are removed, too.
    """
    target, missing = out.absolute(), []
    temporary = _temporary(target)
    try:
        with _writing(out):
            if out.is_symlink() or (out.exists() and not out.is_dir()):
                raise problem("is not a folder", where=out, do="give the name of a new folder")
            if out.is_dir() and any(out.iterdir()):
                raise problem("folder is not empty", where=out, do="give a new one, or empty it")
            missing = [parent for parent in target.parents if not parent.exists()]
            remove_abandoned(target.parent, f".{glob.escape(out.name)}.[0-9]*.tmp", MINUTE)
            temporary.mkdir(parents=True)
        with held(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            for parent in missing:  # those that are empty again
                parent.rmdir()


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Say in one line that a folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise problem(
            f"cannot write: {error.strerror}", where=out, do="choose another folder"
        ) from error


def lock(folder: Path) -> int | None:
    """Handle that holds a folder until it is closed or the process ends, however; None if held."""
    import fcntl  # not on every system, and needed for work folders only

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder of this process, so that :func:`remove_abandoned` leaves it alone."""
    handle = lock(folder)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def remove_abandoned(parent: Path, pattern: str, seconds: float = ABANDONED_DAYS * DAY) -> None:
    """Remove work folders of earlier runs that nobody will continue, and say so in one line.

    Those are folders that no process holds (see :func:`lock`) and where nothing was written for
    ``ABANDONED_DAYS``: killed runs of other code or settings, for a later run of the same ones
    would have continued and removed them.

    Args:
        parent: folder of the work folders; it need not exist.
        pattern: their names.
        seconds: how long nothing was written there.

    """
    folders = sorted(parent.glob(pattern))
    removed = [folder for folder in folders if _remove_if_abandoned(folder, seconds)]
    if removed:
        print(
            f"{parent}: removed {len(removed)} abandoned work folder(s) that no process holds",
            file=sys.stderr,
        )


def _remove_if_abandoned(folder: Path, seconds: float) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        handle = lock(folder)
    except (FileNotFoundError, PermissionError):  # another process was faster; another user's
        return False
    if handle is None:
        return False
    try:
        last = max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))
        if time.time() - last < seconds:
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()
    finally:
        os.close(handle)


def canonical(data: Any) -> str:
    """Canonical JSON text: sorted keys, no spaces, no NaN.

    >>> canonical({"b": [1, 2], "a": None})
    '{"a":null,"b":[1,2]}'
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def save_tensors(
    path: Path, kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Save named tensors with JSON metadata as one safetensors file of stable bytes.

    Args:
        path: file to write.
        kind: what it is; :func:`load_tensors` refuses a file of another kind.
        tensors: name -> tensor.
        meta: further metadata, JSON-ready.

    """
    write_pieces(path, tensor_pieces(kind, tensors, meta))


def tensor_pieces(
    kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> Iterator[Piece]:
    """Bytes of the file that :func:`save_tensors` writes: its header, then tensor after tensor.

    ``safetensors`` itself would hold all of them twice in addition to the tensors.

    Args:
        kind: what the file is.
        tensors: name -> tensor.
        meta: further metadata, JSON-ready.

    """
    names = sorted(tensors, key=lambda name: (list(DTYPES).index(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": {META_KEY: canonical({"kind": kind, **meta})}}
    stop = 0
    for name in names:
        start, stop = stop, stop + tensors[name].nbytes
        header[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, stop],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    yield struct.pack("<Q", len(text)) + text
    for name in names:
        x = tensors[name].detach().cpu().contiguous()
        flat = x.as_strided((x.numel(),), (1,))  # that of a single number may be any
        yield flat.view(torch.uint8).numpy().data


def sha256_of(pieces: Iterable[Piece]) -> str:
    """SHA-256 of bytes that come piece by piece.

    >>> sha256_of([b"a", b"bc"]) == hashlib.sha256(b"abc").hexdigest()
    True
    """
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load a file written by :func:`save_tensors`, strictly; values are read where they are used.

    Raises:
        WeightspaceError: file missing, truncated, not safetensors, or of another kind.

    """
    meta = load_meta(path, kind)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118


_hashes: dict[tuple[str, int, int, int], str] = {}  # of this process: see file_sha256


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read piece by piece, and once in this process while the file stays.

    A file counts as another one when its size, its time of change or its inode does; one that
    changed a moment ago is read at every call.
    """
    state = path.stat()
    key = (str(path.absolute()), state.st_size, state.st_mtime_ns, state.st_ino)
    if key not in _hashes or time.time() - state.st_mtime < SETTLED:
        with path.open("rb") as file:
            _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]


@contextmanager
def rebuilding(path: Path) -> Iterator[None]:
    """Say in one line that a model cannot be rebuilt from what its file holds.

    Raises:
        WeightspaceError: metadata or tensors are not those that this version writes.

    """
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise problem(
            "written by another version",
            where=path,
            got=f"{type(error).__name__}: {error}",
            do="make it again: run `dvc repro`, or install the version that wrote it",
        ) from error


def load_meta(path: Path, kind: str) -> dict[str, Any]:
    """Metadata of a file written by :func:`save_tensors`; errors as those of :func:`load_tensors`."""
    again = "run `dvc repro`, or `dvc checkout` to restore it from the cache"
    if not path.is_file():
        raise problem("file is missing", where=path, expected=f"a '{kind}' artefact", do=again)
    meta = read_meta(path, again)
    if meta is None:
        raise problem(
            "no weightspace metadata",
            where=path,
            got="a foreign safetensors file",
            expected=f"a '{kind}' artefact",
        )
    if meta.get("kind") != kind:
        raise problem(
            "artefact of another kind",
            where=path,
            got=f"'{meta.get('kind')}'",
            expected=f"'{kind}'",
            do=again,
        )
    return meta


def read_meta(path: Path, do: str | None = None) -> dict[str, Any] | None:
    """Metadata of a safetensors file; None where another program wrote it."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(META_KEY)
        meta = None if text is None else json.loads(text)
    except (SafetensorError, OSError, ValueError) as error:
        raise problem(
            f"not a complete safetensors file ({error})",
            where=path,
            do=do,
        ) from error
    if meta is not None and not isinstance(meta, dict):
        raise problem("metadata is not a table", where=path, got=type(meta).__name__)
    return meta


def load_part(path: Path, name: str, part: slice) -> Tensor:
    """Part of one tensor of a batch of networks, without reading the rest of the file.

    Args:
        path: file that :func:`save_tensors` wrote.
        name: name of a tensor ``(N, rows, ...)``.
        part: range of its rows, the second axis.

    Returns:
        ``(N, part, ...)``, a view of the file that is read where it is used.

    """
    try:
        with safe_open(path, framework="pt") as file:
            out: Tensor = file.get_slice(name)[:, part]
    except (SafetensorError, OSError) as error:
        raise problem(
            f"cannot read tensor '{name}' ({error})",
            where=path,
            do="run `dvc repro`, or `dvc checkout` to restore it from the cache",
        ) from error
    return out


def finite(value: Any) -> Any:
    """Make metrics fit for JSON: six significant digits, None for NaN and infinity.

    >>> finite({"loss": 1 / 3, "control": float("nan")})
    {'loss': 0.333333, 'control': None}
    """
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        return value
    value = float(value)
    return float(f"{value:.6g}") if math.isfinite(value) else None


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write metrics: sorted keys, indented, missing values as null."""
    text = json.dumps(finite(data), indent=2, sort_keys=True, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing or damaged file is one clear line."""
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise problem("file is missing", where=path, do="run `make repro`") from error
    except ValueError as error:
        raise problem(
            f"not JSON ({error})", where=path, do="run `dvc repro`, or restore it with git"
        ) from error
    return data


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write plot data: comma separated, five significant digits."""
    write_bytes(path, table.to_csv(index=False, float_format="%.5g", lineterminator="\n").encode())


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, bytes stable for one version of pyarrow."""
    write_bytes(path, table.to_parquet(index=False, compression="zstd"))


def read_parquet(path: Path, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a Parquet table and verify that the expected columns are there."""
    if not path.is_file():
        raise problem(
            "file is missing", where=path, expected="a Parquet table", do="run `dvc repro`"
        )
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise problem(
            f"not a Parquet table ({error})", where=path, do="run `dvc repro`, or `dvc checkout`"
        ) from error
    missing = [c for c in columns if c not in table]
    if missing:
        raise problem("table lacks columns", where=path, got=list(table), expected=list(columns))
    return table


def check_archive(path: Path, most: int) -> list[str]:
    """Names in a zip archive, if it unpacks to at most ``most`` bytes; nothing is unpacked.

    Raises:
        WeightspaceError: not an archive, or too large.

    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise problem(f"not a complete archive ({error})", where=path) from error
    if size > most:
        raise problem(
            "archive is too large",
            where=path,
            got=f"{size} bytes unpacked",
            expected=f"at most {most}",
        )
    return names
