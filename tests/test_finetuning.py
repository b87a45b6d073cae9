"""Fine-tuning, ensembles, retrieval by running, and what noise of few images allows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from weightspace.autoencoders import AUTOENCODERS
from weightspace.evaluate import finetuning, sampling
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.finetuning import Trainer
from weightspace.evaluate.metrics import r2_identity
from weightspace.registry import resolve
from weightspace.sampling.sampler import Sampler
from weightspace.shared_encoders import SHARED_ENCODERS
from weightspace.weights.spec import stack, take
from weightspace.zoo.result import accuracies
from weightspace.zoo.runner import TaskRunner


@pytest.fixture(scope="module")
def sampler(world):
    """Sampler of the tiny world."""
    tiny = world()
    autoencoder, _ = resolve(AUTOENCODERS, "functional", "autoencoder").fit(
        tiny.data, tiny.params.autoencoder, tiny.params.autoencoders.functional, 3
    )
    data = tiny.pairs(autoencoder)
    shared_encoder, _ = resolve(SHARED_ENCODERS, "flow", "model").fit(
        data, tiny.params.shared_encoder, tiny.params.shared_encoders.flow, 3
    )
    return Sampler(autoencoder, shared_encoder, tiny.net, tiny.params.guidance)


@pytest.fixture
def trainer(world):
    return Trainer(world().runner, 16, 3)


@pytest.fixture
def tasks(world):
    return np.unique(world().zoo.select("test_sets")["task"])[:3]


def _fresh(net, count, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return stack([net.init(rng) for _ in range(count)])


def _accuracy(trainer, tasks, weights, part):
    return accuracies(trainer.runner.outputs(weights, tasks, part))


def test_training_on_raises_train_accuracy_and_keeps_each_epoch(trainer, tasks):
    start = _fresh(trainer.runner.net, 3)
    one, five = trainer(tasks, start, 1e-2, (1, 12))
    (alone,) = trainer(tasks, start, 1e-2, (1,))
    before, after, late = (_accuracy(trainer, tasks, w, "train").mean() for w in (start, one, five))
    assert before < after < late
    assert all(torch.equal(one[k], w) for k, w in alone.items())  # longer training starts alike


def test_training_reads_train_images_only(trainer, tasks):
    from dataclasses import replace

    runner = trainer.runner
    start, images = _fresh(runner.net, 3), runner.dataset.images
    moved = {p: x if p == "train" else x + 1 for p, x in images.items()}
    other = replace(runner, dataset=replace(runner.dataset, images=moved))
    (a,), (b,) = (Trainer(r, 16, 3)(tasks, start, 1e-2, (2,)) for r in (runner, other))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_an_ensemble_of_copies_is_no_better_than_one(trainer, tasks):
    net = trainer.runner.net
    copies = {k: w.repeat_interleave(4, 0) for k, w in _fresh(net, 3).items()}
    found = finetuning.ensembles(
        trainer, tasks, {"sampled": copies, "random": _fresh(net, 12, 1)}, 1e-2
    )
    assert found["sampled_ensemble"].tolist() == pytest.approx(found["sampled_single"].tolist())
    assert found["sampled_best"].tolist() == pytest.approx(found["sampled_single"].tolist())
    assert (found["scratch_best"] != found["scratch_single"]).any()  # the control
    assert found["scratch_single"].mean() > found["sampled_single"].mean()


def test_rates_are_chosen_on_val_images(trainer, tasks, monkeypatch):
    seen = []
    outputs = TaskRunner.outputs
    monkeypatch.setattr(
        TaskRunner, "outputs", lambda r, w, t, part: seen.append(part) or outputs(r, w, t, part)
    )
    start = _fresh(trainer.runner.net, 3)
    found = finetuning.choose_rates(trainer, tasks, {"random": start})
    assert set(seen) == {"val"}
    after = {r: trainer(tasks, start, r, finetuning.EPOCHS) for r in finetuning.RATES}
    scores = {
        r: sum(float(_accuracy(trainer, tasks, w, "val").mean()) for w in a)
        for r, a in after.items()
    }
    *_, second, best = sorted(scores, key=lambda rate: scores[rate])
    assert scores[best] > scores[second] + 0.05  # the control: it is a choice
    assert found == {"random": best}


@pytest.mark.parametrize("best", finetuning.RATES)
def test_every_rate_is_chosen_where_it_is_the_best(best, tasks):
    """On all parts but val the other rates are better."""

    def accuracy(tasks, start, rate, epochs, part):
        return np.full((len(epochs), len(tasks)), float((rate == best) == (part == "val")))

    trainer = SimpleNamespace(accuracy=accuracy)
    assert finetuning.choose_rates(trainer, tasks, {"a": {}, "b": {}}) == {"a": best, "b": best}


def test_networks_are_trained_as_if_each_block_were_all(trainer, tasks, monkeypatch):
    start = _fresh(trainer.runner.net, 3)
    together = trainer.accuracy(tasks, start, 1e-2, (1, 4), "train")
    monkeypatch.setattr(finetuning, "BLOCK", 2)
    by_two = trainer.accuracy(tasks, start, 1e-2, (1, 4), "train")
    assert by_two.shape == (2, 3)
    assert by_two == pytest.approx(together, abs=0.02)
    assert (together[1] > together[0] + 0.05).any()  # the control: training changes it


def test_figures_of_a_tiny_pipeline(world, sampler):
    tiny = world()
    evaluation = Evaluation(tiny.zoo, sampler, tiny.runner, tiny.params)
    found = finetuning.evaluate_finetuning(evaluation)
    assert set(found) == {"test_sets"}
    figures, settings = found["test_sets"], tiny.params.evaluate
    assert figures["tasks"] == settings.finetune_tasks
    tasks = finetuning._some_tasks(evaluation, "test_sets")
    arguments = (evaluation, tasks, settings.ensemble)
    networks = finetuning.starts(*arguments)
    assert set(networks) == {"sampled", "nearest_task", "random"}
    assert {"sampled_lr", "control_nearest_task_lr", "control_random_lr"} <= figures.keys()
    assert not {"control_sampled_lr", "nearest_task_lr", "random_lr"} & figures.keys()
    rates = {name: figures[finetuning._key(f"{name}_lr")] for name in networks}
    trainer = Trainer(tiny.runner, tiny.params.zoo.batch_size, 3)
    varied = set()
    values = finetuning.curves(trainer, tasks, networks, rates, settings.ensemble)
    assert len(values) == 9
    for name, of_task in values.items():
        mean, low, high = (figures[finetuning._key(name + end)] for end in ("", "_low", "_high"))
        assert mean == pytest.approx(of_task.mean())
        assert of_task.min() - 1e-9 <= low <= high <= of_task.max() + 1e-9
        if np.ptp(of_task):
            assert low <= mean <= high > low
            varied.add(name)
        else:
            assert low == pytest.approx(high)
    # a draw: two steps of five images of each of three classes; from scratch: 24 epochs of 48 of 60
    costs = {k: v for k, v in figures.items() if k.endswith("_image_gradients")}
    assert costs == {
        "sampled_image_gradients": 2 * 5 * 3,
        "control_nearest_task_image_gradients": 0,
        "control_random_image_gradients": 0,
        "scratch_image_gradients": 24 * 48,
    }
    # the control: an interval says something; untrained networks are at chance on every task
    assert varied
    assert "random_epoch_0" not in varied


def test_losses_of_tasks_are_cross_entropies_of_their_images(world):
    tiny = world()
    weights = take(tiny.data.weights["val"], slice(0, 5))
    tasks = torch.tensor([0, 7, 31])
    found = tiny.runner.losses_on_all_tasks(weights, tasks)
    for column, task in enumerate(tasks):
        images, labels = tiny.dataset.task_batch(task[None], "train")
        outputs = tiny.net.outputs(weights, images[0])
        for row, y in enumerate(outputs):
            expected = torch.nn.functional.cross_entropy(y, labels)
            torch.testing.assert_close(found[row, column], expected, atol=1e-5, rtol=1e-5)


def test_ceiling_is_the_r2_of_networks_of_exactly_the_requested_accuracy(rng):
    targets, each = np.linspace(0.35, 0.99, 9), 40
    grid = sampling.Grid(np.arange(300), targets)
    asked = torch.tensor(grid.target)
    right = torch.rand(len(asked), 3 * each, generator=rng) < asked[:, None]
    labels = torch.arange(3).repeat_interleave(each)
    predicted = torch.where(right, labels, (labels + 1) % 3)
    outputs = torch.nn.functional.one_hot(predicted, 3).float()
    measured = r2_identity(grid.target, right.double().mean(1).numpy())
    assert sampling.ceiling(grid, outputs) == pytest.approx(measured, abs=0.005)
    certain = torch.nn.functional.one_hot(labels, 3).float().expand(len(asked), -1, -1)
    assert sampling.ceiling(grid, certain) == 1  # no image is in doubt, no noise
