"""Shared encoders: (D, R) -> latent of weights. One file each.

A module has ``fit(data, settings, options, seed) -> (SharedEncoder, history)`` and ``build(sizes, settings,
options, rng) -> SharedEncoder``; settings are the section ``shared_encoder`` of params.yaml, options
are ``shared_encoders.NAME``.
"""

from weightspace.registry import Members

__all__ = ["SHARED_ENCODERS", "base", "flow", "point"]

SHARED_ENCODERS = Members(
    "shared_encoders",
    {
        "flow": "weightspace.shared_encoders.flow",
        "point": "weightspace.shared_encoders.point",
    },
)
