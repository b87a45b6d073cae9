"""Where the committed figures come from: a line for the tables in README and docs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml

from weightspace.artifacts import read_json
from weightspace.params import load_params

LENGTH = 12  # hexadecimal digits of the hash
CODE = ("src/", "stages/")


def line(root: Path) -> str:
    """A sentence on code, seed, device and precision; empty where nothing recorded them.

    The commit that figures are in cannot be known before it is made: it is the one that brought
    dvc.lock, whose hashes of the code that ran are summed up.
    """
    costs = [read_json(path) for path in sorted((root / "metrics" / "cost").glob("*.json"))]
    keys = ("device", "precision", "torch")
    on = sorted({", ".join(cost[k] for k in keys) for cost in costs if "device" in cost})
    if not on or not (root / "dvc.lock").is_file():
        return ""
    return (
        f"Code `{code_hash(root)}` (the hashes of `src/` and `stages/` in `dvc.lock`, and the commit "
        f"that brought it), seed {load_params(root / 'params.yaml').seed}; device, precision and torch: "
        f"{' and '.join(on)}."
    )


def code_hash(root: Path) -> str:
    """Hash of all code that the stages ran, as dvc.lock has it."""
    stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"].values()
    files = {
        f"{dep['path']} {dep['md5']}"
        for stage in stages
        for dep in stage.get("deps", ())
        if dep["path"].startswith(CODE)
    }
    return hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()[:LENGTH]
