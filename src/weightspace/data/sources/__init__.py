"""Image sources. Each module has ``load(settings, need, seed) -> (images, labels, class names)``.

Images are float32 ``(n, C, H, W)`` in [0, 1], labels int64 ``(n,)`` in ``0..K-1``. ``need`` is the
number of images that will be used of each class.
"""

SOURCES = {
    "digits": "weightspace.data.sources.digits",
    "glyphs": "weightspace.data.sources.glyphs",
}
