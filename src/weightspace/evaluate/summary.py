"""The headline metrics of a run, for ``dvc exp show``: tasks of unseen class sets, one file.

Networks are encoded in one pass and drawn without gradients, except for ``guided_r2``. Means over
tasks are compared with means over tasks: single draws at the highest target, none of them chosen, with
the runs that were trained from scratch, none of them chosen either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SPLIT = "test_sets"
# headline -> key in metrics/reconstruction.json: encoder alone, in one pass
RECONSTRUCTION = {
    "agreement": "encoder_only_agreement_mean",
    "agreement_late": "encoder_only_agreement_mean_late",
    "accuracy_r2": "encoder_only_accuracy_r2",
}
# headline -> key in metrics/sampling.json; {result} is what R is
SAMPLING = {
    "draw_r2": "unguided_r2_identity",
    "draw_mae": "unguided_mae",
    "draw_top": "unguided_{result}_at_top_mean",
    "scratch_top": "{result}_scratch_single_mean",
    "guided_r2": "r2_identity",
    "recall_late": "d_to_w_recall_at_1_late",
}
# headline -> key in metrics/distribution.json
DISTRIBUTION = {
    "draw_auc": "auc_outputs",
    "agreement_draws": "agreement_draws",
    "agreement_members": "agreement_members",
    "error_overlap_draws": "error_overlap_draws",
    "error_overlap_members": "error_overlap_members",
}
# headline -> key in metrics/baselines.json
BASELINES = {
    "hypernetwork_r2": "hypernetwork_r2_identity",
    "hypernetwork_top": "hypernetwork_{result}_at_top_mean",
}


def summarize(
    reconstruction: Mapping[str, Any],
    sampling: Mapping[str, Any],
    distribution: Mapping[str, Any],
    baselines: Mapping[str, Any],
    result: str,
) -> dict[str, float | None]:
    """Headline metrics, each as it is in its file; None for what was not measured.

    Args:
        reconstruction: contents of metrics/reconstruction.json, split -> key -> metric.
        sampling: those of metrics/sampling.json.
        distribution: those of metrics/distribution.json.
        baselines: those of metrics/baselines.json.
        result: what R is, "accuracy" or "loss".

    >>> summarize({"test_sets": {"encoder_only_agreement_mean": 0.9}}, {}, {}, {}, "loss")["agreement"]
    0.9

    """
    rebuilt, drawn, alike, others = (
        metrics.get(SPLIT, {}) for metrics in (reconstruction, sampling, distribution, baselines)
    )
    out = {name: rebuilt.get(key) for name, key in RECONSTRUCTION.items()}
    out |= {name: drawn.get(key.format(result=result)) for name, key in SAMPLING.items()}
    out |= {name: alike.get(key) for name, key in DISTRIBUTION.items()}
    return out | {name: others.get(key.format(result=result)) for name, key in BASELINES.items()}
