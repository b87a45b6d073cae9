"""What every stage script shares: the source beside it, its folders, one-line errors, its cost.

The package is imported from the ``src/`` next to this file and never from an installed copy: an
experiment in DVC's queue runs in a copy of the repository and must run its own code.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
# Idle threads sleep instead of spinning: a fit beside any other busy process is then 1.5 times
# slower and not 50 times (measured on 2 cores). Read once, when torch loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from weightspace.errors import WeightspaceError  # noqa: E402
from weightspace.params import Params, load_params  # noqa: E402
from weightspace.runtime import prepare  # noqa: E402

DATA, METRICS = ROOT / "data", ROOT / "metrics"
# Finished shards wait here. Experiments in temporary copies share the main workspace's folder;
# its entries are named by a hash of code, settings and inputs.
SCRATCH = Path(os.environ.get("DVC_ROOT", ROOT)) / ".work"


def run(name: str, stage: Callable[[Params], None]) -> None:
    """Run a stage; log what it cost; an expected error is one line on stderr and exit code 2."""
    os.chdir(ROOT)
    prepare()
    start = time.monotonic()
    try:
        stage(load_params("params.yaml"))
    except WeightspaceError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    usage = [
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    cost = {"seconds": round(time.monotonic() - start, 1), "peak_mib": round(max(usage) / 1024)}
    folder = METRICS / "cost"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(cost, indent=2) + "\n")
