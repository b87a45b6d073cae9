"""First compression: one exact principal component basis per named tensor.

``w ≈ mean + C V`` with orthonormal rows of ``V`` ``(k, d)``, fitted in float64 on train members,
tensor by tensor and part by part from disk: the number of members is not bounded by memory.
Variances of batch normalisation are compressed as logarithms (``Spec.unconstrain``), so that any
coefficients give a network. On demand every network is aligned to one finished network first.
Source: Pearson (1901); computed from the covariance or, where there are fewer members than
entries, from the Gram matrix (Kirby and Sirovich 1990, "snapshot PCA").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from weightspace.artifacts import (
    again,
    check_tensors,
    content_sha256,
    forms_of,
    held,
    load_part,
    load_tensors,
    rebuilding,
    remove_abandoned,
    save_tensors,
)
from weightspace.errors import problem, shown
from weightspace.params import PcaSettings
from weightspace.weights.matching import align
from weightspace.weights.spec import Spec, TensorSpec, Weights, to_device

CPU = torch.device("cpu")
CONSTANT, IDENTITY, PCA = "constant", "identity", "pca"
PART_BYTES = 1 << 27  # weights read at once
BLOCK_BYTES = 1 << 22  # of them, what is worked on at once, as float64
STRIPS = 4  # of a Gram matrix: of 1, 2 and 4 the fastest for 256 members
ALIGNED = "aligned-"  # first part of the names of folders with aligned copies
MIN_COLUMNS = 1024  # fewer would leave a large Gram matrix no work between its updates

# A range of members, a tensor's name, a range of its rows -> values (N, rows, ...)
Read = Callable[[slice, str, slice], Tensor]


class TensorPca(nn.Module):
    """Weights <-> coefficients, tensor by tensor; empty until :meth:`fill` gives it its basis.

    A tensor that never varies is ``constant`` (no coefficient), a small one is kept as it is
    (``identity``), every other one is projected on its first components (``pca``). The basis is in no
    ``state_dict``: it is many times larger than what holds it, which names it by the hash of its
    file.

    Args:
        spec: the architecture.
        modes: tensor name -> mode.
        counts: tensor name -> number of coefficients.
        align: reorder hidden units to match the reference before anything else.

    >>> spec = Spec("example", (TensorSpec("weight", (3,), "parameter", (None,)),))
    >>> line = torch.linspace(-1, 1, 5)[:, None] * torch.tensor([1.0, 2.0, 2.0])  # one direction
    >>> settings = PcaSettings(components=2, identity_below=0, align="none")
    >>> pca = fit_pca(spec, {"weight": line + 7}, settings)
    >>> pca.modes, pca.counts, round(pca.explained(1), 6)
    ({'weight': 'pca'}, {'weight': 1}, 1.0)
    >>> torch.allclose(pca.inverse(pca({"weight": line + 7}))["weight"], line + 7)
    True

    """

    reference: Tensor
    variance0: Tensor

    def __init__(
        self, spec: Spec, modes: Mapping[str, str], counts: Mapping[str, int], *, align: bool
    ) -> None:
        super().__init__()
        self.spec, self.modes, self.counts, self.align = spec, dict(modes), dict(counts), align
        self.known_sha256 = ""  # of its file, once it is known
        shapes: dict[str, tuple[int, ...]] = {"reference": (1, spec.numel if align else 0)}
        for i, t in enumerate(spec.tensors):
            k = counts[t.name]
            shapes |= {f"mean{i}": (t.numel,), f"components{i}": (k, t.numel)}
            shapes |= {f"variance{i}": (k,), f"total{i}": ()}
        for name, shape in shapes.items():
            few = name.startswith(("variance", "total"))  # the basis itself takes no room yet
            empty = torch.zeros(shape) if few else torch.zeros(shape, device="meta")
            self.register_buffer(name, empty, persistent=False)

    @property
    def features(self) -> int:
        """Number of coefficients of one network."""
        return sum(self.counts.values())

    @property
    def sizes(self) -> list[int]:
        """Number of coefficients of each tensor, in order."""
        return [self.counts[name] for name in self.spec.names]

    def forward(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Coefficients ``(N, features)`` of N networks, computed where the basis is."""
        free = self.spec.unconstrain(self.aligned(weights))
        parts = [
            (free[t.name].flatten(1) - self._part("mean", i)) @ self._part("components", i).T
            for i, t in enumerate(self.spec.tensors)
        ]
        return torch.cat(parts, 1)

    def aligned(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Networks ``(N, *shape)`` with their hidden units in the order that the components expect."""
        weights = to_device(weights, self.reference.device)
        if not self.align:
            return weights
        return align(self.spec, self.spec.unflatten(self.reference), weights)

    def inverse(self, coefficients: Tensor, k: int | None = None) -> Weights:
        """Weights ``(N, *shape)`` of coefficients ``(N, features)``; of the first k per tensor."""
        mean = [self._part("mean", i) for i in range(len(self.spec.tensors))]
        return self._along(mean, coefficients, k)

    def moved(self, start: Tensor, coefficients: Tensor) -> Weights:
        """Networks ``(N, *shape)`` that start at one network and move along the components.

        Args:
            start: all entries of the network, free of constraints (``Spec.unconstrain``), flat
                ``(numel,)``.
            coefficients: how far to move along each component ``(N, features)``.

        """
        parts = start.split([t.numel for t in self.spec.tensors])
        return self._along(parts, coefficients, None)

    def _along(self, start: Sequence[Tensor], coefficients: Tensor, k: int | None) -> Weights:
        out: Weights = {}
        split = coefficients.split(self.sizes, 1)
        for i, (t, origin, c) in enumerate(zip(self.spec.tensors, start, split, strict=True)):
            used = slice(0, k if self.modes[t.name] == PCA else None)
            flat = torch.addmm(origin, c[:, used], self._part("components", i)[used])
            out[t.name] = flat.reshape(-1, *t.shape)
        return self.spec.constrain(out)

    def scale(self) -> Tensor:
        """Root mean square of the coefficients of each tensor, ``(features,)``; 1 where zero."""
        if self.variance0.is_meta:  # of a module without values only shapes are asked for
            return torch.empty(self.features, device="meta")
        parts = []
        for i, count in enumerate(self.sizes):
            if count:
                rms = self._part("variance", i).mean().sqrt()
                parts.append(torch.where(rms > 0, rms, torch.ones_like(rms)).expand(count))
        return torch.cat(parts)

    def variances(self) -> Tensor:
        """Variance of every coefficient over the members that were fitted, ``(features,)``."""
        return torch.cat([self._part("variance", i) for i in range(len(self.spec.tensors))])

    def table(self) -> pd.DataFrame:
        """One row per tensor: mode, entries, coefficients, fraction of the variance explained."""
        rows = []
        for i, t in enumerate(self.spec.tensors):
            total = float(self._part("total", i))
            covered = float(self._part("variance", i).sum())
            rows.append(
                {
                    "tensor": t.name,
                    "mode": self.modes[t.name],
                    "entries": t.numel,
                    "coefficients": self.counts[t.name],
                    "explained": covered / total if total > 0 else 1.0,
                }
            )
        return pd.DataFrame(rows)

    def explained(self, k: int) -> float:
        """Fraction of the variance of all tensors that k components per tensor explain."""
        covered = total = 0.0
        for i, name in enumerate(self.spec.names):
            used = slice(0, k if self.modes[name] == PCA else None)
            covered += float(self._part("variance", i)[used].sum())
            total += float(self._part("total", i))
        return covered / total if total > 0 else 1.0

    def _part(self, name: str, i: int) -> Tensor:
        out: Tensor = getattr(self, f"{name}{i}")
        return out

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of the basis, by name."""
        return dict(self.named_buffers())

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take these tensors as the basis, without a copy."""
        for name, tensor in tensors.items():
            setattr(self, name, tensor)

    @property
    def sha256(self) -> str:
        """Hash in the file that holds this basis, or that :meth:`save` would write."""
        if not self.known_sha256:
            self.known_sha256 = content_sha256("pca", self.tensors, self._sizes())
        return self.known_sha256

    def _sizes(self) -> dict[str, Any]:
        sizes = {"modes": self.modes, "counts": self.counts, "align": self.align}
        return {"spec": self.spec.to_json(), **sizes}

    def meta(self) -> dict[str, Any]:
        """Sizes and hash, JSON-ready: what refers to this basis without holding it."""
        return {"sha256": self.sha256, **self._sizes()}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> TensorPca:
        """Empty module of the same sizes; :meth:`fill` or :meth:`find` gives it its basis."""
        spec = Spec.from_json(meta["spec"])
        pca = cls(spec, meta["modes"], meta["counts"], align=meta["align"])
        pca.known_sha256 = meta.get("sha256", "")
        return pca

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        save_tensors(path, "pca", self.tensors, self._sizes())

    @classmethod
    def load(cls, path: Path) -> TensorPca:
        """Read what :meth:`save` wrote: the file is mapped to memory, read where it is used."""
        tensors, meta = load_tensors(path, "pca")
        with rebuilding(path), torch.device("meta"):
            pca = cls.from_meta(meta)
        check_tensors(path, tensors, forms_of(pca.tensors))
        pca.fill(tensors)
        return pca

    def find(self, path: Path, where: Path) -> None:
        """Take the basis that :meth:`meta` referred to from its file.

        Args:
            path: file that :meth:`save` wrote.
            where: file with the reference, for the message.

        Raises:
            WeightspaceError: no such file, or another basis.

        """
        other = TensorPca.load(path)
        if self.known_sha256 and other.sha256 != self.known_sha256:
            raise problem(
                f"was fitted with another PCA than that of {shown(path)}",
                where=where,
                got=f"sha256 {other.sha256[:16]}",
                expected=self.known_sha256[:16],
                do=again(where),
            )
        check_tensors(path, other.tensors, forms_of(self.tensors))
        self.fill(other.tensors)


class FeaturePca(nn.Module):
    """Exact PCA of any features ``(N, d)``; latents have a root mean square of 1.

    Args:
        features: d.
        latent: components; those beyond the rank of the features stay zero.

    >>> pca = FeaturePca(features=3, latent=2)
    >>> line = torch.linspace(-1, 1, 5)[:, None] * torch.tensor([1.0, 2.0, 2.0])
    >>> pca.fit(line)
    >>> pca(line).shape, torch.allclose(pca.inverse(pca(line)), line, atol=1e-6)
    (torch.Size([5, 2]), True)

    """

    mean: Tensor
    components: Tensor
    scale: Tensor

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("components", torch.zeros(latent, features))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set mean, components and scale from ``(N, d)``, computed in float64."""
        features = TensorSpec("features", tuple(self.mean.shape), "parameter", (None,))
        settings = PcaSettings(components=len(self.components), identity_below=0, align="none")
        fit = fit_tensor(features, lambda who, _, rows: x[who, rows], len(x), settings)
        self.mean.copy_(fit.mean)
        self.components.zero_()[: len(fit.components)].copy_(fit.components)
        self.scale.copy_((fit.variance.sum() / len(self.components)).sqrt().clamp_min(1e-12))

    def forward(self, x: Tensor) -> Tensor:
        """Latents ``(N, latent)``."""
        return (x - self.mean) @ self.components.T / self.scale

    def inverse(self, z: Tensor, part: slice = slice(None)) -> Tensor:
        """Features ``(N, d)``, or some of them."""
        return self.mean[part] + self.scale * z @ self.components[:, part]


def fit_pca(spec: Spec, weights: Weights, settings: PcaSettings) -> TensorPca:
    """Fit a basis per tensor to networks in memory: see :func:`stream_pca`.

    Args:
        spec: the architecture.
        weights: train members, tensors ``(N, *shape)``.
        settings: section ``pca`` of params.yaml.

    >>> spec = Spec("example", (TensorSpec("bias", (2,), "parameter", (None,)),))
    >>> weights = {"bias": torch.tensor([[1.0, 5.0], [3.0, 5.0]])}
    >>> pca = fit_pca(spec, weights, PcaSettings(components=1, identity_below=0, align="none"))
    >>> pca(weights).flatten().tolist(), pca.variances().tolist()
    ([-1.0, 1.0], [2.0])

    """
    return stream_pca(
        spec, lambda who, name, rows: weights[name][who, rows], spec.check(weights), settings
    )


def stream_pca(
    spec: Spec,
    read: Read,
    members: int,
    settings: PcaSettings,
    scratch: Path | None = None,
    device: torch.device = CPU,
) -> TensorPca:
    """Fit a basis per tensor to networks that need not fit in memory.

    Held at once: the result, ``min(N, d)^2`` numbers of the tensor at work, and some 100 MB. Every
    tensor is read twice, with ``pca.align`` once more: whole networks are then aligned block by
    block and the copies wait on disk.

    Args:
        spec: the architecture.
        read: reads any part of the train members; the last one is the reference of an alignment.
        members: their number N.
        settings: section ``pca`` of params.yaml.
        scratch: folder for aligned copies of the train members, removed afterwards; those that a
            killed process left are removed, too (see :func:`remove_abandoned`).
        device: where bases are computed, and where they are afterwards.

    Raises:
        WeightspaceError: fewer than two members.

    >>> spec = Spec("example", (TensorSpec("bias", (2,), "parameter", (None,)),))
    >>> weights = {"bias": torch.tensor([[1.0, 5.0], [3.0, 5.0]])}
    >>> read = lambda who, name, rows: weights[name][who, rows]  # or from a file
    >>> pca = stream_pca(spec, read, 2, PcaSettings(components=1, identity_below=0, align="none"))
    >>> pca.inverse(torch.tensor([[0.0], [2.0]]))
    {'bias': tensor([[2., 5.],
            [4., 5.]])}

    """
    if members < 2:
        raise problem(
            "too few train members for PCA",
            where="params.yaml: zoo.runs",
            got=members,
            expected="at least 2",
        )
    matching = settings.align == "matching"
    reference = {name: read(slice(members - 1, members), name, slice(None)) for name in spec.names}
    if scratch is not None:
        remove_abandoned(scratch, f"{ALIGNED}*")
    with TemporaryDirectory(dir=scratch, prefix=ALIGNED) as folder, held(Path(folder)):
        if matching:
            read = _align_copies(spec, reference, read, members, Path(folder))
        moved = _on(device, read)
        fits = {t.name: fit_tensor(t, moved, members, settings) for t in spec.tensors}
    sizes = {name: len(fit.variance) for name, fit in fits.items()}
    modes = {name: fit.mode for name, fit in fits.items()}
    state = {
        f"{part}{i}": getattr(fit, part).float().contiguous()
        for i, fit in enumerate(fits.values())
        for part in ("mean", "components", "variance", "total")
    }
    state["reference"] = spec.flatten(reference) if matching else torch.zeros(1, 0)
    pca = TensorPca(spec, modes, sizes, align=matching)
    pca.fill(state)
    return pca.to(device)


def _on(device: torch.device, read: Read) -> Read:
    """Reads onto a device."""
    return lambda who, name, rows: read(who, name, rows).to(device)


def _align_copies(spec: Spec, reference: Weights, read: Read, members: int, folder: Path) -> Read:
    """Align block after block of entire networks; reads the copies, one file per block.

    Args:
        spec: the architecture.
        reference: one network, tensors ``(1, *shape)``.
        read: reads the originals.
        members: their number N.
        folder: where the copies go.

    Returns:
        As ``read``, of the copies.

    """
    size = max(1, PART_BYTES // (4 * spec.numel))
    for start in range(0, members, size):
        who = slice(start, min(start + size, members))
        block = {name: read(who, name, slice(None)) for name in spec.names}
        save_tensors(folder / f"{start}.safetensors", "aligned", align(spec, reference, block), {})

    def read_copies(who: slice, name: str, rows: slice) -> Tensor:
        first, stop, _ = who.indices(members)
        pieces = [
            load_part(folder / f"{start}.safetensors", name, rows)[
                max(first - start, 0) : stop - start
            ]
            for start in range(first // size * size, stop, size)
        ]
        return torch.cat(pieces)

    return read_copies


@dataclass(frozen=True)
class Fit:
    """Basis of one tensor.

    Attributes:
        mode: constant, identity or pca.
        mean: ``(d,)``.
        components: ``(k, d)``, orthonormal, the largest entry of each positive.
        variance: ``(k,)``, of each coefficient; falling where the mode is pca.
        total: variance of all entries together.

    >>> Fit(CONSTANT, torch.ones(3), torch.zeros(0, 3), torch.zeros(0), torch.zeros(())).mode
    'constant'

    """

    mode: str
    mean: Tensor
    components: Tensor
    variance: Tensor
    total: Tensor


def fit_tensor(t: TensorSpec, read: Read, members: int, settings: PcaSettings) -> Fit:
    """Fit one tensor; reads it twice, or once where it has no more entries than there are members.

    Args:
        t: the tensor, of d entries.
        read: reads any part of the members.
        members: their number N.
        settings: section ``pca`` of params.yaml.

    >>> values = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    >>> bias = TensorSpec("bias", (2,), "parameter", (None,))
    >>> settings = PcaSettings(components=1, identity_below=0, align="none")
    >>> fit = fit_tensor(bias, lambda who, name, rows: values[who, rows], 3, settings)
    >>> fit.mode, fit.mean.tolist(), [round(x, 6) for x in fit.components[0].tolist()]
    ('pca', [3.0, 4.0], [0.6, 0.8])

    """
    if t.numel > members and t.numel >= settings.identity_below:
        return _fit_gram(t, read, members, settings.components)
    mean, scatter = _scatter(t, read, members)
    covariance = scatter / (members - 1)
    total, variance = covariance.trace(), covariance.diagonal()
    if total == 0:
        return Fit(CONSTANT, mean, mean.new_zeros(0, t.numel), variance[:0], total)
    if t.numel < settings.identity_below:
        identity = torch.eye(t.numel, dtype=mean.dtype, device=mean.device)
        return Fit(IDENTITY, mean, identity, variance, total)
    values, vectors = _eigen(covariance, min(settings.components, members - 1))
    components = vectors.T
    return Fit(PCA, mean, _signs(components)[:, None] * components, values, total)


def _scatter(t: TensorSpec, read: Read, members: int) -> tuple[Tensor, Tensor]:
    """Mean ``(d,)`` and ``sum of (x - mean)(x - mean)^T`` ``(d, d)``, from blocks of members.

    The first member is subtracted, exactly: what never varies gives zeros, and a large mean costs
    no digits. Arguments as those of :func:`fit_tensor`.
    """
    origin = t.unconstrain(read(slice(0, 1), t.name, slice(None))).flatten().double()
    first, second = torch.zeros_like(origin), origin.new_zeros(t.numel, t.numel)
    size = max(1, PART_BYTES // (8 * t.numel))
    for start in range(0, members, size):
        part = read(slice(start, min(start + size, members)), t.name, slice(None))
        x = t.unconstrain(part).flatten(1).double() - origin
        first += x.sum(0)
        second.addmm_(x.T, x)
    shift = first / members
    return origin + shift, second.sub_(members * torch.outer(shift, shift))


def _fit_gram(t: TensorSpec, read: Read, members: int, k: int) -> Fit:
    """A tensor with more entries than there are members, by the Gram matrix ``X X^T`` ``(N, N)``.

    Summed over blocks of columns it gives the left vectors U and the variances; block by block
    again, ``V = diag(s)^-1 U^T X``. As U is orthogonal to ones, X may be centred at any member.
    Directions of small variance lose digits to the large ones; a Cholesky factor of ``V V^T``
    makes them orthonormal again.

    Args:
        t: the tensor, of d entries.
        read: reads any part of the members.
        members: their number N.
        k: components at most.

    """
    gram = _gram(t, read, members)
    centred = gram - gram.mean(0)
    centred -= centred.mean(1, keepdim=True)
    total = centred.trace() / (members - 1)
    if not gram.any():
        mean = t.unconstrain(read(slice(0, 1), t.name, slice(None))).flatten()
        return Fit(CONSTANT, mean, mean.new_zeros(0, t.numel), gram.new_zeros(0), total)
    values, vectors = _eigen(centred, min(k, members - 1))
    vectors -= vectors.mean(0)
    left = torch.cat([(vectors / values.sqrt()).T, gram.new_full((1, members), 1 / members)])
    mean = torch.empty(t.numel, device=gram.device)
    components = torch.empty(len(values), t.numel, device=gram.device)
    inner, start = gram.new_zeros(len(values), len(values)), 0
    for origin, x in _columns(t, read, members):
        columns, rows = slice(start, start + len(origin)), left @ x  # (k + 1, b)
        mean[columns], components[:, columns] = origin + rows[-1], rows[:-1]
        inner.addmm_(rows[:-1], rows[:-1].T)
        start = columns.stop
    turn = torch.linalg.inv(torch.linalg.cholesky(inner))
    turn *= _signs(components)[:, None]
    for part in components.split(_block(len(values)), 1):
        part.copy_(turn @ part.double())
    return Fit(PCA, mean, components, values / (members - 1), total)


def _gram(t: TensorSpec, read: Read, members: int) -> Tensor:
    """Inner products ``(N, N)`` of members minus the first, strip by strip above the diagonal.

    In float64: float32 products summed in float64 were 1.3 to 3.5 times as fast on a busy machine and
    left the error of 32 components the same to 1e-12 of itself, but the product is off by 1e-8 to
    7e-8 of its largest entry, which hides directions of less variance than that. Arguments as those of
    :func:`fit_tensor`.
    """
    gram = torch.zeros(members, members, dtype=torch.float64)
    height = -(-members // STRIPS)
    for _, x in _columns(t, read, members):
        gram = gram.to(x.device)
        for i in range(0, members, height):
            gram[i : i + height, i:].addmm_(x[i : i + height], x[i:].T)
    return gram.triu() + gram.triu(1).T


def _columns(t: TensorSpec, read: Read, members: int) -> Iterator[tuple[Tensor, Tensor]]:
    """First member ``(b,)`` and all members minus the first ``(N, b)``, block after block, float64.

    A block is small enough for a processor's cache, where it is converted; it is valid until the
    next one. Arguments as those of :func:`fit_tensor`.
    """
    per_row = torch.Size(t.shape[1:]).numel()
    step = max(1, PART_BYTES // (4 * members * per_row))
    for start in range(0, t.shape[0], step):
        rows = slice(start, min(start + step, t.shape[0]))
        part = t.unconstrain(read(slice(0, members), t.name, rows)).flatten(1)
        for piece in part.split(_block(members), 1):
            origin = piece[0].double()
            yield origin, piece.double() - origin


def _block(rows: int) -> int:
    """Columns of a block of so many rows."""
    return max(MIN_COLUMNS, BLOCK_BYTES // (8 * rows))


def _eigen(symmetric: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """First k eigenvalues, falling, and eigenvectors ``(n, k)``; fewer where the rank is lower."""
    values, vectors = (v.flip(-1) for v in torch.linalg.eigh(symmetric))
    tiny = values[0] * len(values) * torch.finfo(values.dtype).eps
    rank = min(k, int((values > tiny).sum()))
    return values[:rank], vectors[:, :rank].contiguous()


def _signs(components: Tensor) -> Tensor:
    """Sign of the largest entry of each row ``(k,)``, so that bases do not depend on the solver."""
    return torch.stack([row[row.abs().argmax()].sign() for row in components]).double()
