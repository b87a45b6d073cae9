"""Do networks drawn from P(W | D, R) reach the requested results, on tasks nobody trained on?

Where is what computed?

* requests, and the best of n draws: :class:`weightspace.sampling.requests.Grid`;
* draws and guidance by train images: :class:`weightspace.sampling.sampler.Sampler`, for many tasks
  :func:`weightspace.evaluate.guidance.guide`;
* the result of a draw on test images: :meth:`weightspace.zoo.runner.TaskRunner.outputs_by_task`;
* R2 of results against targets: :func:`request_metrics`, by :func:`weightspace.evaluate.metrics.r2_identity`;
* the same of the controls: :func:`control_latents`, :func:`controls`; everything of one split: :func:`evaluate_split`.

Targets lie evenly over the trained range of R. A draw may be guided by, and chosen by, its result
on the train images of its task, never on test images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.data.dataset import Dataset
from weightspace.data.tasks import part_of
from weightspace.evaluate import metrics as m
from weightspace.evaluate.controls import head_only, noised
from weightspace.evaluate.diversity import diversity
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.guidance import guide
from weightspace.progress import progress
from weightspace.rng import stream, torch_stream
from weightspace.sampling.requests import Grid
from weightspace.sampling.sampler import Condition
from weightspace.weights.lazy import Selected
from weightspace.weights.spec import Networks, Population
from weightspace.zoo.result import Result, labels_of
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo

GUIDED = ("other_d_guided_by_own", "guidance_only")  # controls that gradient steps move
NOISE = 0.1  # fraction of a tensor's standard deviation that the noised copies get


def control_latents(evaluation: Evaluation, grid: Grid) -> dict[str, Tensor]:
    """Latents ``(T * K, 1, L)`` of each control that is drawn, one per request, before any gradient step.

    Args:
        evaluation: what draws.
        grid: T x K requests.

    """
    sampler, dataset = evaluation.sampler, evaluation.runner.dataset
    seed = evaluation.params.seed
    order = stream(seed, "evaluate", "controls")
    rng = torch_stream(seed, "evaluate", "control draws")
    request = grid.condition(dataset)
    other = torch.from_numpy(np.repeat(_other_tasks(grid, dataset, order), len(grid.targets)))
    other_d = Condition.of_tasks(dataset, other, request.target)
    one_other = replace(request, classes=_one_other(request.classes, other_d.classes))
    other_r = request.with_target(request.target[torch.from_numpy(order.permutation(len(request)))])

    def draw(condition: Condition, **use: bool) -> Tensor:
        return sampler.latents(condition, 1, rng, **use)

    blind = draw(request, use_dataset=False, use_result=False)
    of_other = draw(other_d)
    return {
        "shuffled_d": of_other,
        "other_d_guided_by_own": of_other,
        "shuffled_r": draw(other_r),
        "guidance_only": blind,
        "d_only": draw(request, use_result=False),
        "r_only": draw(request, use_dataset=False),
        "one_other_class": draw(one_other),
    }


def controls(
    evaluation: Evaluation, grid: Grid, latents: Mapping[str, Tensor], drawn: Population
) -> Iterator[tuple[str, Networks]]:
    """Name and networks of each control, one per request ``(T * K)``, one control after the other.

    Args:
        evaluation: what decodes, and the train members.
        grid: T x K requests.
        latents: of :func:`control_latents`, those of ``GUIDED`` after their steps.
        drawn: one guided draw of each request, for its output layer.

    """
    sampler = evaluation.sampler
    for name, z in latents.items():
        yield name, sampler.networks(z)
    rng = torch_stream(evaluation.params.seed, "evaluate", "control noise")
    members, spec = evaluation.train_members, sampler.autoencoder.spec
    request = grid.condition(evaluation.runner.dataset)
    copies = members.nearest_task(sampler.embed(request), grid.target)
    yield "nearest_task", copies
    yield "noised_copy", noised(spec, copies, NOISE, rng)
    yield "average", members.average(spec, grid.target)
    yield "head_only", head_only(spec, drawn)


def _one_other(classes: Tensor, others: Tensor) -> Tensor:
    """Classes ``(N, c)`` of which the first is replaced by one of another task that is not among them.

    Args:
        classes: of each task.
        others: of another task each ``(N, c)``.

    >>> _one_other(torch.tensor([[3, 5, 7]]), torch.tensor([[5, 8, 9]]))
    tensor([[8, 5, 7]])

    """
    new = (others[:, :, None] != classes[:, None]).all(2)  # (N, c)
    out = classes.clone()
    out[:, 0] = others.gather(1, new.int().argmax(1)[:, None])[:, 0]
    return out


def _other_tasks(grid: Grid, dataset: Dataset, rng: np.random.Generator) -> np.ndarray:
    """For each task of the grid another one, of another class set wherever there is one.

    Args:
        grid: whose tasks count.
        dataset: has the class set of each task.
        rng: random stream.

    """
    sets = dataset.tasks.set_index("task")["class_set"].loc[grid.tasks].to_numpy()
    out = []
    for class_set in sets:
        pool = grid.tasks[sets != class_set]
        out.append(rng.choice(pool if len(pool) else grid.tasks))
    return np.array(out)


def request_metrics(
    grid: Grid,
    achieved: np.ndarray,
    result: Result,
    resamples: int = 0,
    seed: int = 0,
    class_sets: np.ndarray | None = None,
) -> dict[str, float]:
    """How well achieved results follow the targets; intervals over class sets on demand.

    Args:
        grid: the requests.
        achieved: result of one network for each ``(T * K,)``, accuracy or loss in nats.
        result: what R is.
        resamples: of class sets, for 95 % intervals; 0 for none.
        seed: root seed.
        class_sets: class set of each task ``(T,)``; None: no two tasks have the same.

    >>> grid = Grid(np.array([4, 9]), np.array([0.4, 0.6, 0.8]))
    >>> round(request_metrics(grid, grid.target + 0.1, Result("accuracy"))["mae"], 6)
    0.1

    """
    target, got = grid.by_task(grid.target), grid.by_task(achieved)
    top = int(target[0].argmax() if result.higher_is_better else target[0].argmin())
    spearman = m.spearman_rows(target, got)
    statistics = {
        "r2_identity": lambda i: m.r2_identity(target[i].ravel(), got[i].ravel()),
        "r2_pearson": lambda i: m.r2_pearson(target[i].ravel(), got[i].ravel()),
        "mae": lambda i: float(np.abs(target[i] - got[i]).mean()),
        "spearman_within_task": lambda i: float(spearman[i].mean()),
        f"{result.name}_at_top": lambda i: float(np.median(got[i, top])),
        f"{result.name}_at_top_mean": lambda i: float(got[i, top].mean()),
    }
    if len(grid.targets) == 1:  # the rest compares targets
        statistics = {name: of for name, of in statistics.items() if "at_top" in name}
    thirds = np.array_split(np.arange(len(grid.targets)), 3)  # targets rise
    everything = np.arange(len(target))
    units = everything if class_sets is None else class_sets
    out = {}
    for name, statistic in statistics.items():
        rng = stream(seed, "evaluate", "bootstrap", name)
        out[name] = statistic(everything)
        out |= m.with_interval(name, statistic, units, resamples, rng)
    if len(grid.targets) >= len(thirds):
        error = np.abs(target - got)
        out |= {f"mae_third_{i}": float(error[:, k].mean()) for i, k in enumerate(thirds, 1)}
    return out


def at_quantiles(evaluation: Evaluation, tasks: np.ndarray, split: str) -> dict[str, float]:
    """Metrics of draws in one pass that are asked for results as frequent as those of train members.

    Args:
        evaluation: what draws and measures.
        tasks: T tasks of the split.
        split: split of the tasks.

    """
    grid = evaluation.grid_at_quantiles(tasks)
    rng = torch_stream(evaluation.params.seed, "evaluate", "quantiles", split)
    sampler, runner, result = evaluation.sampler, evaluation.runner, evaluation.result
    z = sampler.latents(grid.condition(runner.dataset), 1, rng)
    outputs = runner.outputs_by_task(sampler.networks(z), tasks, part_of(split))
    return request_metrics(grid, grid.achieved(outputs, result)[:, 0], result)


def scratch(zoo: Zoo, split: str, grid: Grid, result: Result) -> dict[str, float]:
    """Results of training from scratch on the same images, medians over tasks, and means.

    ``_scratch``: the finished run with the best val loss; ``_scratch_single``: mean of the finished
    runs of a task, none of them chosen.

    Args:
        zoo: the population.
        split: split of the tasks.
        grid: the requests, of which the tasks count.
        result: what R is.

    """
    table = zoo.select(split, last_only=True)
    table = table[table["task"].isin(grid.tasks)].sort_values(["task", "val_loss"], kind="stable")
    groups = table.groupby("task")[f"{part_of(split)}_{result.name}"]
    return {
        f"{result.name}_scratch": float(groups.first().median()),
        f"{result.name}_scratch_single": float(groups.mean().median()),
        f"{result.name}_scratch_mean": float(groups.first().mean()),
        f"{result.name}_scratch_single_mean": float(groups.mean().mean()),
    }


def unguided(
    grid: Grid, runner: TaskRunner, drawn: Population, split: str, result: Result
) -> tuple[dict[str, float], pd.DataFrame]:
    """Metrics of draws without guidance: the first one, and the best of n on train images; their curve.

    Args:
        grid: the requests.
        runner: measures.
        drawn: networks ``(T * K * n)``.
        split: split of the tasks.
        result: what R is.

    """
    both = runner.outputs_on_parts(drawn, grid.tasks, (part_of(split), "train"))
    on_test, on_train = (grid.achieved(outputs, result) for outputs in both)
    chosen = grid.best_of(on_train, on_test)
    out = {
        prefix + name: value
        for prefix, achieved in (("unguided_", on_test[:, 0]), ("unguided_best_of_n_", chosen))
        for name, value in request_metrics(grid, achieved, result).items()
    }
    return out, calibration_curve(grid, on_test, chosen)


def ceiling(grid: Grid, outputs: Tensor) -> float:
    """R2 that networks with exactly the requested accuracy would have on so few images.

    The accuracy of each class is measured on ``n`` images and has the variance ``p (1 - p) / n``;
    ``p`` is estimated on the same images, with the correction ``n / (n - 1)``.

    Args:
        grid: the requests.
        outputs: ``(T * K * draws, B, c)`` on images that come class after class.

    """
    classes = outputs.shape[2]
    images = outputs.shape[1] // classes  # of a class
    correct = (outputs.argmax(-1) == labels_of(outputs)).double()
    p = correct.unflatten(1, (classes, images)).mean(2)
    noise = (p * (1 - p)).mean() / ((images - 1) * classes)
    return float(1 - noise / np.var(grid.target))


def of_width(evaluation: Evaluation, split: str) -> dict[str, float]:
    """Metrics ``width_<width>_unguided_<metric>`` of draws in one pass, at another width than 1.

    Args:
        evaluation: of this width.
        split: "val" or a test split.

    """
    tasks, params = evaluation.tasks(split), evaluation.params
    if not len(tasks):
        return {}
    grid, width = evaluation.grid(tasks), f"width_{params.width:g}"
    rng = torch_stream(params.seed, "evaluate", "draws", split, width)
    sampler, draws = evaluation.sampler, params.evaluate.val_draws
    drawn = sampler.networks(sampler.latents(grid.condition(evaluation.runner.dataset), draws, rng))
    metrics, _ = unguided(grid, evaluation.runner, drawn, split, evaluation.result)
    return m.prefixed(width, metrics)


def evaluate_split(
    evaluation: Evaluation, split: str
) -> tuple[dict[str, float], pd.DataFrame] | None:
    """All metrics of one split and the calibration curve; None where the split is empty.

    Args:
        evaluation: what draws and measures; its settings say whether there are controls.
        split: "val" or a test split.

    """
    sampler, runner, params = evaluation.sampler, evaluation.runner, evaluation.params
    tasks = evaluation.tasks(split)
    if not len(tasks):
        return None
    settings, result = params.evaluate, evaluation.result
    draws = settings.val_draws if split == "val" else settings.draws
    grid, class_sets = evaluation.grid(tasks), evaluation.class_sets(tasks)
    rng = torch_stream(params.seed, "evaluate", "draws", split)
    condition = grid.condition(runner.dataset)
    with progress(f"sampling {split}", 6) as bar:
        z = sampler.latents(condition, draws, rng)
        out, curve = unguided(grid, runner, sampler.networks(z), split, result)
        bar.advance(note="drawn")
        # val serves choices, which controls do not
        others = control_latents(evaluation, grid) if settings.controls and split != "val" else {}
        z = z[:, : settings.guided_draws]
        count = z.shape[1]
        z = torch.cat([z, *(others[name] for name in GUIDED if others)], 1)
        z = guide(evaluation, split, condition, z)
        drawn = sampler.networks(z[:, :count])
        bar.advance(note="guided")
        both = runner.outputs_on_parts(drawn, grid.tasks, (part_of(split), "train"))
        on_test, on_train = (grid.achieved(y, result) for y in both)
        outputs = both[0]
        bar.advance(note="measured")
        chosen = grid.best_of(on_train, on_test)
        for prefix, achieved in (("", on_test[:, 0]), ("best_of_n_", chosen)):
            of_kind = request_metrics(
                grid, achieved, result, settings.bootstrap, params.seed, class_sets
            )
            out |= {prefix + name: value for name, value in of_kind.items()}
        bar.advance(note="intervals")
        if split != "val":
            out |= m.prefixed("quantiles", at_quantiles(evaluation, tasks, split))
        if others:
            others |= dict(zip(GUIDED, z[:, count:].split(1, 1), strict=True))
            first = Selected(drawn, torch.arange(0, len(drawn), count))
            made = controls(evaluation, grid, others, first)
            out |= control_metrics(evaluation, grid, made, split)
        bar.advance(note="controls")
        predicted = outputs.argmax(-1).unflatten(0, (len(grid), -1))
        alike = diversity(evaluation, grid, predicted, split)
        out |= {f"agreement_between_{k}": alike[f"agreement_{k}"] for k in ("draws", "members")}
        bar.advance(note="diversity")
    out |= scratch(evaluation.zoo, split, grid, result)
    if result.higher_is_better:
        out["r2_identity_ceiling"] = ceiling(grid, outputs)
    out["image_gradients"] = sampler.image_gradients(condition)  # of a guided draw
    out["chance_accuracy"] = 1 / runner.classes
    out |= {"draws": draws, "guided_draws": count}
    out |= {"tasks": len(grid.tasks), "targets": len(grid.targets)}
    return out, curve


def control_metrics(
    evaluation: Evaluation, grid: Grid, made: Iterable[tuple[str, Networks]], split: str
) -> dict[str, float]:
    """Metrics ``control_<control>_<metric>`` of every control.

    Args:
        evaluation: what measures.
        grid: T x K requests.
        made: of :func:`controls`.
        split: split of the tasks.

    """
    result, out = evaluation.result, dict[str, float]()
    for name, networks in made:
        outputs = evaluation.runner.outputs_by_task(networks, grid.tasks, part_of(split))
        achieved = grid.achieved(outputs, result)[:, 0]
        out |= m.prefixed(f"control_{name}", request_metrics(grid, achieved, result))
    return out


def calibration_curve(grid: Grid, on_test: np.ndarray, chosen: np.ndarray) -> pd.DataFrame:
    """Per target: mean, 10 % and 90 % quantile of single draws, mean of the chosen draws.

    Args:
        grid: T x K requests.
        on_test: results of all draws on test images ``(T * K, draws)``.
        chosen: result of the chosen draw of each request ``(T * K,)``.

    """
    rows = []
    for i, target in enumerate(grid.targets):
        single = on_test.reshape(len(grid.tasks), len(grid.targets), -1)[:, i]
        low, high = np.quantile(single, [0.1, 0.9])
        best = grid.by_task(chosen)[:, i].mean()
        rows.append(
            {"target": target, "single": single.mean(), "q10": low, "q90": high, "best_of_n": best}
        )
    return pd.DataFrame(rows)
