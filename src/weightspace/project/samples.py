"""Sampled networks: what they achieve, and the folder that is left of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from weightspace.artifacts import new_folder, write_bytes, write_json, write_parquet
from weightspace.data.images import GivenTask
from weightspace.weights.spec import Weights

if TYPE_CHECKING:
    from weightspace.project.project import Project


@dataclass(frozen=True)
class Samples:
    """Sampled networks and what each achieves.

    Attributes:
        project: the pipeline that drew them.
        task: the dataset they were drawn for.
        weights: tensors ``(N, *shape)``.
        table: one row per network: request and measured results.

    """

    project: Project
    task: GivenTask
    weights: Weights
    table: pd.DataFrame

    @property
    def measured_on(self) -> str:
        """Part that the report is about: test, or train where nothing could be held out."""
        return self.task.parts[-1]

    def summary(self) -> dict[str, float]:
        """Mean, median, lowest and highest result, and mean distance from the request."""
        got = self.table[f"{self.measured_on}_{self.project.result}"]
        off = (got - self.table["asked"]).abs().mean()
        names = ("mean", "median", "min", "max")
        return {k: float(getattr(got, k)()) for k in names} | {"distance": float(off)}

    def warnings(self) -> list[str]:
        """What a reader of the figures must know: request or images unlike those of training."""
        out, (low, high) = [], self.project.trained_range
        if self.table["outside_trained_range"].iloc[0]:
            asked = float(self.table["asked"].iloc[0])
            out.append(
                f"the {self.project.result} asked for, {asked:g}, is outside the trained range "
                f"{low:.3f} to {high:.3f}; the nearest end of it was sampled"
            )
        far = {k: v for k, v in self.project.class_distances(self.task).items() if v > 1}
        if far:
            listed = ", ".join(f"{name} ({value:.1f})" for name, value in far.items())
            out.append(
                f"images unlike those of training: {listed} times as far from the nearest training "
                "class as training classes are from one another at most"
            )
        return out

    def report(self) -> dict[str, Any]:
        """Everything that was asked, done and measured, JSON-ready."""
        first, task, project = self.table.iloc[0], self.task, self.project
        return {
            "request": {
                "result": project.result,
                "asked": float(first["asked"]),
                "trained_range": dict(zip(("low", "high"), project.trained_range, strict=True)),
                "outside_trained_range": bool(first["outside_trained_range"]),
                "networks": len(self.table),
                "best_of": int(first["best_of"]),
                "fine_tune_epochs": int(first["fine_tune_epochs"]),
                "reestimate": bool(first["reestimate"]),
                "seed": int(first["seed"]),
            },
            "data": {
                "source": task.source,
                "classes": ",".join(task.classes),
                "images_per_class": task.images_per_class,
                "class_distances": project.class_distances(task),
                "notes": "; ".join(task.notes),
            },
            "measured": {
                "part": self.measured_on,
                **self.summary(),
                "warnings": "; ".join(self.warnings()) or "none",
            },
            "provenance": project.provenance(),
        }

    def save(self, out: Path | str) -> Path:
        """Write one safetensors file per network, the table, the report and a model card.

        Args:
            out: a new or empty folder; it is filled completely or not at all.

        """
        out, report = Path(out), self.report()
        same = {k: report[k] for k in ("request", "data", "provenance")}
        same["classes"] = list(self.task.classes)
        columns = [c for c in self.table if str(c).startswith(self.task.parts)]
        info = [same | {"measured": row} for row in self.table[columns].to_dict("records")]
        with new_folder(out) as folder:
            self.project.save(folder, list(self.table["file"]), self.weights, info)
            write_parquet(folder / "samples.parquet", self.table)
            write_json(folder / "report.json", report)
            write_bytes(folder / "MODEL_CARD.md", self.card().encode())
        return out

    def card(self) -> str:
        """Model card of the sampled networks, Markdown."""
        report = self.report()
        lines = ["# Sampled networks", ""]
        lines += [f"{len(self.table)} networks drawn from P(W | D, R), none of them trained."]
        if report["request"]["fine_tune_epochs"]:
            epochs = report["request"]["fine_tune_epochs"]
            lines[-1] = (
                f"{len(self.table)} networks drawn from P(W | D, R), then {epochs} epochs of Adam."
            )
        for title, section in report.items():
            lines += ["", f"## {title.capitalize()}", ""]
            lines += [f"* {k.replace('_', ' ')}: {_text(v)}" for k, v in section.items()]
        lines += ["", "## Use", "", "```python", "import weightspace as ws", ""]
        lines += [
            f'network = ws.load_network("{file_name(0)}")',
            "network.module  # torch.nn.Module",
        ]
        lines += ["network.predict(images)  # images in [0, 1]", "```", ""]
        return "\n".join(lines)


def file_name(sample: int) -> str:
    """File of a sampled network."""
    return f"network-{sample:05d}.safetensors"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
