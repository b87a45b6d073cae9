"""A linear autoencoder for weightspace."""
