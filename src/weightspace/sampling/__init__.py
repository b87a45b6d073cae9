"""P(W | D, R): draw latents, move them on demand, decode them."""

__all__ = ["latent_steps", "requests", "sampler"]
