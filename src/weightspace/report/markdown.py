"""Pieces of Markdown: tables, blocks that code writes, and examples with their output."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import zip_longest

from rich.table import Table

BLOCK = re.compile(
    r"(?P<start><!-- generated: (?P<name>[\w-]+) -->\n)(?P<text>.*?)(?P<end><!-- /generated -->)",
    re.DOTALL,
)
EXAMPLE = re.compile(
    r"(?P<code><!-- run -->\n```(?P<language>bash|python)\n(?P<block>.*?)^```\n)"
    r"(?P<output>\n```text\n.*?^```\n)?",
    re.DOTALL | re.MULTILINE,
)

NUMBER = re.compile(r"\**[-+]?[\d.,]+(?: %| \(median\))?\**|-")


def table(given: Table) -> str:
    r"""Give a table that was made for the terminal as Markdown, under its title in bold.

    >>> shown = Table("name", "value", title="Sizes")
    >>> shown.add_row("a|b", "1")
    >>> print(table(shown))
    **Sizes**
    <BLANKLINE>
    | name | value |
    |---|---:|
    | a\|b | 1 |
    """
    head = [str(column.header) for column in given.columns]
    cells = zip_longest(*(column.cells for column in given.columns), fillvalue="")
    title = f"**{str(given.title).strip()}**\n\n" if given.title else ""
    return title + rows(head, [[str(cell) for cell in row] for row in cells])


def rows(head: list[str], body: list[list[str]]) -> str:
    """Give a table of plain cells.

    Columns of numbers are aligned to the right.

    >>> print(rows(["", "R2"], [["draws", ".86"]]))
    | | R2 |
    |---|---:|
    | draws | .86 |
    """
    lines = [head, *body]
    numeric = [all(NUMBER.fullmatch(c) for c in column if c) for column in zip(*body, strict=True)]
    shown = ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines]
    shown.insert(1, "|" + "".join("---:|" if right else "---|" for right in numeric))
    return "\n".join(re.sub(r" {2,}", " ", line) for line in shown)


def replace_blocks(text: str, made: Mapping[str, Callable[[], str]]) -> str:
    r"""Replace what stands between ``<!-- generated: NAME -->`` and ``<!-- /generated -->``.

    >>> text = "a\n<!-- generated: x -->\nold\n<!-- /generated -->\nb"
    >>> print(replace_blocks(text, {"x": lambda: "new"}))
    a
    <!-- generated: x -->
    new
    <!-- /generated -->
    b

    Args:
        text: a Markdown page.
        made: name of a block -> what makes its text, without a line end.

    Raises:
        KeyError: a block of a name that nothing makes.

    """
    return BLOCK.sub(lambda m: f"{m['start']}{made[m['name']]()}\n{m['end']}", text)


def replace_outputs(text: str, run: Callable[[str, str], str]) -> str:
    """Run the examples of a page in order and put what they print where their output stands.

    An example is a block of ``bash`` or ``python`` below the line ``<!-- run -->``; its output is
    the ``text`` block right after it. An example without such a block is run, its output left out.

    Args:
        text: a Markdown page.
        run: (language, code) -> output.

    """

    def replaced(match: re.Match[str]) -> str:
        output = run(match["language"], match["block"]).rstrip()
        if match["output"] is None:
            return match["code"]
        lines = "\n".join(line.rstrip() for line in output.splitlines())
        return f"{match['code']}\n```text\n{lines}\n```\n"

    return EXAMPLE.sub(replaced, text)
