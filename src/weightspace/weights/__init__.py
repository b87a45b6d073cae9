"""What weights are, without running them: spec, permutations, matching, PCA, checkpoints, lazy networks."""

__all__ = ["checkpoints", "lazy", "matching", "pca", "permutations", "spec"]
