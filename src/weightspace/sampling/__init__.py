"""P(W | D, R): draw latents, move them on demand, decode them."""
