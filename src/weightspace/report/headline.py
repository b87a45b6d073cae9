"""What a network costs beside what it does: the table and sentences that README opens with."""

from __future__ import annotations

from dataclasses import dataclass
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

    def drawn(self, n: int = 1) -> tuple[int, float]:
        """Draws in one pass; from two on the nearest to the target is chosen on train images."""
        return 0, n * self._milliseconds("draw") + self._choice(n)

    def guided(self, n: int = 1) -> tuple[int, float]:
        """Draws that gradient steps move to the target."""
        guidance, data = self.params.guidance, self.params.dataset
        images = min(guidance.images_per_class, data.samples_per_class.train)
        gradients = n * guidance.sampling_steps * images * data.classes_per_task
        return gradients, n * self._milliseconds("draw_guided") + self._choice(n)

    def trained(self, epochs: int) -> tuple[int, float]:
        """Epochs of training in full batches over the task's train images, many networks at once."""
        data, size = self.params.dataset, self.params.zoo.batch_size
        steps = epochs * (data.samples_per_class.train * data.classes_per_task // size)
        rate = self.training[self.params.zoo.architecture]["at_once"]["median"]
        return steps * size, 1000 * steps / rate

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
        ("control: guided with the D of another task", "control_shuffled_d_", costs.guided()),
        ("control: network of the nearest training task", "control_nearest_task_", (0, None)),
    )
    body = [_row(name, figures, prefix, cost) for name, prefix, cost in kinds]
    last = EPOCHS[-1]
    body += [
        _trained(
            f"the same, trained {last} epochs",
            after[f"control_nearest_task_epoch_{last}"],
            costs.trained(last),
        ),
        _trained(
            f"trained from scratch, {SCRATCH_EPOCHS} epochs",
            after["scratch_single"],
            costs.trained(SCRATCH_EPOCHS),
        ),
    ]
    head = ["network", "R2", "MAE", "at the highest target", "labelled image-gradients", "ms"]
    return markdown.rows(head, body)


def _row(
    name: str, figures: dict[str, Any], prefix: str, cost: tuple[int, float | None]
) -> list[str]:
    """Cells of a kind of network, its accuracy as mean over tasks, or as median of older metrics."""
    r2, mae = (f"{figures[prefix + key]:.3f}" for key in ("r2_identity", "mae"))
    mean = figures.get(f"{prefix}accuracy_at_top_mean")
    top = f"{figures[prefix + 'accuracy_at_top']:.3f} (median)" if mean is None else f"{mean:.3f}"
    return [name, r2, mae, top, *_cost(cost)]


def _trained(name: str, accuracy: float, cost: tuple[int, float | None]) -> list[str]:
    return [name, "", "", f"{accuracy:.3f}", *_cost(cost)]


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
    """A sentence on where the figures of the table come from."""
    figures, costs = read_json(root / "metrics" / "sampling.json")[SPLIT], load_costs(root)
    after = read_json(root / "metrics" / "finetuning.json")[SPLIT]
    return (
        f"{figures['tasks']} tasks whose class sets nobody trained on, {figures['targets']} targets "
        f"each, test images, seed {costs.params.seed}. *R2* and *MAE*: achieved against target. *At the "
        f"highest target*: mean accuracy over tasks, over {after['tasks']} of them in the last two rows. "
        "*Labelled image-gradients*: labelled images times gradient steps that one network takes, of "
        f"weights or of its latent. *ms*: milliseconds per network, {costs.rates['machine']}, many at "
        "once. Choosing needs labelled train images, no gradient."
    )


def facts(root: Path) -> str:
    """What else the trained models do, a line each."""
    names = ("reconstruction", "sampling", "properties", "novelty", "finetuning")
    metrics = {name: read_json(root / "metrics" / f"{name}.json")[SPLIT] for name in names}
    latent = load_params(root / "params.yaml").autoencoder.latent
    lines = (
        _encoding(metrics["reconstruction"], latent),
        _finding(metrics["sampling"]),
        _reading(metrics["properties"]),
        _varying(metrics["sampling"], metrics["novelty"], metrics["finetuning"]),
    )
    return "\n".join(f"* {line}" for line in lines)


def _encoding(figures: dict[str, Any], latent: int) -> str:
    plain, late = (_percent(figures, f"encoder_only_agreement_mean{k}") for k in ("", "_late"))
    refined, refined_late = (_percent(figures, f"agreement_mean{k}") for k in ("", "_late"))
    chance, chance_late = (_percent(figures, f"agreement_chance{k}") for k in ("", "_late"))
    return (
        f"*Encode and decode*: {latent} numbers rebuild a network that nothing was fitted to. In one "
        f"pass it predicts as its original does on {plain} of the test images (chance {chance}), "
        f"finished networks on {late} ({chance_late}); refined by gradient steps on the latent "
        f"{refined} and {refined_late}."
    )


def _finding(figures: dict[str, Any]) -> str:
    there, back = (f"{name}_recall_at_1_late" for name in ("d_to_w", "w_to_d"))
    return (
        f"*Find*, among {figures['tasks']} tasks, finished networks: D and R find a network of their "
        f"task first for {_percent(figures, there)}, a network, its result given, its task for "
        f"{_percent(figures, back)} (chance {_percent(figures, back + '_chance')})."
    )


def _reading(figures: dict[str, Any]) -> str:
    latent, plain = (
        figures[f"{k}_test_accuracy_r2"] for k in ("latent", "control_weight_statistics")
    )
    right, better = (
        _percent(figures, f"{k}_optimizer_accuracy")
        for k in ("latent", "control_weight_statistics")
    )
    return (
        f"*Read off* a latent: test accuracy with R2 {latent:.2f} (statistics of the weights "
        f"{plain:.2f}), the optimiser for {right} of the networks (statistics of the weights {better})."
    )


def _varying(sampling: dict[str, Any], novelty: dict[str, Any], after: dict[str, Any]) -> str:
    draws, members = (_percent(sampling, f"agreement_between_{k}") for k in ("draws", "members"))
    overlap, other = (novelty[f"error_overlap_{k}"] for k in ("draws", "members"))
    gain, scratch = (after[f"{k}_ensemble"] - after[f"{k}_single"] for k in ("sampled", "scratch"))
    return (
        f"*Vary*: two guided draws of one request agree on {draws} of the images, two trained networks "
        f"of like result on {members}. At the highest target the errors of two draws overlap by "
        f"{overlap:.2f}, those of two trained networks by {other:.2f}; an ensemble of "
        f"{after['ensemble']} gains {gain:+.3f} ({scratch:+.3f} from scratch)."
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
