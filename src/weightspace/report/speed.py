"""Table of speeds, from the committed results of the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weightspace.artifacts import read_json
from weightspace.report import markdown

NETS = {"mlp": "MLP", "cnn": "CNN", "cnn-batch-norm": "CNN with batch normalisation"}
RATES = {
    "draw": "draw in one pass and decode",
    "draw_guided": "draw, guide, decode",
    "encode": "encode in one pass",
    "encode_refined": "encode, refined",
    "decode": "decode",
    "run_on_270_images": "run on 270 images",
}


def table(root: Path) -> str:
    """Rates of training, of PCA and of the trained models."""
    training, pca, rates = (
        read_json(root / "benchmarks" / f"{name}.json")
        for name in ("zoo_training", "pca", "throughput")
    )
    body = [_training(name, training[key]) for key, name in NETS.items()]
    body += [
        [f"networks per second: {name}", _spread(rates[key]), ""] for key, name in RATES.items()
    ]
    body += _pca(pca)
    machine = f"{rates['machine']}, Python {rates['python']}, torch {rates['torch']}"
    title = f"{machine}; medians of several rounds, [lowest, highest]."
    return f"{title}\n\n{markdown.rows(['what', 'figure', 'compared with'], body)}"


def _training(name: str, figures: dict[str, Any]) -> list[str]:
    rate, single, factor = (_spread(figures[k]) for k in ("at_once", "one_by_one", "speedup"))
    text = f"one by one {single}: {factor} times"
    return [f"training steps of a run per second (batch 64, Adam): {name}", rate, text]


def _spread(figures: dict[str, float]) -> str:
    median, low, high = (
        f"{figures[key]:,.3g}" if figures[key] < 100 else f"{figures[key]:,.0f}"
        for key in ("median", "min", "max")
    )
    return f"{median} [{low}, {high}]"


def _pca(figures: dict[str, Any]) -> list[list[str]]:
    """PCA of networks on disk, and of some of their tensors, beside scikit-learn's."""
    names = {
        "all_tensors": f"seconds: PCA of {figures['members']} networks of {figures['entries']:,} numbers, "
        f"k = {figures['k']}, from disk",
        "some_tensors": f"seconds: {len(figures['some_tensors']['names'])} of their tensors",
    }
    body = []
    for key, name in names.items():
        ours, other = figures[key]["ours"], figures[key]["incremental"]
        shown = f"{_seconds(ours)}, {ours['peak_gib']:.1f} GiB"
        text = f"scikit-learn's IncrementalPCA {_seconds(other)}, {other['peak_gib']:.1f} GiB: "
        body.append([name, shown, f"{text}{figures[key]['speedup']:.0f} times"])
    return body


def _seconds(figures: dict[str, Any]) -> str:
    keys = {"median": "seconds", "min": "seconds_min", "max": "seconds_max"}
    return _spread({name: figures[key] for name, key in keys.items()})
