"""Pictures for README, docs and the report, drawn from the plot data that the pipeline leaves in git."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, StrMethodFormatter

from weightspace.artifacts import structured, write_bytes
from weightspace.errors import problem

mpl.use("Agg")

INK, ACCENT, SOFT = "#1b2a41", "#d1495b", "#7a8ca3"
RESULTS = ("accuracy_scatter.csv", "calibration.csv", "latent_heatmap.csv")
SVG: Any = {"svg.fonttype": "none", "svg.hashsalt": "weightspace", "font.size": 10}


def draw_all(root: Path) -> None:
    """Draw ``docs/pictures/results.png``: accuracy through the autoencoder, calibration, heat map."""
    plots = root / "metrics" / "plots"
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    for part, name in zip(axes, RESULTS, strict=True):
        table = _read(plots / name)
        with structured(plots / name):
            _draw(part, name, table)
    out = root / "docs" / "pictures" / "results.png"
    file = io.BytesIO()
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)
    write_bytes(out, file.getvalue())


def draw_plot(path: Path) -> bytes:
    """One file of ``metrics/plots`` as SVG; its name is a key of :data:`PLOTS`."""
    table = _read(path)
    with mpl.rc_context(SVG), structured(path):
        figure, axes = plt.subplots(figsize=(4.6, 3.7), layout="constrained")
        try:
            _draw(axes, path.name, table)
            return as_svg(figure)
        finally:
            plt.close(figure)


def _draw(axes: Axes, name: str, table: pd.DataFrame) -> None:
    """Draw a table; text in place of numbers, of which matplotlib makes categories, is an error."""
    PLOTS[name](axes, table)
    if axes.xaxis.have_units() or axes.yaxis.have_units():
        raise ValueError("text in place of numbers")


def as_svg(figure: Figure) -> bytes:
    """Close a figure and give it as SVG, the same bytes each time."""
    with mpl.rc_context(SVG):
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    return file.getvalue()


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise problem("plot data is missing", where=path, do="run `make repro` first")
    with structured(path):
        text = path.read_text(encoding="utf-8")
        commas = {line.count(",") for line in text.splitlines()}
        if len(commas) != 1 or not text.endswith("\n"):
            raise ValueError("a row was cut off")
        return pd.read_csv(io.StringIO(text))


def _scatter(axes: Axes, table: pd.DataFrame) -> None:
    """Accuracy before and after the autoencoder, with the fitted line."""
    x, y = table["original"].to_numpy(), table["reconstructed"].to_numpy()
    axes.plot([0, 1], [0, 1], color=SOFT, lw=1, label="identity")
    axes.scatter(x, y, s=9, alpha=0.45, color=INK, lw=0)
    if x.std() > 0:
        slope, offset = np.polyfit(x, y, 1)
        r2 = np.corrcoef(x, y)[0, 1] ** 2 if y.std() > 0 else 0.0
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, slope * ends + offset, color=ACCENT, lw=2, label=f"fit, $R^2$ = {r2:.3f}")
    axes.set(
        title="Reconstruction (refined): accuracy in and out",
        xlabel="test accuracy of the original",
        ylabel="test accuracy of the reconstruction",
        xlim=(0.2, 1.02),
        ylim=(0.0, 1.02),
    )
    axes.legend(loc="upper left", frameon=False)


def _calibration(axes: Axes, table: pd.DataFrame) -> None:
    """Achieved result of sampled networks against the target."""
    low, high = table["target"].min(), table["target"].max()
    axes.plot([low, high], [low, high], color=SOFT, lw=1, label="achieved = target")
    axes.fill_between(
        table["target"],
        table["q10"],
        table["q90"],
        color=INK,
        alpha=0.15,
        lw=0,
        label="draws in one pass, 10-90 %",
    )
    axes.plot(table["target"], table["single"], "o-", color=INK, label="draws in one pass, mean")
    axes.plot(
        table["target"],
        table["best_of_n"],
        "s-",
        color=ACCENT,
        label="chosen among n of them, mean",
    )
    axes.set(
        title="Drawn in one pass for unseen class sets",
        xlabel="target",
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


def _losses(name: str, title: str, label: str) -> Callable[[Axes, pd.DataFrame], None]:
    """What draws one loss over epochs, on train and on val.

    Args:
        name: of the loss in the table, after ``train_`` and ``val_``.
        title: of the plot.
        label: of the axis, with the unit.

    """

    def draw(axes: Axes, table: pd.DataFrame) -> None:
        axes.plot(table["epoch"], table[f"train_{name}"], color=INK, label="train")
        axes.plot(table["epoch"], table[f"val_{name}"], color=ACCENT, label="val")
        if table[[f"train_{name}", f"val_{name}"]].to_numpy().min() > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
        axes.set(title=title, xlabel="epoch", ylabel=label)
        axes.legend(frameon=False)

    return draw


def _over_epochs(axes: Axes, table: pd.DataFrame) -> None:
    """Likeness of originals and reconstructions by age of the network, on two kinds of inputs."""
    for score, colour in (("cosine", INK), ("correlation", SOFT), ("agreement", ACCENT)):
        axes.plot(table["epoch"], table[f"real_{score}"], "o-", color=colour, label=score)
        axes.plot(table["epoch"], table[f"random_{score}"], "o--", color=colour, alpha=0.7)
    axes.set(
        title="Outputs of originals and reconstructions",
        xlabel="epochs of training (median of the snapshot)",
        ylabel="solid: test images, dashed: random inputs",
        ylim=(min(0.0, axes.get_ylim()[0]), 1.03),
    )
    axes.legend(frameon=False)


def _components(axes: Axes, table: pd.DataFrame) -> None:
    """What PCA alone keeps, by the count of its components."""
    for name, colour in (("explained_variance", SOFT), ("agreement", ACCENT), ("cosine", INK)):
        axes.plot(table["k"], table[name], "o-", color=colour, label=name.replace("_", " "))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set(
        title="PCA alone, on val networks",
        xlabel="components of each tensor",
        ylabel="fraction of variance, or score",
    )
    axes.legend(frameon=False)


# Every file of plot data, in the order of the pipeline -> what draws it.
PLOTS: dict[str, Callable[[Axes, pd.DataFrame], None]] = {
    "pca_against_k.csv": _components,
    "autoencoder_loss.csv": _losses("loss", "Autoencoder: loss while it is fitted", "loss"),
    "outputs_over_epochs.csv": _over_epochs,
    "accuracy_scatter.csv": _scatter,
    "shared_encoder_loss.csv": _losses(
        "nt_xent", "Shared encoder: contrastive loss", "NT-Xent (nats)"
    ),
    "latent_heatmap.csv": _heat_map,
    "calibration.csv": _calibration,
}
