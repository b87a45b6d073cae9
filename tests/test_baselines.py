"""Baselines: fitted on train images of train tasks alone, measured as draws are."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import evaluate_baselines as stage
import hypernetwork as fit_stage
from weightspace.artifacts import DATASET_FOLDER, HYPERNETWORK_FILE, ZOO_FOLDER
from weightspace.errors import WeightspaceError
from weightspace.evaluate import baselines as b
from weightspace.evaluate import hypernetwork as h
from weightspace.evaluate.evaluation import Evaluation
from weightspace.params import load_params
from weightspace.rng import torch_stream
from weightspace.sampling.sampler import Condition
from weightspace.weights.spec import take
from weightspace.zoo.runner import TaskRunner

# of how well draws follow requests, how alike they are, and how well they are told from members
FIGURES = ["r2_identity", "r2_identity_low", "mae", "spearman_within_task", "accuracy_at_top_mean"]
FIGURES += ["agreement_draws", "error_overlap_draws", "auc_outputs"]
FIGURES += ["image_gradients", "fitting_image_gradients"]


@pytest.fixture
def evaluation(project_root):
    """The finished tiny pipeline."""
    return Evaluation.load(project_root / "data", load_params(project_root / "params.yaml"))


def fitted(evaluation, runner=None, seed=0, **changes):
    """A hypernetwork for the tiny pipeline, or for other images of its tasks."""
    return h.fit(
        runner or evaluation.runner, settings(evaluation, seed, **changes), bounds(evaluation)
    ).eval()


def settings(evaluation, seed=0, **changes):
    """Settings of the tiny pipeline with another seed and fit of the hypernetwork."""
    params = evaluation.params
    fit = params.baselines.hypernetwork.model_copy(update=changes)
    baselines = params.baselines.model_copy(update={"hypernetwork": fit})
    return params.model_copy(update={"seed": seed, "baselines": baselines})


def bounds(evaluation):
    """Trained range of R."""
    return torch.tensor(evaluation.sampler.shared_encoder.bounds)


def error(evaluation, model, split):
    """Mean squared error of results on train images of the tasks of a split."""
    settings = evaluation.params.baselines.hypernetwork
    loss = h.HypernetworkLoss(model, evaluation.runner, settings)
    with torch.no_grad():
        rows = torch.arange(400)
        return float(loss(rows, split, torch_stream(0, "test"))["loss"]) / h.SCALE


def same(a, b):
    """Whether two hypernetworks have the same weights."""
    theirs = b.state_dict()
    return all(torch.equal(x, theirs[name]) for name, x in a.state_dict().items())


def test_a_fit_follows_requests_and_its_untrained_self_does_not(evaluation):
    untrained = fitted(evaluation, steps=1, lr=1e-9)
    trained = fitted(evaluation, steps=400, lr=3e-3, conditions=16)
    for split in ("train", "val"):
        assert error(evaluation, trained, split) < 0.7 * error(evaluation, untrained, split)


def with_noise(evaluation, *parts):
    """The tasks with noise in place of some parts of their images."""
    dataset = evaluation.runner.dataset
    rng = torch_stream(0, "noise")
    noise = {part: torch.randn(dataset.images[part].shape, generator=rng) for part in parts}
    changed = replace(dataset, images=dataset.images | noise)
    return TaskRunner(evaluation.runner.net, changed)


def test_the_fit_reads_train_images_only_and_nothing_of_test_tasks(evaluation):
    plain = fitted(evaluation)
    assert same(plain, fitted(evaluation, with_noise(evaluation, "val", "test")))
    assert not same(plain, fitted(evaluation, with_noise(evaluation, "train")))  # the control
    table = evaluation.runner.dataset.tasks
    tests = table["split"].str.startswith("test")
    without = replace(
        evaluation.runner.dataset, tasks=table.assign(split=table["split"].mask(tests, ""))
    )
    assert same(plain, fitted(evaluation, TaskRunner(evaluation.runner.net, without)))


def test_a_seed_gives_one_fit(evaluation):
    plain = fitted(evaluation)
    assert same(plain, fitted(evaluation))
    assert not same(plain, fitted(evaluation, seed=1))


@pytest.mark.parametrize("world_name", ["cnn", "cnn-batch-norm"])
def test_networks_are_those_whose_outputs_are_fitted(evaluation, world, world_name, rng):
    tiny = world(world_name)
    runner = TaskRunner(tiny.net, tiny.dataset)
    model = h.Hypernetwork(runner, evaluation.params, bounds(evaluation), rng)
    tasks = torch.arange(4)
    condition = Condition.of_tasks(tiny.dataset, tasks, torch.linspace(0.4, 0.9, 4))
    images, _ = tiny.dataset.task_batch(tasks.repeat_interleave(2), "train")
    networks = model.networks(condition, 2, torch.Generator().manual_seed(5))
    weights = networks.take(slice(None))
    noise = torch.randn(8, h.NOISE, generator=torch.Generator().manual_seed(5))
    twice = Condition.of_tasks(
        tiny.dataset, tasks.repeat_interleave(2), condition.target.repeat_interleave(2)
    )
    with torch.no_grad():
        outputs = model.outputs(model.features(twice, noise), images)
    torch.testing.assert_close(tiny.net.run(weights, images), outputs, rtol=1e-3, atol=1e-3)
    some = networks.take(torch.tensor([5, 2]))  # of a row always the same
    for name, w in take(weights, torch.tensor([5, 2])).items():
        torch.testing.assert_close(some[name], w, rtol=1e-2, atol=1e-2)


def fitted_stage(evaluation, folder, monkeypatch, **changes):
    """The artefact that the stage leaves in a folder, if any."""
    monkeypatch.setattr(fit_stage, "DATA", folder)
    for name in (DATASET_FOLDER, ZOO_FOLDER):
        (folder / name).symlink_to(evaluation.data / name)
    fit_stage.main(settings(evaluation, **changes))
    return folder / HYPERNETWORK_FILE


def test_the_stage_leaves_the_fit(evaluation, tmp_path, monkeypatch):
    path = fitted_stage(evaluation, tmp_path, monkeypatch)
    assert same(h.load(evaluation.runner, evaluation.params, path), fitted(evaluation))
    lower = path.read_bytes()
    path.write_bytes(lower[:-1] + bytes([lower[-1] ^ 1]))
    with pytest.raises(WeightspaceError, match="sha256"):
        h.load(evaluation.runner, evaluation.params, path)


def test_figures_of_a_tiny_pipeline(evaluation):
    metrics = b.evaluate_baselines(evaluation)
    assert set(metrics) == {"val", "test_sets"}
    assert {f"hypernetwork_{k}" for k in FIGURES} <= metrics["test_sets"].keys()
    fit = evaluation.params.baselines.hypernetwork
    images = fit.images_per_class * evaluation.runner.classes
    count = fit.steps * fit.conditions * images
    assert metrics["val"]["hypernetwork_fitting_image_gradients"] == count
    assert metrics["val"]["hypernetwork_image_gradients"] == 0
    for name in ("hypernetwork", "train_and_stop", "best_of_zoo"):
        figures = metrics["test_sets"]
        low, value, high = (figures[f"{name}_r2_identity{k}"] for k in ("_low", "", "_high"))
        assert low <= value <= high


def test_networks_of_many_weights_have_no_hypernetwork(evaluation, tmp_path, monkeypatch):
    size = evaluation.runner.net.spec.numel * evaluation.params.baselines.hypernetwork.width
    monkeypatch.setattr(h, "BLOCK_NUMBERS", size)
    assert h.fits_memory(evaluation.runner, evaluation.params)  # the control
    monkeypatch.setattr(h, "BLOCK_NUMBERS", size - 1)
    path = fitted_stage(evaluation, tmp_path, monkeypatch)
    assert path.parent.is_dir()
    assert not path.exists()
    monkeypatch.setattr(b, "evaluate_trained", lambda *_: {"val": {"a": 1.0}, "test_sets": {}})
    without = replace(evaluation, data=tmp_path)
    assert b.evaluate_baselines(without) == {"val": {"a": 1.0}, "test_sets": {}}


def test_the_stage_does_nothing_without_controls(evaluation, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("read")

    monkeypatch.setattr(stage, "METRICS", tmp_path)
    monkeypatch.setattr(Evaluation, "load", refuse)
    settings = evaluation.params.evaluate.model_copy(update={"controls": False})
    stage.main(evaluation.params.model_copy(update={"evaluate": settings}))
    assert json.loads((tmp_path / "baselines.json").read_text()) == {}
    with pytest.raises(AssertionError, match="read"):  # the control
        stage.main(evaluation.params)


def test_quantiles_of_results_are_requests(evaluation):
    tasks = evaluation.tasks("test_sets")
    grid, even = evaluation.grid_at_quantiles(tasks), evaluation.grid(tasks)
    assert len(grid.targets) == len(even.targets) == 3
    results = evaluation.result.of_members(evaluation.zoo.select("train"))
    low, high = evaluation.sampler.shared_encoder.bounds
    assert grid.targets[1] == pytest.approx(np.median(results).clip(low, high))
    assert (np.diff(grid.targets) >= 0).all()
    assert grid.targets[0] > even.targets[0]  # the control: evenly over the range
