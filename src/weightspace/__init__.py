"""weightspace: learn a latent space of network weights and sample from P(W | D, R)."""

__version__ = "0.1.0"
