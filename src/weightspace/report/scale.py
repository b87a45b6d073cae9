"""Tables of how cost grows: stages by runs of the zoo, ResNet-18 by width, memory, machines of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from weightspace.artifacts import read_json, structured
from weightspace.params import Params, load_params
from weightspace.report import markdown

GROWTH, MEMORY = (Path("benchmarks") / f"{name}.json" for name in ("growth", "memory"))
EPOCH = "{}, an epoch"  # of a fit, as benchmarks/growth.py names it
FITS = ("autoencoder", "shared_encoder")
MACHINES = (1, 4, 16, 64)
NOT_YET = "Not measured yet: `python benchmarks/{0}.py --out benchmarks/{0}.json`."


def growth(root: Path) -> str:
    """CPU seconds and memory of every stage by runs, and what the model predicts."""
    if "stages" not in (found := _read(root / GROWTH)):
        return NOT_YET.format("growth")
    with structured(root / GROWTH):
        return _growth(found["stages"])


def _growth(found: dict[str, Any]) -> str:
    zoos, models = found["zoos"], found["models"]
    sizes = [int(runs) for runs in zoos]
    far = max(_extrapolated(models), default=0)
    names = dict.fromkeys(name for zoo in zoos.values() for name in zoo if name != "members")
    body = []
    for stage in names:
        runs, model = [zoos[str(n)].get(stage, {}) for n in sizes], models.get(stage, {})
        name, _, epoch = stage.partition(",")
        mib = [f"{figures['resident_mib']:,}" for figures in runs if "resident_mib" in figures]
        body.append(
            [
                f"`{name}`{epoch and ',' + epoch}",
                *(_number(figures["cpu_seconds"]) if figures else "" for figures in runs),
                *_predicted(model.get("cpu_seconds"), far, _time),
                mib[0] if mib else "",
                mib[-1] if len(mib) > 1 else "",
                *_predicted(model.get("resident_mib"), far, "{:,.0f}".format),
            ]
        )
    most = f"at {far:,}" if far else "at more"
    head = ["CPU seconds at", *(f"{n:,}" for n in sizes), "error", most]
    head += ["MiB at the fewest", "at the most", "error", most]
    note = f" Interrupted {found['interrupted']}." if "interrupted" in found else ""
    return f"{_origin(found)}{note}\n\n{markdown.rows(head, body)}\n\n{_rate(zoos, sizes)}"


def _predicted(
    model: dict[str, Any] | None, runs: int, shown: Callable[[float], str]
) -> tuple[str, str]:
    """Errors of a model, of rising sizes, and its value at so many runs; empty without a model.

    Args:
        model: of ``benchmarks/growth.json``.
        runs: of the zoo.
        shown: value -> text.

    """
    if model is None:
        return "", ""
    errors = ", ".join(f"{p['error']:+.0%}" for p in model["predicted"].values())
    return errors or "-", shown(model["extrapolated"][str(runs)])


def _extrapolated(models: dict[str, Any]) -> list[int]:
    """Runs that the models were asked for, in rising order."""
    return sorted(
        {int(n) for model in models.values() for n in model["cpu_seconds"]["extrapolated"]}
    )


def _rate(zoos: dict[str, Any], sizes: list[int]) -> str:
    """Members that are trained per second, at the least and the most runs."""
    rates = [
        zoos[str(n)]["members"] / zoos[str(n)]["zoo"]["cpu_seconds"] for n in (sizes[0], sizes[-1])
    ]
    return (
        f"The zoo trains {rates[0]:.0f} members per second of a core with {sizes[0]:,} runs and "
        f"{rates[1]:.0f} with {sizes[-1]:,}."
    )


def widths(root: Path) -> str:
    """Training of ResNet-18 by width: operations, milliseconds, GFLOP/s, memory, and the model."""
    if "resnet18" not in (found := _read(root / GROWTH)):
        return NOT_YET.format("growth")
    with structured(root / GROWTH):
        part = found["resnet18"]
        predicted = part["model"]["predicted"]
        body = [
            [
                width,
                f"{row['numbers']:,}",
                f"{row['flops_per_run_step'] / 1e9:.3g}",
                _number(row["cpu_ms"]["median"]),
                f"{_number(predicted[width]['model'])} ({predicted[width]['error']:+.0%})"
                if width in predicted
                else "fitted on",
                _number(row["gflops"]["median"]),
                f"{row['peak_mib']:,}",
            ]
            for width, row in part["widths"].items()
        ]
        head = ["width", "numbers", "GFLOP of a step", "ms", "model", "GFLOP/s", "MiB"]
        return (
            f"A step of one network on {part['batch']} images of {part['pixels']}x{part['pixels']} pixels, forward and "
            f"backward, {part['networks']} networks at once on one core; {_origin(part)}\n\n{markdown.rows(head, body)}"
        )


def cluster(root: Path) -> str:
    """Hours of the whole pipeline by runs and machines (Amdahl)."""
    found = _read(root / GROWTH)
    costs = {
        f.stem: read_json(f)["seconds"] for f in sorted((root / "metrics" / "cost").glob("*.json"))
    }
    models = found.get("stages", {}).get("models", {})
    if not costs or any(EPOCH.format(fit) not in models for fit in FITS):
        return NOT_YET.format("growth")
    with structured(root / GROWTH):
        params = load_params(root / "params.yaml")
        body = []
        for runs in sorted({params.zoo.runs, *_extrapolated(models)}):
            of_stage = stage_hours(costs, models, params, runs)
            spent = [_hours(total(of_stage, n)) for n in (*MACHINES, float("inf"))]
            body.append([f"{runs:,}", *spent, f"{alone(of_stage):.0%}"])
        head = ["runs", *(f"{n} machine{'s' * (n > 1)}" for n in MACHINES), "any number"]
        return markdown.rows([*head, "fraction on one machine"], body)


def stage_hours(
    costs: dict[str, float], models: dict[str, Any], params: Params, runs: int
) -> dict[str, tuple[float, float]]:
    """Stage -> hours that only one machine can spend, and hours that machines can divide.

    A stage grows, from what it took in the committed run, in proportion to its model.

    Args:
        costs: seconds of each stage in the committed run.
        models: of ``benchmarks/growth.json``.
        params: settings of the committed run.
        runs: of the zoo.

    """
    out = {}
    for stage, seconds in costs.items():
        epochs = getattr(params, stage).epochs if stage in FITS else 1
        before, after = (modelled(models, stage, epochs, n) for n in (params.zoo.runs, runs))
        hours = seconds * (after / before if before else 1) / 3600
        workers = models.get(stage, {}).get("in_workers", 0.0)
        out[stage] = hours * (1 - workers), hours * workers
    return out


def total(of_stage: dict[str, tuple[float, float]], machines: float) -> float:
    """Hours of all stages, one after the other, on so many machines.

    >>> of_stage = {"zoo": (1.0, 8.0), "fit": (2.0, 0.0)}
    >>> total(of_stage, 1), total(of_stage, 4), total(of_stage, float("inf"))
    (11.0, 5.0, 3.0)

    """
    return sum(one + divided / machines for one, divided in of_stage.values())


def alone(of_stage: dict[str, tuple[float, float]]) -> float:
    """Fraction of the hours that only one machine can spend."""
    return sum(one for one, _ in of_stage.values()) / total(of_stage, 1)


def modelled(models: dict[str, Any], stage: str, epochs: int, runs: int) -> float:
    """CPU seconds of a stage by its model, those of a fit with all of its epochs; 0 without a model.

    Args:
        models: of ``benchmarks/growth.json``.
        stage: its name.
        epochs: of a fit; 1 for any other stage.
        runs: of the zoo.

    """
    seconds = 0.0
    for name, times in {stage: 1, EPOCH.format(stage): epochs - 1}.items():
        if model := models.get(name):
            constant, per_run = model["cpu_seconds"]["factors"]
            seconds += times * (constant + per_run * runs)
    return seconds


def memory(root: Path) -> str:
    """Peak memory of every stage at every width that was measured."""
    found = _read(root / MEMORY)
    if not found:
        return NOT_YET.format("memory")
    with structured(root / MEMORY):
        sizes = [
            (f"width {width}, {name}", part, stages)
            for width, part in found["widths"].items()
            for name, stages in part["sizes"].items()
        ]
        names = list(dict.fromkeys(stage for _, _, stages in sizes for stage in stages))
        body = [
            [
                f"`{name}`",
                *(_peaks(stages[name]) if name in stages else "" for _, _, stages in sizes),
            ]
            for name in names
        ]
        facts = " ".join(
            f"Width {width}: {part['numbers_of_a_network']:,} numbers, images of {part['pixels']}x{part['pixels']} pixels."
            for width, part in found["widths"].items()
        )
        first = sizes[0][1]
        where = f"{first['machine']}, Python {first['python']}, torch {first['torch']}."
        if parts := [w for w, part in found["widths"].items() if "interrupted" in part]:
            where += (
                f" Width {', '.join(parts)}: interrupted; stages without figures have not been run."
            )
        return (
            f"{facts} {where}\n\n{markdown.rows(['stage', *(size for size, _, _ in sizes)], body)}"
        )


def _peaks(figures: dict[str, float]) -> str:
    return f"{figures['anonymous_mib']:,} ({figures['resident_mib']:,})"


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _origin(found: dict[str, Any]) -> str:
    load = " to ".join(f"{x:.1f}" for x in found["load"])
    load = f"load {load}"
    return f"{found['machine']}, {load}, nice {found['nice']}, Python {found['python']}, torch {found['torch']}."


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _time(seconds: float) -> str:
    """Seconds, or minutes and hours where there are many."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _hours(hours: float) -> str:
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"
