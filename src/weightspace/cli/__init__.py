"""The command line."""

__all__ = ["app", "door", "output", "pipeline", "use"]
