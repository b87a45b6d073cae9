"""Dataset encoders: images of a class -> embedding. One file each.

A module has ``build(shape, settings, generator) -> Encoder`` with the section ``encoders`` of
params.yaml as settings; ``base.py`` says what an encoder has. ``prepare`` is called once with the images
of the train classes, and the embedding never depends on the order of the images of a class.
"""

ENCODERS = {
    "clip": "weightspace.encoders.clip",
    "deepsets": "weightspace.encoders.deepsets",
    "distillation": "weightspace.encoders.distillation",
    "statistics": "weightspace.encoders.statistics",
}
