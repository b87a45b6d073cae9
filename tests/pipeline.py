"""The stages of the pipeline in this process, with tiny settings, on data in any folder."""

from contextlib import nullcontext
from importlib.util import module_from_spec, spec_from_file_location

import yaml
from sklearn.ensemble import HistGradientBoostingClassifier

from cases import FILE, merged, nested
from weightspace.evaluate import distribution, finetuning, properties, stopping, trained
from weightspace.params import validate_params
from workspace import ROOT, TINY

STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])  # in their order
FEW = {  # operations cost time here, not numbers
    "zoo.runs_per_shard": 36,
    "zoo.batch_size": 12,
    "evaluate.novelty_networks": 2,
}
FEW_TREES = HistGradientBoostingClassifier(max_iter=5, early_stopping=False, random_state=0)
SHORT = (  # constants of evaluations
    (finetuning, "EPOCHS", (1, 2)),
    (finetuning, "RATES", (1e-3, 3e-3)),
    (finetuning, "SCRATCH_EPOCHS", 2),
    (stopping, "EPOCHS", (1, 2)),
    (trained, "RATES", (1e-3, 3e-3)),
    (distribution, "CLASSIFIERS", distribution.CLASSIFIERS | {"": FEW_TREES}),
    (properties, "TREES", properties.TREES | {"max_iter": 5}),
)


def shorten(patch):
    """Shorten what settings do not; operations cost time here, not numbers."""
    for module, name, value in SHORT:
        patch.setattr(module, name, value)


def settings(**changes):
    """Tiny settings, some of them changed by dotted names."""
    return validate_params(merged(FILE, nested(TINY | FEW | changes)), "test")


def stage(name, root, params):
    """Run a stage in this process, on the data below ``root``."""
    spec = spec_from_file_location(f"stage_{name}", ROOT / "stages" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    for folder in ("DATA", "METRICS", "SCRATCH"):
        if hasattr(module, folder):
            setattr(module, folder, root / folder.lower())
    if hasattr(module, "live"):
        module.live = lambda _: nullcontext()
    module.main(params)
