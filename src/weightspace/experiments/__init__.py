"""Many runs of the pipeline: sweeps and tables of experiments, by DVC."""

__all__ = ["dvc", "markers", "parallel", "preflight", "stages", "suite", "sweep"]
