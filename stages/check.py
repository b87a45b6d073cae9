"""Verify params.yaml before any later stage removes its outputs.

DVC deletes the outputs of a stage before it runs it. All other stages depend on this one, so bad
settings stop here and earlier results are not lost. The output never changes: a valid edit
of params.yaml reruns this stage and only those others whose keys changed.
"""

from _stage import DATA, run
from weightspace.artifacts import write_json
from weightspace.experiments.preflight import check
from weightspace.params import Params


def main(params: Params) -> None:
    """Write data/check/valid.json."""
    check(params)
    write_json(DATA / "check" / "valid.json", {"params": "valid"})


if __name__ == "__main__":
    run("check", main)
