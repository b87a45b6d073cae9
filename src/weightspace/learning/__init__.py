"""Fits: the loop, the networks that are fitted, and losses that several families use."""
