"""Fits: the loop, the networks that are fitted, and losses that several families use."""

__all__ = ["behavioural", "contrastive", "loop", "mlp", "result_matching"]
