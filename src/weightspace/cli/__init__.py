"""The command line."""

__all__ = ["app", "output", "pipeline", "use"]
