"""What executes the jobs of base.py: shards of a zoo, parts of an evaluation.

A member has ``verify()`` and ``execute(jobs, runtime)``, which yields the result of each job once it is
done and the files it writes are there. None can change a byte: every job is executed whole, on one thread,
from random streams that no other job reads.
"""

__all__ = ["EXECUTORS", "base", "local", "ray"]

EXECUTORS = {
    "local": "weightspace.jobs.local",
    "ray": "weightspace.jobs.ray",
}
