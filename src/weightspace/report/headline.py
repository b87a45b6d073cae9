"""What a network costs beside what it does: the table and sentences that README opens with."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from weightspace.artifacts import read_json
from weightspace.evaluate.finetuning import EPOCHS, SCRATCH_EPOCHS
from weightspace.params import Params, load_params
from weightspace.report import markdown

SPLIT = "test_sets"


@dataclass(frozen=True)
class Costs:
    """Labelled image-gradients and milliseconds of one network, from settings and benchmarks.

    Attributes:
        params: the settings.
        rates: ``benchmarks/throughput.json``: networks per second.
        training: ``benchmarks/zoo_training.json``: training steps of a run per second.

    """

    params: Params
    rates: dict[str, Any]
    training: dict[str, Any]

    @property
    def images(self) -> int:
        """Train images of a task."""
        data = self.params.dataset
        return data.samples_per_class.train * data.classes_per_task

    def drawn(self, n: int = 1) -> tuple[int, float]:
        """Draws in one pass; from two on the nearest to the target is chosen on train images."""
        return 0, n * self._milliseconds("draw") + self._choice(n)

    def guided(self, n: int = 1) -> tuple[int, float]:
        """Draws that gradient steps move to the target."""
        guidance = self.params.guidance
        images = guidance.images_per_class * self.params.dataset.classes_per_task
        gradients = n * guidance.sampling_steps * images
        return gradients, n * self._milliseconds("draw_guided") + self._choice(n)

    def trained(self, epochs: int) -> tuple[int, float]:
        """Epochs of training over the task's train images, many networks at once."""
        steps = epochs * ceil(self.images / self.params.zoo.batch_size)
        rate = self.training[self.params.zoo.architecture]["at_once"]["median"]
        return epochs * self.images, 1000 * steps / rate

    def _milliseconds(self, name: str) -> float:
        return 1000 / float(self.rates[name]["median"])

    def _choice(self, n: int) -> float:
        return n * self._milliseconds("run_on_270_images") if n > 1 else 0.0


def load_costs(root: Path) -> Costs:
    """Read the settings and the benchmarks of a project."""
    files = (root / "benchmarks" / f"{name}.json" for name in ("throughput", "zoo_training"))
    return Costs(load_params(root / "params.yaml"), *map(read_json, files))


def draws(root: Path) -> str:
    """Table of networks for unseen class sets: draws without gradients first, each with its cost."""
    figures = read_json(root / "metrics" / "sampling.json")[SPLIT]
    after = read_json(root / "metrics" / "finetuning.json")[SPLIT]
    costs, n = load_costs(root), figures["draws"]
    steps = costs.params.guidance.sampling_steps
    kinds = (
        ("**drawn in one pass**", "unguided_", costs.drawn()),
        (f"chosen among {n} drawn in one pass", "unguided_best_of_n_", costs.drawn(n)),
        (f"guided: {steps} gradient steps after the draw", "", costs.guided()),
        (f"chosen among {n} guided", "best_of_n_", costs.guided(n)),
        ("control: guided with the D of another task", "shuffled_d_", costs.guided()),
        ("control: network of the nearest training task", "nearest_task_", (0, None)),
    )
    body = [_row(name, figures, prefix, cost) for name, prefix, cost in kinds]
    last = EPOCHS[-1]
    body += [
        _trained(
            f"the same, trained {last} epochs",
            after[f"nearest_task_epoch_{last}"],
            costs.trained(last),
        ),
        _trained("trained from scratch", after["scratch_single"], costs.trained(SCRATCH_EPOCHS)),
    ]
    head = ["network", "R2", "MAE", "at the highest target", "labelled image-gradients", "ms"]
    return markdown.rows(head, body)


def _row(
    name: str, figures: dict[str, Any], prefix: str, cost: tuple[int, float | None]
) -> list[str]:
    r2, mae = (f"{figures[prefix + key]:.3f}" for key in ("r2_identity", "mae"))
    return [name, r2, mae, f"{figures[prefix + 'accuracy_at_top']:.3f}", *_cost(cost)]


def _trained(name: str, accuracy: float, cost: tuple[int, float | None]) -> list[str]:
    return [name, "", "", f"{accuracy:.3f} (mean)", *_cost(cost)]


def _cost(cost: tuple[int, float | None]) -> list[str]:
    gradients, milliseconds = cost
    shown = (
        "-"
        if milliseconds is None
        else f"{milliseconds:.2g}"
        if milliseconds < 10
        else f"{milliseconds:.0f}"
    )
    return [f"{gradients:,}", shown]


def measured(root: Path) -> str:
    """A sentence on where the figures of :func:`draws` come from."""
    figures, costs = read_json(root / "metrics" / "sampling.json")[SPLIT], load_costs(root)
    after = read_json(root / "metrics" / "finetuning.json")[SPLIT]
    return (
        f"{figures['tasks']} tasks whose class sets nobody trained on, {figures['targets']} targets each, "
        f"test images, seed {costs.params.seed}. *R2* and *MAE*: achieved against target. *At the highest target*: "
        f"median accuracy over tasks; where marked, mean over {after['tasks']} of them. "
        "*Labelled image-gradients*: labelled images times gradient steps that one network takes, of weights "
        f"or of its latent. *ms*: milliseconds per network, {costs.rates['machine']}, many at once. Choosing "
        "needs labelled train images, no gradient."
    )


def facts(root: Path) -> str:
    """What else the trained models do, a line each."""
    names = ("reconstruction", "sampling", "properties")
    r, s, p = (read_json(root / "metrics" / f"{name}.json")[SPLIT] for name in names)
    latent = load_params(root / "params.yaml").autoencoder.latent
    return "\n".join(
        (
            f"* *Encode and decode*: {latent} numbers rebuild a network that nothing was fitted to; in one pass "
            f"it agrees with its original on {_percent(r, 'encoder_only_agreement_mean')} of the test images, finished networks on "
            f"{_percent(r, 'encoder_only_agreement_mean_late')} (chance {_percent(r, 'agreement_chance')} and "
            f"{_percent(r, 'agreement_chance_late')}); refined by gradient steps on the latent "
            f"{_percent(r, 'agreement_mean')} and {_percent(r, 'agreement_mean_late')}.",
            f"* *Find*: dataset and result find a network of the right task, classes in order, first for "
            f"{_percent(s, 'd_to_w_recall_at_1_late')} of finished networks, a network finds its task for "
            f"{_percent(s, 'w_to_d_recall_at_1_late')} (chance {_percent(s, 'w_to_d_recall_at_1_late_chance')}).",
            f"* *Predict* from the latent: test accuracy with R2 {p['latent_test_accuracy_r2']:.2f} (weight "
            f"statistics {p['weight_statistics_test_accuracy_r2']:.2f}), the optimiser for "
            f"{_percent(p, 'latent_optimizer_accuracy')} of networks; there weight statistics win "
            f"({_percent(p, 'weight_statistics_optimizer_accuracy')}).",
        )
    )


def _percent(figures: dict[str, Any], name: str) -> str:
    return f"{100 * figures[name]:.1f} %"


def time_and_memory(root: Path) -> str:
    """A sentence on what the committed run took."""
    costs = [read_json(path) for path in sorted((root / "metrics" / "cost").glob("*.json"))]
    minutes = sum(cost["seconds"] for cost in costs) / 60
    gib = max(cost["peak_mib"] for cost in costs) / 1024
    return (
        f"The run behind this page spent {minutes:.0f} minutes in its stages on 2 cores, without a GPU, and "
        f"needed at most {gib:.1f} GiB of memory."
    )
