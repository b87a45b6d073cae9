"""Architectures, one file each.

A module has ``build(shape, classes, settings) -> nn.Module``, whose forward maps images
``(B, C, H, W)`` to pre-softmax outputs ``(B, classes)``, and ``spec(module) -> Spec``.
"""

NETS = {
    "cnn": "weightspace.nets.cnn",
    "cnn_bn": "weightspace.nets.cnn_bn",
    "mlp": "weightspace.nets.mlp",
    "resnet18": "weightspace.nets.resnet18",
}
