"""Peers on the named tasks, each through `evaluate_method`, and the page of all results.

    PYTHONPATH=src python benchmarks/leaderboard.py --write-hashes        # of the data of `make repro`
    PYTHONPATH=src python benchmarks/leaderboard.py --run reconstruction/digits/pca ...
    PYTHONPATH=src python benchmarks/leaderboard.py --page                # what `make leaderboard` does

Results go to benchmarks/results/FAMILY/NAME/METHOD.json. `--root` is the project whose data is scored.
"""

import argparse
import re
import sys
from pathlib import Path

from weightspace.errors import WeightspaceError
from weightspace.leaderboard.named import FOLDER, folder_hash, folders, load_task, names

RESULTS = Path(__file__).resolve().parent / "results"


def write_hashes(root):
    """Write the hashes of the default project's data into the tasks that are about it."""
    at = folders(root)
    for name in names():
        if load_task(name).data.source != "digits":
            continue
        path = FOLDER / f"{name}.yaml"
        text = path.read_text()
        for key, folder in at.items():
            text = re.sub(rf"^  {key}: .*$", f"  {key}: {folder_hash(folder)}", text, flags=re.M)
        path.write_text(text)
        print(f"{name}: {load_task(name).data.zoo[:12]}")


def main():
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--write-hashes", action="store_true")
    options = parser.parse_args()
    try:
        if options.write_hashes:
            write_hashes(options.root)
    except WeightspaceError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
