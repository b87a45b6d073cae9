"""The picture and the table of the pipeline's stages, from dvc.yaml and what the stages cost."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

from weightspace.artifacts import read_json, write_bytes
from weightspace.report import markdown
from weightspace.report.plots import ACCENT, INK, SOFT

WIDTH, HEIGHT = 248, 46  # of a box, pixels
COLUMN, ROW, MARGIN = 322, 62, 16  # from box to box, and around all
SIDE = 26  # right of the second column, for arrows within it


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml.

    Attributes:
        name: as DVC knows it.
        task: its description.
        outputs: folders and metric files that it leaves.
        needs: stages whose outputs it reads, in the order of the file.

    """

    name: str
    task: str
    outputs: tuple[str, ...]
    needs: tuple[str, ...]


def load_stages(root: Path) -> list[Stage]:
    """Stages in the order of dvc.yaml."""
    given = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    made = {name: _outputs(stage) for name, stage in given.items()}
    return [
        Stage(name, stage["desc"], made[name], _needs(stage, made)) for name, stage in given.items()
    ]


def _outputs(stage: dict[str, Any]) -> tuple[str, ...]:
    """Paths of all outputs; metrics are tables of one path and its options."""
    given = [*stage.get("outs", ()), *stage.get("metrics", ())]
    paths = [path if isinstance(path, str) else next(iter(path)) for path in given]
    return tuple(path for path in paths if not path.startswith(("metrics/cost", "metrics/plots")))


def _needs(stage: dict[str, Any], made: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    folders = {out: name for name, outputs in made.items() for out in outputs}
    paths = [Path(dependency) for dependency in stage["deps"]]
    return tuple(n for out, n in folders.items() if any(p.is_relative_to(out) for p in paths))


def direct(stages: list[Stage]) -> list[tuple[str, str]]:
    """Arrows (from, to) without those that a longer way implies."""
    needs = {stage.name: set(stage.needs) for stage in stages}

    def before(name: str) -> set[str]:
        return set().union(*({n} | before(n) for n in needs[name]))

    return [
        (n, stage.name)
        for stage in stages
        for n in stage.needs
        if not any(n in before(other) for other in stage.needs)
    ]


def cost_of(root: Path, name: str) -> dict[str, Any]:
    """What a stage took when it ran last, ``seconds`` and ``peak_mib``; empty if that is not known."""
    path = root / "metrics" / "cost" / f"{name}.json"
    return read_json(path) if path.is_file() else {}


def table(root: Path) -> str:
    """Markdown table of the stages: task, outputs, and the cost of the committed run."""
    body = []
    for stage in load_stages(root):
        cost = cost_of(root, stage.name)
        shown = [f"{cost[key]:.0f}" if key in cost else "-" for key in ("seconds", "peak_mib")]
        outputs = ", ".join(f"`{path}`" for path in stage.outputs)
        body.append([f"`{stage.name}`", stage.task, outputs, *shown])
    return markdown.rows(["stage", "what it does", "what it leaves", "seconds", "MiB"], body)


def draw_stages(root: Path) -> None:
    """Draw ``docs/pictures/stages.svg``."""
    write_bytes(root / "docs" / "pictures" / "stages.svg", picture(root))


def picture(root: Path) -> bytes:
    """SVG of the stages: those that leave data below one another, those that measure beside them."""
    stages = load_stages(root)
    arrows = direct(stages)
    trunk = [stage for stage in stages if any(out.startswith("data/") for out in stage.outputs)]
    names = [stage.name for stage in trunk]
    ends = [stage for stage in stages if stage not in trunk]
    ends.sort(key=lambda s: max(names.index(n) if n in names else len(names) for n in s.needs))
    at = {name: (0, i) for i, name in enumerate(names)}
    at |= {stage.name: (1, i) for i, stage in enumerate(ends)}
    width = 2 * MARGIN + COLUMN + WIDTH + SIDE
    height = 2 * MARGIN + max(row for _, row in at.values()) * ROW + HEIGHT
    parts = [_arrow(at[start], at[end]) for start, end in arrows]
    parts += [_box(stage, at[stage.name]) for stage in stages]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" role="img">\n'
        f"<title>Stages of the pipeline</title>\n"
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{ACCENT}"/></marker></defs>\n'
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n{"".join(parts)}</svg>\n'
    ).encode()


def _corner(at: tuple[int, int]) -> tuple[int, int]:
    return MARGIN + at[0] * COLUMN, MARGIN + at[1] * ROW


def _box(stage: Stage, at: tuple[int, int]) -> str:
    x, y = _corner(at)
    return (
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="7" fill="#f4f6f9" '
        f'stroke="{SOFT}"/>\n<text x="{x + 12}" y="{y + 20}" font-size="15" font-weight="600" '
        f'fill="{INK}">{escape(stage.name)}</text>\n<text x="{x + 12}" y="{y + 37}" '
        f'font-size="12" fill="#5a6b80">{escape(", ".join(stage.outputs))}</text>\n'
    )


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """Within the first column down or past the left side, to the second with a bend, within it around."""
    (x0, y0), (x1, y1) = _corner(start), _corner(end)
    middle0, middle1 = y0 + HEIGHT // 2, y1 + HEIGHT // 2
    if start[0] != end[0]:
        bend = (x0 + WIDTH + x1) // 2 + (8 * start[1]) % 24 - 8
        path = f"M{x0 + WIDTH} {middle0}H{bend}V{middle1}H{x1 - 1}"
    elif start[0]:
        path = f"M{x0 + WIDTH} {middle0}h{SIDE - 4}V{middle1}H{x1 + WIDTH + 1}"
    elif end[1] - start[1] > 1:
        side = x0 - 3 - 3 * (start[1] % 2)
        path = f"M{x0} {middle0 + 8}H{side}V{middle1 - 8}H{x1 - 1}"
    else:
        path = f"M{x0 + 40} {y0 + HEIGHT}V{y1 - 1}"
    return f'<path d="{path}" fill="none" stroke="{ACCENT}" stroke-width="1.5" marker-end="url(#head)"/>\n'
