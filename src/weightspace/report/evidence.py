"""Tables of what `make evidence` measured: baselines and controls that take too long for every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from weightspace.artifacts import read_json, structured
from weightspace.report import markdown
from weightspace.report.tables import baselines_table, with_interval

FILE = Path("benchmarks") / "evidence.json"
STARTS = {
    "draw": "draws",
    "d_only": "latents drawn without R",
    "r_only": "latents drawn without D",
}
CHANGES = {
    "none": "none: drawn in one pass",
    "units": "hidden units scaled to a member's norms; outputs stay",
    "norms": "tensors scaled to a member's norms",
    "lost_0.25": "a quarter of what reconstruction loses of a member added",
    "lost_0.5": "half of it",
    "lost_1": "all of it",
}
SIDES = {"images": "images of the classes", "one_hot": "a one-hot vector for each class"}


def tables(root: Path) -> str:
    """All parts that were measured, each with its time and the code behind it."""
    path = root / FILE
    if not path.is_file():
        return "Not measured yet: `make evidence`."
    makers: dict[str, Callable[[Any], str]] = {
        "baselines": _baselines,
        "against_steps": _steps,
        "weights": _weights,
        "lookup": _lookup,
    }
    with structured(path):
        parts = read_json(path)
        texts = [
            f"{make(parts[name]['figures'])}\n\n{_origin(parts[name])}"
            for name, make in makers.items()
            if name in parts
        ]
    return "\n\n".join(texts)


def _origin(part: dict[str, Any]) -> str:
    """A sentence on the time a part took, and on what."""
    seconds = part["seconds"]
    took = "" if seconds is None else f"{seconds / 60:.0f} minutes on {part['machine']}; "
    text = f"{took}code `{part['code']}`, seed {part['seed']}."
    return f"*{text[0].upper()}{text[1:]}*"


def _baselines(figures: dict[str, Any]) -> str:
    return markdown.table(baselines_table(figures, "test_sets"))


def _steps(rows: list[dict[str, Any]]) -> str:
    """R2 and mean absolute error against the number of steps, a row for each start."""
    numbers = list(dict.fromkeys(row["steps"] for row in rows))
    known = {(row["start"], row["steps"]): row for row in rows}
    body = []
    for start, name in STARTS.items():
        some = [known[start, n] for n in numbers if (start, n) in known]
        body.append([name, *(f"{row['r2_identity']:.3f} ({row['mae']:.3f})" for row in some)])
        body.append(["rate", *(f"{row['rate']:g}" if "rate" in row else "" for row in some)])
    head = ["R2 (MAE) after so many gradient steps from", *map(str, numbers)]
    gradients = ", ".join(f"{known['draw', n]['image_gradients']:,.0f}" for n in numbers)
    return f"{markdown.rows(head, body)}\n\nLabelled image-gradients of a network: {gradients}."


def _weights(rows: list[dict[str, Any]]) -> str:
    """Draws whose weights were changed: how they follow requests, and what tells them from members."""
    told = ("auc_outputs", "auc_weights", "auc_weights_linear", "auc_matched", "auc_matched_linear")
    body = [
        [
            CHANGES[row["change"]],
            with_interval(row, "r2_identity"),
            f"{row['accuracy_at_top_mean']:.3f}",
            *(f"{row[key]:.3f}" for key in told),
        ]
        for row in rows
    ]
    head = ["change of the weights", "R2 (95 %)", "mean at the highest target", "AUC by outputs"]
    head += ["by norms, trees", "linear", "by matched weights, trees", "linear"]
    return markdown.rows(head, body)


def _lookup(figures: dict[str, dict[str, float]]) -> str:
    """Draws by images of the classes, and by their numbers alone."""
    body = []
    for key, name in SIDES.items():
        f = figures[key]
        top = next(value for k, value in f.items() if k.endswith("_at_top_mean"))
        body.append([name, with_interval(f, "r2_identity"), f"{f['mae']:.3f}", f"{top:.3f}"])
    return markdown.rows(["D is", "R2 (95 %)", "MAE", "mean at the highest target"], body)
