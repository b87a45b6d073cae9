"""What k components per tensor keep: explained variance, and agreement of the truncated networks."""

from __future__ import annotations

import pandas as pd

from weightspace.data.dataset import Dataset
from weightspace.evaluate.metrics import agreement, cosine
from weightspace.networks import Net
from weightspace.outputs import real_outputs
from weightspace.pca import TensorPca
from weightspace.spec import Weights

MEMBERS = 300  # val members are enough for a curve


def against_k(
    pca: TensorPca, net: Net, dataset: Dataset, members: pd.DataFrame, weights: Weights
) -> pd.DataFrame:
    """Curve over k = 1, 2, 4, ... up to all: columns ``k``, ``explained_variance``, ``agreement``, ``cosine``.

    Measured on val members and val images: k is a choice.
    """
    members = members.iloc[:MEMBERS]
    weights = {name: w[:MEMBERS] for name, w in weights.items()}
    tasks = members["task"].to_numpy()
    original = real_outputs(net, dataset, tasks, weights, "val")
    coefficients = pca(weights)
    most = max(pca.sizes)
    ks = sorted({min(2**i, most) for i in range(most.bit_length() + 1)})
    rows = []
    for k in ks:
        outputs = real_outputs(net, dataset, tasks, pca.inverse(coefficients, k), "val")
        rows.append(
            {
                "k": k,
                "explained_variance": pca.explained(k),
                "agreement": float(agreement(original, outputs).mean()),
                "cosine": float(cosine(original, outputs).mean()),
            }
        )
    return pd.DataFrame(rows)
