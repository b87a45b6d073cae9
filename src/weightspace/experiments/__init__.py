"""Many runs of the pipeline: sweeps and tables of experiments, by DVC."""
