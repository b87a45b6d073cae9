"""Image sources. Each module has ``load(settings, need, seed) -> (images, labels, class names)``.

Images are float32 ``(n, C, H, W)`` in [0, 1], labels int64 ``(n,)`` in ``0..K-1``. ``need`` is the
number of images that will be used of each class. ``settings.path`` may be set to a person's path;
:func:`weightspace.data.sources.base.source_of` says which source reads it.
"""

SOURCES = {
    "digits": "weightspace.data.sources.digits",
    "folder": "weightspace.data.sources.folder",
    "glyphs": "weightspace.data.sources.glyphs",
    "idx": "weightspace.data.sources.idx",
    "npz": "weightspace.data.sources.npz",
}
