"""What a person looks at: tables, plots, the report page, the reference of the settings."""

__all__ = [
    "demo",
    "document",
    "evidence",
    "gallery",
    "headline",
    "html",
    "markdown",
    "page",
    "plots",
    "provenance",
    "scale",
    "settings",
    "speed",
    "stages",
    "tables",
]
