"""Curves of a running fit, by DVCLive: ``dvclive/STAGE`` in the folder of the project.

They are for looking at, not results: git ignores them, no stage has them as an output or this file
as a dependency. The curves that stay are in metrics/plots. Where DVCLive is not installed there
are none, and one line says so.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from _stage import ROOT
from weightspace.progress import watch

NOTE = (
    "note: no curves while the fit runs: DVCLive is not installed; "
    "pip install 'weightspace[pipeline]', or use the environment that `make` builds"
)


@contextmanager
def live(stage: str) -> Iterator[None]:
    """Write the curves of the fit that runs in the block, a row per epoch."""
    if find_spec("dvclive") is None:
        print(NOTE, file=sys.stderr)
        yield
        return
    from dvclive.live import Live

    folder = ROOT / "dvclive" / stage
    with Live(str(folder), dvcyaml=None, save_dvc_exp=False) as curves:

        def note(row: Mapping[str, float]) -> None:
            curves.step = int(row["epoch"])
            for name in row.keys() - {"epoch"}:
                curves.log_metric(name, row[name])

        with watch(stage, note):
            yield
