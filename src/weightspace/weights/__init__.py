"""What weights are, without running them: spec, permutations, matching, PCA, checkpoints."""
