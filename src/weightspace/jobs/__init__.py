"""Where jobs of base.py run: shards of a zoo, parts of an evaluation.

A member has ``verify()`` and ``run(jobs, runtime)``, which yields the result of each job once it is
done and the files it writes are there. None can change a byte: every job runs whole, on one thread,
from its own random streams.
"""

EXECUTORS = {
    "local": "weightspace.jobs.local",
    "ray": "weightspace.jobs.ray",
}
