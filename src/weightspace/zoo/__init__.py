"""The population: plan the runs, train them many at once, store and read them in shards."""

__all__ = [
    "card",
    "contents",
    "generate",
    "imported",
    "outputs",
    "plan",
    "readers",
    "result",
    "runner",
    "shards",
    "store",
    "train",
]
