"""P(W | D, R): draw latents, move them on demand, decode them."""

__all__ = ["calibration", "latent_steps", "requests", "sampler"]
