"""Pieces of a self-contained HTML page: one file, nothing fetched."""

from __future__ import annotations

import base64
from html import escape
from itertools import zip_longest

from rich.table import Table

CSS = """
:root { color-scheme: light; --ink: #1b2a41; --soft: #5a6b80; --line: #d5dce5; --accent: #d1495b; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .2em 0; }
h2 { font-size: 1.35rem; margin: 2.2em 0 .4em; padding-top: .5em; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6em 0 .3em; }
p { max-width: 46em; margin: .5em 0; }
.lead { font-size: 1.15rem; }
.soft, figcaption, footer { color: var(--soft); font-size: .9rem; }
.missing { border-left: 4px solid var(--accent); background: #fdf2f4; padding: .5em .8em; }
nav a { margin-right: 1em; color: inherit; }
.steps { display: flex; gap: 26px; padding: 0; margin: 1em 0; list-style: none; }
.steps li { position: relative; flex: 1 1 0; border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 12px; background: #f7f9fb; font-size: .92rem; line-height: 1.4; }
.steps li:not(:last-child)::after { content: "→"; position: absolute; right: -23px; top: 50%;
  transform: translateY(-50%); color: var(--accent); font-size: 1.3rem; }
.steps b, .steps span { display: block; }
.box { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; margin: .8em 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px; text-align: right; }
th:first-child, td:first-child { text-align: left; min-width: 11em; }
thead th { vertical-align: bottom; background: #f1f4f8; border-bottom: 1px solid var(--line); }
tbody tr.head td { font-weight: 700; background: #f1f4f8; }
tbody tr + tr { border-top: 1px solid #edf1f5; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 18px; }
.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 150px), 1fr)); max-width: 760px; }
figure { margin: 0; min-width: 0; }
img { display: block; width: 100%; height: auto; }
img.pixels { image-rendering: pixelated; max-width: 560px; }
@media (max-width: 860px) {
  .steps { flex-direction: column; }
  .steps li:not(:last-child)::after { content: "↓"; right: auto; left: 50%; top: auto; bottom: -27px;
    transform: translateX(-50%); }
}
@media (max-width: 640px) {
  main { padding: 16px 14px 48px; }
  h1 { font-size: 1.5rem; }
  table { font-size: .78rem; line-height: 1.35; }
  th, td { padding: 5px 6px; }
  th:first-child, td:first-child { min-width: 7em; }
}
"""


def page(title: str, body: str, css: str = "") -> str:
    """Give the whole document.

    Args:
        title: plain text.
        body: HTML.
        css: rules in addition to those of every page.

    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}{css}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def element(name: str, text: str, kind: str = "") -> str:
    """Give an element with plain text in it.

    Args:
        name: of the element.
        text: plain; what HTML would read as markup is escaped.
        kind: its class, if any.

    >>> print(element("p", "a < b", "soft"), end="")
    <p class="soft">a &lt; b</p>

    """
    start = f'<{name} class="{kind}">' if kind else f"<{name}>"
    return f"{start}{escape(text)}</{name}>\n"


def table(given: Table) -> str:
    """Give a table that was made for the terminal, in a box in which it scrolls."""
    head = "".join(f"<th>{escape(str(c.header))}</th>" for c in given.columns)
    rows = zip_longest(*(c.cells for c in given.columns), fillvalue="")
    body = "\n".join(
        ("<tr>" if row[0] else '<tr class="head">')  # a row without a name heads those below
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    title = element("h3", str(given.title)) if given.title else ""
    return (
        f'{title}<div class="box" tabindex="0">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n"
    )


def picture(data: bytes, kind: str, alt: str, caption: str = "") -> str:
    """Give a picture that the page carries inside.

    Args:
        data: bytes of the file.
        kind: ``svg+xml`` or ``png``.
        alt: what it shows, for those who cannot see it.
        caption: text below.

    """
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    style = ' class="pixels"' if kind == "png" else ""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img{style} src="{uri}" alt="{escape(alt)}">{below}</figure>\n'


def steps(items: list[tuple[str, str]]) -> str:
    """Give boxes in a row, or in a column where the page is narrow, with arrows between."""
    boxes = "".join(
        f"<li><b>{escape(name)}</b><span>{escape(what)}</span></li>\n" for name, what in items
    )
    return f'<ol class="steps">\n{boxes}</ol>\n'
