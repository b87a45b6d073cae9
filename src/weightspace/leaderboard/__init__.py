"""Named tasks, the evaluation of any method on them, and the table of all results."""

__all__ = ["evaluate", "figures", "method", "named", "page", "schema"]
