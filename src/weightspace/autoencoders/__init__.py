"""Autoencoders: weights <-> latent. One file each.

A module has ``fit(data, settings, options, seed) -> (Autoencoder, history)`` and ``from_meta(meta) ->
Autoencoder``; settings are the section ``autoencoder`` of params.yaml, options are
``autoencoders.NAME``. One that supports several widths of the zoo has ``fit_widths``, too: a sequence of data, that of
each width, gives a list of autoencoders.
"""

from weightspace.registry import Members

__all__ = [
    "AUTOENCODERS",
    "base",
    "functional",
    "mlp",
    "residual",
    "reverse_pca",
    "tokens",
    "variational",
]

AUTOENCODERS = Members(
    "autoencoders",
    {
        "functional": "weightspace.autoencoders.functional",
        "mlp": "weightspace.autoencoders.mlp",
        "variational": "weightspace.autoencoders.variational",
        "residual": "weightspace.autoencoders.residual",
        "reverse_pca": "weightspace.autoencoders.reverse_pca",
        "tokens": "weightspace.autoencoders.tokens",
    },
)
