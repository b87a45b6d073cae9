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
from weightspace.evaluate import metrics as m
from weightspace.evaluate.controls import TrainMembers, head_only, noised
from weightspace.params import Params
from weightspace.progress import progress
from weightspace.rng import stream, torch_stream
from weightspace.sampling.requests import Grid, Judge
from weightspace.sampling.sampler import Sampler
from weightspace.shared_encoders.base import results_of
from weightspace.weights.spec import Weights
from weightspace.zoo.runner import outputs_by_task, real_outputs
from weightspace.zoo.store import Zoo

SPLITS = ("val", "test_sets", "test_classes")
NOISE = 0.1  # share of a tensor's spread added to the noised copies


def targets_of(sampler: Sampler, count: int) -> np.ndarray:
    """Targets evenly over the trained range of R."""
    low, high = sampler.shared_encoder.trained_range.tolist()
    return np.linspace(low, high, count)


def controls(
    grid: Grid, sampler: Sampler, donors: TrainMembers, own: Weights, seed: int
) -> dict[str, Weights]:
    """One network per condition from each control of DESIGN section 4.

    Where a control withholds or shuffles D or R, it does so for the draw and for the guidance.
    """
    asked, rng = torch.tensor(grid.asked, dtype=torch.float32), stream(seed, "evaluate", "controls")
    generator = torch_stream(seed, "evaluate", "control draws")
    other = torch.from_numpy(np.repeat(_other_tasks(grid, sampler.dataset, rng), len(grid.targets)))
    mixed = asked[torch.from_numpy(rng.permutation(len(asked)))]

    def draw(tasks: Tensor, results: Tensor, *, guided: bool, **use: bool) -> Weights:
        z = sampler.latents(tasks, results, 1, generator, **use)
        return sampler.decode(sampler.guided(z, tasks, results, generator) if guided else z)

    with torch.no_grad():
        embedding = sampler.shared_encoder.embed(sampler.dataset, grid.task)
    copies, _ = donors.nearest_task(embedding, grid.asked)
    nothing = {"use_dataset": False, "use_result": False}
    return {
        "shuffled_d": draw(other, asked, guided=True),
        "shuffled_r": draw(grid.task, mixed, guided=True),
        "d_only": draw(grid.task, asked, guided=False, use_result=False),
        "r_only": draw(grid.task, asked, guided=False, use_dataset=False),
        "uncalibrated": draw(grid.task, asked, guided=False, calibrated=False),
        "guidance_only": draw(grid.task, asked, guided=True, **nothing),
        "nearest_task": copies,
        "noised_copy": noised(sampler.autoencoder.spec, copies, NOISE, generator),
        "average": donors.average(grid.asked),
        "head_only": head_only(sampler.autoencoder.spec, own),
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
    grid: Grid, achieved: np.ndarray, result: str, resamples: int = 0, seed: int = 0
) -> dict[str, float]:
    """How well achieved results ``(T * K,)`` follow the requests; intervals over tasks on demand."""
    asked, got = grid.by_task(grid.asked), grid.by_task(achieved)
    best = -1 if result == "accuracy" else 0
    spearman = m.spearman_rows(asked, got)
    statistics = {
        "r2_identity": lambda i: m.r2_identity(asked[i].ravel(), got[i].ravel()),
        "r2_pearson": lambda i: m.r2_pearson(asked[i].ravel(), got[i].ravel()),
        "mae": lambda i: float(np.abs(asked[i] - got[i]).mean()),
        "spearman_within_task": lambda i: float(spearman[i].mean()),
        f"{result}_at_top": lambda i: float(np.median(got[i, best])),
    }
    everything = np.arange(len(asked))
    out = {}
    for name, statistic in statistics.items():
        out[name] = statistic(everything)
        if resamples:
            rng = stream(seed, "evaluate", "bootstrap", name)
            out[f"{name}_low"], out[f"{name}_high"] = m.bootstrap(
                statistic, len(asked), resamples, rng
            )
    return out


def best_of(grid: Grid, on_train: np.ndarray, on_test: np.ndarray) -> np.ndarray:
    """Test result of the draw whose result on train images is nearest to the request: ``(T * K,)``."""
    chosen = np.abs(on_train - grid.asked[:, None]).argmin(1)
    best: np.ndarray = on_test[np.arange(len(chosen)), chosen]
    return best


def scratch(zoo: Zoo, split: str, grid: Grid, result: str, part: str) -> dict[str, float]:
    """Results of training from scratch on the same images, medians over tasks.

    ``_scratch``: the finished run with the best val loss; ``_scratch_single``: mean of the finished
    runs of a task, none of them chosen.
    """
    table = zoo.select(split, last_only=True)
    table = table[table["task"].isin(grid.tasks)].sort_values(["task", "val_loss"], kind="stable")
    groups = table.groupby("task")[f"{part}_{result}"]
    return {
        f"{result}_scratch": float(groups.first().median()),
        f"{result}_scratch_single": float(groups.mean().median()),
    }


def unguided(grid: Grid, judge: Judge, drawn: Weights, part: str) -> dict[str, float]:
    """Figures of draws without guidance: the first one, and the best of n."""
    on_test, on_train = judge(grid, drawn, part), judge(grid, drawn, "train")
    kinds = {"unguided_": on_test[:, 0], "unguided_best_of_n_": best_of(grid, on_train, on_test)}
    return {
        prefix + k: v
        for prefix, achieved in kinds.items()
        for k, v in figures(grid, achieved, judge.result).items()
    }


def ceiling(grid: Grid, outputs: Tensor) -> float:
    """R2 that networks with exactly the requested accuracy would have on so few images.

    The accuracy of each class is measured on ``n`` images and has the variance ``p (1 - p) / n``;
    ``p`` is estimated on the same images, with the correction ``n / (n - 1)``.

    Args:
        grid: the conditions.
        outputs: ``(T * K * draws, B, c)`` on images that come class after class.

    """
    count, classes = outputs.shape[1], outputs.shape[2]
    each = count // classes
    labels = torch.arange(classes).repeat_interleave(each)
    right = (outputs.argmax(-1) == labels).double().unflatten(1, (classes, each)).mean(2)
    noise = (right * (1 - right)).mean() / ((each - 1) * classes)
    return float(1 - noise / np.var(grid.asked))


def evaluate_split(
    zoo: Zoo, sampler: Sampler, donors: TrainMembers | None, split: str, params: Params
) -> tuple[dict[str, float], pd.DataFrame] | None:
    """All figures of one split and the calibration curve; None where the split is empty.

    Without donors, no controls.
    """
    members = zoo.select(split)
    if members.empty:
        return None
    settings, net, result = params.evaluate, sampler.net, params.shared_encoder.result
    part, draws = ("val", settings.val_draws) if split == "val" else ("test", settings.draws)
    grid = Grid(np.unique(members["task"]), targets_of(sampler, settings.targets))
    judge = Judge(net, sampler.dataset, result)
    generator = torch_stream(params.seed, "evaluate", "draws", split)
    asked = torch.tensor(grid.asked, dtype=torch.float32)
    with progress(f"sampling {split}", 6) as bar:
        z = sampler.latents(grid.task, asked, draws, generator)
        out = unguided(grid, judge, sampler.decode(z), part)
        bar.advance(note="drawn")
        drawn = sampler.decode(sampler.guided(z, grid.task, asked, generator))
        bar.advance(note="guided")
        outputs = outputs_by_task(net, sampler.dataset, grid.tasks, drawn, part)
        on_test, on_train = judge.results(grid, outputs), judge(grid, drawn, "train")
        bar.advance(note="measured")
        chosen = best_of(grid, on_train, on_test)
        bounds = (settings.bootstrap, params.seed)
        out |= figures(grid, on_test[:, 0], result, *bounds)
        best = figures(grid, chosen, result, *bounds)
        out |= {f"best_of_n_{k}": v for k, v in best.items()}
        bar.advance(note="intervals")
        if donors is not None:
            first = {name: w[::draws] for name, w in drawn.items()}
            for name, weights in controls(grid, sampler, donors, first, params.seed).items():
                achieved = judge(grid, weights, part)[:, 0]
                out |= {f"{name}_{k}": v for k, v in figures(grid, achieved, result).items()}
        bar.advance(note="controls")
        out |= diversity(zoo, judge, grid, outputs, split)
        bar.advance(note="diversity")
    out |= scratch(zoo, split, grid, result, part)
    if result == "accuracy":
        out["r2_identity_ceiling"] = ceiling(grid, outputs)
    out["chance_accuracy"] = 1 / sampler.dataset.classes.shape[1]
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
            {"asked": target, "single": single.mean(), "q10": low, "q90": high, "best_of_n": best}
        )
    return pd.DataFrame(rows)


def diversity(zoo: Zoo, judge: Judge, grid: Grid, outputs: Tensor, split: str) -> dict[str, float]:
    """How alike the draws of one (D, R) predict, beside members of one task with like results.

    Both are agreements over pairs of networks, mean over the targets at which the split has two
    members of different runs; 1 would be copies of one network. ``outputs`` are those of the draws
    ``(T * K * n, B, c)``.
    """
    part = "val" if split == "val" else "test"
    chosen = outputs.argmax(-1).reshape(len(grid.asked), -1, outputs.shape[1])  # (C, n, B)
    same = np.array([_pairwise(c) for c in chosen]).reshape(len(grid.tasks), -1).mean(0)  # (K,)
    members = zoo.select(split)
    achieved = results_of(members, judge.dataset, judge.result)
    target = np.abs(achieved[:, None] - grid.targets).argmin(1)
    tasks = members["task"].to_numpy()
    weights = zoo.weights(members)
    labels = real_outputs(judge.net, judge.dataset, tasks, weights, part).argmax(-1)
    found: list[list[float]] = [[] for _ in grid.targets]
    one_each = members.assign(target=target).drop_duplicates(["run", "target"])
    for _, group in one_each.groupby(["task", "target"]):
        if len(group) > 1:
            k = int(group["target"].iloc[0])
            found[k].append(_pairwise(labels[torch.tensor(group.index.to_numpy())]))
    there = [k for k, values in enumerate(found) if values]
    if not there:
        return {}
    return {
        "agreement_between_draws": float(same[there].mean()),
        "agreement_between_members": float(np.mean([np.mean(found[k]) for k in there])),
    }


def _pairwise(labels: Tensor) -> float:
    """Mean agreement of all pairs of rows of predicted classes ``(n, B)``."""
    n = len(labels)
    if n < 2:
        return float("nan")
    equal = (labels[:, None] == labels[None]).double().mean(-1)
    return float((equal.sum() - n) / (n * (n - 1)))
