"""A table of experiments without DVC, as on a machine that has none: `make study` where there is a GPU.

    PYTHONPATH=src python benchmarks/preset.py benchmarks/study.yaml --out docs/study.md

Every row of settings runs all the stages that the table needs in a folder of its own, and the page and the
raw figures beside it are written as by ``python -m weightspace suite``. Seconds are those of stages whose
imports are done; `--folder` keeps data and metrics. `--together` runs the evaluations side by side, which a GPU
has room for: their seconds are then those beside each other. With PROFILE=1
in the environment each stage leaves `stages/NAME.py.profile` there, for Python's pstats.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import yaml

from weightspace.errors import WeightspaceError
from weightspace.experiments import suite as suites
from weightspace.experiments.dvc import change, figure_of

ROOT = Path(__file__).resolve().parent.parent
# Each stage is a process of its own, so that its memory is, with the imports done before.
RUN = """
import cProfile, os, runpy, sys
import numpy, pandas, sklearn.ensemble, torch, weightspace
together, scripts = sys.argv[1] == "together", sys.argv[2:]


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


failed, beside = 0, []
for script in scripts:
    print(script, file=sys.stderr, flush=True)
    if (child := os.fork()) == 0:
        sys.argv = [script]
        profile = cProfile.Profile()
        if os.environ.get("PROFILE"):
            profile.enable()
        runpy.run_path(script, run_name="__main__")
        if os.environ.get("PROFILE"):
            profile.dump_stats(script + ".profile")
        sys.stderr.flush()
        os._exit(0)
    if "evaluate" in script and together:
        beside.append(child)
        continue
    code = ended(child)
    failed = failed or code
    if code and "evaluate" not in script:  # what follows needs it
        break
sys.exit(max([failed, *map(ended, beside)]))
"""


def run_stages(folder, settings, stages, *, together=False):
    """Run stages on a copy of the code with settings ``key=value``. Returns whether all ended well.

    Args:
        folder: gets code, data and metrics.
        settings: of params.yaml.
        stages: their names, in order.
        together: run evaluations, the last of them, side by side.

    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("src", "stages"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, folder / part, ignore=ignore, dirs_exist_ok=True)
    table = yaml.safe_load((ROOT / "params.yaml").read_text())
    for setting in settings:
        change(table, setting)
    (folder / "params.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    scripts = [str(folder / "stages" / f"{name}.py") for name in stages]
    paths = [str(folder / "src"), str(folder / "stages")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, *sys.path[1:]])}
    how = "together" if together else "in turn"
    done = subprocess.run([sys.executable, "-c", RUN, how, *scripts], cwd=folder, env=environment)
    return done.returncode == 0


def needed(stages):
    """These stages and all that they need, in the order of dvc.yaml."""
    defined = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    makes = {o: n for n, s in defined.items() for k in ("outs", "metrics") for o in names(s, k)}
    wanted, left = set(), list(stages)
    while left:
        name = left.pop()
        if name not in wanted:
            wanted.add(name)
            reads = names(defined[name], "deps")
            left += [n for o, n in makes.items() for d in reads if f"{d}/".startswith(f"{o}/")]
    return [name for name in defined if name in wanted]


def names(stage, kind):
    """Paths of the dependencies or outputs of a stage."""
    return [next(iter(x)) if isinstance(x, dict) else x for x in stage.get(kind, [])]


def value(folder, metric):
    """A figure ``file.key`` of the metrics in a folder; None where it has none."""
    file, _, key = metric.partition(".")
    path = folder / "metrics" / f"{file}.json"
    return figure_of(json.loads(path.read_text()), key) if path.is_file() else None


def main(arguments=None):
    """Run the table, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="page, NAME.md")
    parser.add_argument("--set", "-S", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--stages", nargs="*", help="in place of those of the table")
    parser.add_argument("--together", action="store_true", help="evaluations side by side")
    parser.add_argument("--folder", type=Path, help="where data and metrics stay")
    options = parser.parse_args(arguments)
    suite = suites.load_suite(options.table).changed(options.set)
    rows, finished, failed = [], {}, False
    with tempfile.TemporaryDirectory() as scratch:
        base = options.folder or Path(scratch)
        for row, seed, job in suite.jobs():
            if job not in finished:
                finished[job] = base / str(len(finished))
                stages = needed(options.stages or suite.stages)
                failed |= not run_stages(finished[job], job, stages, together=options.together)
            for column in suite.columns:
                metric = suite.metric(row, column)
                if metric is not None:
                    figure = value(finished[job], metric)
                    rows.append({"row": row.name, "column": column, "seed": seed, "value": figure})
    figures = pd.DataFrame(rows, columns=suites.COLUMNS).dropna(subset="value")
    figures.to_csv(options.out.with_suffix(".csv"), index=False, lineterminator="\n")
    heading = " ".join(
        ["PYTHONPATH=src python benchmarks/preset.py", *map(str, arguments or sys.argv[1:])]
    )
    options.out.write_text(suites.markdown(suite, figures, heading))
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except WeightspaceError as error:
        sys.exit(f"error: {error}")
