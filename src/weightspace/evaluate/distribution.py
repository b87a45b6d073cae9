"""Are networks drawn in one pass distributed as trained networks are, or are they one good point?

Two-sample tests: a classifier learns to tell draws from held-out members of equal (D, R), and is asked
about class sets that it was not fitted on. Its ROC-AUC is 1 where it always can and .5 where it cannot.
It reads the outputs on images of the task, the norm of each tensor, or a projection of all weights
whose hidden units were matched to those of one network. The classifier is not shown the target: how
well draws follow it is measured in :mod:`weightspace.evaluate.sampling`.

Source: Lopez-Paz, Oquab (2017), Revisiting Classifier Two-Sample Tests, arXiv 1610.06545.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassifierMixin, clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from weightspace.autoencoders.base import Decoded, encode_members
from weightspace.data.tasks import HELD_OUT, part_of
from weightspace.evaluate import metrics as m
from weightspace.evaluate.controls import noised
from weightspace.evaluate.diversity import diversity, predictions
from weightspace.evaluate.evaluation import Evaluation, Scoring
from weightspace.evaluate.readings import Projection
from weightspace.params import Params
from weightspace.progress import progress
from weightspace.rng import stream, torch_stream
from weightspace.sampling.sampler import Condition
from weightspace.weights.lazy import standard_deviations
from weightspace.weights.matching import align
from weightspace.weights.spec import (
    BLOCK,
    Population,
    Weights,
    block_size,
    block_slices,
    fill_blocks,
    fill_together,
    stack,
    take,
    to_device,
)
from weightspace.zoo.result import accuracies, cross_entropy
from weightspace.zoo.runner import TaskRunner

# suffix of the metrics -> classifier
CLASSIFIERS: dict[str, ClassifierMixin] = {
    "": HistGradientBoostingClassifier(max_iter=100, early_stopping=False, random_state=0),
    "_linear": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
}
FEATURES = ("outputs", "weights", "matched")
FOLDS = 5
COLUMNS = 64  # of the projection
NOISE = 0.3  # of the sampler that is too wide, in standard deviations of a tensor
POINTS = (0.25, 0.5, 0.75)  # of the line between two networks
DRAWS = 4  # of a request, whose agreement is measured
BOUND = 1e9  # of a feature, for infinity and NaN: a classifier reads its square, too


@dataclass(frozen=True)
class Sample:
    """What classifiers read of N networks.

    Attributes:
        features: "outputs" ``(N, F)``, "weights" ``(N, P)``, norms of P tensors, and "matched"
            ``(N, 64)``, a random projection of the weights after matching.
        class_sets: class set of each network's task ``(N,)``.

    """

    features: dict[str, np.ndarray]
    class_sets: np.ndarray

    def rows(self, index: np.ndarray) -> Sample:
        """Some of the networks, by index or mask."""
        return Sample({k: x[index] for k, x in self.features.items()}, self.class_sets[index])


def output_features(outputs: Tensor) -> Tensor:
    """What outputs ``(N, B, c)``, class after class, say of each network: ``(N, 5 c + 5)``.

    Accuracy and cross entropy of each class, mean and standard deviation of each output; mean cross
    entropy, margin between the two highest outputs (mean and standard deviation), highest
    probability, standard deviation of all outputs; how often each class is predicted.
    """
    classes, top = outputs.shape[2], outputs.topk(2, -1).values
    loss = cross_entropy(outputs).float()  # (N, B)
    predicted = torch.nn.functional.one_hot(outputs.argmax(-1), classes).float()  # (N, B, c)
    by_class = predicted.unflatten(1, (classes, -1)).mean(2)  # (N, c, c)
    margin = top[..., 0] - top[..., 1]
    columns = [
        by_class.diagonal(dim1=1, dim2=2),
        loss.unflatten(1, (classes, -1)).mean(2),
        outputs.mean(1),
        outputs.std(1),
        predicted.mean(1),
        *(
            x[:, None]
            for x in (
                loss.mean(1),
                margin.mean(1),
                margin.std(1),
                outputs.softmax(-1).amax(-1).mean(1),
                outputs.flatten(1).std(1),
            )
        ),
    ]
    return torch.cat(columns, 1)


@dataclass(frozen=True)
class Reader:
    """Reads what classifiers see of networks.

    Attributes:
        runner: runs them on the images of their tasks.
        part: "val" or "test", the images.
        reference: one network ``(1, *shape)``, to which hidden units are matched.
        projection: of matched networks.

    """

    runner: TaskRunner
    part: str
    reference: Weights
    projection: Projection

    @classmethod
    def of(cls, scoring: Scoring, networks: Population, part: str) -> Reader:
        """Match to the first finished train member, in units of the standard deviations of N networks.

        Args:
            scoring: the population, and what runs its networks.
            networks: N of them.
            part: images to run on.

        """
        zoo = scoring.zoo
        reference = take(zoo.networks(zoo.select("train", last_only=True).iloc[:1]), slice(0, 1))
        std = standard_deviations(zoo.spec, networks)
        projection = Projection(zoo.spec, std, scoring.seed, COLUMNS)
        return cls(scoring.runner, part, reference, projection)

    def __call__(self, networks: Population, members: pd.DataFrame) -> Sample:
        """Read N networks, block by block.

        Args:
            networks: N of them.
            members: those whose tasks they are for, N rows.

        """
        tasks, spec = members["task"].to_numpy(), self.runner.net.spec

        def compute(rows: slice) -> list[Tensor]:
            block = take(networks, rows)
            outputs = self.runner.outputs(block, tasks[rows], self.part)
            block = to_device(block, torch.device("cpu"))
            norms = [w.flatten(1).norm(dim=1) for w in spec.unconstrain(block).values()]
            matched = self.projection(align(spec, self.reference, block))
            return [output_features(outputs), torch.stack(norms, 1), matched]

        columns = (5 * self.runner.classes + 5, len(spec.names), COLUMNS)
        rooms = [torch.empty(len(tasks), n) for n in columns]
        fill_together(rooms, block_size(spec, BLOCK), compute)
        features = dict(zip(FEATURES, (x.numpy() for x in rooms), strict=True))
        return Sample(features, members["class_set"].to_numpy())


def two_sample(
    real: Sample, other: Sample, name: str = "", resamples: int = 0, seed: int = 0
) -> dict[str, float]:
    """ROC-AUC ``<name>auc_<features>`` of trees, with suffix ``_linear`` of logistic regression.

    Of trees on outputs with a 95 % interval over class sets. NaN where there are not two of them.

    Args:
        real: trained networks.
        other: networks to be told from them.
        name: prefix of the metrics.
        resamples: of class sets; 0 gives no interval.
        seed: root seed.

    """
    sets = np.concatenate([real.class_sets, other.class_sets])
    second = np.repeat([False, True], [len(real.class_sets), len(other.class_sets)])
    out = {}
    for kind, x in real.features.items():
        both = np.concatenate([x, other.features[kind]]).astype(np.float64)
        for suffix, classifier in CLASSIFIERS.items():
            key = f"{name}auc_{kind}{suffix}"
            score = held_out_scores(both, second, sets, classifier)
            out[key] = m.auc(score, second)
            if kind == "outputs" and not suffix:

                def statistic(index: np.ndarray, score: np.ndarray = score) -> float:
                    return m.auc(score[index], second[index])

                rng = stream(seed, "distribution", "bootstrap", name)
                out |= m.with_interval(key, statistic, sets, resamples, rng)
    return out


def held_out_scores(
    x: np.ndarray, second: np.ndarray, sets: np.ndarray, classifier: ClassifierMixin
) -> np.ndarray:
    """Probability ``(N,)`` of the second sample, by classifiers that saw no network of the class set.

    Args:
        x: features ``(N, F)``; those that are not finite count as very large ones.
        second: which networks are of the second sample, bool ``(N,)``.
        sets: class set of each ``(N,)``.
        classifier: fitted anew for each fold.

    """
    folds = min(FOLDS, len(np.unique(sets)))
    if folds < 2:
        return np.full(len(x), np.nan)
    x = np.nan_to_num(x, nan=BOUND).clip(-BOUND, BOUND)
    with threadpool_limits(1):  # so few rows: threads would wait for each other most of the time
        scores: np.ndarray = cross_val_predict(
            clone(classifier), x, second, groups=sets, cv=GroupKFold(folds), method="predict_proba"
        )
    return scores[:, 1]


def halves(members: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Half of the runs of each class set against the other half: 0 or 1 of each member ``(N,)``.

    -1 for the run that is left over. All snapshots of a run are in one half.

    Args:
        members: their table.
        rng: random stream.

    """
    runs = members.drop_duplicates("run")[["run", "class_set"]]
    runs = runs.iloc[rng.permutation(len(runs))]
    index = runs.groupby("class_set").cumcount()
    size = runs.groupby("class_set")["run"].transform("size")
    half = (index % 2).where(index < size // 2 * 2, -1)
    of_run = dict(zip(runs["run"], half, strict=True))
    return members["run"].map(of_run).to_numpy()


def some_members(scoring: Scoring, split: str) -> pd.DataFrame:
    """Members of as many tasks, drawn at random, as ``evaluate.two_sample_networks`` allows; of one at least."""
    members = scoring.zoo.select(split)
    counts = members["task"].value_counts().sort_index()
    counts = counts.iloc[stream(scoring.seed, "distribution", split).permutation(len(counts))]
    tasks = counts.index[counts.cumsum() <= scoring.settings.two_sample_networks]
    return members[members["task"].isin([counts.index[0], *tasks])].reset_index(drop=True)


def told_apart(
    scoring: Scoring, split: str, draw: Callable[[Condition], Population]
) -> dict[str, float]:
    """How well draws of any method are told from members of equal (D, R): :func:`two_sample`.

    Args:
        scoring: the population, and what runs its networks.
        split: of the members.
        draw: N requests -> N networks.

    """
    members = some_members(scoring, split)
    trained = scoring.zoo.networks(members)
    read = Reader.of(scoring, trained, part_of(split))
    target = torch.from_numpy(scoring.result.of_members(members)).float()
    tasks = torch.tensor(members["task"].to_numpy())
    drawn = draw(Condition.of_tasks(scoring.runner.dataset, tasks, target))
    real, other = read(trained, members), read(drawn, members)
    return two_sample(real, other, "", scoring.settings.bootstrap, scoring.seed)


def two_sample_tests(evaluation: Evaluation, split: str) -> Iterator[dict[str, float]]:
    """Metrics of one test after the other: draws, then what they are compared with.

    ``null``: pairs of two runs of a task with like results, chance says which of a pair stands in
    which sample; no member is in two pairs. ``reconstruction``: members encoded and decoded in one
    pass. Constructed samplers show that the test can tell: ``control_exact``, half of the members
    against the other half; ``control_narrow``, the first of each pair against the decoded middle of
    the latents of both; ``control_wide``, members with noise on their weights.

    Args:
        evaluation: what draws, and the members.
        split: "val" or a test split.

    """
    sampler, runner, params = evaluation.sampler, evaluation.runner, evaluation.params
    members = some_members(evaluation, split)
    networks = evaluation.zoo.networks(members)
    result = evaluation.result.of_members(members)
    resamples, seed = params.evaluate.bootstrap, params.seed
    read = Reader.of(evaluation, networks, part_of(split))
    real = read(networks, members)

    def test(name: str, made: Population) -> dict[str, float]:
        return two_sample(real, read(made, members), name, resamples, seed)

    tasks, target = torch.tensor(members["task"].to_numpy()), torch.from_numpy(result).float()
    condition = Condition.of_tasks(runner.dataset, tasks, target)
    rng = torch_stream(seed, "distribution", "draws", split)
    yield test("", sampler.networks(sampler.latents(condition, 1, rng)))
    yield {"networks": len(members), "class_sets": int(members["class_set"].nunique())}
    pairs = m.pairs_alike(members["task"].to_numpy(), members["run"].to_numpy(), result)
    pairs = stream(seed, "distribution", "null", split).permuted(pairs, axis=1)
    first, second = (real.rows(rows) for rows in pairs.T)
    yield two_sample(first, second, "null_", resamples, seed)
    z = encode_members(sampler.autoencoder, networks)
    yield test("reconstruction_", Decoded(sampler.autoencoder, z))
    if params.evaluate.controls and split != "val":  # val serves choices
        half = halves(members, stream(seed, "distribution", "halves", split))
        one, rest = (real.rows(half == k) for k in (0, 1))
        yield two_sample(one, rest, "control_exact_", resamples, seed)
        middle = sampler.autoencoder.nearest_valid(z[torch.from_numpy(pairs)].mean(1))
        narrow = read(Decoded(sampler.autoencoder, middle), members.iloc[pairs[:, 0]])
        yield two_sample(first, narrow, "control_narrow_", resamples, seed)
        noise = torch_stream(seed, "distribution", "noise", split)
        yield test("control_wide_", noised(runner.net.spec, networks, NOISE, noise))


def draws_alike(evaluation: Evaluation, split: str) -> dict[str, float]:
    """Agreement and error overlap of draws in one pass and of members: :func:`diversity`."""
    tasks = evaluation.tasks(split)
    grid, sampler = evaluation.grid(tasks), evaluation.sampler
    rng = torch_stream(evaluation.params.seed, "distribution", "alike", split)
    z = sampler.latents(grid.condition(evaluation.runner.dataset), DRAWS, rng)
    repeated = np.repeat(tasks, len(grid.targets) * DRAWS)
    predicted = predictions(evaluation.runner, sampler.networks(z), repeated, part_of(split))
    return diversity(evaluation, grid, predicted.unflatten(0, (-1, DRAWS)), split)


def barriers(evaluation: Evaluation, split: str) -> dict[str, float]:
    """Loss of accuracy on the line between two networks: ``barrier_draws``, ``barrier_members``.

    The members are two finished ones of a task with like results, the draws two for this task and the
    result of the first. ``barrier_matched_``: after the hidden units of the second were matched to the first.
    The deepest of three points counts, below the line between the accuracies of the ends; mean over
    pairs, ``evaluate.novelty_networks`` at most. NaN where no task has two finished members.

    Source: Entezari et al. (2022), The Role of Permutation Invariance in Linear Mode Connectivity,
    arXiv 2110.06296, equation 1.

    Args:
        evaluation: what draws, and the members.
        split: "val" or a test split.

    """
    sampler, zoo, params = evaluation.sampler, evaluation.zoo, evaluation.params
    members = zoo.select(split, last_only=True)
    result = evaluation.result.of_members(members)
    pairs = m.pairs_alike(members["task"].to_numpy(), members["run"].to_numpy(), result)
    pairs = pairs[: params.evaluate.novelty_networks]
    tasks = members["task"].to_numpy()[pairs[:, 0]]
    ends: dict[str, list[Population]] = {
        "members": [zoo.networks(members.iloc[rows]) for rows in pairs.T]
    }
    if len(pairs):
        target = torch.from_numpy(result[pairs[:, 0]]).float()
        condition = Condition.of_tasks(evaluation.runner.dataset, torch.from_numpy(tasks), target)
        rng = torch_stream(params.seed, "distribution", "barriers", split)
        z = sampler.latents(condition, 2, rng)
        ends["draws"] = [sampler.networks(z[:, i : i + 1]) for i in range(2)]
    out = {
        f"barrier{how}_{who}": np.nan for who in ("draws", "members") for how in ("", "_matched")
    }
    for who, (first, second) in ends.items() if len(pairs) else ():
        drops = _drops(evaluation.runner, (first, second), tasks, part_of(split)).mean(0)
        out |= {f"barrier_{who}": float(drops[0]), f"barrier_matched_{who}": float(drops[1])}
    return out


def _drops(
    runner: TaskRunner, ends: tuple[Population, Population], tasks: np.ndarray, part: str
) -> Tensor:
    """Loss of accuracy between networks as they are, and after matching ``(P, 2)``.

    Args:
        runner: runs them.
        ends: P networks each.
        tasks: task of each pair ``(P,)``.
        part: "val" or "test", the images.

    """
    spec = runner.net.spec

    def compute(rows: slice) -> Tensor:
        first, second = (to_device(take(end, rows), torch.device("cpu")) for end in ends)
        aligned = stack(
            [
                take(align(spec, take(first, row), take(second, row)), 0)
                for row in block_slices(len(tasks[rows]), 1)
            ]
        )

        def accuracy(networks: Weights) -> Tensor:
            return accuracies(runner.outputs(networks, tasks[rows], part))

        one, other = accuracy(first), accuracy(second)
        drops = []
        for end in (second, aligned):
            lines = [(1 - t) * one + t * other for t in POINTS]
            between = [
                accuracy({k: torch.lerp(w, end[k], t) for k, w in first.items()}) for t in POINTS
            ]
            drops.append((torch.stack(lines) - torch.stack(between)).amax(0))
        return torch.stack(drops, 1)

    room = torch.empty(len(tasks), 2, dtype=torch.float64)
    return fill_blocks(room, block_size(spec, BLOCK), compute)


def in_order_of_classes(outputs: Tensor, classes: Tensor) -> Tensor:
    """Outputs ``(N, B, c)`` as if the classes of each task came in rising order, images and columns.

    Args:
        outputs: on images that come class after class.
        classes: of each task ``(N, c)``.

    """
    order, row = classes.argsort(1), torch.arange(len(classes))[:, None]
    images: Tensor = outputs.unflatten(1, (order.shape[1], -1))[row, order].flatten(1, 2)
    return images.mT[row, order].mT


def ensembles(evaluation: Evaluation, split: str) -> dict[str, float]:
    """Accuracy of an ensemble, and its gain over a single network: of draws, and of members.

    Draws are asked for the best trained result. Members are finished ones with a result like it, nearer
    than any other target, of one class set, whatever the order of their classes, which changes the
    order of their outputs alone. Where a class set has fewer than ``evaluate.ensemble``, as many draws
    are taken. Mean over class sets that have two.

    Args:
        evaluation: what draws, and the members.
        split: "val" or a test split.

    """
    sampler, runner, params = evaluation.sampler, evaluation.runner, evaluation.params
    tasks, most, part = evaluation.tasks(split), params.evaluate.ensemble, part_of(split)
    rng = torch_stream(params.seed, "distribution", "ensemble", split)
    z = sampler.latents(evaluation.best_condition(tasks), most, rng)
    drawn = runner.outputs_by_task(sampler.networks(z), tasks, part).unflatten(0, (-1, most))
    members = _best_members(evaluation, split)
    trained_on = torch.tensor(members["task"].to_numpy())
    outputs = in_order_of_classes(
        runner.outputs(evaluation.zoo.networks(members), trained_on.numpy(), part),
        runner.dataset.classes[trained_on],
    )
    sets, values = evaluation.class_sets(tasks), []
    for class_set, rows in members.groupby("class_set").indices.items():
        if (size := len(rows)) > 1:
            of_draws = drawn[torch.from_numpy(sets == class_set), :size]  # (orders, size, B, c)
            values.append([*_ensemble(of_draws), *_ensemble(outputs[torch.tensor(rows)][None])])
    return _gains(np.array(values).reshape(-1, 4), params)


def _best_members(evaluation: Evaluation, split: str) -> pd.DataFrame:
    """Finished members of a split with a result like the best trained one, an ensemble per class set at most."""
    members = evaluation.zoo.select(split, last_only=True)
    low, high = evaluation.sampler.shared_encoder.bounds
    result, settings = evaluation.result, evaluation.params.evaluate
    distance = np.abs(result.of_members(members) - result.best((low, high)))
    order = distance.argsort(kind="stable")
    like = distance[order] <= (high - low) / (settings.targets - 1) / 2
    best = members.iloc[order[like]].groupby("class_set").head(settings.ensemble)
    return best.reset_index(drop=True)


def _ensemble(outputs: Tensor) -> tuple[float, float]:
    """Mean accuracy of ensembles ``(T, n, B, c)``, whose softmax is averaged, and of their networks."""
    flat = outputs.flatten(0, 1)
    together = accuracies(m.mean_softmax(flat, outputs.shape[1])).mean()
    return float(together), float(accuracies(flat).mean())


def _gains(values: np.ndarray, params: Params) -> dict[str, float]:
    """Means over class sets, gains with intervals, and the gain of draws as a fraction of the members'.

    Args:
        values: accuracy of ensembles and of single networks, of draws, then of members ``(S, 4)``.
        params: all settings.

    """
    out = {}
    for name, (together, single) in {"draws": values.T[:2], "members": values.T[2:]}.items():
        gain, key = together - single, f"ensemble_gain_{name}"
        out[f"ensemble_accuracy_{name}"] = float(together.mean()) if len(gain) else np.nan
        out[key] = float(gain.mean()) if len(gain) else np.nan

        def mean(index: np.ndarray, gain: np.ndarray = gain) -> float:
            return float(gain[index].mean())

        rng = stream(params.seed, "distribution", "bootstrap", key)
        out |= m.with_interval(key, mean, len(gain), params.evaluate.bootstrap, rng)
    draws, members = out["ensemble_gain_draws"], out["ensemble_gain_members"]
    return out | {"ensemble_gain_share": draws / members if members else np.nan}


def evaluate_distribution(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Metrics of each held-out split that has tasks; draws are not guided."""
    splits = [split for split in HELD_OUT if len(evaluation.tasks(split))]
    out: dict[str, dict[str, float]] = {split: {} for split in splits}
    with progress("distribution", 3 * len(splits)) as bar:
        for split, metrics in out.items():
            for of_test in two_sample_tests(evaluation, split):
                metrics |= of_test
            bar.advance(note="two-sample tests")
            metrics |= draws_alike(evaluation, split)
            bar.advance(note="agreement")
            metrics |= ensembles(evaluation, split)
            metrics |= barriers(evaluation, split) if split != "val" else {}
            bar.advance(note="ensembles, barriers")
    return out
