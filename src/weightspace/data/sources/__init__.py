"""Image sources. Each module has ``load(path, options, need, seed) -> (images, labels, class names)``.

Images are float32 ``(n, C, H, W)`` in [0, 1], labels int64 ``(n,)`` in ``0..K-1``. ``path`` is
``sources.path`` of params.yaml or a path that a person gives:
:func:`weightspace.data.sources.base.source_of` says which source reads it. Options are the section
``sources.NAME``; of each class ``need`` images will be used.
"""

from weightspace.registry import Members

__all__ = ["SOURCES", "base", "digits", "folder", "glyphs", "idx", "npz"]

SOURCES = Members(
    "sources",
    {
        "digits": "weightspace.data.sources.digits",
        "folder": "weightspace.data.sources.folder",
        "glyphs": "weightspace.data.sources.glyphs",
        "idx": "weightspace.data.sources.idx",
        "npz": "weightspace.data.sources.npz",
    },
)
