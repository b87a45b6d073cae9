"""Evaluations: one question each; they read artefacts only and measure controls in the same way."""

__all__ = [
    "baselines",
    "components",
    "controls",
    "distribution",
    "diversity",
    "evaluation",
    "finetuning",
    "generation",
    "guidance",
    "hypernetwork",
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
