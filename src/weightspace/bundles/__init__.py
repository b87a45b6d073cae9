"""Bundles: a finished project as one file that is read where it lies, and those of the package."""

__all__ = ["archive", "fetching", "locate", "numbers", "writing"]
