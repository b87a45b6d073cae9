"""Shared encoders: (D, R) -> latent of weights. One file each.

A module has ``fit(data, settings, seed) -> (SharedEncoder, history)`` and ``build(sizes, settings, generator) -> SharedEncoder``.
"""

SHARED_ENCODERS = {
    "generator": "weightspace.shared_encoders.generator",
    "point": "weightspace.shared_encoders.point",
}
