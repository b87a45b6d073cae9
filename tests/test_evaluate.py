"""The evaluations on constructed inputs whose figures are known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau

from cases import FILE, build, merged, networks, section
from weightspace.autoencoders.base import Autoencoder
from weightspace.errors import WeightspaceError
from weightspace.evaluate import metrics, properties, readout, reconstruction, retrieval, sampling
from weightspace.evaluate.components import against_k
from weightspace.evaluate.controls import TrainMembers, head_only, noised
from weightspace.evaluate.readings import weight_statistics
from weightspace.params import validate_params
from weightspace.weights.pca import fit_pca
from weightspace.weights.spec import Spec, TensorSpec, take
from weightspace.zoo.result import Result, accuracies, losses

PARAMS = validate_params(
    merged(
        FILE,
        {
            "evaluate": {"random_inputs": 20, "bootstrap": 50},
            "guidance": {"encoding_steps": 0},
            "autoencoder": {"model": "mlp"},
        },
    )
)
SETTINGS = PARAMS.evaluate


class Identity(Autoencoder):
    """Latent = weights; or, with ``shift``, those of another member."""

    name = "identity"

    def __init__(self, spec, shift=0):
        super().__init__()
        self.spec, self.latent, self.shift = spec, spec.numel, shift

    def _encode(self, weights):
        return self.spec.flatten(weights).roll(self.shift, 0)

    def decode(self, z):
        return self.spec.unflatten(z)

    def meta(self):
        return {}


def _reconstruct(world, shift=0, split="test_sets"):
    tiny = world()
    autoencoder = Identity(tiny.zoo.spec, shift)
    members = tiny.zoo.select(split)
    weights = tiny.zoo.weights(members)
    reconstruct = reconstruction.Reconstructor(autoencoder, tiny.runner, PARAMS)
    return reconstruct(members, weights)


# reconstruction


def test_a_perfect_autoencoder_has_perfect_figures(world):
    rebuilt = _reconstruct(world)
    found = reconstruction.reconstruction_metrics(rebuilt, SETTINGS, 0)
    for score in ("cosine", "correlation", "agreement"):
        for suffix in ("", "_random", "_late"):
            for part in ("mean", "min", "max"):
                value = found[f"{score}_{part}{suffix}"]
                if score != "correlation" or part == "max":
                    assert value == pytest.approx(1), (score, part, suffix)
    assert found["correlation_mean"] > 0.99  # 0 where an output is constant
    chance = metrics.chance_agreement(rebuilt.original, rebuilt.rebuilt)
    varied = float((chance < 1).double().mean())  # members that predict more than one class
    assert varied > 0.2
    assert found["kappa"] == pytest.approx(varied)
    for key in ("error_overlap", "error_overlap_late", "encoder_only_error_overlap"):
        assert found[key] == pytest.approx(1)
    assert found["accuracy_r2_identity"] == pytest.approx(1)
    assert found["accuracy_r2"] == pytest.approx(1)
    assert found["accuracy_original"] == found["accuracy_reconstructed"]
    assert found["agreement_low"] == found["agreement_high"] == 1
    assert found["agreement_chance"] < 0.95
    members = world().zoo.select("test_sets")
    assert (found["members"], found["tasks"]) == (len(members), members["task"].nunique())


def test_a_autoencoder_that_mixes_up_members_does_not(world):
    found = reconstruction.reconstruction_metrics(_reconstruct(world, shift=4), SETTINGS, 0)
    assert found["agreement_mean"] == pytest.approx(found["agreement_chance"], abs=0.05)
    assert found["agreement_chance"] < 0.5
    assert found["error_overlap"] < 0.8
    assert abs(found["kappa"]) < 0.1
    assert abs(found["cosine_mean"]) < 0.1
    assert abs(found["correlation_mean"]) < 0.1
    assert found["accuracy_r2"] < 0.3
    assert found["accuracy_r2_identity"] < 0.3
    assert found["agreement_low"] < found["agreement_mean"] < found["agreement_high"]
    # the control: the next member is mostly a snapshot of the same run, with like outputs
    siblings = reconstruction.reconstruction_metrics(_reconstruct(world, shift=1), SETTINGS, 0)
    assert siblings["cosine_mean"] > 0.3


def test_reconstructions_are_compared_with_another_finished_network_of_the_task(world):
    r = _reconstruct(world)
    figures = reconstruction.reconstruction_metrics(r, SETTINGS, 0)
    assert figures["control_other_member_pairs"] == 0  # a tiny zoo has a run of each task
    assert np.isnan(figures["control_other_member_agreement_mean_late"])
    of_one = replace(r, members=r.members.assign(task=0))
    last = np.flatnonzero(r.members["snapshot"] == 2)
    two = last[
        metrics.pairs_alike(
            np.zeros(len(last)),
            r.members["run"].to_numpy()[last],
            r.members["val_accuracy"].to_numpy(float)[last],
        )
    ]
    expected = metrics.agreement(*(r.original[two[:, k]] for k in (0, 1))).mean()
    figures = reconstruction.reconstruction_metrics(of_one, SETTINGS, 0)
    assert figures["control_other_member_pairs"] == len(two) == len(last) // 2
    assert figures["control_other_member_agreement_mean_late"] == pytest.approx(float(expected))
    assert figures["control_other_member_agreement_mean_late"] < figures["agreement_mean_late"]
    assert 0 <= figures["control_other_member_error_overlap_late"] < 1


def test_original_accuracies_are_the_logged_ones(world):
    for split, part in (("test_sets", "test"), ("val", "val")):
        r = _reconstruct(world, split=split)
        logged = r.members[f"{part}_accuracy"].tolist()
        assert accuracies(r.original).tolist() == pytest.approx(logged, abs=1e-6)


def test_parts_are_put_together_in_the_order_of_members(world, project_root, monkeypatch):
    """Whichever finishes first; every split but the empty one is there."""
    monkeypatch.setattr(reconstruction, "MEMBERS", 7)

    def found(order):
        monkeypatch.setattr(
            reconstruction, "execute", lambda jobs, _: [j.execute() for j in order(jobs)]
        )
        return reconstruction.reconstruct_splits(project_root / "data", world().params)

    splits = found(list)
    assert list(splits) == ["val", "test_sets"]
    for split, again in found(reversed).items():
        r, part = splits[split], "val" if split == "val" else "test"
        assert len(r.members) > 7
        assert accuracies(r.original).tolist() == pytest.approx(r.members[f"{part}_accuracy"])
        assert all(torch.equal(a, b) for a, b in zip(r.outputs, again.outputs, strict=True))
        assert not torch.equal(r.rebuilt[:7], r.encoder_only[:7])


def test_intervals_resample_class_sets_and_not_their_members(rng):
    """Copies of members, as members or as other orders, leave an interval over class sets as it is."""
    a, b = torch.randn(2, 12, 30, 3, generator=rng)
    b = b + a * torch.linspace(0, 3, 12)[:, None, None]

    def intervals(copies, *, other_tasks=False, other_sets=False):
        rows = torch.arange(12).repeat_interleave(copies)
        index = np.arange(len(rows))
        task, class_set = (index if other else rows for other in (other_tasks, other_sets))
        table = pd.DataFrame({"task": task, "class_set": class_set, "snapshot": 0, "epoch": 1.0})
        table = table.assign(run=index, val_accuracy=0.5)
        r = reconstruction.Reconstruction(table, *[x[rows] for x in (a, b, a, b, b)])
        return reconstruction.reconstruction_metrics(r, SETTINGS, 0)

    one, members, orders = intervals(1), intervals(5), intervals(5, other_tasks=True)
    independent = intervals(5, other_tasks=True, other_sets=True)  # the control

    def width(figures, name):
        return figures[f"{name}_high"] - figures[f"{name}_low"]

    for name in ("cosine", "correlation", "agreement", "accuracy_r2"):
        for copied in (members, orders):
            for end in ("low", "high"):
                assert one[f"{name}_{end}"] == pytest.approx(copied[f"{name}_{end}"]), name
        assert width(one, name) > 0.05
        assert width(independent, name) < 0.7 * width(one, name)
    assert one["agreement_low"] < one["agreement_mean"] < one["agreement_high"]


def test_plot_tables_have_a_row_per_snapshot_and_point(world):
    r = _reconstruct(world)
    curve = reconstruction.over_epochs(r)
    assert curve["snapshot"].tolist() == [0, 1, 2]
    assert curve["epoch"].is_monotonic_increasing
    assert curve["real_agreement"].tolist() == curve["random_agreement"].tolist() == [1, 1, 1]
    points = reconstruction.scatter(r, 5, 0)
    assert len(points) == 5
    assert (points["original"] == points["reconstructed"]).all()
    logged = r.members["test_accuracy"].astype(float)
    assert set(points["original"].round(6)) <= set(logged.round(6))


def test_agreement_against_k_ends_at_one_with_all_components(world):
    tiny = world()
    members = tiny.zoo.select("train")
    weights = tiny.zoo.weights(members)
    pca = fit_pca(tiny.zoo.spec, weights, section("pca", components=1000, identity_below=5))
    curve = against_k(pca, tiny.zoo, tiny.runner, members)
    assert curve["k"].tolist()[:4] == [1, 2, 4, 8]
    assert curve["k"].iloc[-1] == max(pca.sizes)
    assert curve["explained_variance"].is_monotonic_increasing
    assert curve.iloc[-1][["explained_variance", "agreement", "cosine"]].min() > 0.999
    assert curve.iloc[0][["explained_variance", "agreement", "cosine"]].max() < 0.95


def test_outputs_follow_the_members_tasks(world):
    tiny = world()
    table = tiny.zoo.select("val")
    weights, tasks = tiny.zoo.weights(table), table["task"].to_numpy()
    outputs = tiny.runner.outputs(weights, tasks, "val")
    assert accuracies(outputs).tolist() == pytest.approx(table["val_accuracy"].tolist(), abs=1e-6)
    assert losses(outputs).tolist() == pytest.approx(table["val_loss"].tolist(), rel=1e-4)
    wrong = tiny.runner.outputs(weights, np.roll(tasks, 3), "val")
    assert accuracies(wrong).tolist() != pytest.approx(table["val_accuracy"].tolist(), abs=1e-6)
    random = tiny.runner.random_outputs(weights, 9, 0)
    assert random.shape == (len(table), 9, 3)
    assert torch.equal(random, tiny.runner.random_outputs(weights, 9, 0))
    assert not torch.equal(random, tiny.runner.random_outputs(weights, 9, 1))


def test_accuracy_and_loss_of_known_outputs():
    right = 50.0 * torch.eye(3).repeat_interleave(4, 0)[None]  # class after class
    assert accuracies(torch.cat([right, right.roll(1, -1)])).tolist() == [1, 0]
    uniform = torch.zeros(1, 12, 3)
    assert losses(torch.cat([right, uniform])).tolist() == pytest.approx([0, np.log(3)])


# sampling

GRID = sampling.Grid(np.array([4, 9]), np.array([0.4, 0.6, 0.9]))


def test_grid_is_task_after_task():
    assert GRID.task.tolist() == [4, 4, 4, 9, 9, 9]
    assert GRID.target.tolist() == [0.4, 0.6, 0.9] * 2
    assert GRID.by_task(np.arange(6)).tolist() == [[0, 1, 2], [3, 4, 5]]


def _figures(achieved, result="accuracy", **keys):
    return sampling.request_metrics(GRID, np.asarray(achieved, float), Result(result), **keys)


def test_figures_of_perfect_reversed_and_constant_results():
    perfect = _figures(GRID.target)
    assert perfect == pytest.approx(
        {
            "r2_identity": 1,
            "r2_pearson": 1,
            "mae": 0,
            "spearman_within_task": 1,
            "accuracy_at_top": 0.9,
            "accuracy_at_top_mean": 0.9,
            "mae_third_1": 0,
            "mae_third_2": 0,
            "mae_third_3": 0,
        }
    )
    lower = _figures([0.1, 0.6, 0.9] * 2)
    assert [lower[f"mae_third_{i}"] for i in (1, 2, 3)] == pytest.approx([0.3, 0, 0])
    backwards = _figures([0.9, 0.6, 0.4] * 2)
    assert backwards["r2_identity"] < 0
    assert backwards["spearman_within_task"] == pytest.approx(-1)
    assert backwards["accuracy_at_top"] == 0.4
    flat = _figures([GRID.target.mean()] * 6)
    assert flat["r2_identity"] == pytest.approx(0)
    assert flat["r2_pearson"] == flat["spearman_within_task"] == 0
    assert flat["mae"] == pytest.approx(np.abs(GRID.target - GRID.target.mean()).mean())


def test_easy_and_hard_tasks_cannot_fake_control():
    """Tasks that differ, results that ignore the request: no correlation within a task."""
    found = _figures([0.4, 0.4, 0.4, 0.9, 0.9, 0.9])
    assert found["spearman_within_task"] == 0


def test_the_best_requested_loss_is_the_lowest():
    found = _figures([0.1, 0.5, 0.8] * 2, result="loss")
    assert found["loss_at_top"] == found["loss_at_top_mean"] == pytest.approx(0.1)


def test_at_the_top_are_a_median_and_a_mean_over_tasks():
    grid = sampling.Grid(np.arange(3), GRID.targets)
    found = sampling.request_metrics(
        grid, np.array([0, 0, 0.9, 0, 0, 0.8, 0, 0, 0.1]), Result("accuracy")
    )
    assert found["accuracy_at_top"] == 0.8
    assert found["accuracy_at_top_mean"] == pytest.approx(0.6)


def test_intervals_hold_the_figure():
    rng = np.random.default_rng(0)
    grid = sampling.Grid(np.arange(30), GRID.targets)
    achieved = grid.target + rng.normal(0, 0.1, 90) + np.repeat(rng.normal(0, 0.1, 30), 3)
    found = sampling.request_metrics(grid, achieved, Result("accuracy"), 200, 0)
    for name in ("r2_identity", "r2_pearson", "mae", "spearman_within_task"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert found == sampling.request_metrics(grid, achieved, Result("accuracy"), 200, 0)


def test_best_of_chooses_on_train_images_and_reports_on_test_images():
    on_train = np.tile([0.1, 0.45, 0.95], (6, 1))
    on_test = GRID.target[:, None] + np.array([0.0, 0.01, 0.02])  # on test, the first is best
    chosen = GRID.best_of(on_train, on_test)
    nearest = [1, 1, 2] * 2
    assert chosen.tolist() == [on_test[i, j] for i, j in enumerate(nearest)]
    assert np.abs(chosen - GRID.target).min() > 0.005


def test_a_network_finds_its_task_without_its_result():
    model = torch.nn.Module()
    model.bounds = (0.2, 1.0)
    model.condition = lambda e, r: torch.cat([e, r[:, None]], 1)
    model.project = lambda c: torch.nn.functional.normalize(c, dim=1)
    e = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    latents = model.project(torch.tensor([[1.0, 0.0, 0.9], [0.0, 1.0, 0.3]]))
    similarity, result = retrieval.most_alike(model, latents, e)
    assert similarity.argmax(1).tolist() == [0, 1]
    torch.testing.assert_close(similarity.diagonal(), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(result.diagonal(), torch.tensor([0.9, 0.3]), atol=0.05, rtol=0)


def test_one_class_of_the_dataset_is_another():
    classes, others = torch.tensor([[3, 5, 7], [1, 2, 3]]), torch.tensor([[5, 8, 9], [4, 1, 2]])
    changed = sampling._one_other(classes, others)
    assert (changed[:, 1:] == classes[:, 1:]).all()
    assert changed[:, 0].tolist() == [8, 4]


def test_calibration_curve_of_known_results():
    on_test = np.arange(6.0)[:, None] + np.array([0.0, 1.0])
    curve = sampling.calibration_curve(GRID, on_test, np.arange(6.0))
    assert curve["target"].tolist() == GRID.targets.tolist()
    assert curve["single"].tolist() == [2, 3, 4]
    assert curve["best_of_n"].tolist() == [1.5, 2.5, 3.5]
    assert (curve["q10"] < curve["single"]).all()
    assert (curve["single"] < curve["q90"]).all()


def test_the_draws_of_a_request_have_one_row(world):
    tiny = world()
    table = tiny.zoo.select("val").sort_values(["task", "run", "snapshot"], kind="stable")
    tasks = table["task"].value_counts()
    chosen = [table[table["task"] == t].iloc[:3] for t in sorted(tasks.index[:2])]
    grid = sampling.Grid(np.array([c["task"].iloc[0] for c in chosen]), np.array([0.5]))
    members = pd.concat(chosen)
    outputs = tiny.runner.outputs_by_task(tiny.zoo.weights(members), grid.tasks, "test")
    found = grid.achieved(outputs, Result("accuracy"))
    assert found.shape == (2, 3)
    expected = [c["test_accuracy"].tolist() for c in chosen]
    assert found.ravel().tolist() == pytest.approx(np.concatenate(expected).tolist(), abs=1e-6)


def test_scratch_is_the_finished_run_with_the_best_val_loss():
    table = pd.DataFrame(
        {
            "task": [4, 4, 9, 9, 7],
            "val_loss": [0.3, 0.1, 0.2, 0.4, 0.0],
            "test_accuracy": [0.9, 0.7, 0.8, 0.95, 0.1],
        }
    )
    zoo = SimpleNamespace(select=lambda split, *, last_only: table)
    found = sampling.scratch(zoo, "test_sets", GRID, Result("accuracy"))
    assert found["accuracy_scratch"] == pytest.approx((0.7 + 0.8) / 2)
    assert found["accuracy_scratch_single"] == pytest.approx((0.8 + 0.875) / 2)
    table.loc[len(table)] = [7, 0.5, 0.3]
    zoo.select = lambda split, *, last_only: table
    grid = sampling.Grid(np.array([4, 7, 9]), GRID.targets)  # three tasks: the mean is no median
    found = sampling.scratch(zoo, "test_sets", grid, Result("accuracy"))
    assert found["accuracy_scratch"] == pytest.approx(0.7)
    assert found["accuracy_scratch_mean"] == pytest.approx((0.7 + 0.8 + 0.1) / 3)
    assert found["accuracy_scratch_single_mean"] == pytest.approx((0.8 + 0.875 + 0.2) / 3)


# baselines


def test_weight_statistics_of_known_values():
    tensors = (TensorSpec("a", (5,), "parameter", (None,)), TensorSpec("b", (2, 1), "parameter"))
    spec = Spec("toy", tensors)
    weights = {"a": torch.tensor([[4.0, 0, 1, 3, 2]]), "b": torch.tensor([[[-1.0], [3.0]]])}
    found = weight_statistics(spec, weights)
    assert found.shape == (1, 14)
    expected = [2, 2, 0, 1, 2, 3, 4, 1, 4, -1, 0, 1, 2, 3]
    assert found[0].tolist() == pytest.approx(expected)


def test_weight_statistics_ignore_the_order_of_hidden_units(rng):
    net = build("cnn")
    weights = networks(net, 3)
    order = {g: torch.randperm(n, generator=rng) for g, n in net.spec.groups.items()}
    permuted = net.spec.permute(weights, order)
    found = weight_statistics(net.spec, weights)
    torch.testing.assert_close(weight_statistics(net.spec, permuted), found)
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.fixture
def train_members():
    """Five members of three tasks, whose weight is their row number."""
    members = pd.DataFrame({"task": [8, 2, 8, 5, 2]})
    place = {2: 0.0, 5: 10.0, 8: 20.0}
    embedding = torch.tensor([[place[t], 1.0] for t in members["task"]])
    result = np.array([0.3, 0.5, 0.8, 0.6, 0.9])
    return TrainMembers(members, {"w": torch.arange(5.0)[:, None]}, result, embedding)


def test_nearest_task_then_nearest_result(train_members):
    at = torch.tensor([[1.0, 1.0], [1.0, 1.0], [19.0, 0.0], [24.0, 1.0], [9.0, 1.0]])
    nearest = train_members.nearest_task(at, np.array([0.6, 0.8, 0.1, 0.9, 0.0]))
    assert nearest.rows.tolist() == [1, 4, 0, 2, 3]
    assert nearest.take(slice(None))["w"][:, 0].tolist() == [1, 4, 0, 2, 3]


def test_average_of_the_nearest_results(train_members):
    spec = Spec("toy", (TensorSpec("w", (1,), "parameter", (None,)),))
    found = train_members.average(spec, np.array([0.85, 0.3, 0.85]), most=2)
    assert found.take(slice(None))["w"][:, 0].tolist() == [(2 + 4) / 2, (0 + 1) / 2, (2 + 4) / 2]


def test_head_only_keeps_heads_and_averages_backbones():
    net = build("cnn")
    weights = networks(net, 4)
    found = take(head_only(net.spec, weights), slice(None))
    for name, w in weights.items():
        if name in ("head.weight", "head.bias"):
            assert torch.equal(found[name], w)
        else:
            torch.testing.assert_close(found[name], w.mean(0).expand_as(w))
            assert not torch.allclose(found[name], w)
    assert net.spec.check(found) == 4


def test_noise_has_the_asked_share_of_the_spread(rng):
    roles = {"a": "parameter", "b": "buffer", "v": "variance"}
    spec = Spec("toy", tuple(TensorSpec(n, (40,), r, (None,)) for n, r in roles.items()))
    weights = {n: 9**i * torch.randn(50, 40, generator=rng) for i, n in enumerate(roles)}
    weights["v"] = weights["v"].square()

    def moved(fraction):
        return take(noised(spec, weights, fraction, rng), slice(None))

    found = moved(0.1)
    for name in "ab":
        w = weights[name]
        assert float((found[name] - w).std() / w.std()) == pytest.approx(0.1, rel=0.1)
    assert (moved(3.0)["v"] >= 0).all()
    for name, w in moved(0.0).items():
        torch.testing.assert_close(w, weights[name], rtol=1e-4, atol=1e-6)


# properties


def _members(n, seed, optimizers=("adam", "sgd"), split="test_sets"):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "train_accuracy": 0.9 + rng.normal(0, 0.05, n),
            "test_accuracy": 0.7 + rng.normal(0, 0.1, n),
            "val_accuracy": 0.7 + rng.normal(0, 0.1, n),
            "split": split,
            "epoch": rng.integers(1, 20, n).astype(float),
            "optimizer": rng.choice(optimizers, n),
            "lr": np.exp(rng.normal(-4, 1, n)),
            "weight_decay": np.exp(rng.normal(-6, 1, n)),
            "epochs": rng.integers(12, 25, n),
        }
    )


def _features(optimizers=("adam", "sgd")):
    members = {
        s: _members(n, i, optimizers, s)
        for i, (s, n) in enumerate({"train": 150, "val": 60, "test_sets": 60}.items())
    }
    rng = np.random.default_rng(9)

    def oracle(table):
        columns = table[["train_accuracy", "epoch"]].to_numpy(float)
        held_out = properties.target(table, "test_accuracy")
        return np.column_stack([held_out, columns, table["optimizer"] == "adam"])

    readings = {
        "oracle": {s: oracle(t) for s, t in members.items()},
        "noise": {s: rng.normal(size=(len(t), 4)) for s, t in members.items()},
        "hyperparameters": {s: properties.hyper_parameters(t) for s, t in members.items()},
    }
    return properties.Features(members, readings)


@pytest.mark.parametrize("name", ["test_accuracy", "optimizer", "third"])
def test_predictors_from_a_file_are_those_of_the_library(name, monkeypatch):
    """Linear models and trees, for values, two classes and three."""
    monkeypatch.setattr(properties, "CLASSIFICATION", ("optimizer", "third"))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    y = x[:, 0] + 0.1 * rng.normal(size=200)
    if name != "test_accuracy":
        y = np.array(["a", "b", "c"])[np.digitize(y, [0.0] if name == "optimizer" else [-0.3, 0.3])]
    for model in properties.predictors(name, 0):
        raw = readout.evaluate(readout.arrays_of(model.fit(x, y)), x)
        if name == "test_accuracy":
            assert np.allclose(raw[:, 0], model.predict(x))
            assert not np.allclose(raw[::-1, 0], model.predict(x))  # the control
            continue
        assert raw.shape[1] == (1 if name == "optimizer" else 3)
        assert np.allclose(raw.squeeze(1) if raw.shape[1] == 1 else raw, model.decision_function(x))


def test_a_readout_knows_its_error_and_comes_back_from_its_file(tmp_path):
    """With latents that hold the accuracy itself its prediction is good, with noise it is not."""
    tables = _features().members
    members = {s: t.assign(member=np.arange(len(t)) + 1000 * len(s)) for s, t in tables.items()}
    rng = np.random.default_rng(0)
    held_out = {s: properties.target(t, "test_accuracy") for s, t in members.items()}
    z = {s: np.stack([y, rng.normal(size=len(y))], 1) for s, y in held_out.items()}
    z = {s: x.astype(np.float32) for s, x in z.items()}  # as latents are
    fitted = readout.Readout.fit(z, members, "encoder", 0)
    errors = pd.DataFrame(fitted.errors).set_index("property")
    std = np.abs(held_out["test_sets"] - members["train"]["val_accuracy"].mean())
    assert errors.loc["test_accuracy", "of_a_constant"] == pytest.approx(std.mean())
    assert errors.loc["test_accuracy", "error"] < 0.2 * std.mean()
    assert errors.loc["epoch", "error"] > 0.5 * errors.loc["epoch", "of_a_constant"]
    table = fitted.predict(z["val"])
    assert np.allclose(table["test_accuracy"], held_out["val"], atol=0.05)
    assert set(table["optimizer"]) <= {"adam", "sgd"}
    fitted.save(tmp_path / "readout.safetensors")
    again = readout.load_readout(tmp_path / "readout.safetensors", "encoder")
    pd.testing.assert_frame_equal(again.predict(z["val"]), table)
    chosen = members["test_sets"][3:5]
    assert np.array_equal(again.latents_of(chosen).numpy(), z["test_sets"][3:5])
    with pytest.raises(WeightspaceError, match="latents of another zoo"):
        again.latents_of(chosen.assign(member=[1, 9999]))


def test_properties_of_an_oracle_of_noise_and_of_the_mean():
    found = properties.evaluate_properties(_features(), 0)
    assert set(found) == {"val", "test_sets"}  # nothing is reported on train
    figures = found["test_sets"]
    for name in ("test_accuracy", "generalisation_gap", "epoch"):
        assert figures[f"control_oracle_{name}_r2"] > 0.9
        assert figures[f"control_oracle_{name}_tau"] > 0.8
        assert figures[f"control_noise_{name}_r2"] < 0.2
        assert -0.2 < figures[f"control_mean_{name}_r2"] <= 0
        assert figures[f"control_mean_{name}_tau"] == 0
    assert figures["control_oracle_optimizer_accuracy"] > 0.95
    assert figures["control_noise_optimizer_accuracy"] < 0.75
    assert 0.3 < figures["control_mean_optimizer_accuracy"] < 0.7
    assert "control_hyperparameters_optimizer_accuracy" not in figures  # it would read the answer
    assert figures["members"] == 60


def test_properties_of_a_zoo_with_one_optimiser():
    figures = properties.evaluate_properties(_features(("adam",)), 0)["test_sets"]
    assert figures["control_oracle_test_accuracy_r2"] > 0.9


def test_score_of_perfect_shifted_and_constant_predictions():
    truth = np.random.default_rng(0).normal(size=50)
    assert properties.score("epoch", truth, truth) == {"epoch_r2": 1, "epoch_tau": 1}
    assert properties.score("epoch", truth, -truth)["epoch_tau"] == pytest.approx(-1)
    mean = np.full(50, truth.mean())
    assert properties.score("epoch", truth, mean)["epoch_r2"] == pytest.approx(0, abs=1e-12)
    assert properties.score("epoch", truth, mean + 1)["epoch_r2"] < 0
    noisy = truth + np.random.default_rng(1).normal(size=50)
    expected = kendalltau(truth, noisy).statistic
    assert properties.score("epoch", truth, noisy)["epoch_tau"] == pytest.approx(expected)
    names = np.array(["adam", "sgd", "sgd", "adam"])
    found = properties.score("optimizer", names, np.full(4, "sgd"))
    assert found == {"optimizer_accuracy": 0.5}


def test_targets_and_hyper_parameters():
    table = _members(4, 0)
    gap = properties.target(table, "generalisation_gap")
    assert gap.tolist() == (table["train_accuracy"] - table["test_accuracy"]).tolist()
    for split in ("train", "val"):  # what is fitted or chosen sees no test image
        gap = properties.target(table.assign(split=split), "generalisation_gap")
        assert gap.tolist() == (table["train_accuracy"] - table["val_accuracy"]).tolist()
    found = properties.hyper_parameters(table)
    assert found.shape == (4, 4)
    assert np.exp(found[:, 0]) == pytest.approx(table["lr"])
    assert found[:, 3].tolist() == (table["optimizer"] == "adam").astype(float).tolist()


def test_classes_of_a_task_are_read_where_they_are_written_and_not_elsewhere():
    rng = np.random.default_rng(0)

    def split(count):
        chosen = np.argsort(rng.random((count, 6)), axis=1)[:, :2]
        return np.eye(6, dtype=bool)[chosen].any(1)

    present = {s: split(n) for s, n in (("train", 300), ("val", 60), ("test_sets", 200))}
    clear = {s: p + 0.1 * rng.normal(size=p.shape) for s, p in present.items()}
    noise = {s: rng.normal(size=p.shape) for s, p in present.items()}
    features = properties.Features({}, {"latent": clear, "noise": noise}, present)
    found = properties.class_set_metrics(features, ["test_sets"], 0)["test_sets"]
    assert found["latent_classes_exact"] == 1
    assert found["control_chance_classes_recall"] == pytest.approx(1 / 3)
    assert found["control_chance_classes_exact"] == pytest.approx(1 / 15)
    assert found["control_noise_classes_recall"] == pytest.approx(1 / 3, abs=0.1)
