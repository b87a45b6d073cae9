"""Shared encoders: (D, R) -> latent of weights. One file each.

A module has ``fit(data, settings, seed) -> (SharedModel, history)`` and ``build(sizes, settings, generator) -> SharedModel``.
"""

SHARED = {
    "generator": "weightspace.shared.generator",
    "point": "weightspace.shared.point",
}
