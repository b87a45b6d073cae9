"""The only module that reads and writes artefacts.

Rules, all for the sake of identical bytes and safe caches:

* a file is written under a temporary name, synced and renamed, then its folder is synced: a reader
  sees the old file, the new one or none, also after a power cut, and a hard-linked DVC cache is
  never modified in place;
* tensors are safetensors with **one** metadata key of canonical JSON (with several keys the order,
  and so the bytes, differ between runs);
* every tensor file says its ``kind``, so that a foreign file is refused by name, and the SHA-256
  of all else in it, metadata and values, which is verified when it is opened; files of earlier
  versions without it are read, with a warning;
* names, types and shapes of its tensors are compared with what a reader expects before it takes
  any memory for them;
* tables have the checksum of each page that Parquet knows.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import itertools
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
from typing import Any, Protocol, TypeVar

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from weightspace.errors import WeightspaceError, printable, problem, shown
from weightspace.metadata import as_of_today, check_meta, format_of, parse_json

# What the stages leave below the data folder. No other module names these files.
DATASET_FOLDER, ZOO_FOLDER = Path("dataset"), Path("zoo")
IMAGES_FILE, TASKS_FILE = DATASET_FOLDER / "images.safetensors", DATASET_FOLDER / "tasks.parquet"
MEMBERS_FILE = ZOO_FOLDER / "members.parquet"  # next to it the shards, see zoo/store.py
OUTPUTS_FILES = {split: Path("outputs") / f"{split}.safetensors" for split in ("train", "val")}
PCA_FILE = Path("pca") / "pca.safetensors"
AUTOENCODER_FILE = Path("autoencoder") / "autoencoder.safetensors"
SHARED_ENCODER_FILE = Path("shared_encoder") / "shared_encoder.safetensors"
AUTOENCODER_CARD, SHARED_ENCODER_CARD = (
    path.with_name("card.json") for path in (AUTOENCODER_FILE, SHARED_ENCODER_FILE)
)
READOUT_FILE = Path("readout") / "readout.safetensors"
HYPERNETWORK_FILE = Path("hypernetwork") / "hypernetwork.safetensors"


def at_width(path: Path, width: float) -> Path:
    """The file of networks of one width of the zoo, beside that of width 1, whose name says none.

    >>> at_width(PCA_FILE, 1).name, at_width(PCA_FILE, 0.5).name
    ('pca.safetensors', 'pca@0.5.safetensors')
    """
    return path if width == 1 else path.with_stem(f"{path.stem}@{width:g}")


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
T = TypeVar("T")
M = TypeVar("M", bound=torch.nn.Module)
Piece = bytes | memoryview  # of a file
SETTLED = 2.0  # seconds after which a file's time tells every further change; 2 s is that of FAT
GIVEN_BYTES = 1 << 30  # that a checkpoint given by a person may unpack to
SOURCE_BYTES = 1 << 32  # that a file of images may unpack to; they take four times that in memory
READ_BYTES = 1 << 20  # of a file that are read at once
TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")  # names of files and folders that are being written
_swept: set[Path] = set()  # folders that this process has removed the remains of killed ones from
ABANDONED_DAYS = 7  # a killed run of the same code and settings may still be continued for so long


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: see :func:`write_pieces`."""
    write_pieces(path, [data])


def write_pieces(path: Path, pieces: Iterable[Piece]) -> None:
    """Write a file atomically: temporary name in the same folder, fsync, rename, fsync the folder."""
    temporary = _temporary(path)
    try:
        _make_folder(path.parent)
        if path.parent.absolute() not in _swept:
            remove_remains(path.parent)
        try:
            with temporary.open("wb") as file, held(temporary):
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _no_write(path, error) from error


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, and bring their names to the disk."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in made:
        sync_folder(path.parent)


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


def remove_remains(folder: Path) -> None:
    """Remove what killed processes were writing into a folder.

    A name is of a dead process when there is none of its number, and nobody holds it: another
    machine, or a container, may have a process of that number that this one cannot see.
    """
    _swept.add(folder.absolute())
    for path in sorted(folder.glob(".*.tmp")):
        match = TEMPORARY.fullmatch(path.name)
        if match and not _is_alive(int(match[1])):
            _remove_if_free(path, days=0)


def _is_alive(process: int) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def again(path: Path) -> str:
    """What to do about a missing or damaged file, by the place where it is."""
    for folder in (path.absolute(), *path.absolute().parents):
        if folder.name in ("data", "metrics") and (folder.parent / "params.yaml").is_file():
            return "run `dvc repro`, or `dvc checkout` to restore it from the cache"
    return "get the file again, or make it again with the command that wrote it"


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

    What killed processes were writing there is removed, too.
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
            remove_remains(target.parent)
            _make_folder(temporary)
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
    handle = None
    with suppress(OSError):  # of file systems without locks
        handle = lock(folder)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def remove_abandoned(parent: Path, pattern: str) -> None:
    """Remove work folders of earlier runs that nobody will continue, and say so in one line.

    Those are folders that no process holds (see :func:`lock`) and where nothing was written for
    ``ABANDONED_DAYS``: killed runs of other code or settings, for a later run of the same ones
    would have continued and removed them.

    Args:
        parent: folder of the work folders; it need not exist.
        pattern: their names.

    """
    removed = [
        folder for folder in sorted(parent.glob(pattern)) if _remove_if_free(folder, ABANDONED_DAYS)
    ]
    if removed:
        print(
            f"{shown(parent)}: removed {len(removed)} abandoned work folder(s), untouched for "
            f"{ABANDONED_DAYS} days and held by no process",
            file=sys.stderr,
        )


def _remove_if_free(path: Path, days: float) -> bool:
    """Remove what nobody holds or has touched for so many days; says whether it did."""
    if path.is_symlink():
        return False
    try:
        handle = lock(path)
    except OSError:  # another process was faster; another user's
        return False
    if handle is None:
        return False
    try:
        inside = path.iterdir() if path.is_dir() else ()
        last = max(entry.lstat().st_mtime for entry in (path, *inside))
        if time.time() - last < days * 24 * 60 * 60:
            return False
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        return not path.exists()
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
    entries: dict[str, Any] = {}
    stop = 0
    for name in names:
        start, stop = stop, stop + tensors[name].nbytes
        entries[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, stop],
        }
    try:
        known = parse_json(canonical({"kind": kind, **meta, **format_of(kind)}))
    except (ValueError, RecursionError) as error:
        raise problem(f"metadata of a '{kind}' cannot be written ({error})") from error
    known["sha256"] = _content_sha256(known, entries, (_bytes(tensors[name]) for name in names))
    check_meta(kind, known)
    header = {"__metadata__": {META_KEY: canonical(known)}, **entries}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    yield struct.pack("<Q", len(text)) + text
    yield from (_bytes(tensors[name]) for name in names)


def _bytes(tensor: Tensor) -> Piece:
    """Values of a tensor, in host memory."""
    x = tensor.detach().cpu().contiguous()
    flat = x.as_strided((x.numel(),), (1,))  # that of a single number may be any
    return flat.view(torch.uint8).numpy().data


def _content_sha256(
    meta: Mapping[str, Any], entries: Mapping[str, Any], values: Iterable[Piece]
) -> str:
    """SHA-256 of a tensor file without itself.

    Args:
        meta: metadata; its ``sha256``, if it is there, does not count.
        entries: type, shape and place of each tensor.
        values: all of them, in the order of the file.

    """
    rest = {k: v for k, v in meta.items() if k != "sha256"}
    return sha256_of(itertools.chain([canonical([rest, entries]).encode()], values))


def content_sha256(kind: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> str:
    """The hash that :func:`save_tensors` writes into the file; arguments as its."""
    header = next(tensor_pieces(kind, tensors, meta))
    entries = json.loads(bytes(header[8:]))
    sha256: str = json.loads(entries["__metadata__"][META_KEY])["sha256"]
    return sha256


def sha256_of(pieces: Iterable[Piece]) -> str:
    """SHA-256 of bytes that come piece by piece.

    >>> sha256_of([b"a", b"bc"]) == hashlib.sha256(b"abc").hexdigest()
    True
    """
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


class Archive(Protocol):
    """A file that is read as the folder of a project."""

    def read(self, name: str) -> bytes:
        """Content of a file in it, by its name below the folder; one that is missing is one line."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def tensors(self, name: str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of a file in it, as :func:`load_tensors` gives them.

        Args:
            name: of the file below the folder.
            kind: that it must have.

        """


_archives: dict[Path, Archive] = {}  # path of a file -> what reads it, in this process


def mount(path: Path, archive: Archive) -> None:
    """From now on read paths below a file, an absolute one, from what it holds."""
    _archives[path] = archive


def in_archive(path: Path) -> tuple[Archive, str] | None:
    """The archive that a path leads into and the name in it; None for any other path."""
    for folder in path.parents if _archives else ():
        if folder in _archives:
            return _archives[folder], path.relative_to(folder).as_posix()
    return None


def load_tensors(
    path: Path, kind: str, *, verify: bool = True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load a file written by :func:`save_tensors`, strictly; values are read where they are used.

    Args:
        path: the file.
        kind: that it must have.
        verify: compare all of it with its hash, see :func:`verify_file`.

    Raises:
        WeightspaceError: file missing, truncated, not safetensors, of another kind, or changed
            after it was written.

    """
    if inside := in_archive(path):
        return inside[0].tensors(inside[1], kind)
    meta = load_meta(path, kind)
    if verify:
        verify_file(path, meta)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118


def verify_file(path: Path, meta: Mapping[str, Any]) -> None:
    """Compare metadata and values of a tensor file with its hash, once in this process.

    A file without one, of an earlier version, is not refused: a line on standard error says so.

    Raises:
        WeightspaceError: it has another one.

    """
    if "sha256" not in meta:
        _warn_of_no_hash(path.absolute())
        return
    computed = once(path, "content", lambda: _sha256_of_file(path))
    if meta["sha256"] != computed:
        raise problem(
            "changed after it was written",
            where=path,
            got=f"sha256 {computed[:16]}",
            expected=str(meta["sha256"])[:16],
            do=again(path),
        )


@functools.cache  # a line for each file
def _warn_of_no_hash(path: Path) -> None:
    print(
        f"warning: {printable(shown(path))}: written by an earlier version without a hash, "
        "so nothing vouches for its bytes",
        file=sys.stderr,
    )


def stated_sha256(meta: Mapping[str, Any]) -> str:
    """The hash that metadata states, for people.

    >>> stated_sha256({"kind": "pca"})
    'no hash'
    """
    return str(meta.get("sha256", "no hash"))


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(size))
        meta = json.loads(entries.pop("__metadata__")[META_KEY])  # as it is, of any version
        pieces = iter(lambda: file.read(READ_BYTES), b"")
        return _content_sha256(meta, entries, pieces)


_seen: dict[tuple[str, str, int, int, int], Any] = {}  # of this process: see once


def once(path: Path, purpose: str, compute: Callable[[], T]) -> T:
    """What was computed of a file, once in this process while the file stays.

    A file counts as another one when its size, its time of change or its inode does; one that
    changed a moment ago is read at every call: a second change within the resolution of its time
    would not show.

    Args:
        path: the file.
        purpose: name of what is computed.
        compute: reads the file.

    """
    state = file_state(path)
    key = (purpose, str(path.absolute()), *state)
    if key not in _seen or time.time() - state[1] / 1e9 < SETTLED:
        _seen[key] = compute()
    result: T = _seen[key]
    return result


def file_state(path: Path) -> tuple[int, int, int]:
    """Size, time of change in nanoseconds and inode, by which a file counts as the same; 0 for none."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return 0, 0, 0
    return state.st_size, state.st_mtime_ns, state.st_ino


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read piece by piece, once in this process while the file stays."""
    if inside := in_archive(path):
        return hashlib.sha256(inside[0].read(inside[1])).hexdigest()

    def compute() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return once(path, "file", compute)


@contextmanager
def rebuilding(path: Path) -> Iterator[None]:
    """Say in one line that a model cannot be rebuilt from what its file holds.

    Raises:
        WeightspaceError: metadata or tensors are not those that this version writes.

    """
    try:
        yield
    except (
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
        MemoryError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise problem(
            "written by another version",
            where=path,
            got=f"{type(error).__name__}: {error}",
            do=f"{again(path)}, or install the version that wrote it",
        ) from error


Form = tuple[
    torch.dtype, tuple[int | str, ...]
]  # of a tensor; a letter is a size of the file's choice


def check_tensors(
    path: Path, tensors: Mapping[str, Tensor], forms: Mapping[str, Form], *, finite: bool = True
) -> None:
    """Refuse tensors of other names, types or shapes than expected, and NaN or infinity.

    Args:
        path: their file.
        tensors: name -> tensor.
        forms: name -> type and shape; the same letter is the same size, at least 1, in all of them.
        finite: refuse NaN and infinity.

    Raises:
        WeightspaceError: the first that differs, by name.

    >>> check_tensors(Path("x"), {"a": torch.ones(2, 2)}, {"a": (torch.float32, ("N", "N"))})
    >>> check_tensors(Path("x"), {"a": torch.ones(2, 3)}, {"a": (torch.float32, ("N", "N"))})
    Traceback (most recent call last):
        ...
    weightspace.errors.WeightspaceError: x: tensor 'a' of another type or shape; found F32 (2, 3), expected F32 (N=2, N=2)...

    """
    do = f"{again(path)}, or install the version that wrote it"
    if names := sorted(tensors.keys() ^ forms.keys()):
        state = "is missing" if names[0] in forms else "is unknown"
        raise problem(f"tensor '{names[0]}' {state}", where=path, do=do)
    sizes: dict[str, int] = {}
    for name, (dtype, shape) in forms.items():
        tensor = tensors[name]
        for size, letter in zip(tensor.shape, shape, strict=False):
            if isinstance(letter, str) and size:
                sizes.setdefault(letter, size)
        expected = tuple(sizes.get(size, 0) if isinstance(size, str) else size for size in shape)
        unknown = [size for size in shape if isinstance(size, str) and size not in sizes]
        if (tensor.dtype, tuple(tensor.shape)) != (dtype, expected) or unknown:
            raise problem(
                f"tensor '{name}' of another type or shape",
                where=path,
                got=_form(tensor.dtype, tensor.shape),
                expected=_form(dtype, [_size(size, sizes) for size in shape]),
                do=do,
            )
        if finite and not is_finite(tensor):
            raise problem(f"tensor '{name}' has NaN or infinity", where=path, do=again(path))


def _size(size: int | str, sizes: Mapping[str, int]) -> str:
    return f"{size}={sizes[size]}" if isinstance(size, str) and size in sizes else str(size)


def _form(dtype: torch.dtype, shape: Iterable[object]) -> str:
    return f"{DTYPES.get(dtype, dtype)} ({', '.join(map(str, shape))})"


def is_finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinity; takes room only where their sum is no number."""
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def finite_rows(x: Tensor) -> Tensor:
    """Which rows of ``(N, ...)`` have finite values only, bool ``(N,)``: by their sums, as :func:`is_finite`.

    >>> finite_rows(torch.tensor([[3e38, 3e38], [1.0, torch.nan], [torch.inf, -torch.inf]]))
    tensor([ True, False, False])
    """
    rows = x.flatten(1)
    finite = rows.sum(1).isfinite()
    for row in (~finite).nonzero()[:, 0].tolist():  # a sum of large numbers may be no number
        finite[row] = rows[row].isfinite().all()
    return finite


def forms_of(tensors: Mapping[str, Tensor]) -> dict[str, Form]:
    """Types and shapes of tensors, for :func:`check_tensors`."""
    return {name: (x.dtype, tuple(x.shape)) for name, x in tensors.items()}


def fill_module(path: Path, tensors: Mapping[str, Tensor], build: Callable[[], M]) -> M:
    """A module as its file says, filled with the tensors of the file.

    It is built without memory first: metadata may claim any size, and a file may hold few numbers.

    Args:
        path: the file.
        tensors: of the file.
        build: makes an empty module by the file's metadata.

    Raises:
        WeightspaceError: the module has other tensors, or it cannot be built.

    """
    with rebuilding(path):
        with torch.device("meta"):
            forms = forms_of(build().state_dict())
        check_tensors(path, tensors, forms)
        module = build()
        module.load_state_dict(dict(tensors))
    return module


def load_meta(path: Path, kind: str) -> dict[str, Any]:
    """Metadata of a file written by :func:`save_tensors`, as this version writes it.

    Errors are those of :func:`load_tensors`.
    """
    if not path.is_file():
        raise problem(
            "file is missing", where=path, expected=f"a '{kind}' artefact", do=again(path)
        )
    meta = read_meta(path)
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
            do=again(path),
        )
    meta = as_of_today(kind, meta, path)
    check_meta(kind, meta, path, again(path))
    return meta


def read_meta(path: Path) -> dict[str, Any] | None:
    """Metadata of a safetensors file; None where another program wrote it."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(META_KEY)
        meta = None if text is None else parse_json(text)
    except (SafetensorError, OSError, ValueError) as error:
        raise problem(
            f"not a complete safetensors file ({error})", where=path, do=again(path)
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
            do=again(path),
        ) from error
    return out


def finite(value: Any) -> Any:
    """Make metrics fit for JSON: six significant digits, None for NaN and infinity.

    >>> finite({"loss": 1 / 3, "control": float("nan")})
    {'loss': 0.333333, 'control': None}
    """
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
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
        inside = in_archive(path)
        content = inside[0].read(inside[1]) if inside else path.read_bytes()
        data = parse_json(content.decode())
    except FileNotFoundError as error:
        raise problem("file is missing", where=path, do="run `make repro`") from error
    except (OSError, ValueError) as error:
        raise problem(f"not JSON ({error})", where=path, do=again(path)) from error
    if not isinstance(data, dict):
        raise problem("not a table of JSON", where=path, got=type(data).__name__, do=again(path))
    return data


@contextmanager
def structured(path: Path) -> Iterator[None]:
    """Say in one line that a file of figures has another structure than this version writes.

    Raises:
        WeightspaceError: a figure or a column is missing, or of another type.

    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise problem(
            "figures of another structure, or cut off",
            where=path,
            got=f"{type(error).__name__}: {error}",
            do=again(path),
        ) from error


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write plot data: comma separated, five significant digits."""
    write_bytes(path, table.to_csv(index=False, float_format="%.5g", lineterminator="\n").encode())


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, bytes stable for one version of pyarrow, checksums in each page."""
    write_bytes(path, table.to_parquet(index=False, compression="zstd", write_page_checksum=True))


def read_parquet(path: Path, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a Parquet table and verify that the expected columns are there."""
    inside = in_archive(path)
    if not inside and not path.is_file():
        raise problem("file is missing", where=path, expected="a Parquet table", do=again(path))
    source = io.BytesIO(inside[0].read(inside[1])) if inside else path
    try:
        table = pd.read_parquet(source, page_checksum_verification=True)
    except Exception as error:  # the reader fails in many ways; each means a damaged file
        raise problem(
            f"not an undamaged Parquet table ({error})", where=path, do=again(path)
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
