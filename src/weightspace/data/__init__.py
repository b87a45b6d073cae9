"""Image sources, the fixed samples of each class, and the tasks made of them."""

__all__ = ["dataset", "fetch", "images", "sources", "tasks"]
