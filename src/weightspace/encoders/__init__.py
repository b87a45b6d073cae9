"""Dataset encoders: images of a class -> embedding. One file each.

A module has ``build(shape, settings, generator) -> nn.Module`` with attribute ``features``,
``prepare(images)`` (called once with the images of the train classes) and
``forward(images (M, n, C, H, W)) -> (M, features)``, invariant to the order of the n images.
"""

ENCODERS = {
    "deepsets": "weightspace.encoders.deepsets",
    "statistics": "weightspace.encoders.statistics",
}
