"""Codecs: weights <-> latent. One file each.

A module has ``fit(data, settings, codecs, seed) -> (Codec, history)`` and ``from_meta(meta) -> Codec``.
"""

CODECS = {
    "functional": "weightspace.codecs.functional",
    "mlp": "weightspace.codecs.mlp",
    "variational": "weightspace.codecs.variational",
    "residual": "weightspace.codecs.residual",
    "reverse_pca": "weightspace.codecs.reverse_pca",
    "tokens": "weightspace.codecs.tokens",
}
