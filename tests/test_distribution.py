"""Two-sample tests, agreement of draws and of members, ensembles; intervals over class sets."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from weightspace.autoencoders.base import Decoded
from weightspace.evaluate import distribution as d
from weightspace.evaluate import sampling
from weightspace.evaluate.controls import noised
from weightspace.evaluate.diversity import diversity, predictions
from weightspace.evaluate.evaluation import Evaluation
from weightspace.params import load_params
from weightspace.rng import stream, torch_stream
from weightspace.sampling.requests import Grid
from weightspace.weights.permutations import shuffled
from weightspace.weights.spec import reorder_outputs, take
from weightspace.zoo.result import Result, accuracies, losses

SETS, COUNT = 20, 40  # class sets, networks of each
KEYS = {f"auc_{kind}{end}" for kind in d.FEATURES for end in ("", "_linear")}


@pytest.fixture
def evaluation(project_root):
    """The finished tiny pipeline."""
    return Evaluation.load(project_root / "data", load_params(project_root / "params.yaml"))


@pytest.fixture
def doubled(evaluation):
    """The same, as if every second run had been trained on the task of the run before it."""
    table = evaluation.zoo.members
    columns = ["task", "class_set", "split"]
    of_run = table.drop_duplicates("run").set_index("run")[columns]
    moved = of_run.loc[table["run"] // 2 * 2].reset_index(drop=True)
    members = table.assign(**{c: moved[c].to_numpy() for c in columns})
    return replace(evaluation, zoo=replace(evaluation.zoo, members=members))


def with_settings(evaluation, **changes):
    """The same pipeline with some settings of ``evaluate`` changed."""
    settings = evaluation.params.evaluate.model_copy(update=changes)
    return replace(evaluation, params=evaluation.params.model_copy(update={"evaluate": settings}))


# two-sample tests


def made(seed, std=1.0, mean=0.0):
    """Normal features of as many networks of each class set; a class set has a mean of its own."""
    of_set = np.random.default_rng(0).normal(0, 0.5, (SETS, 1, 4)) + mean
    x = of_set + np.random.default_rng(seed).normal(0, std, (SETS, COUNT, 4))
    x = x.reshape(-1, 4)
    return d.Sample(dict.fromkeys(d.FEATURES, x), np.arange(SETS).repeat(COUNT))


def test_an_exact_sampler_cannot_be_told_and_narrow_or_wide_ones_can():
    real, auc = made(1), {}
    for name, other in {
        "exact": made(2),
        "narrow": made(2, std=0.4),
        "wide": made(2, std=2.5),
        "elsewhere": made(2, mean=1),
    }.items():
        auc[name] = d.two_sample(real, other)
        assert set(auc[name]) == KEYS
    for key in ("auc_outputs", "auc_weights"):
        assert auc["exact"][key] == pytest.approx(0.5, abs=0.06)
        assert min(auc[k][key] for k in ("narrow", "wide", "elsewhere")) > 0.7
    assert auc["elsewhere"]["auc_outputs_linear"] > 0.7
    assert auc["narrow"]["auc_outputs_linear"] < 0.6  # the mean is right: trees are needed


def test_a_class_set_is_asked_about_by_classifiers_that_did_not_see_it():
    """Each class set has its mark for draws: worth all to who saw the set, nothing to the others."""
    mark = np.random.default_rng(3).permutation([-1.0, 1.0] * (SETS // 2)).repeat(COUNT)
    sets = np.arange(SETS).repeat(COUNT)
    rng = np.random.default_rng(4)
    second = np.repeat([False, True], len(sets))
    signed = np.concatenate([-mark, mark]) + rng.normal(0, 0.1, 2 * len(sets))
    x, sets = np.stack([signed, np.tile(sets, 2)], 1), np.tile(sets, 2)
    trees = d.CLASSIFIERS[""]
    held_out = d.m.auc(d.held_out_scores(x, second, sets, trees), second)
    leaky = d.m.auc(d.held_out_scores(x, second, np.arange(len(x)) // 2, trees), second)
    assert held_out < 0.7
    assert leaky > 0.95  # the control: folds that cut class sets


def test_one_class_set_gives_no_figure():
    one = d.Sample({"outputs": np.zeros((4, 2))}, np.zeros(4, int))
    assert all(math.isnan(v) for v in d.two_sample(one, one).values())


def test_the_interval_is_over_class_sets():
    real, other = made(1), made(2, std=0.6)
    auc = d.two_sample(real, other, "x_", 100)
    assert auc["x_auc_outputs_low"] < auc["x_auc_outputs"] < auc["x_auc_outputs_high"]
    assert {k for k in auc if k.endswith("low")} == {"x_auc_outputs_low"}


def test_features_of_outputs_are_those_of_the_definition(rng):
    y = 3 * torch.randn(5, 12, 3, generator=rng)  # four images of each class
    x = d.output_features(y)
    assert x.shape == (5, 20)
    torch.testing.assert_close(x[:, :3].mean(1).double(), accuracies(y))
    torch.testing.assert_close(x[:, 3:6].mean(1), x[:, 15])
    torch.testing.assert_close(x[:, 15].double(), losses(y), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x[:, 12:15].sum(1), torch.ones(5))
    order = torch.cat([4 * k + torch.randperm(4, generator=rng) for k in range(3)])
    torch.testing.assert_close(d.output_features(y[:, order]), x)  # the order of images is nothing
    assert not torch.allclose(d.output_features(y.roll(4, 1)), x)  # the control: their class is


def test_networks_with_noise_are_told_from_networks(world):
    tiny = world()
    members = tiny.zoo.select("train")
    half = d.halves(members, stream(0, "test"))
    first, second = (members[half == k].reset_index(drop=True) for k in (0, 1))
    stored = tiny.zoo.networks(second)
    noise = noised(tiny.net.spec, stored, 3.0, torch_stream(0, "test"))
    evaluation = Evaluation(tiny.zoo, None, tiny.runner, tiny.params)
    read = d.Reader.of(evaluation, tiny.zoo.networks(first), "train")
    samples = [
        read(made, table)
        for made, table in ((tiny.zoo.networks(first), first), (stored, second), (noise, second))
    ]
    exact, wide = (d.two_sample(samples[0], other) for other in samples[1:])
    for kind in ("weights", "matched"):
        assert exact[f"auc_{kind}"] < 0.7 < 0.8 < wide[f"auc_{kind}"]


def test_the_order_of_hidden_units_tells_nothing(world, rng):
    tiny = world()
    members = tiny.zoo.select("train").iloc[:6]
    weights = tiny.zoo.weights(members)
    order = {g: torch.randperm(n, generator=rng) for g, n in tiny.net.spec.groups.items()}
    moved = tiny.net.spec.permute(weights, order)
    read = d.Reader.of(Evaluation(tiny.zoo, None, tiny.runner, tiny.params), weights, "test")
    one, other = (read(w, members).features for w in (weights, moved))
    for kind in d.FEATURES:
        np.testing.assert_allclose(one[kind], other[kind], rtol=1e-3, atol=1e-3)
    assert not np.allclose(read.projection(weights), read.projection(moved))  # the control


def test_halves_share_no_run_and_no_class_set_has_more_of_one(world):
    members = world().zoo.select("train")
    half = d.halves(members, stream(0, "test"))
    table = members.assign(half=half).drop_duplicates("run")
    assert (members.assign(half=half).groupby("run")["half"].nunique() == 1).all()
    counts = table[table["half"] >= 0].groupby(["class_set", "half"]).size().unstack()
    assert (counts[0] == counts[1]).all()
    assert (table[table["half"] < 0].groupby("class_set").size() == 1).all()
    assert not np.array_equal(half, d.halves(members, stream(1, "test")))


def test_a_pair_is_of_one_task_and_two_runs_with_like_results(doubled):
    members = doubled.zoo.members.query("run != 5").reset_index(drop=True)
    result = Result("accuracy").of_members(members)
    runs, tasks = members["run"].to_numpy(), members["task"].to_numpy()
    pairs = d.m.pairs_alike(tasks, runs, result)
    one, other = pairs.T
    assert len(np.unique(pairs)) == pairs.size > 0  # no member stands twice
    assert (tasks[one] == tasks[other]).all()
    assert (runs[one] != runs[other]).all()
    per_run = members.groupby(["task", "run"]).size()
    alone = per_run.groupby("task").size() == 1
    assert alone.any()
    expected = sum(rest.min() for t, rest in per_run.groupby("task") if not alone[t])
    assert len(pairs) == expected  # all that two runs allow


def drawn_at_random(tasks=120, size=4):
    """Task, run, and result of two runs of each task, whose snapshots' results are mostly low."""
    count = 2 * tasks * size
    result = np.random.default_rng(5).uniform(size=count) ** 3
    return np.arange(count) // (2 * size), np.arange(count) // size, result


def test_the_results_of_a_pair_are_near_one_another():
    task, run, result = drawn_at_random()
    pairs = d.m.pairs_alike(task, run, result)
    assert np.array_equal(np.sort(pairs.ravel()), np.arange(len(result)))
    any_pair = pairs.reshape(120, 4, 2)
    any_pair = np.stack([any_pair[..., 0], np.roll(any_pair[..., 1], 1, 1)], -1).reshape(-1, 2)

    def apart(index):
        return np.abs(np.diff(result[index], axis=1)).mean()

    assert apart(pairs) < 0.7 * apart(any_pair)  # the control: any snapshots of the two runs


def test_chance_says_which_of_a_pair_stands_in_which_sample(doubled, monkeypatch):
    """And no member stands in both: whatever tells the first of a pair from the second, by nothing."""
    seen = {}

    def two_sample(real, other, name, *arguments):
        seen[name] = real, other
        return {}

    monkeypatch.setattr(d, "two_sample", two_sample)
    list(d.two_sample_tests(doubled, "test_sets"))
    one, other = (sample.features["matched"] for sample in seen["null_"])
    assert len(one) == len(other) > 0
    assert len(np.unique(np.concatenate([one, other]), axis=0)) == 2 * len(one)
    first, narrow = seen["control_narrow_"]
    assert np.array_equal(first.features["matched"], one)
    assert len(narrow.features["matched"]) == len(one)
    task, run, result = drawn_at_random()
    pairs = d.m.pairs_alike(task, run, result)
    second = np.repeat([False, True], len(pairs))

    def auc(pairs):
        return d.m.auc(result[pairs.T.ravel()], second)

    better_last = np.take_along_axis(pairs, result[pairs].argsort(1), 1)
    rng = stream(0, "distribution", "null", "test_sets")
    assert auc(better_last) > 0.6  # the control
    assert auc(rng.permuted(better_last, axis=1)) == pytest.approx(0.5, abs=0.05)


def test_outputs_that_are_not_finite_stop_no_classifier():
    real, other = made(1), made(2, std=2.5)
    broken = {k: v.astype(np.float32) for k, v in other.features.items()}
    for value in (np.inf, -np.inf, np.nan, 3e38):
        for x in broken.values():
            x[:30, 1] = value
        auc = d.two_sample(real, replace(other, features=broken))
        assert all(0.6 < auc[f"auc_{kind}"] <= 1 for kind in d.FEATURES)
        assert all(0 <= v <= 1 for v in auc.values())
    x = np.full((4, 1), np.inf)
    with pytest.raises(ValueError, match="infinity"):  # the control: what classifiers say
        d.CLASSIFIERS["_linear"].fit(x, [0, 1, 0, 1])


def test_the_narrow_control_is_of_valid_latents(doubled, monkeypatch):
    """The middle of two latents of equal length is shorter; it is brought back to their length."""
    autoencoder, decoded = doubled.sampler.autoencoder, []

    def nearest_valid(self, z):
        return torch.nn.functional.normalize(z, dim=1)

    monkeypatch.setattr(type(autoencoder), "nearest_valid", nearest_valid)
    monkeypatch.setattr(d, "Decoded", lambda a, z: decoded.append(z) or Decoded(a, z))
    assert list(d.two_sample_tests(doubled, "test_sets"))
    encoded, narrow = decoded
    torch.testing.assert_close(narrow.norm(dim=1), torch.ones(len(narrow)))
    assert not torch.allclose(encoded.norm(dim=1), torch.ones(len(encoded)))  # the control


# agreement and ensembles


def test_draws_that_are_copies_agree_on_everything(doubled):
    evaluation, split, runner = doubled, "train", doubled.runner
    grid = evaluation.grid(evaluation.tasks(split))
    rng = torch.Generator().manual_seed(0)
    z = evaluation.sampler.latents(grid.condition(runner.dataset), 1, rng)
    tasks = grid.task.numpy()
    one = predictions(runner, evaluation.sampler.networks(z), tasks, "test")
    found = diversity(evaluation, grid, one[:, None].expand(-1, 3, -1), split)
    assert found["agreement_draws"] == found["error_overlap_draws"] == 1
    assert found["agreement_members"] < 1  # the control
    assert found["error_overlap_members"] < 1
    other = diversity(evaluation, grid, torch.stack([one, (one + 1) % 3], 1), split)
    assert other["agreement_draws"] == 0
    assert other["agreement_members"] == found["agreement_members"]


def test_a_run_counts_by_its_snapshot_nearest_to_the_target(doubled):
    """Whatever the order of its snapshots: the figures of members stay when the table is turned."""
    evaluation, split = doubled, "train"
    grid = evaluation.grid(evaluation.tasks(split))
    grid = replace(grid, targets=grid.targets[-1:])  # every snapshot is nearest to the only target
    nothing = torch.zeros(len(grid), 2, 30, dtype=torch.uint8)
    members = evaluation.zoo.select(split)
    gap = np.abs(evaluation.result.of_members(members) - grid.targets[0])
    nearest = members.assign(gap=gap).sort_values("gap", kind="stable").drop_duplicates("run")
    some = nearest.sort_index().drop(columns="gap")
    alone = replace(evaluation, zoo=replace(evaluation.zoo, members=some.reset_index(drop=True)))

    def figure(of):
        return diversity(of, grid, nothing, split)["agreement_members"]

    assert figure(evaluation) == figure(alone)
    first = members.drop_duplicates("run").reset_index(drop=True)
    early = replace(evaluation, zoo=replace(evaluation.zoo, members=first))
    assert figure(early) != figure(alone)  # the control: the first of each run


def test_without_two_runs_of_a_task_all_requests_count_for_draws(evaluation):
    grid = evaluation.grid(evaluation.tasks("test_sets"))
    copies = torch.zeros(len(grid), 2, 30, dtype=torch.uint8)
    found = diversity(evaluation, grid, copies, "test_sets")
    assert found["agreement_draws"] == 1
    assert math.isnan(found["agreement_members"])


def test_outputs_in_order_of_classes_are_those_of_the_ordered_task(world):
    tiny = world()
    classes = tiny.dataset.classes
    rising = int((classes == classes.sort(1).values).all(1).nonzero()[0])
    same = (classes.sort(1).values == classes[rising]).all(1).nonzero()[:, 0]
    assert len(same) == 6
    weights = take(tiny.data.weights["val"], slice(0, 1))
    expected = tiny.runner.outputs(weights, np.array([rising]), "test")
    for task in same.tolist():
        order = torch.searchsorted(classes[rising], classes[task])
        moved = reorder_outputs(tiny.net.spec, weights, order)
        outputs = tiny.runner.outputs(moved, np.array([task]), "test")
        found = d.in_order_of_classes(outputs, classes[task][None])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert torch.allclose(outputs, expected, atol=1e-3) == (task == rising)  # the control


def test_an_ensemble_of_copies_gains_nothing_and_one_of_different_errors_does(rng):
    right = 4 * torch.eye(3).repeat_interleave(10, 0)  # (30, 3)
    wrong = torch.rand(4, 30, generator=rng) < 0.2
    y = torch.where(wrong[..., None], right.roll(1, -1), right)
    together, single = d._ensemble(y[None])
    assert together > single + 0.05
    together, single = d._ensemble(y[:1, None].expand(-1, 4, -1, -1))
    assert together == pytest.approx(single)


def test_the_gain_of_draws_is_a_fraction_of_that_of_members(evaluation):
    values = np.array([[0.92, 0.9, 0.95, 0.91], [0.94, 0.9, 0.97, 0.93]])
    found = d._gains(values, evaluation.params)
    assert found["ensemble_gain_draws"] == pytest.approx(0.03)
    assert found["ensemble_gain_members"] == pytest.approx(0.04)
    assert found["ensemble_gain_share"] == pytest.approx(0.75)
    assert found["ensemble_accuracy_members"] == pytest.approx(0.96)
    assert found["ensemble_gain_draws_low"] < 0.03 < found["ensemble_gain_draws_high"]
    nothing = d._gains(np.empty((0, 4)), evaluation.params)
    assert all(math.isnan(v) for v in nothing.values())


# the line between two


def test_matching_takes_the_barrier_between_equal_networks_away(world, rng):
    tiny = world()
    members = tiny.zoo.select("train", last_only=True)
    networks, tasks = tiny.zoo.weights(members), members["task"].to_numpy()
    spec = tiny.net.spec

    def barrier(other):
        return d._drops(tiny.runner, (networks, other), tasks, "train").mean(0).tolist()

    assert barrier(networks) == [0, 0]
    as_it_is, matched = barrier(shuffled(spec, networks, rng))
    assert matched == 0 < as_it_is  # the same function in another order of the hidden units


def test_barriers_are_of_members_and_of_draws_for_the_same_tasks(doubled, evaluation):
    found = d.barriers(doubled, "test_sets")
    keys = {f"barrier{how}_{who}" for how in ("", "_matched") for who in ("draws", "members")}
    assert set(found) == keys
    assert all(-1 <= value <= 1 for value in found.values())
    alone = d.barriers(evaluation, "test_sets")  # no task has two runs
    assert set(alone) == keys
    assert all(math.isnan(value) for value in alone.values())


# the stage


def test_figures_of_a_tiny_pipeline(doubled):
    evaluation = doubled
    found = d.evaluate_distribution(evaluation)
    assert set(found) == {"val", "test_sets"}
    figures = found["test_sets"]
    controls = [f"control_{k}_" for k in ("exact", "narrow", "wide")]
    tests = {p + k for p in ("", "null_", "reconstruction_", *controls) for k in KEYS}
    assert tests <= figures.keys()
    assert all(0 <= figures[k] <= 1 for k in tests)
    assert figures["networks"] == len(d.some_members(evaluation, "test_sets"))
    assert figures["class_sets"] == 2
    pairs = [f"{k}_{who}" for k in ("agreement", "error_overlap") for who in ("draws", "members")]
    assert all(0 <= figures[k] <= 1 for k in pairs)
    assert {"ensemble_gain_draws", "ensemble_gain_members", "ensemble_gain_share"} <= figures.keys()
    plain = d.evaluate_distribution(with_settings(evaluation, controls=False))["test_sets"]
    assert plain == pytest.approx(
        {k: v for k, v in figures.items() if not k.startswith("control_")}, nan_ok=True
    )
    assert len(plain) < len(figures)


def test_no_draw_is_guided(evaluation, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("guided")

    monkeypatch.setattr(type(evaluation.sampler), "guided", refuse)
    assert d.draws_alike(evaluation, "val")
    assert d.ensembles(evaluation, "val")
    assert next(d.two_sample_tests(evaluation, "val"))
    with pytest.raises(AssertionError, match="guided"):  # the control
        evaluation.sampler.draw(evaluation.best_condition(np.array([0])), 1, torch.Generator())


def test_few_networks_are_all_members_of_some_tasks(evaluation):
    every = evaluation.zoo.select("test_sets")
    few = d.some_members(with_settings(evaluation, two_sample_networks=5), "test_sets")
    assert 0 < len(few) < len(every)
    for task, group in few.groupby("task"):
        assert len(group) == (every["task"] == task).sum()
    assert len(
        d.some_members(with_settings(evaluation, two_sample_networks=10**6), "test_sets")
    ) == len(every)


# intervals


def test_orders_of_a_class_set_are_no_independent_tasks():
    """Six orders with equal results say as much as one: their interval is as wide."""
    rng = np.random.default_rng(0)
    targets = np.array([0.4, 0.6, 0.9])
    got = targets + rng.normal(0, 0.1, (12, 1)) + rng.normal(0, 0.02, (12, 3))

    def width(copies, class_sets):
        grid = Grid(np.arange(12 * copies), targets)
        achieved = got.repeat(copies, 0).ravel()
        found = sampling.request_metrics(
            grid, achieved, Result("accuracy"), 400, 0, class_sets=class_sets
        )
        return found["mae_high"] - found["mae_low"]

    one = width(1, None)
    assert width(6, np.arange(12).repeat(6)) == pytest.approx(one)
    assert width(6, None) < 0.6 * one  # the control: as independent tasks


def test_class_sets_are_those_of_the_tasks(evaluation):
    tasks = evaluation.tasks("test_sets")
    sets = evaluation.class_sets(tasks)
    classes = evaluation.runner.dataset.classes[torch.from_numpy(tasks)].sort(1).values
    for a, b in ((0, 1), (0, -1)):
        assert (sets[a] == sets[b]) == bool((classes[a] == classes[b]).all())
    assert len(np.unique(sets)) < len(tasks)
    table = pd.Series(sets).value_counts()
    assert table.max() <= 6
