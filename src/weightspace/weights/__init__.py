"""What weights are, without running them: spec, permutations, matching, PCA, checkpoints."""

__all__ = ["checkpoints", "matching", "pca", "permutations", "spec"]
