"""What a network costs beside what it does: the table and sentences that README opens with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightspace.artifacts import read_json
from weightspace.errors import problem
from weightspace.evaluate.finetuning import EPOCHS, SCRATCH_EPOCHS
from weightspace.params import Params, load_params
from weightspace.report import markdown, provenance

SPLIT = "test_sets"
TRAINING_BATCH = 64  # of the steps that benchmarks/zoo_training.py times


class Figures(dict[str, Any]):
    """Figures of a JSON file; one that these settings do not give is one clear line.

    Args:
        figures: name -> figure.
        where: the file, for the message.
        do: what gives the figure.

    >>> Figures({"mae": 0.02}, "metrics/sampling.json")["mae"]
    0.02

    """

    def __init__(self, figures: dict[str, Any], where: str, do: str = "") -> None:
        super().__init__(figures)
        self.where, self.do = where, do

    def __getitem__(self, name: str) -> Any:
        """Give a figure that is there and defined.

        Raises:
            WeightspaceError: the file has none of that name.

        """
        if self.get(name) is None:
            raise problem(
                f"README's table needs the figure '{name}'", where=self.where, do=self.do or None
            )
        return super().__getitem__(name)


def read_metrics(root: Path, name: str) -> Figures:
    """Figures of the headline split in a file of ``metrics/``."""
    where = f"metrics/{name}.json"
    every = Figures(read_json(root / where), where, "run the pipeline with such tasks")
    needs = "run the pipeline with shared_encoder.result: accuracy and evaluate.controls: true"
    return Figures(every[SPLIT], f"{where}: {SPLIT}", needs)


def read_baselines(root: Path) -> Figures | None:
    """Figures of the hypernetwork for the headline split; None where a run measured none."""
    where = "metrics/baselines.json"
    every = read_json(root / where) if (root / where).is_file() else {}
    figures = every.get(SPLIT, {})
    return Figures(figures, f"{where}: {SPLIT}") if "hypernetwork_mae" in figures else None


@dataclass(frozen=True)
class Costs:
    """Labelled image-gradients and milliseconds of one network, from settings and benchmarks.

    Attributes:
        params: the settings.
        rates: ``benchmarks/throughput.json``: networks per second.
        training: ``benchmarks/zoo_training.json``: training steps of a run per second.

    """

    params: Params
    rates: Figures
    training: Figures

    def drawn(self, n: int = 1) -> tuple[int, float]:
        """Draws in one pass; from two on the nearest to the target is chosen on train images."""
        return 0, n * self._milliseconds("draw") + self._choice(n)

    def guided(self, n: int = 1) -> tuple[int, float]:
        """Draws that gradient steps move to the target."""
        guidance, data = self.params.guidance, self.params.dataset
        images = guidance.images_per_step(data.samples_per_class.train, data.classes_per_task)
        gradients = n * guidance.sampling_steps * images
        return gradients, n * self._milliseconds("draw_guided") + self._choice(n)

    def trained(self, epochs: int) -> tuple[int, float]:
        """Epochs of training in full batches over the task's train images, many networks at once.

        The milliseconds are those of as many steps of ``TRAINING_BATCH`` images.
        """
        data, size = self.params.dataset, self.params.zoo.batch_size
        steps = epochs * (data.samples_per_class.train * data.classes_per_task // size)
        return self.steps(steps * size)

    def steps(self, images: float) -> tuple[int, float]:
        """Training on so many labelled images, in batches; measurements between steps do not count."""
        rate = self.training[self.architecture]["at_once"]["median"]
        return round(images), 1000 * images / self.params.zoo.batch_size / rate

    @property
    def architecture(self) -> str:
        """Name of the architecture in the benchmark of training."""
        name = self.params.zoo.architecture
        normed = name == "cnn" and self.params.nets.cnn.batch_norm
        return f"{name}-batch-norm" if normed else name

    def _milliseconds(self, name: str) -> float:
        return 1000 / float(self.rates[name]["median"])

    def _choice(self, n: int) -> float:
        return n * self._milliseconds("run_on_270_images") if n > 1 else 0.0


def load_costs(root: Path) -> Costs:
    """Read the settings and the benchmarks of a project."""
    names = ("throughput", "zoo_training")
    needs = "time it by the script of that name, or choose an architecture that it has"
    rates, training = (
        Figures(read_json(root / "benchmarks" / f"{name}.json"), f"benchmarks/{name}.json", needs)
        for name in names
    )
    return Costs(load_params(root / "params.yaml"), rates, training)


def draws(root: Path) -> str:
    """Table of networks for unseen class sets: draws without gradients first, each with its cost."""
    figures, after = (read_metrics(root, name) for name in ("sampling", "finetuning"))
    costs, n, guided = load_costs(root), figures["draws"], figures["guided_draws"]
    steps = costs.params.guidance.sampling_steps
    kinds = (
        ("**drawn in one pass**", "unguided_", costs.drawn()),
        (f"chosen among {n} drawn in one pass", "unguided_best_of_n_", costs.drawn(n)),
        (f"guided: {steps} gradient steps after the draw", "", costs.guided()),
        (f"chosen among {guided} guided", "best_of_n_", costs.guided(guided)),
        ("control: drawn with the D of another task", "control_shuffled_d_", costs.drawn()),
        ("control: network of the nearest training task", "control_nearest_task_", (0, None)),
    )
    body = [_row(name, figures, prefix, cost) for name, prefix, cost in kinds]
    if others := read_baselines(root):
        name = "hypernetwork: no population, trained to hit R"
        cost = (others["hypernetwork_image_gradients"], None)
        body.insert(4, _row(name, others, "hypernetwork_", cost))
    last = EPOCHS[-1]
    body += [
        _trained(
            f"the same, trained {last} epochs",
            after[f"control_nearest_task_epoch_{last}"],
            costs.trained(last),
        ),
        *_stopped(root, costs),
        _trained(
            f"trained from scratch, {SCRATCH_EPOCHS} epochs",
            after["scratch_single"],
            costs.trained(SCRATCH_EPOCHS),
        ),
    ]
    head = ["network", "R2", "MAE", "at the highest target", "labelled image-gradients", "ms"]
    return markdown.rows(head, body)


def _stopped(root: Path, costs: Costs) -> list[list[str]]:
    """Rows of networks trained until the target; none where an earlier version did not train any."""
    path = root / "metrics" / "baselines.json"
    figures = read_json(path).get(SPLIT, {}) if path.is_file() else {}
    kinds = {
        "train_and_stop_nearest_task": "the same, trained until the target",
        "train_and_stop": "trained from scratch until the target",
    }
    return [
        _row(
            name,
            Figures(figures, str(path)),
            f"{key}_",
            costs.steps(figures[f"{key}_image_gradients"]),
        )
        for key, name in kinds.items()
        if f"{key}_r2_identity" in figures
    ]


def _row(name: str, figures: Figures, prefix: str, cost: tuple[int, float | None]) -> list[str]:
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
    figures, after = (read_metrics(root, name) for name in ("sampling", "finetuning"))
    costs = load_costs(root)
    top = "mean" if figures.get("accuracy_at_top_mean") is not None else "median"
    size = costs.params.zoo.batch_size
    batch = (
        ""
        if size == TRAINING_BATCH
        else f" (training: of as many steps of {TRAINING_BATCH} images)"
    )
    trained = ("two", "three", "four")[len(_stopped(root, costs))]  # rows
    return (
        f"{figures['tasks']} tasks for whose class sets autoencoder and sampler saw no network, "
        f"{figures['targets']} targets each, test images, seed {costs.params.seed}. *R2* and *MAE*: "
        f"achieved against target. *At the highest target*: {top} accuracy over tasks; in the last "
        f"{trained} rows mean over {after['tasks']} of them. *Labelled image-gradients*: labelled "
        "images times gradient steps that one network takes, of weights or of its latent. *ms*: milliseconds per "
        f"network{batch}, {costs.rates['machine']}, many at once. Choosing needs labelled train images, "
        f"no gradient. {provenance.line(root)}"
    ).rstrip()


def facts(root: Path) -> str:
    """What else the trained models do, a line each."""
    names = ("reconstruction", "sampling", "properties", "distribution")
    metrics = {name: read_metrics(root, name) for name in names}
    latent = load_params(root / "params.yaml").autoencoder.latent
    lines = [
        _encoding(metrics["reconstruction"], latent),
        _finding(metrics["sampling"]),
        _reading(metrics["properties"]),
        _varying(metrics["distribution"]),
    ]
    if others := read_baselines(root):
        lines.append(_without_population(others, metrics["distribution"]))
    return "\n".join(f"* {line}" for line in lines)


def _encoding(figures: Figures, latent: int) -> str:
    plain, late = (_percent(figures, f"encoder_only_agreement_mean{k}") for k in ("", "_late"))
    refined, refined_late = (_percent(figures, f"agreement_mean{k}") for k in ("", "_late"))
    chance, chance_late = (_percent(figures, f"agreement_chance{k}") for k in ("", "_late"))
    return (
        f"*Encode and decode*: {latent} numbers rebuild a network that nothing was fitted to. In one "
        f"pass it predicts as its original does on {plain} of the test images (chance {chance}), "
        f"finished networks on {late} ({chance_late}); refined by gradient steps on the latent "
        f"{refined} and {refined_late}. The yardstick: another finished network of the task, of like "
        f"result, does on {_percent(figures, 'control_other_member_agreement_mean_late')}."
    )


def _finding(figures: Figures) -> str:
    (there, there_late), (back, back_late), (running, running_late) = (
        [_percent(figures, f"{name}_recall_at_1{k}") for k in ("", "_late")]
        for name in ("d_to_w", "w_to_d", "w_to_d_by_running")
    )
    chance = _percent(figures, "w_to_d_recall_at_1_chance")
    return (
        f"*Find*, among {figures['tasks']} tasks: D and R find a network of their task first for "
        f"{there_late} (finished networks; {there} over all snapshots); a network, its result not known, "
        f"its task among all of every split for {back_late} ({back}; running every network on every task "
        f"{running_late} and {running}; chance {chance})."
    )


def _reading(figures: Figures) -> str:
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


def _varying(alike: Figures) -> str:
    draws, members = (_percent(alike, f"agreement_{k}") for k in ("draws", "members"))
    overlap, other = (alike[f"error_overlap_{k}"] for k in ("draws", "members"))
    auc, exact, weights = (
        alike[k] for k in ("auc_outputs", "control_exact_auc_outputs", "auc_weights")
    )
    together, trained = (_percent(alike, f"ensemble_accuracy_{k}") for k in ("draws", "members"))
    return (
        f"*Vary*: two networks drawn in one pass for one request agree on {draws} of the images, two "
        f"trained networks of like result on {members}; their errors overlap by {overlap:.2f} and "
        f"{other:.2f}. A classifier tells draws from trained networks by their outputs with an AUC of "
        f"{auc:.2f} (one half of the trained networks from the other {exact:.2f}; .5 is chance), by the norms "
        f"of their tensors with {weights:.2f}. An ensemble of draws at the highest target is right on {together}, one of trained "
        f"networks on {trained}."
    )


def _without_population(others: Figures, alike: Figures) -> str:
    r2, top, auc, overlap = (
        others[f"hypernetwork_{k}"]
        for k in ("r2_identity", "accuracy_at_top_mean", "auc_outputs", "error_overlap_draws")
    )
    return (
        f"*Without a population*: a hypernetwork that was trained on nothing but hitting R follows it with R2 "
        f"{r2:.3f} and reaches {top:.3f} at the highest target, but two of its draws for one request agree on "
        f"{_percent(others, 'hypernetwork_agreement_draws')} of the images (trained networks "
        f"{_percent(alike, 'agreement_members')}), their errors overlap by {overlap:.2f}, and a classifier tells "
        f"them from trained networks by their outputs with an AUC of {auc:.2f}."
    )


def _percent(figures: Figures, name: str) -> str:
    return f"{100 * figures[name]:.1f} %"


def time_and_memory(root: Path) -> str:
    """A sentence on what the committed run took."""
    costs = [read_json(path) for path in sorted((root / "metrics" / "cost").glob("*.json"))]
    minutes = sum(cost["seconds"] for cost in costs) / 60
    gib = max(cost["peak_mib"] for cost in costs) / 1024
    return (
        f"The run behind this page spent {minutes:.0f} minutes in its stages, two at once where none needs the "
        f"other, on 2 cores, without a GPU; a stage needed at most {gib:.1f} GiB of memory."
    )
