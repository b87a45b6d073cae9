"""Pictures for README and docs, drawn from the plot data that the pipeline leaves in git."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from weightspace.errors import problem

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

INK, ACCENT, SOFT = "#1b2a41", "#d1495b", "#7a8ca3"


def draw_all(root: Path) -> None:
    """Draw ``docs/pictures/results.png``: accuracy through the codec, calibration, heat map."""
    plots = root / "metrics" / "plots"
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    _scatter(axes[0], _read(plots / "accuracy_scatter.csv"))
    _calibration(axes[1], _read(plots / "calibration.csv"))
    _heat_map(axes[2], _read(plots / "latent_heatmap.csv"))
    out = root / "docs" / "pictures" / "results.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise problem("plot data is missing", where=path, do="run `make repro` first")
    return pd.read_csv(path)


def _scatter(axes: Axes, table: pd.DataFrame) -> None:
    """Accuracy before and after the codec, with the fitted line."""
    x, y = table["original"].to_numpy(), table["reconstructed"].to_numpy()
    axes.plot([0, 1], [0, 1], color=SOFT, lw=1, label="identity")
    axes.scatter(x, y, s=9, alpha=0.45, color=INK, lw=0)
    if x.std() > 0:
        slope, offset = np.polyfit(x, y, 1)
        r2 = np.corrcoef(x, y)[0, 1] ** 2 if y.std() > 0 else 0.0
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, slope * ends + offset, color=ACCENT, lw=2, label=f"fit, $R^2$ = {r2:.3f}")
    axes.set(
        title="Reconstruction: accuracy in and out",
        xlabel="test accuracy of the original",
        ylabel="test accuracy of the reconstruction",
        xlim=(0.2, 1.02),
        ylim=(0.0, 1.02),
    )
    axes.legend(loc="upper left", frameon=False)


def _calibration(axes: Axes, table: pd.DataFrame) -> None:
    """Achieved against asked result of sampled networks."""
    low, high = table["asked"].min(), table["asked"].max()
    axes.plot([low, high], [low, high], color=SOFT, lw=1, label="achieved = asked")
    axes.fill_between(
        table["asked"],
        table["q10"],
        table["q90"],
        color=INK,
        alpha=0.15,
        lw=0,
        label="single draws, 10-90 %",
    )
    axes.plot(table["asked"], table["single"], "o-", color=INK, label="single draws, mean")
    axes.plot(table["asked"], table["best_of_n"], "s-", color=ACCENT, label="best of n, mean")
    axes.set(
        title="Sampling for unseen class sets",
        xlabel="asked result",
        ylabel="achieved on test images",
    )
    axes.legend(loc="upper left", frameon=False)


def _heat_map(axes: Axes, table: pd.DataFrame) -> None:
    """Cosine of latents of networks against projections of conditions."""
    order = table["condition"].drop_duplicates()
    matrix = table.pivot(index="weights_of", columns="condition", values="cosine").loc[order, order]
    image = axes.imshow(matrix.to_numpy(), cmap="RdBu", vmin=-1, vmax=1)
    axes.set(
        title="Latents against projections of (D, R)",
        xlabel="condition (one task each)",
        ylabel="network trained on",
        xticks=[],
        yticks=[],
    )
    axes.figure.colorbar(image, ax=axes, label="cosine", shrink=0.85)
