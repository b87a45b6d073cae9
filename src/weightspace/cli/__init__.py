"""The command line."""

__all__ = ["app", "demo", "door", "output", "pipeline", "use"]
