"""The table of all results: one self-contained HTML page whose columns sort, and a CSV of every figure.

Both are made of files alone: those of the tasks, and ``FAMILY/NAME/METHOD.json`` below a folder of results.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from weightspace.artifacts import write_bytes
from weightspace.errors import problem
from weightspace.leaderboard.named import load_task, names, task_hash
from weightspace.leaderboard.schema import FAMILIES, Figure, Published, Result, Shown, Task
from weightspace.report.html import element, page

TITLE = "weightspace: methods on named tasks"
CSS = """
main { max-width: 1360px; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort] button::after { content: " ↓"; color: var(--accent); }
th[aria-sort=ascending] button::after { content: " ↑"; }
thead th { min-width: 5.2em; }
th:first-child, td:first-child { position: sticky; left: 0; background: inherit; z-index: 1; }
thead tr { background: #f1f4f8; }
tbody tr { background: #fff; }
td { vertical-align: top; white-space: nowrap; }
td.words { white-space: normal; text-align: left; min-width: 17em; font-size: .85rem; }
td small, th small { display: block; color: var(--soft); font-weight: 400; }
tbody tr.head { background: #f1f4f8; }
tbody tr.head td { white-space: normal; font-size: .85rem; }
tr.best td:first-child { font-weight: 700; }
.flag { color: #a3213a; font-weight: 600; }
@media (max-width: 640px) {
  th:first-child, td:first-child { max-width: 8.5em; white-space: normal; }
  td.words { min-width: 13em; }
}
"""
AIDED = "with results or gradients on labelled images of the task"
FAR = 0.1  # from the figure of trained networks: shown in colour
# A click sorts the rows of a table by the number or text of a column; nothing at last
SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const th = button.closest("th");
  const column = [...th.parentNode.children].indexOf(th);
  const up = th.getAttribute("aria-sort") === "descending";
  for (const other of th.parentNode.children) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[column].dataset.key ?? "";
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    return up ? order : -order;
  };
  for (const body of th.closest("table").tBodies) {
    const rows = [...body.rows].filter(row => row.className !== "head");
    body.append(...rows.sort(compare));
  }
};
"""


@dataclass(frozen=True)
class Entry:
    """A row: what was measured of a method, what others published of it, or both.

    Attributes:
        name: of the method.
        result: as measured; None: only published.
        published: figures of others.

    """

    name: str
    result: Result | None
    published: tuple[Published, ...]

    @property
    def aided(self) -> bool:
        """Whether a network costs gradients, or a network that is made costs results, on images of its task."""
        if self.result is None:
            return False
        cost, family = self.result.method.cost, self.result.task.name.partition("/")[0]
        makes = family in ("sampling", "novelty")
        return cost.labelled_gradients > 0 or (makes and cost.forward_passes > 0)

    def value(self, figure: str) -> float | None:
        """What was measured, if it was."""
        known = self.result.figures.get(figure) if self.result else None
        return known.value if known else None


def read_results(folder: Path) -> dict[str, list[Result]]:
    """Results by task.

    Args:
        folder: with ``FAMILY/NAME/METHOD.json``.

    Raises:
        WeightspaceError: a file that is no result, or not the one of its place; one line.

    """
    out: dict[str, list[Result]] = {name: [] for name in names()}
    for path in sorted(folder.glob("*/*/*.json")):
        result = Result.read(path)
        task = path.parent.relative_to(folder).as_posix()
        if (result.task.name, result.method.name) != (task, path.stem):
            raise problem(
                "result of another task or method",
                where=path,
                got=f"{result.task.name}/{result.method.name}",
                expected=f"{task}/{path.stem}",
            )
        if task not in out:
            raise problem("result of no named task", where=path, got=task)
        out[task].append(result)
    return out


def entries(task: Task, results: list[Result]) -> list[Entry]:
    """Rows of a task, the best by its first figure first, aided ones apart; the only published last."""
    first = task.figures[0]
    sign = -1 if first.better == "higher" else 1
    measured = {r.method.name: r for r in results}
    methods = [*measured, *dict.fromkeys(p.method for p in task.published)]
    rows = [
        Entry(name, measured.get(name), tuple(p for p in task.published if p.method == name))
        for name in dict.fromkeys(methods)
    ]

    def key(entry: Entry) -> tuple[bool, bool, float]:
        value = entry.value(first.name)
        return entry.aided, value is None, 0.0 if value is None else sign * value

    return sorted(rows, key=key)


def write_page(results: Path, docs: Path) -> list[Path]:
    """Write ``leaderboard.html`` and ``leaderboard.csv``.

    Args:
        results: folder of results.
        docs: folder to write to.

    Returns:
        What was written.

    """
    known = read_results(results)
    tasks = [(task := load_task(name), entries(task, rows)) for name, rows in known.items()]
    tasks.sort(key=lambda pair: (not known[pair[0].name], FAMILIES.index(pair[0].family)))
    out = docs / "leaderboard.html", docs / "leaderboard.csv"
    write_bytes(out[0], document(tasks).encode())
    text = table(tasks).to_csv(index=False, lineterminator="\n", float_format="%.6g")
    write_bytes(out[1], text.encode())
    return list(out)


def table(tasks: list[tuple[Task, list[Entry]]]) -> pd.DataFrame:
    """Every figure of every result, a row each, and every published one."""
    return pd.DataFrame(
        [row for task, rows in tasks for entry in rows for row in _figures(task, entry)]
    )


def _figures(task: Task, entry: Entry) -> Iterator[dict[str, object]]:
    """Rows of one entry for the CSV."""
    published = {p.figure: p for p in entry.published}
    result = entry.result
    shown = dict.fromkeys([*(result.figures if result else ()), *published])
    for name in shown:
        figure = result.figures.get(name, Figure(value=None)) if result else Figure(value=None)
        claim = published.get(name)
        yield {
            "task": task.name,
            "version": result.task.version if result else task.version,
            "method": entry.name,
            "figure": name,
            "value": figure.value,
            "low": figure.low,
            "high": figure.high,
            "published": claim.value if claim else None,
            "published_source": claim.source if claim else None,
            "published_selection": claim.selection if claim else None,
            "zero_shot": result.zero_shot.class_sets if result else None,
            "selection": result.method.selection if result else None,
            "labelled_gradients": result.method.cost.labelled_gradients if result else None,
            "milliseconds": result.milliseconds if result else None,
        }


def document(tasks: list[tuple[Task, list[Entry]]]) -> str:
    """The whole page."""
    lead = (
        "Every row is one method, scored by the same functions on the same networks and images; figures in brackets are "
        "95 % bootstrap intervals over class sets. A click on a column sorts by it."
    )
    notes = (
        "Zero-shot is computed from the class sets and images that a method's card lists, not declared. Selection says "
        "what settings and states were chosen by. Milliseconds are those of the machine of an entry, which may have been busy. Published figures are of other zoos unless said otherwise, and were not "
        "checked. Below a figure is what it is to be seen beside: chance, or trained networks (members). Some should be as those of trained networks; farther than .1 from these they "
        "are in colour: draws of one request that agree much more than trained networks do are one network, however "
        "well they meet requests."
    )
    links = "".join(f'<a href="#{escape(task.name)}">{escape(task.name)}</a> ' for task, _ in tasks)
    body = [
        element("h1", "Methods on named tasks"),
        element("p", lead, "lead"),
        element("p", notes, "soft"),
        f"<nav>{links}</nav>\n",
        *(section(task, rows) for task, rows in tasks),
        f"<script>{SCRIPT}</script>",
    ]
    return page(TITLE, "".join(body), CSS)


def section(task: Task, rows: list[Entry]) -> str:
    """One task: what is asked, on what, and its table."""
    hashes = ", ".join(
        f"{name} {value[:12] if value else 'not fixed yet'}"
        for name, value in (("zoo", task.data.zoo), ("dataset", task.data.dataset))
        if name == "zoo" or task.net is not None
    )
    facts = f"Version {task.version}; split {task.split}; {hashes}. Data: {task.data.make}."
    out = [
        f'<h2 id="{escape(task.name)}">{escape(task.name)}</h2>\n',
        element("h3", task.title),
        element("p", task.question),
        re.sub("`([^`]+)`", r"<code>\1</code>", element("p", facts, "soft")),
    ]
    measured = [e for e in rows if e.result]
    if not measured:
        out.append(element("p", "No results yet.", "missing"))
    if not rows:
        return "".join(out)
    columns = [
        _column("method"),
        *map(_head, task.figures),
        _column("labelled gradients", "per network"),
        _column("images run", "per network"),
        _column("ms", "per network"),
        _column("zero-shot"),
        _column("selection"),
        _column("published") if task.published else "",
        _column("fitted with"),
    ]
    plain, aided = ([e for e in rows if e.aided == kind] for kind in (False, True))
    best = next((e for e in plain if e.result), None)
    bodies = ["\n".join(_row(task, entry, entry is best) for entry in plain)]
    if aided:
        width = sum(bool(column) for column in columns)
        head = f'<tr class="head"><td>{AIDED}</td>{"<td></td>" * (width - 1)}</tr>'
        bodies.append("\n".join([head, *(_row(task, entry, False) for entry in aided)]))
    return "".join(
        [
            *out,
            '<div class="box" tabindex="0">\n<table>\n<thead><tr>',
            *columns,
            "</tr></thead>\n",
            *(f"<tbody>\n{body}\n</tbody>\n" for body in bodies),
            "</table>\n</div>\n",
        ]
    )


def _column(title: str, note: str = "") -> str:
    below = f"<small>{escape(note)}</small>" if note else ""
    return f'<th scope="col"><button type="button">{escape(title)}</button>{below}</th>'


def _head(shown: Shown) -> str:
    return _column(shown.title, "" if shown.better == "higher" else shown.better)


def _row(task: Task, entry: Entry, best: bool) -> str:
    """One method.

    Args:
        task: whose figures are shown.
        entry: what is known of the method.
        best: whether no other is better by the first figure.

    """
    cells = [_name(task, entry), *(_figure(shown, entry.result) for shown in task.figures)]
    *facts, budget = _facts(entry.result)
    claims = [_published(task, entry.published)] if task.published else []
    cells += [*facts, *claims, budget]
    return f"<tr{' class=best' if best else ''}>{''.join(cells)}</tr>"


def _cell(text: str, key: object = "", kind: str = "") -> str:
    """A cell of HTML, and what its column is sorted by."""
    name = f' class="{kind}"' if kind else ""
    return f'<td{name} data-key="{escape(str(key))}">{text}</td>'


def _name(task: Task, entry: Entry) -> str:
    if not entry.result:
        return _cell(f"{escape(entry.name)}<small>published only</small>", entry.name)
    card, notes = entry.result.method, []
    if entry.result.task.sha256 != task_hash(task):
        notes.append(f'<span class="flag">of another version ({entry.result.task.version})</span>')
    if not entry.result.pinned:
        notes.append(f"zoo {entry.result.task.zoo[:12]}")
    below = f"<small>{'; '.join(notes)}</small>" if notes else ""
    title = f'<span title="{escape(card.description)}">{escape(card.title)}</span>'
    return _cell(title + below, card.title)


def _figure(shown: Shown, result: Result | None) -> str:
    """A figure with its interval, and what it is to be compared with."""
    figure = result.figures.get(shown.name) if result else None
    if result is None or figure is None or figure.value is None:
        return _cell("–")
    notes = []
    if figure.low is not None and figure.high is not None:
        notes.append(f"[{_number(figure.low)}, {_number(figure.high)}]")
    reference = result.figures.get(shown.reference or "")
    text = _number(figure.value)
    if reference is not None and reference.value is not None:
        notes.append(f"{escape(shown.beside)} {_number(reference.value)}")
        far = abs(figure.value - reference.value) > FAR
        if far and shown.better == "as the reference":
            text = f'<span class="flag">{text}</span>'
    small = "".join(f"<small>{note}</small>" for note in notes)
    return _cell(text + small, f"{figure.value:.6g}")


def _number(value: float) -> str:
    """Three decimals, without a zero before the point.

    >>> _number(0.9648), _number(-0.08), _number(-98.9), _number(1.0)
    ('.965', '-.080', '-98.9', '1.000')
    """
    if abs(value) >= 10:
        return f"{value:.3g}"
    text = f"{value:.3f}"
    return (
        text.replace("0.", ".", 1) if abs(value) < 1 and not text.startswith(("1", "-1")) else text
    )


def _published(task: Task, claims: tuple[Published, ...]) -> str:
    """Figures of others, with source and how they were selected."""
    if not claims:
        return _cell("")
    titles = {shown.name: shown.title for shown in task.figures}
    lines = [
        f"{_number(c.value)} {escape(titles.get(c.figure, c.figure))}; {escape(c.note)} "
        f"({escape(c.source)}; {_selection(c.selection)})"
        for c in claims
    ]
    return _cell("<br>".join(lines), f"{claims[0].value:.6g}", "words")


def _selection(selection: str) -> str:
    """What was chosen by what; on test is a flag."""
    words = {
        "none": "nothing chosen",
        "val": "chosen on val",
        "test": '<span class="flag">chosen on test</span>',
        "unknown": "selection not said",
    }
    return words[selection]


def _facts(result: Result | None) -> list[str]:
    """Cost, zero-shot, selection and budget."""
    if result is None:
        return [_cell("–")] * 6
    card, shot = result.method, result.zero_shot
    if not shot.images:
        unseen = '<span class="flag">test images seen</span>'
    elif not shot.class_sets:
        unseen = '<span class="flag">no</span>'
    else:
        unseen = "classes" if shot.classes else "class sets"
    gradients, passes = card.cost.labelled_gradients, card.cost.forward_passes
    fitted = card.fitted
    budget = escape(fitted.budget)
    if fitted.networks:
        budget += f"; {fitted.networks:,} networks"
    if fitted.labelled_gradients:
        budget += f"; {fitted.labelled_gradients:,} labelled gradients"
    return [
        _cell(f"{gradients:,}", gradients),
        _cell(f"{passes:,}", passes),
        _cell(
            f"{result.milliseconds:.3g}<small>{escape(result.device)}</small>", result.milliseconds
        ),
        _cell(unseen, int(shot.class_sets and shot.images)),
        _cell(_selection(card.selection), card.selection),
        _cell(budget, fitted.seconds if fitted.seconds is not None else "", "words"),
    ]
