"""Dataset encoders: images of a class -> embedding. One file each.

A module has ``build(shape, options, rng) -> DatasetEncoder``; options are the section
``dataset_encoders.NAME`` of params.yaml; ``base.py`` says what an encoder has. ``prepare`` is
called once with the images of the train classes, and the embedding never depends on the order of the
images of a class.
"""

from weightspace.registry import Members

__all__ = ["DATASET_ENCODERS", "base", "clip", "deepsets", "distillation", "statistics"]

DATASET_ENCODERS = Members(
    "dataset_encoders",
    {
        "clip": "weightspace.dataset_encoders.clip",
        "deepsets": "weightspace.dataset_encoders.deepsets",
        "distillation": "weightspace.dataset_encoders.distillation",
        "statistics": "weightspace.dataset_encoders.statistics",
    },
)
