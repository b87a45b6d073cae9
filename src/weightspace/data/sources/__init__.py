"""Image sources. Each module has ``load(settings) -> (images, labels, class names)``.

Images are float32 ``(n, C, H, W)`` in [0, 1], labels int64 ``(n,)`` in ``0..K-1``.
"""

SOURCES = {
    "digits": "weightspace.data.sources.digits",
}
