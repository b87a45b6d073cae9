"""Architectures, one file each.

A module has ``build(shape, classes, settings) -> nn.Module``, whose forward maps images
``(B, C, H, W)`` to pre-softmax outputs ``(B, classes)``, and ``spec(module) -> Spec``. A module may
have ``batched(weights, images) -> Chain``, the layers of many networks at once
(``weightspace.nets._chain``); without it they run by ``torch.func.vmap``.
"""

from weightspace.registry import Members

__all__ = ["NETS", "base", "cnn", "convnet", "mlp", "resnet18"]

NETS = Members(
    "nets",
    {
        "cnn": "weightspace.nets.cnn",
        "convnet": "weightspace.nets.convnet",
        "mlp": "weightspace.nets.mlp",
        "resnet18": "weightspace.nets.resnet18",
    },
)
