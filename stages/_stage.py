"""What every stage script shares: the path of the source, its folders, one-line errors, its cost.

The package is imported from the ``src/`` next to this file and never from an installed copy: an
experiment in DVC's queue runs in a copy of the repository and must run the code of this copy.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

ENDINGS = {signal.SIGINT: b"interrupted", signal.SIGTERM: b"terminated"}


def _end(number: int, _frame: FrameType | None) -> None:
    """Ctrl-C, or a request to end, is one line and exit code 130 or 143, during the imports too."""
    for other in ENDINGS:  # nothing disturbs the end
        signal.signal(other, signal.SIG_IGN)
    how = ENDINGS[signal.Signals(number)]
    os.write(2, b"error: %s; run it again, and a zoo continues from its shards\n" % how)
    raise SystemExit(128 + number)


ROOT = Path(__file__).resolve().parent.parent
is_script = Path(sys.argv[0]).resolve().parent == ROOT / "stages"  # and no test that imports this
if is_script and multiprocessing.current_process().name == "MainProcess":  # which ends workers
    for ending in ENDINGS:
        signal.signal(ending, _end)
sys.path.insert(0, str(ROOT / "src"))

from weightspace.artifacts import write_bytes  # noqa: E402
from weightspace.errors import WeightspaceError  # noqa: E402
from weightspace.experiments.markers import selected, verify_markers, write_markers  # noqa: E402
from weightspace.params import Params, load_params  # noqa: E402
from weightspace.runtime import environment, prepare  # noqa: E402

DATA, METRICS = ROOT / "data", ROOT / "metrics"
# Finished shards wait in this folder. Experiments in temporary copies share that of the main
# workspace; its entries are named by a hash of code, settings and inputs.
SCRATCH = Path(os.environ.get("DVC_ROOT", ROOT)) / ".work"


def run(name: str, stage: Callable[[Params], None]) -> None:
    """Run a stage; log what it cost, and on what; an expected error is one line on stderr and exit code 2."""
    os.chdir(ROOT)
    prepare()
    start, memory = time.monotonic(), Memory(daemon=True)
    memory.start()
    try:
        params = load_params("params.yaml")
        if name == "check":  # the first stage: later ones depend on these files
            write_markers(selected(params))
        verify_markers(params)
        stage(params)
    except WeightspaceError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    seconds, peak = round(time.monotonic() - start, 1), round(memory.peak / 2**20)
    cost = {"seconds": seconds, "peak_mib": peak, **environment(params)}
    text = json.dumps(cost, indent=2) + "\n"
    write_bytes(METRICS / "cost" / f"{name}.json", text.encode())


class Memory(threading.Thread):
    """Watches how much memory this process and all that it started hold together.

    The system knows the peak of this process and of its largest child alone; their sum is looked at
    now and then. A page that processes share counts in each. Workers of other machines do not.
    """

    seen = 0  # bytes, largest sum so far

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            self.seen = max(self.seen, resident(os.getpid()))
            time.sleep(1)

    @property
    def peak(self) -> int:
        """Peak so far, in bytes."""
        processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return max(self.seen, *(1024 * resource.getrusage(who).ru_maxrss for who in processes))


def resident(process: int) -> int:
    """Resident bytes of a process and its descendants together; 0 without /proc."""
    return usage(process)[0]


def usage(process: int) -> tuple[int, int]:
    """As :func:`resident`, and the bytes among them that are pages of no file."""
    pages = anonymous = 0
    for member in family(process):
        with suppress(OSError):  # a process may end at any time
            statm = (Path("/proc") / str(member) / "statm").read_text().split()
            pages += int(statm[1])
            anonymous += int(statm[1]) - int(statm[2])
    size = os.sysconf("SC_PAGE_SIZE")
    return pages * size, anonymous * size


def family(process: int) -> set[int]:
    """A process and its descendants."""
    parent = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            parent[int(folder.name)] = int(after_name[1])
    members = {process}
    while more := {p for p, of in parent.items() if of in members} - members:
        members |= more
    return members
