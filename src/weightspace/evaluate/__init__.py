"""Evaluations: one question each, read artefacts only, report every figure beside its controls."""
