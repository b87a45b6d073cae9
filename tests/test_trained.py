"""Baselines by gradients or by choice: train and stop, steps on weights, the best of the zoo."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

import cases
from weightspace.autoencoders import AUTOENCODERS
from weightspace.evaluate import evidence, trained, weight_steps, zoo_choice
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.finetuning import Trainer
from weightspace.evaluate.stopping import TrainAndStop, measurements
from weightspace.evaluate.tuning import Baseline, Outcome
from weightspace.evaluate.weight_steps import Coordinates
from weightspace.evaluate.zoo_choice import ZooChoice, head_inputs
from weightspace.registry import resolve
from weightspace.sampling.requests import Grid
from weightspace.sampling.sampler import Sampler
from weightspace.shared_encoders import SHARED_ENCODERS
from weightspace.weights.spec import reorder_outputs, stack, take
from weightspace.zoo.result import Result
from weightspace.zoo.runner import TaskRunner

ACCURACY = Result("accuracy")


@pytest.fixture(scope="module")
def evaluation(world):
    """What a tiny pipeline leaves, with a decoder that starts at a network."""
    tiny = world()
    autoencoder, _ = resolve(AUTOENCODERS, "functional", "autoencoder").fit(
        tiny.data, tiny.params.autoencoder, tiny.params.autoencoders.functional, 3
    )
    shared_encoder, _ = resolve(SHARED_ENCODERS, "flow", "model").fit(
        tiny.pairs(autoencoder), tiny.params.shared_encoder, tiny.params.shared_encoders.flow, 3
    )
    sampler = Sampler(autoencoder, shared_encoder, tiny.net, tiny.params.guidance)
    return Evaluation(tiny.zoo, sampler, tiny.runner, tiny.params)


@pytest.fixture
def grid(world):
    return Grid(np.unique(world().zoo.select("test_sets")["task"])[:3], np.array([0.5, 0.7, 0.9]))


def _fresh(net, size, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return stack([net.init(rng) for _ in range(size)])


def _error(grid, results):
    return float(np.square(results - grid.target).mean())


def _with_noise(runner, *parts):
    """The same tasks with noise in place of some images."""
    images = dict(runner.dataset.images)
    rng = torch.Generator().manual_seed(1)
    images |= {part: torch.randn(images[part].shape, generator=rng) for part in parts}
    return TaskRunner(runner.net, replace(runner.dataset, images=images))


@pytest.mark.parametrize(
    ("result", "targets"), [(ACCURACY, [0.5, 0.7, 0.9]), (Result("loss"), [0.9, 0.6, 0.3])]
)
@pytest.mark.parametrize("of_task", [1, 3])
def test_training_stops_at_its_target(world, grid, result, targets, of_task):
    runner = world().runner
    grid = replace(grid, targets=np.array(targets))
    start = _fresh(runner.net, of_task * len(grid.tasks))
    method = TrainAndStop(Trainer(runner, 16, 3), result, lambda _: start)
    stopped = method(grid, 1e-2, "train")
    before = result.of(runner.outputs_by_task(start, grid.tasks, "train")).numpy()
    before = before.repeat(len(targets) // of_task)
    assert _error(grid, stopped.achieved) < 0.005 < 0.03 < _error(grid, before)
    near, far = (
        np.mean(method(replace(grid, targets=np.array([t] * 3)), 1e-2, "train").image_gradients)
        for t in (targets[0], targets[-1])
    )
    assert 0 < near < far < 24 * 48  # the control: training to the end
    assert near < np.mean(stopped.image_gradients) < far


def test_networks_of_a_training_are_copied_a_block_at_a_time(world):
    net = world().net
    first, last = _fresh(net, 2), _fresh(net, 2, seed=1)
    later = {name: torch.stack([first[name], w], 1) for name, w in last.items()}
    networks = measurements(first, later, 3)
    head = net.spec.names[-1]
    taken = networks.take(slice(1, 5))[head]  # the second and third of one, two of the other
    expected = torch.stack([first[head][0], last[head][0], first[head][1], first[head][1]])
    assert torch.equal(taken, expected)
    later[head] += 1
    moved = networks.take(slice(1, 5))[head]  # nothing was copied before
    assert torch.equal(
        moved, expected + torch.tensor([1, 1, 0, 1]).view(-1, *[1] * (moved.ndim - 1))
    )


def test_a_start_beyond_its_target_is_not_trained(world, grid):
    runner = world().runner
    easy = replace(grid, targets=np.zeros(3))
    method = TrainAndStop(Trainer(runner, 16, 3), ACCURACY, lambda _: _fresh(runner.net, 3))
    assert np.all(method(easy, 1e-2, "test").image_gradients == 0)
    assert np.all(method(grid, 1e-2, "test").image_gradients > 0)  # the control


def test_the_best_of_the_zoo_is_that_of_running_every_member_in_every_order(world, grid):
    tiny = world()
    members = take(tiny.data.weights["train"], slice(0, 12))
    outcome = ZooChoice(tiny.runner, ACCURACY, members)(grid, 0.0, "train")
    orders = [torch.tensor(o) for o in permutations(range(3))]
    results = np.stack(
        [
            [
                ACCURACY.of(tiny.runner.outputs(reordered, np.full(12, task), "train")).numpy()
                for reordered in (reorder_outputs(tiny.net.spec, members, o) for o in orders)
            ]
            for task in grid.tasks
        ]
    ).reshape(3, -1)
    distance = np.abs(results[:, None] - grid.targets[:, None])
    assert np.abs(outcome.achieved - grid.target) == pytest.approx(distance.min(2).ravel())
    assert distance.min(2).mean() < distance.mean(2).mean() / 2  # the control: any member
    one = distance.reshape(3, 3, 6, 12)[:, :, 0].min(2)  # the control: in one order
    assert distance.min(2).mean() < one.mean()


@pytest.mark.parametrize("name", ["train_and_stop", "best_of_zoo", "steps_nearest_task"])
def test_baselines_read_train_images_only(evaluation, grid, name):
    def results(*noise):
        runner = _with_noise(evaluation.runner, *noise)
        changed = Evaluation(evaluation.zoo, evaluation.sampler, runner, evaluation.params)
        known = trained.baselines(changed) | evidence.step_baselines(changed)
        method = known[name].method
        return method(grid, 1e-2, "train").achieved.tolist()

    assert results() == results("val", "test")
    assert results() != results("train")  # the control


def test_each_target_has_its_own_setting_and_edges_are_told():
    grid = Grid(np.arange(2), np.array([0.4, 0.8]))

    def chosen(low, high, settings):
        """Settings where the best ones of the two targets are known."""

        def method(g, s, _):
            best = np.where(g.target == 0.4, low, high)
            return Outcome(g.target + abs(s - best), 10.0 * s + g.target)

        baseline = Baseline(method, settings)
        of_target, tried = baseline.tune(grid)
        outcome = baseline(grid, of_target, "test")
        assert tried.achieved.tolist() == outcome.achieved.tolist()
        assert tried.image_gradients.tolist() == outcome.image_gradients.tolist()
        both = np.tile(of_target, 2)
        expected = grid.target + abs(both - np.tile([low, high], 2))
        assert outcome.achieved == pytest.approx(expected)
        assert outcome.image_gradients == pytest.approx(10.0 * both + grid.target)
        return of_target.tolist(), baseline.at_edge(of_target)

    assert chosen(2, 3, (1, 2, 3, 4)) == ([2, 3], 0.0)
    assert chosen(2, 9, (1, 2, 3)) == ([2, 3], 0.5)
    assert chosen(0, 9, (1, 2, 3)) == ([1, 3], 1.0)
    equal = Baseline(lambda g, s, _: Outcome(g.target * (s == 9)), (1, 2, 3, 9, 9, 9))
    assert equal.tune(grid)[0].tolist() == [9, 9]
    diverged = Baseline(lambda g, s, _: Outcome(g.target * (np.nan if s == 1 else 0)), (1, 2, 3))
    assert 1 not in diverged.tune(grid)[0]


def test_subspaces_go_through_the_reference_in_orthogonal_directions(world):
    tiny = world()
    net, pca = tiny.net, tiny.pca
    reference = net.spec.flatten(_fresh(net, 1))[0]
    size, rng = 5, torch.Generator().manual_seed(2)
    random = weight_steps.random_subspace(net, reference, size, rng)
    for weights_of in (random, weight_steps.pca_subspace(pca, reference, size)):
        at = net.spec.flatten(weights_of(torch.zeros(1, size)))[0]
        torch.testing.assert_close(at, reference)
        moved = net.spec.flatten(weights_of(torch.eye(size))) - reference
        gram = moved @ moved.T
        torch.testing.assert_close(gram, gram.diagonal().diag(), atol=1e-4, rtol=0)
        assert (gram.diagonal() > 0).all()
        double = net.spec.flatten(weights_of(2 * torch.eye(size))) - reference
        torch.testing.assert_close(double, 2 * moved, atol=1e-5, rtol=1e-4)


def test_components_of_large_variance_come_first(world):
    tiny = world()
    reference = tiny.net.spec.flatten(_fresh(tiny.net, 1))[0]
    weights_of = weight_steps.pca_subspace(tiny.pca, reference, 3)
    moved = tiny.net.spec.flatten(weights_of(torch.eye(3))) - reference
    largest = tiny.pca.variances().sort(descending=True).values[:3]
    torch.testing.assert_close(moved.square().sum(1), largest, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("case", ["cnn", "cnn-batch-norm", "resnet18-small"])
def test_coordinates_are_the_weights(case, rng):
    net = cases.build(case)
    weights = _fresh(net, 3)
    images = torch.randn(8, *net.meta["shape"], generator=rng)
    coordinates = Coordinates(net, images)
    z = coordinates.encode(weights)
    decoded = coordinates.decode(z)
    for name in net.spec.parameters.names:
        torch.testing.assert_close(decoded[name], weights[name])
    torch.testing.assert_close(
        coordinates.outputs(net, z, images), net.outputs(decoded, images), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("case", ["cnn", "cnn-batch-norm", "mlp", "resnet18-small"])
def test_the_output_layer_on_what_it_reads_gives_the_outputs(case, rng):
    net = cases.build(case)
    network = take(_fresh(net, 1), 0)
    images = torch.randn(4, *net.meta["shape"], generator=rng)
    weight, bias = (network[name] for name in net.spec.head)
    outputs = head_inputs(net, network, images) @ weight.T + bias
    torch.testing.assert_close(outputs, net.forward(network, images))


def test_a_ridge_head_beats_the_network_that_it_came_from(world, grid):
    tiny = world()
    start = take(tiny.data.weights["train"], slice(-3, None))
    top = replace(grid, targets=np.array([1.0]))
    results = {
        penalty: zoo_choice.RidgeHead(tiny.runner, ACCURACY, lambda _: start)(top, penalty, "test")
        for penalty in (1e-3, 1e9)
    }
    before = ACCURACY.of(tiny.runner.outputs(start, top.tasks, "test")).numpy()
    assert results[1e-3].achieved.mean() > before.mean() + 0.1
    assert results[1e-3].achieved.mean() > results[1e9].achieved.mean()  # the mean of the labels


def test_tasks_are_drawn_evenly_from_the_class_sets(evaluation):
    everything = evaluation.tasks("train")
    sets = len(np.unique(evaluation.class_sets(everything)))
    assert sets < len(everything)
    tasks = trained.some_tasks(evaluation, "train", sets)
    assert len(np.unique(evaluation.class_sets(tasks))) == sets
    first = evaluation.class_sets(everything[:sets])  # the control: any tasks
    assert len(np.unique(first)) < sets
    assert trained.some_tasks(evaluation, "train", 10**6).tolist() == everything.tolist()


def test_figures_of_a_tiny_pipeline(evaluation, monkeypatch):
    monkeypatch.setattr(trained, "TUNING_TASKS", 2)
    known = trained.baselines(evaluation) | evidence.step_baselines(evaluation)
    metrics = trained.evaluate_trained(evaluation, known)
    assert set(metrics) == {"val", "test_sets"}
    for split, figures in metrics.items():
        assert all(np.isfinite(value) for value in figures.values())
        names = {k.removesuffix("_image_gradients") for k in figures if "gradients" in k}
        assert names == set(known)
        assert {figures[f"{n}_tasks"] for n in names} == {2 if split == "val" else 3}
        full = {n for n in names if f"{n}_r2_identity" in figures}
        assert names - full == {"ridge_head"}
        budget = 2 * 5 * 3  # of a guided draw: two steps of five images of each of three classes
        costs = {n: figures[f"{n}_image_gradients"] for n in names}
        assert {costs[n] for n in names if n.startswith("steps")} == {budget}
        assert costs["best_of_zoo"] == costs["ridge_head"] == 0
        assert 0 < costs["train_and_stop"] <= 24 * 48
    rates = {n: metrics["val"].get(f"{n}_rate_low") for n in known}
    assert {n for n, rate in rates.items() if rate is None} == {"best_of_zoo", "ridge_head"}
    assert metrics["val"]["train_and_stop_mae"] < metrics["val"]["steps_random_mae"]


def test_more_steps_bring_results_nearer_to_the_targets(evaluation, monkeypatch):
    monkeypatch.setattr(evidence, "TASKS", {"val": 2, "test": 2})
    rows = evidence.against_steps(evaluation, "test_sets", numbers=(0, 30))
    assert [(r["start"], r["steps"]) for r in rows] == [
        (start, steps) for start in ("draw", "d_only", "r_only") for steps in (0, 30)
    ]
    for without, with_steps in zip(rows[::2], rows[1::2], strict=True):
        assert with_steps["mae"] < without["mae"]
        assert without["image_gradients"] == 0
        assert with_steps["image_gradients"] == 30 * 5 * 3
