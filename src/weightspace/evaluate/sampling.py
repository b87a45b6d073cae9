"""Do networks drawn from P(W | D, R) reach what was asked, on tasks nobody trained on?

Targets are spread evenly over the trained range of R; achieved results are measured on test
images. A draw may be guided by, and chosen by, its result on the task's own train images, never on
test images.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.data.dataset import Dataset
from weightspace.data.tasks import part_of
from weightspace.evaluate import metrics as m
from weightspace.evaluate.controls import TrainMembers, head_only, noised
from weightspace.params import Params
from weightspace.progress import progress
from weightspace.rng import stream, torch_stream
from weightspace.sampling.requests import Grid
from weightspace.sampling.sampler import Condition, Sampler
from weightspace.weights.spec import Weights
from weightspace.zoo.result import Result, labels_of
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo

NOISE = 0.1  # fraction of a tensor's standard deviation that the noised copies get


def controls(
    grid: Grid,
    sampler: Sampler,
    runner: TaskRunner,
    donors: TrainMembers,
    drawn: Weights,
    seed: int,
) -> dict[str, Weights]:
    """One network per request from each control.

    Where a control withholds or shuffles D or R, it does so for the draw and for the guidance.

    Args:
        grid: the requests.
        sampler: what draws.
        runner: the tasks.
        donors: train members.
        drawn: one guided draw of each request, whose output layers are kept ``(T * K, *shape)``.
        seed: root seed.

    """
    rng, generator = (
        stream(seed, "evaluate", "controls"),
        torch_stream(seed, "evaluate", "control draws"),
    )
    asked = grid.condition(runner.dataset)
    other = torch.from_numpy(np.repeat(_other_tasks(grid, runner.dataset, rng), len(grid.targets)))
    other_d = Condition.of_tasks(runner.dataset, other, asked.target)
    other_r = asked.with_target(asked.target[torch.from_numpy(rng.permutation(len(asked)))])

    def draw(condition: Condition, *, guided: bool, **use: bool) -> Weights:
        z = sampler.latents(condition, 1, generator, **use)
        return sampler.decode(sampler.guided(z, condition, generator) if guided else z)

    copies, _ = donors.nearest_task(sampler.embed(asked), grid.target)
    spec = sampler.autoencoder.spec
    return {
        "shuffled_d": draw(other_d, guided=True),
        "shuffled_r": draw(other_r, guided=True),
        "d_only": draw(asked, guided=False, use_result=False),
        "r_only": draw(asked, guided=False, use_dataset=False),
        "uncalibrated": draw(asked, guided=False, calibrated=False),
        "guidance_only": draw(asked, guided=True, use_dataset=False, use_result=False),
        "nearest_task": copies,
        "noised_copy": noised(spec, copies, NOISE, generator),
        "average": donors.average(grid.target),
        "head_only": head_only(spec, drawn),
    }


def _other_tasks(grid: Grid, dataset: Dataset, rng: np.random.Generator) -> np.ndarray:
    """For each task of the grid another one, of another class set wherever there is one."""
    sets = dataset.tasks.set_index("task")["class_set"].loc[grid.tasks].to_numpy()
    out = []
    for own in sets:
        pool = grid.tasks[sets != own]
        out.append(rng.choice(pool if len(pool) else grid.tasks))
    return np.array(out)


def figures(
    grid: Grid, achieved: np.ndarray, result: Result, resamples: int = 0, seed: int = 0
) -> dict[str, float]:
    """How well achieved results follow the targets; intervals over tasks on demand.

    Args:
        grid: the requests.
        achieved: result of one network for each ``(T * K,)``.
        result: what R is.
        resamples: of tasks, for 95 % intervals; 0 for none.
        seed: root seed.

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
    everything = np.arange(len(target))
    out = {}
    for name, statistic in statistics.items():
        rng = stream(seed, "evaluate", "bootstrap", name)
        out[name] = statistic(everything)
        out |= m.with_interval(name, statistic, len(target), resamples, rng)
    return out


def scratch(zoo: Zoo, split: str, grid: Grid, result: Result) -> dict[str, float]:
    """Results of training from scratch on the same images, medians over tasks, and means.

    ``_scratch``: the finished run with the best val loss; ``_scratch_single``: mean of the finished
    runs of a task, none of them chosen.

    Args:
        zoo: the population.
        split: split of the tasks.
        grid: the requests.
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
    grid: Grid, runner: TaskRunner, drawn: Weights, split: str, result: Result
) -> dict[str, float]:
    """Figures of draws without guidance: the first one, and the best of n on train images.

    Args:
        grid: the requests.
        runner: measures.
        drawn: networks ``(T * K * n, *shape)``.
        split: split of the tasks.
        result: what R is.

    """
    on_test, on_train = (
        grid.achieved(runner.outputs_by_task(drawn, grid.tasks, part), result)
        for part in (part_of(split), "train")
    )
    kinds = {"unguided_": on_test[:, 0], "unguided_best_of_n_": grid.best_of(on_train, on_test)}
    return {
        prefix + name: value
        for prefix, achieved in kinds.items()
        for name, value in figures(grid, achieved, result).items()
    }


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


def evaluate_split(
    zoo: Zoo,
    sampler: Sampler,
    runner: TaskRunner,
    donors: TrainMembers | None,
    split: str,
    params: Params,
) -> tuple[dict[str, float], pd.DataFrame] | None:
    """All figures of one split and the calibration curve; None where the split is empty.

    Args:
        zoo: the population.
        sampler: what draws.
        runner: the tasks.
        donors: train members; None: no controls.
        split: "val" or a test split.
        params: all settings.

    """
    members = zoo.select(split)
    if members.empty:
        return None
    settings, result = params.evaluate, sampler.shared_encoder.result
    draws = settings.val_draws if split == "val" else settings.draws
    targets = np.linspace(*sampler.shared_encoder.bounds, settings.targets)
    grid = Grid(np.unique(members["task"]), targets)
    generator = torch_stream(params.seed, "evaluate", "draws", split)
    condition = grid.condition(runner.dataset)
    with progress(f"sampling {split}", 6) as bar:
        z = sampler.latents(condition, draws, generator)
        out = unguided(grid, runner, sampler.decode(z), split, result)
        bar.advance(note="drawn")
        drawn = sampler.decode(sampler.guided(z, condition, generator))
        bar.advance(note="guided")
        outputs = runner.outputs_by_task(drawn, grid.tasks, part_of(split))
        on_test = grid.achieved(outputs, result)
        on_train = grid.achieved(runner.outputs_by_task(drawn, grid.tasks, "train"), result)
        bar.advance(note="measured")
        chosen = grid.best_of(on_train, on_test)
        for prefix, achieved in (("", on_test[:, 0]), ("best_of_n_", chosen)):
            of_kind = figures(grid, achieved, result, settings.bootstrap, params.seed)
            out |= {prefix + name: value for name, value in of_kind.items()}
        bar.advance(note="intervals")
        if donors is not None:
            first = {name: w[::draws] for name, w in drawn.items()}
            made = controls(grid, sampler, runner, donors, first, params.seed)
            for name, weights in made.items():
                outputs_of_it = runner.outputs_by_task(weights, grid.tasks, part_of(split))
                achieved = grid.achieved(outputs_of_it, result)[:, 0]
                of_control = figures(grid, achieved, result)
                out |= {f"control_{name}_{k}": v for k, v in of_control.items()}
        bar.advance(note="controls")
        out |= diversity(zoo, runner, grid, outputs, split, result)
        bar.advance(note="diversity")
    out |= scratch(zoo, split, grid, result)
    if result.higher_is_better:
        out["r2_identity_ceiling"] = ceiling(grid, outputs)
    out["chance_accuracy"] = 1 / runner.classes
    out |= {"draws": draws, "tasks": len(grid.tasks), "targets": len(grid.targets)}
    return out, calibration_curve(grid, on_test, chosen)


def calibration_curve(grid: Grid, on_test: np.ndarray, chosen: np.ndarray) -> pd.DataFrame:
    """Per target: mean, 10 % and 90 % quantile of single draws, mean of the chosen draws."""
    rows = []
    for i, target in enumerate(grid.targets):
        single = on_test.reshape(len(grid.tasks), len(grid.targets), -1)[:, i]
        low, high = np.quantile(single, [0.1, 0.9])
        best = grid.by_task(chosen)[:, i].mean()
        rows.append(
            {"target": target, "single": single.mean(), "q10": low, "q90": high, "best_of_n": best}
        )
    return pd.DataFrame(rows)


def diversity(
    zoo: Zoo, runner: TaskRunner, grid: Grid, outputs: Tensor, split: str, result: Result
) -> dict[str, float]:
    """How alike the draws of one (D, R) predict, and members of one task with like results.

    Both are agreements over pairs of networks, mean over the targets at which the split has two
    members of different runs; 1 would be copies of one network.

    Args:
        zoo: the population.
        runner: the tasks.
        grid: the requests.
        outputs: those of the draws ``(T * K * n, B, c)``.
        split: split of the tasks.
        result: what R is.

    """
    predicted = outputs.argmax(-1).reshape(len(grid), -1, outputs.shape[1])  # (T * K, n, B)
    of_draws = grid.by_task(np.array([m.pairwise_agreement(p) for p in predicted])).mean(0)  # (K,)
    members = zoo.select(split)
    nearest = np.abs(runner.results_of(members, result)[:, None] - grid.targets).argmin(1)
    tasks, weights = members["task"].to_numpy(), zoo.weights(members)
    labels = runner.outputs(weights, tasks, part_of(split)).argmax(-1)
    of_members: list[list[float]] = [[] for _ in grid.targets]
    one_of_each_run = members.assign(target=nearest).drop_duplicates(["run", "target"])
    for _, group in one_of_each_run.groupby(["task", "target"]):
        if len(group) > 1:
            rows = torch.tensor(group.index.to_numpy())
            of_members[int(group["target"].iloc[0])].append(m.pairwise_agreement(labels[rows]))
    measured = [k for k, values in enumerate(of_members) if values]
    if not measured:
        return {}
    return {
        "agreement_between_draws": float(of_draws[measured].mean()),
        "agreement_between_members": float(np.mean([np.mean(of_members[k]) for k in measured])),
    }
