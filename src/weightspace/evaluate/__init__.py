"""Evaluations: one question each; they read artefacts only and measure controls in the same way."""

__all__ = [
    "components",
    "controls",
    "distribution",
    "diversity",
    "evaluation",
    "finetuning",
    "generation",
    "guidance",
    "metrics",
    "novelty",
    "properties",
    "readings",
    "readout",
    "reconstruction",
    "retrieval",
    "sampling",
    "summary",
]
