"""First compression: one exact principal component basis per named tensor.

``w ≈ mean + C V`` with orthonormal rows of ``V`` ``(k, d)``, fitted in float64 on train members.
Variances of batch normalisation are compressed as logarithms (``Spec.unconstrain``), so that any
coefficients give a network. On demand every network is aligned to one finished network first.
Source: Pearson (1901); computed from the covariance or, where there are fewer members than
entries, from the Gram matrix (Kirby and Sirovich 1990, "snapshot PCA").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from weightspace.alignment import align_all
from weightspace.artifacts import load_tensors, save_tensors
from weightspace.errors import problem
from weightspace.params import PcaSettings
from weightspace.spec import Spec, TensorSpec, Weights, take

CONSTANT, IDENTITY, PCA = "constant", "identity", "pca"
PART_BYTES = 1 << 26  # float64 bytes of all members that :func:`stream_components` holds at once


class TensorPca(nn.Module):
    """Weights <-> coefficients, tensor by tensor.

    A tensor that never varies is ``constant`` (no coefficient), a small one is kept as it is
    (``identity``), every other one is projected on its first components (``pca``).

    Args:
        spec: the architecture.
        modes: tensor name -> mode.
        counts: tensor name -> number of coefficients.
        align: reorder hidden units to match the reference before anything else.

    """

    reference: Tensor

    def __init__(
        self, spec: Spec, modes: Mapping[str, str], counts: Mapping[str, int], *, align: bool
    ) -> None:
        super().__init__()
        self.spec, self.modes, self.counts, self.align = spec, dict(modes), dict(counts), align
        self.register_buffer("reference", torch.zeros(1, spec.numel if align else 0))
        for i, t in enumerate(spec.tensors):
            self.register_buffer(f"mean{i}", torch.zeros(t.numel))
            self.register_buffer(f"components{i}", torch.zeros(counts[t.name], t.numel))
            self.register_buffer(f"variance{i}", torch.zeros(counts[t.name]))
            self.register_buffer(f"total{i}", torch.zeros(()))

    @property
    def features(self) -> int:
        """Number of coefficients of one network."""
        return sum(self.counts.values())

    @property
    def sizes(self) -> list[int]:
        """Number of coefficients of each tensor, in order."""
        return [self.counts[name] for name in self.spec.names]

    def forward(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Coefficients ``(N, features)`` of N networks."""
        if self.align:
            weights = align_all(self.spec, self.spec.unflatten(self.reference), weights)
        free = self.spec.unconstrain(weights)
        parts = [
            (free[t.name].flatten(1) - self._part("mean", i)) @ self._part("components", i).T
            for i, t in enumerate(self.spec.tensors)
        ]
        return torch.cat(parts, 1)

    def inverse(self, coefficients: Tensor, k: int | None = None) -> Weights:
        """Weights ``(N, *shape)`` of coefficients ``(N, features)``; of the first k per tensor."""
        out: Weights = {}
        for i, (t, c) in enumerate(
            zip(self.spec.tensors, coefficients.split(self.sizes, 1), strict=True)
        ):
            used = slice(0, k if self.modes[t.name] == PCA else None)
            flat = self._part("mean", i) + c[:, used] @ self._part("components", i)[used]
            out[t.name] = flat.reshape(-1, *t.shape)
        return self.spec.constrain(out)

    def scale(self) -> Tensor:
        """Root mean square of the coefficients of each tensor, ``(features,)``; 1 where zero."""
        parts = []
        for i, count in enumerate(self.sizes):
            if count:
                rms = self._part("variance", i).mean().sqrt()
                parts.append((rms if rms > 0 else torch.ones(())).expand(count))
        return torch.cat(parts)

    def variances(self) -> Tensor:
        """Variance of every coefficient over the members that were fitted, ``(features,)``."""
        return torch.cat([self._part("variance", i) for i in range(len(self.spec.tensors))])

    def table(self) -> pd.DataFrame:
        """One row per tensor: mode, entries, coefficients, share of variance explained."""
        rows = []
        for i, t in enumerate(self.spec.tensors):
            total = float(self._part("total", i))
            kept = float(self._part("variance", i).sum())
            share = kept / total if total > 0 else 1.0
            rows.append(
                {
                    "tensor": t.name,
                    "mode": self.modes[t.name],
                    "entries": t.numel,
                    "coefficients": self.counts[t.name],
                    "explained": share,
                }
            )
        return pd.DataFrame(rows)

    def explained(self, k: int) -> float:
        """Share of the variance of all tensors that k components per tensor explain."""
        kept = total = 0.0
        for i, name in enumerate(self.spec.names):
            used = slice(0, k if self.modes[name] == PCA else None)
            kept += float(self._part("variance", i)[used].sum())
            total += float(self._part("total", i))
        return kept / total if total > 0 else 1.0

    def _part(self, name: str, i: int) -> Tensor:
        out: Tensor = getattr(self, f"{name}{i}")
        return out

    def meta(self) -> dict[str, Any]:
        """What is needed to rebuild the module, JSON-ready."""
        sizes = {"modes": self.modes, "counts": self.counts, "align": self.align}
        return {"spec": self.spec.to_json(), **sizes}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> TensorPca:
        """Empty module of the same sizes; fill it with ``load_state_dict``."""
        spec = Spec.from_json(meta["spec"])
        return cls(spec, meta["modes"], meta["counts"], align=meta["align"])

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        save_tensors(path, "pca", self.state_dict(), self.meta())

    @classmethod
    def load(cls, path: Path) -> TensorPca:
        """Read what :meth:`save` wrote."""
        tensors, meta = load_tensors(path, "pca")
        pca = cls.from_meta(meta)
        pca.load_state_dict(tensors)
        return pca


class FeaturePca(nn.Module):
    """Exact PCA of any features ``(N, d)``; latents have a root mean square of 1.

    Args:
        features: d.
        latent: components; those beyond the rank of the features stay zero.

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
        x = x.double()
        mean = x.mean(0)
        components, variance = principal_components(x - mean, len(self.components))
        self.mean.copy_(mean)
        self.components.zero_()[: len(components)].copy_(components)
        self.scale.copy_((variance.sum() / len(self.components)).sqrt().clamp_min(1e-12))

    def forward(self, x: Tensor) -> Tensor:
        """Latents ``(N, latent)``."""
        return (x - self.mean) @ self.components.T / self.scale

    def inverse(self, z: Tensor, part: slice = slice(None)) -> Tensor:
        """Features ``(N, d)``, or some of them."""
        return self.mean[part] + self.scale * z @ self.components[:, part]


def fit_pca(spec: Spec, weights: Weights, settings: PcaSettings) -> TensorPca:
    """Fit a basis per tensor.

    Args:
        spec: the architecture.
        weights: train members ``(N, *shape)``; the last one is the reference of an alignment.
        settings: section ``pca`` of params.yaml.

    Raises:
        WeightspaceError: fewer than two members.

    """
    if spec.check(weights) < 2:
        raise problem(
            "too few train members for PCA",
            where="params.yaml: zoo.runs",
            found=spec.check(weights),
            expected="at least 2",
        )
    reference = take(weights, slice(-1, None))
    if settings.align:
        weights = align_all(spec, reference, weights)
    free = spec.unconstrain(weights)
    fits = {
        t.name: _fit_tensor(t, free[t.name].flatten(1).double(), settings) for t in spec.tensors
    }
    modes, counts = {n: f[0] for n, f in fits.items()}, {n: len(f[2]) for n, f in fits.items()}
    pca = TensorPca(spec, modes, counts, align=settings.align)
    if settings.align:
        pca.reference.copy_(spec.flatten(reference))
    for i, (_, mean, components, variance, total) in enumerate(fits.values()):
        values = {"mean": mean, "components": components, "variance": variance, "total": total}
        for name, value in values.items():
            getattr(pca, f"{name}{i}").copy_(value)
    return pca


def _fit_tensor(
    t: TensorSpec, x: Tensor, settings: PcaSettings
) -> tuple[str, Tensor, Tensor, Tensor, Tensor]:
    """Mode, mean ``(d,)``, components ``(k, d)``, variances ``(k,)`` and total of ``x`` (N, d)."""
    mean = x.mean(0)
    centred = x - mean
    total = centred.square().sum() / (len(x) - 1)
    if float((x.amax(0) - x.amin(0)).max()) == 0:
        return CONSTANT, mean, x.new_zeros(0, t.numel), x.new_zeros(0), torch.zeros_like(total)
    if t.numel < settings.identity_below:
        return (
            IDENTITY,
            mean,
            torch.eye(t.numel, dtype=x.dtype),
            centred.square().sum(0) / (len(x) - 1),
            total,
        )
    components, variance = principal_components(centred, settings.components)
    return PCA, mean, components, variance, total


def principal_components(centred: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """First k principal components of centred rows, exact, with deterministic signs.

    Args:
        centred: ``(N, d)``, columns of zero mean, float64.
        k: components asked for; no more than the rank ``min(N - 1, d)`` are returned.

    Returns:
        Orthonormal components ``(k, d)``, the largest entry of each positive, and their variances
        ``(k,)``, falling.

    """
    n, d = centred.shape
    k = min(k, n - 1, d)
    if d <= n:
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        components = vectors.flip(1)[:, :k].T
    else:  # Gram matrix: n x n instead of d x d
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        left = vectors.flip(1)[:, :k]
        components = torch.linalg.qr(centred.T @ left)[0].T  # qr removes the rounding of small ones
    variance = values.flip(0)[:k].clamp_min(0) / (n - 1)
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    return components * largest.sign(), variance


def stream_components(
    read: Callable[[slice], Tensor], members: int, shape: tuple[int, ...], k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """First k principal components of a tensor that is larger than memory, exact, read twice.

    The Gram matrix ``sum of X_b X_b^T`` over blocks of columns gives the left vectors ``U`` and the
    variances, then ``V_b = diag(s)^-1 U^T X_b`` block by block.

    Args:
        read: some rows of the tensor, ``(N, rows, ...)``, of all members.
        members: their number N.
        shape: shape of the tensor, its rows first.
        k: components asked for; no more than the rank of the centred members are returned.

    Returns:
        Mean ``(d,)`` and orthonormal components ``(k, d)``, float32, signs as those of
        :func:`principal_components`; variances ``(k,)``, float64, falling.

    """
    gram = torch.zeros(members, members, dtype=torch.float64)
    for _, x in _centred_parts(read, members, shape):
        gram.addmm_(x, x.T)
    values, vectors = (v.flip(-1) for v in torch.linalg.eigh(gram))
    tiny = values[0] * members * torch.finfo(values.dtype).eps
    rank = min(k, members - 1, int((values > tiny).sum()))
    left = (vectors[:, :rank] / values[:rank].sqrt()).T
    numel = torch.Size(shape).numel()
    mean, components = torch.empty(numel), torch.empty(rank, numel)
    place = 0
    for average, x in _centred_parts(read, members, shape):
        here = slice(place, place + len(average))
        mean[here], components[:, here] = average, left @ x
        place = here.stop
    for row in components:  # one at a time: the largest entry is positive
        row.mul_(row[row.abs().argmax()].sign())
    return mean, components, values[:rank] / (members - 1)


def _centred_parts(
    read: Callable[[slice], Tensor], members: int, shape: tuple[int, ...]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Mean ``(b,)`` and centred entries ``(N, b)`` of block after block, float64."""
    per_row = torch.Size(shape[1:]).numel()
    step = max(1, PART_BYTES // (8 * members * per_row))
    for start in range(0, shape[0], step):
        x = read(slice(start, min(start + step, shape[0]))).flatten(1).double()
        average = x.mean(0)
        yield average, x.sub_(average)
