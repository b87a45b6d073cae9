"""Codecs: weights <-> latent. One file each.

A module has ``fit(data, settings, seed) -> (Codec, history)`` and ``from_meta(meta) -> Codec``.
"""

CODECS = {
    "functional": "weightspace.codecs.functional",
    "mlp": "weightspace.codecs.mlp",
}
