"""The command line."""

__all__ = ["app", "catalogue", "demo", "door", "output", "pipeline", "use"]
