"""A finished pipeline as one object, and what it draws: what ``import weightspace`` gives."""

__all__ = [
    "bundling",
    "carding",
    "cards",
    "comparison",
    "describe",
    "finetuning",
    "limits",
    "network",
    "onnx",
    "prediction",
    "project",
    "retrieval",
    "samples",
]
