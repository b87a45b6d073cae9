"""Dataset encoders: images of a task -> embedding e. One file each.

A module has ``build(shape, classes, settings, generator) -> nn.Module`` with attribute
``features``, ``prepare(images)`` (called once with the images of the train tasks) and
``forward(images (N, c, n, C, H, W)) -> (N, features)``.
"""

ENCODERS = {
    "statistics": "weightspace.encoders.statistics",
}
