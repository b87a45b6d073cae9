"""Readers of zoos that other programs trained, one layout each.

A module has ``members(path, table) -> Iterator[Member]``, run after run and in each run by rising epochs;
``table`` is a file of results, for layouts that have none of their own. It has ``fit(state, spec, where)``,
which maps tensors strictly. A :data:`weightspace.zoo.readers.base.Member` is a row and a function that
reads its state: a member that is not asked for is never read, and never more than one is in memory.
"""

__all__ = ["READERS", "base", "folder", "matrix", "ray_tune", "wild_park"]

READERS = {
    "folder": "weightspace.zoo.readers.folder",
    "matrix": "weightspace.zoo.readers.matrix",
    "ray_tune": "weightspace.zoo.readers.ray_tune",
    "wild_park": "weightspace.zoo.readers.wild_park",
}
