"""Progress with time left: a bar on a terminal, a line now and then in a log, metrics to watchers.

>>> with watch("fit", print), progress("fit", 2) as bar:
...     bar.advance(metrics={"loss": 0.5})
{'loss': 0.5}
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_EVERY = 15.0  # seconds between lines when stderr is not a terminal
Watcher = Callable[[Mapping[str, float]], None]
_watchers: list[tuple[str, Watcher]] = []


class Bar:
    """Handle on a running progress display."""

    def __init__(self, name: str, total: int, bar: Progress | None) -> None:
        self.name, self.total, self.done = name, total, 0
        self._bar = bar
        self._task = bar.add_task(name, total=total, note="") if bar else None
        self._start = self._last = time.monotonic()

    def advance(
        self, steps: int = 1, note: str = "", metrics: Mapping[str, float] | None = None
    ) -> None:
        """Count finished steps.

        Args:
            steps: finished since the last call.
            note: shown after the bar.
            metrics: given to the watchers.

        """
        self.done += steps
        if metrics is not None:
            for name, watcher in _watchers:
                if name == self.name:
                    watcher(metrics)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=steps, note=note)
            return
        now = time.monotonic()
        if now - self._last >= LOG_EVERY:
            self._last = now
            left = (now - self._start) / max(self.done, 1) * (self.total - self.done)
            done = f"{self.done}/{self.total}"
            print(f"{self.name}: {done}, {left:.0f} s left {note}", file=sys.stderr, flush=True)


@contextmanager
def progress(name: str, total: int) -> Iterator[Bar]:
    """Show progress on stderr while the block runs."""
    if not sys.stderr.isatty():
        yield Bar(name, total, None)
        return
    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield Bar(name, total, bar)


@contextmanager
def watch(name: str, watcher: Watcher) -> Iterator[None]:
    """Call ``watcher(metrics)`` for each step of ``name`` that has metrics, while the block runs."""
    _watchers.append((name, watcher))
    try:
        yield
    finally:
        _watchers.remove((name, watcher))
