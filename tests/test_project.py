"""The Python API on a finished tiny pipeline."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import weightspace as ws
from conftest import finish
from weightspace.artifacts import READOUT_FILE, read_json
from weightspace.errors import WeightspaceError
from weightspace.evaluate.readout import load_readout
from weightspace.evaluate.retrieval import RESULTS
from weightspace.nets.cnn import Cnn
from weightspace.project import finetuning as on_task
from weightspace.project import project as api
from weightspace.project.samples import Request
from weightspace.rng import stream
from weightspace.sampling.latent_steps import LatentSteps
from weightspace.sampling.sampler import Condition, Sampler
from weightspace.zoo.result import Result
from weightspace.zoo.store import Zoo


@pytest.fixture(scope="module")
def images():
    """Images of three made-up classes, 30 each, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = 0.5 * rng.random((90, 8, 8)) + 0.5 * np.eye(8)[labels * 2][:, None, :]
    return x.astype(np.float32), labels


@pytest.fixture(scope="module")
def task(project, images):
    """The same as a task."""
    return project.task(images, ["2", "0", "1"])


def test_public_names_are_there_and_wait_for_their_first_use():
    code = "import sys, weightspace as ws; print('torch' in sys.modules, ws.load.__name__)"
    src = str(Path(api.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": src},
    )
    assert done.stdout.split() == ["False", "load"]
    assert all(getattr(ws, name) for name in ws.__all__)
    assert set(ws.__all__) <= set(dir(ws))
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        ws.laod  # noqa: B018


def test_encode_and_decode_are_the_autoencoders(project):
    weights = project.zoo.weights(project.zoo.select("val")[:3])
    z = project.encode(weights)
    assert z.shape == (3, project.autoencoder.latent)
    again = project.decode(z)
    assert torch.equal(
        project.net.spec.flatten(again), project.net.spec.flatten(project.autoencoder.decode(z))
    )


@pytest.mark.parametrize("shape", [(2, 5), (6,), (0, 6), (2, 6, 1)])
def test_latents_of_a_wrong_shape_are_refused(project, shape):
    with pytest.raises(WeightspaceError, match="wrong shape"):
        project.decode(torch.zeros(shape))


def test_evaluation_equals_the_zoos_own_measurement(project, task):
    weights = project.zoo.weights(project.zoo.select("val")[:5])
    found = project.evaluate(weights, task)
    for part in ("train", "test"):
        x = task.batch(part)
        labels = torch.arange(3).repeat_interleave(len(x) // 3)
        with torch.no_grad():
            y = project.net.outputs(weights, x)
        loss = torch.stack([torch.nn.functional.cross_entropy(one, labels) for one in y])
        accuracy = (y.argmax(-1) == labels).double().mean(1)
        assert np.allclose(found[f"{part}_loss"], loss, atol=1e-5)
        assert np.allclose(found[f"{part}_accuracy"], accuracy)


def test_blocks_of_images_change_nothing(project, task, monkeypatch):
    weights = project.zoo.weights(project.zoo.select("val")[:5])
    whole = on_task.outputs(project.net, weights, task, "train")
    monkeypatch.setattr(on_task, "PAIRS_AT_ONCE", 35)
    assert torch.allclose(on_task.outputs(project.net, weights, task, "train"), whole, atol=1e-6)


def test_more_samples_contain_the_fewer(project, task):
    few, many = (project.sample(task, accuracy=0.6, n=n) for n in (2, 4))
    assert many.table[:2].equals(few.table)
    again = project.sample(task, accuracy=0.6, n=2)
    assert again.table.equals(few.table)
    other = project.sample(task, accuracy=0.6, n=2, seed=1)
    assert not torch.equal(other.weights["head.bias"], few.weights["head.bias"])


def test_blocks_that_are_written_as_they_come_are_the_same_samples(
    project, task, tmp_path, monkeypatch
):
    whole = project.sample(task, accuracy=0.5, n=5, best_of=3, fine_tune_epochs=1)
    whole.save(tmp_path / "whole")
    monkeypatch.setattr(api, "AT_ONCE", 2)
    (tmp_path / "parts").mkdir()
    parts = project.sample(
        task, accuracy=0.5, n=5, best_of=3, fine_tune_epochs=1, into=tmp_path / "parts"
    )
    assert parts.weights == {}
    pd.testing.assert_frame_equal(parts.table, whole.table)
    names = [path.name for path in sorted((tmp_path / "whole").iterdir())]
    assert names == [path.name for path in sorted((tmp_path / "parts").iterdir())]
    one, two = (project.networks(tmp_path / name) for name in ("whole", "parts"))
    for name, w in one.items():
        assert torch.allclose(two[name], w, atol=1e-6)


def test_results_far_from_the_request_are_marked(project, task, monkeypatch):
    low, high = project.trained_range
    target = (low + high) / 2
    told = [target, target + 0.19 * (high - low), target - 0.21 * (high - low)]
    monkeypatch.setattr(
        api,
        "measure",
        lambda net, w, task, parts=(): pd.DataFrame(
            {f"{p}_accuracy": told[: len(w["head.bias"])] for p in ("train", "test")}
        ),
    )
    drawn = project.sample(task, accuracy=target, n=3)
    assert drawn.table["far_from_request"].tolist() == [False, False, True]
    assert "1 of 3 results are farther from the request" in drawn.warnings()[-1]
    assert "--best-of 16" in drawn.warnings()[-1]
    near = project.sample(task, accuracy=target, n=2)  # the control
    assert not any("farther" in line for line in near.warnings())


def test_classes_of_equal_images_are_named(project, images):
    """All black, and two classes of the same images in another order; not those that differ."""
    x, labels = images
    assert not project.task(images, ["2", "0", "1"]).equal_classes
    black = project.sample(project.task((0 * x, labels), ["2", "0", "1"]), accuracy=0.5)
    assert black.warnings() == ["images of classes 2, 0, 1 are equal: nothing tells them apart"]
    assert "2, 0, 1 are equal" in black.card()
    same = x.copy()
    same[labels == 1] = x[labels == 0][::-1]
    assert project.task((same, labels), ["2", "0", "1"]).equal_classes == [("0", "1")]


def test_the_card_lets_another_person_reproduce_the_figures(saved, project, images):
    folder = saved[1]
    card = (folder / "MODEL_CARD.md").read_text()
    again = project.task(images, ["2", "0", "1"])
    assert f"* sha256: {again.sha256}" in card
    assert project.task(images, ["2", "0", "1"], seed=1).sha256 not in card  # others are held out
    assert project.task((images[0] / 2, images[1]), ["2", "0", "1"]).sha256 not in card
    x = torch.cat([again.images[p] for p in again.parts], 1).flatten(0, 1)
    raw = (x * project.dataset.std + project.dataset.mean).numpy()
    assert np.allclose(
        raw[:20, 0], images[0][images[1] == 2][order(images[1] == 2)[:20]], atol=1e-6
    )
    for said in ("8x8 pixels, grey", "seed 0 orders", "## Licence", "## Limits", "--best-of 2"):
        assert said in card
    line = next(line for line in card.splitlines() if line.startswith("weightspace sample"))
    assert line.endswith("--best-of 2 --fine-tune-epochs 0 --guidance-steps 2 --seed 0 --out again")


def order(chosen):
    """Order of the images of the first class, by the rule that the card states."""
    return stream(0, "given", 0).permutation(int(chosen.sum()))


def test_the_best_candidate_is_chosen_on_train_images(project, task, monkeypatch):
    def told(net, weights, task, parts=()):  # results that differ more than those of tiny networks
        assert list(parts) in ([], ["train"])  # no candidate meets a test image
        train = weights["head.bias"].std(1).numpy()
        return pd.DataFrame(dict.fromkeys(("train_accuracy", "test_accuracy"), train))

    monkeypatch.setattr(api, "measure", told)
    every = project.sample(task, accuracy=0.05, n=1, best_of=1, seed=4)
    best = project.sample(task, accuracy=0.05, n=1, best_of=8, seed=4)
    sampler = api.Sampler(
        project.autoencoder,
        project.shared_encoder,
        project.net,
        project.params.guidance,
    )
    condition = api.Condition.of_images(task.images["train"], torch.tensor([0.05]))
    drawn = sampler.draw(condition, 8, api.torch_stream(4, "sample", 0))
    off = (drawn["head.bias"].std(1) - 0.05).abs()
    assert off.argmin() != 0  # the case is not trivial
    assert torch.equal(best.weights["head.bias"][0], drawn["head.bias"][off.argmin()])
    assert not torch.equal(best.weights["head.bias"], every.weights["head.bias"])


def test_fine_tuning_lowers_the_train_loss_and_keeps_networks_apart(project, task):
    one = project.sample(task, accuracy=0.4, n=3)
    tuned = project.sample(task, accuracy=0.4, n=3, fine_tune_epochs=5)
    assert (tuned.table["train_loss"] < one.table["train_loss"]).all()
    alone = api.fine_tune(project.net, {k: w[1:2] for k, w in one.weights.items()}, task, 5, seed=0)
    for name, value in alone.items():
        assert torch.allclose(value[0], tuned.weights[name][1], atol=1e-5)


def test_reestimated_statistics_are_those_of_the_train_images(world, images, tmp_path):
    project = ws.load(finish(world("cnn-batch-norm"), tmp_path))
    task = project.task(images, ["2", "0", "1"])
    plain, drawn = (project.sample(task, accuracy=0.6, n=2, reestimate=r) for r in (False, True))
    x = task.batch("train")
    for i in range(2):
        first = torch.nn.functional.conv2d(x, drawn.weights["convs.0.weight"][i], padding=1)
        wanted = {"running_mean": first.mean((0, 2, 3)), "running_var": first.var((0, 2, 3))}
        for part, value in wanted.items():
            name = f"norms.0.{part}"
            torch.testing.assert_close(drawn.weights[name][i], value, rtol=1e-3, atol=1e-4)
            assert not torch.allclose(plain.weights[name][i], value, rtol=1e-2)  # the control
    for t in project.net.spec.tensors:  # and nothing but the statistics of one draw differs
        same = torch.equal(plain.weights[t.name], drawn.weights[t.name])
        assert same == (t.role == "parameter"), t.name
    measured = project.evaluate(drawn.weights, task)
    assert drawn.table[list(measured)].equals(measured)
    assert drawn.table["reestimate"].all()
    assert drawn.report()["request"]["reestimate"] is True
    assert plain.report()["request"]["reestimate"] is False


def test_candidates_are_measured_with_their_new_statistics(world, images, tmp_path, monkeypatch):
    project = ws.load(finish(world("cnn-batch-norm"), tmp_path))
    task, met = project.task(images, ["2", "0", "1"]), []
    monkeypatch.setattr(
        api, "measure", lambda net, w, *more: met.append(w) or on_task.measure(net, w, *more)
    )
    project.sample(task, accuracy=0.6, best_of=3, reestimate=True)
    again = on_task.reestimated(project.net, met[0], task)
    for name, w in met[0].items():
        torch.testing.assert_close(again[name], w)
    assert len(met[0]["head.bias"]) == 3


def test_blocks_of_networks_get_the_same_statistics(world, project, images, monkeypatch):
    tiny, task = world("cnn-batch-norm"), project.task(images, ["2", "0", "1"])
    weights = tiny.zoo.weights(tiny.zoo.select("val")[:5])
    whole = on_task.reestimated(tiny.net, weights, task)
    monkeypatch.setattr(on_task, "PAIRS_AT_ONCE", 1)
    for name, w in on_task.reestimated(tiny.net, weights, task).items():
        torch.testing.assert_close(w, whole[name])


def test_an_architecture_without_statistics_cannot_have_them_reestimated(project, task):
    with pytest.raises(WeightspaceError, match="no running statistics to re-estimate"):
        project.sample(task, accuracy=0.6, reestimate=True)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"loss": 0.5},
        {"accuracy": 0.5, "loss": 0.5},
        {"accuracy": 1.2},
        {"accuracy": -0.1},
        {"accuracy": float("nan")},
        {"accuracy": 0.5, "n": 0},
        {"accuracy": 0.5, "best_of": 0},
        {"accuracy": 0.5, "fine_tune_epochs": -1},
        {"accuracy": 0.5, "fine_tune_epochs": 10**9},
        {"accuracy": 0.5, "n": 10**9},
        {"accuracy": 0.5, "n": True},
        {"accuracy": 0.5, "n": 2.0},
        {"accuracy": 0.5, "seed": 2**64},
        {"accuracy": 0.5, "seed": -1},
    ],
)
def test_impossible_requests_are_refused(project, task, request_):
    with pytest.raises(WeightspaceError):
        project.sample(task, **request_)


def test_a_pipeline_trained_for_loss_is_asked_for_loss(world, task, tmp_path):
    project = ws.load(finish(world(), tmp_path, result="loss"))
    drawn = project.sample(task, loss=1.0, n=2)
    assert (drawn.table["target"] == 1).all()
    with pytest.raises(WeightspaceError, match="by loss"):
        project.sample(task, accuracy=0.9)


def test_requests_out_of_range_are_marked(project, task):
    low, high = project.trained_range
    inside = project.sample(task, accuracy=(low + high) / 2)
    assert not any("range" in line for line in inside.warnings())
    assert not inside.table["outside_trained_range"].any()
    for asked in (low / 2, min(1.0, high + 0.05)):
        outside = project.sample(task, accuracy=asked)
        assert outside.table["outside_trained_range"].all()
        assert outside.table["target"].iloc[0] == asked  # and not moved
        assert any("outside the trained range" in line for line in outside.warnings())
        assert outside.report()["request"]["outside_trained_range"]


def test_images_unlike_those_of_training_are_marked(project, images):
    """Training classes themselves are near; the same images inverted are not."""
    given, labels = project.dataset.images["train"], project.dataset.seen[:3]
    raw = (given[labels] * project.dataset.std + project.dataset.mean).clamp(0, 1)  # (3, n, ...)
    x, y = raw.flatten(0, 1).numpy(), np.repeat(np.arange(3), raw.shape[1])
    near = project.task((x, y), ["0", "1", "2"])
    assert max(project.class_distances(near).values()) < 0.8
    assert not any("unlike" in line for line in project.sample(near, accuracy=0.5).warnings())
    far = project.task((1 - x, y), ["0", "1", "2"])
    assert min(project.class_distances(far).values()) > 1
    assert "unlike those of training: 0 (" in project.sample(far, accuracy=0.5).warnings()[0]


@pytest.fixture(scope="module")
def saved(project, task, tmp_path_factory):
    """Samples and the folder they were written to."""
    drawn = project.sample(task, accuracy=0.5, n=3, best_of=2)
    return drawn, drawn.save(tmp_path_factory.mktemp("saved") / "out")


def test_a_saved_network_is_a_plain_state_dict(saved, project, task):
    drawn, folder = saved
    names = [f"network-{i:05d}.safetensors" for i in range(3)]
    assert sorted(p.name for p in folder.iterdir()) == [
        "MODEL_CARD.md",
        *names,
        "report.json",
        "samples.parquet",
    ]
    module = Cnn((1, 8, 8), 3, (3, 4))
    module.load_state_dict(load_file(folder / names[1]))
    y = module(task.batch("test"))
    accuracy = (y.argmax(1) == torch.arange(3).repeat_interleave(10)).double().mean()
    assert float(accuracy) == drawn.table["test_accuracy"][1]


def test_a_saved_network_predicts_on_raw_images(saved, project, images):
    drawn, folder = saved
    network = ws.load_network(folder / "network-00002.safetensors")
    assert network.classes == ["2", "0", "1"]
    x = ((images[0] - project.dataset.mean) / project.dataset.std)[:, None]
    y = project.net.outputs(drawn.weights, torch.from_numpy(x))[2]
    assert torch.allclose(network.outputs(images[0]), y, atol=1e-5)
    assert network.predict(images[0]) == [network.classes[i] for i in y.argmax(1)]
    large = images[0].repeat(2, 1).repeat(2, 2)  # 16x16, converted
    assert torch.allclose(network.outputs(large), y, atol=1e-4)
    assert network.info["measured"]["test_accuracy"] == drawn.table["test_accuracy"][2]


def test_the_report_says_what_the_table_says(saved, project):
    drawn, folder = saved
    table = pd.read_parquet(folder / "samples.parquet")
    report = read_json(folder / "report.json")
    assert report["measured"]["mean"] == pytest.approx(table["test_accuracy"].mean(), abs=1e-5)
    assert report["measured"]["part"] == "test"
    assert report["measured"]["warnings"] == "; ".join(drawn.warnings()) != ""
    assert report["request"]["best_of"] == 2
    assert report["data"]["images_per_class"] == {"train": 20, "test": 10}
    assert set(report["provenance"]["sha256"]) == {
        "params",
        "dataset",
        "autoencoder",
        "shared_encoder",
    }
    card = (folder / "MODEL_CARD.md").read_text()
    assert "trained" not in card.splitlines()[2]
    steps, images = 2, 3 * 5  # guidance of the tiny settings: two steps of five images a class
    said = (
        f"guided by {steps} gradient steps x {images} labelled images (30 labelled image-gradients)"
    )
    assert said in card.splitlines()[2]
    assert "3 networks" in card
    assert "among 2 draws" in card
    assert report["request"]["image_gradients"] == steps * images
    assert "* target: 0.5" in card


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "2 networks drawn from P(W | D, R), without a gradient step."),
        ({"n": 1}, "1 network drawn from P(W | D, R), without a gradient step."),
        (
            {"guidance_steps": 20, "images_per_step": 72},
            "2 networks drawn from P(W | D, R), every draw guided by 20 gradient steps x 72 labelled "
            "images (1,440 labelled image-gradients).",
        ),
        (
            {"guidance_steps": 0, "images_per_step": 72, "best_of": 16, "reestimate": True},
            "2 networks drawn from P(W | D, R), each chosen among 16 draws by its result on the train "
            "images, without a gradient step, with the running statistics of the train images.",
        ),
        (
            {"guidance_steps": 5, "images_per_step": 6, "fine_tune_epochs": 3},
            "2 networks drawn from P(W | D, R), every draw guided by 5 gradient steps x 6 labelled "
            "images (30 labelled image-gradients), then fine-tuned for 3 epochs of Adam on the train "
            "images.",
        ),
    ],
)
def test_the_card_says_what_was_done_with_labelled_images(options, said):
    request = Request(Result("accuracy"), 0.9, (0.3, 1.0), **{"n": 2} | options)
    assert request.history() == said


def test_a_guided_draw_costs_as_many_labelled_images_as_its_steps_read(project, task, monkeypatch):
    """Counted where they are read; with few train images a step reads all of them."""
    read, outputs = [], project.net.outputs

    def counted(weights, images):
        if torch.is_grad_enabled() and any(w.requires_grad for w in weights.values()):
            read.append(len(images))
        return outputs(weights, images)

    monkeypatch.setattr(
        type(project.net), "outputs", lambda _, weights, images: counted(weights, images)
    )
    request = project.sample(task, accuracy=0.5, n=1).request
    assert sum(read) == request.image_gradients == 2 * 3 * 5
    sampler = Sampler(project.autoencoder, project.shared_encoder, project.net)
    condition = Condition.of_images(task.images["train"], torch.tensor([0.5]))
    assert sampler.image_gradients(condition) == 0
    settings = project.params.guidance
    for per_class, expected in ((7, 2 * 3 * 7), (10**6, 2 * 3 * 20)):
        guided = replace(
            sampler, guidance=settings.model_copy(update={"images_per_class": per_class})
        )
        assert guided.image_gradients(condition) == expected


def test_a_draw_in_one_pass_takes_no_gradient_whatever_the_settings(project, task, monkeypatch):
    """By request or by settings, with a control that does take gradients."""
    guided = project.sample(task, accuracy=0.5, n=2, best_of=2)
    steps = project.params.guidance.model_copy(update={"sampling_steps": 0})
    unguided = replace(project, params=project.params.model_copy(update={"guidance": steps}))
    by_settings = unguided.sample(task, accuracy=0.5, n=2, best_of=2)
    overruled = unguided.sample(task, accuracy=0.5, n=2, best_of=2, guidance_steps=2)
    moved = []
    guide = LatentSteps.guide
    monkeypatch.setattr(
        LatentSteps, "guide", lambda *args, **more: moved.append(1) or guide(*args, **more)
    )
    by_request = project.sample(task, accuracy=0.5, n=2, best_of=2, guidance_steps=0)
    assert not moved
    project.sample(task, accuracy=0.5)
    assert moved
    for name in project.net.spec.names:
        assert torch.equal(by_request.weights[name], by_settings.weights[name])
        assert torch.equal(overruled.weights[name], guided.weights[name])
    assert any(
        not torch.equal(by_request.weights[k], guided.weights[k]) for k in project.net.spec.names
    )
    counts = [s.request.image_gradients for s in (by_request, by_settings, overruled, guided)]
    assert counts == [0, 0, 30, 30]
    assert by_request.report()["request"]["guidance_steps"] == 0
    assert "without a gradient step" in by_request.card()
    assert "without a gradient step" not in guided.card()
    with pytest.raises(WeightspaceError, match="guidance_steps: out of range; found -1"):
        project.sample(task, accuracy=0.5, guidance_steps=-1)


def test_bytes_are_the_same_every_time(saved, project, task, tmp_path):
    _, folder = saved
    again = project.sample(task, accuracy=0.5, n=3, best_of=2).save(tmp_path / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_changed_settings_are_noticed(project_root, tmp_path):
    for part in ("data",):
        (tmp_path / part).symlink_to(project_root / part)
    text = (project_root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(re.sub(r"channels:\n  +- 3", "channels:\n    - 5", text))
    with pytest.raises(WeightspaceError, match="changed after the pipeline ran"):
        ws.load(tmp_path)


def test_the_example_of_the_docstring_runs(project_root, images, tmp_path, monkeypatch):
    for name in ("data", "params.yaml"):
        (tmp_path / name).symlink_to(project_root / name)
    named = np.array(["8", "1", "3"])[images[1]]
    np.savez(tmp_path / "my.npz", images=images[0], labels=named)
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", api.__doc__, flags=re.DOTALL)
    space = {}
    for example in examples:
        exec(example, space)
    assert space["network"].predict(images[0])[0] in ("3", "8", "1")
    assert len(pd.read_parquet("samples/samples.parquet")) == 4


def test_networks_of_a_task_are_retrieved_by_the_models_own_space(project, task):
    table, weights = project.retrieve(task, accuracy=0.5, n=4)
    z = project.encode(project.zoo.weights(project.zoo.members))
    shared_encoder = project.shared_encoder
    with torch.no_grad():
        e = shared_encoder.embed(task.images["train"], torch.arange(3)[None])
        wanted = shared_encoder.project(shared_encoder.condition(e, torch.tensor([0.5])))[0]
        similarity = shared_encoder.project_latent(z) @ wanted
    similarity[torch.tensor(project.zoo.members["diverged"].to_numpy())] = -2
    best = similarity.topk(4)
    assert np.allclose(table["similarity"], best.values, atol=1e-5)
    assert np.allclose(project.evaluate(weights, task)["test_loss"], table["on_test_loss"])
    assert table["classes"].str.count(",").eq(2).all()


def test_a_task_is_found_at_the_result_where_it_fits_best(project, monkeypatch):
    shared_encoder, tasks = project.shared_encoder, project.dataset.tasks
    weights = project.zoo.weights(project.zoo.select("val")[:2])
    z = project.encode(weights)
    low, high = project.trained_range
    with torch.no_grad():
        e = shared_encoder.embed(project.dataset.images["train"], project.dataset.classes)
        slow = [
            (
                float(shared_encoder.project(shared_encoder.condition(e[t : t + 1], r[None])) @ p),
                t,
                float(r),
            )
            for p in shared_encoder.project_latent(z)[:1]
            for t in range(len(tasks))
            for r in torch.linspace(low, high, RESULTS)
        ]
    found = project.retrieve_tasks(weights, n=3)
    assert [len(table) for table in found] == [3, 3]
    similarity, task, result = max(slow)
    names = [project.dataset.class_names[c] for c in tasks["classes"][task]]
    assert found[0]["classes"][0] == ",".join(names)
    assert found[0]["similarity"][0] == pytest.approx(similarity, abs=1e-5)
    assert found[0]["accuracy"][0] == pytest.approx(result, abs=1e-6)


def test_predictions_are_those_of_the_stage(project, project_root, monkeypatch):
    """No network of the zoo is read; latents of another autoencoder are refused."""
    weights = project.zoo.weights(project.zoo.select("val")[:2])
    monkeypatch.setattr(Zoo, "open", lambda *_: pytest.fail("the zoo was opened"))
    found = replace(project).predict(weights)
    assert len(found.table) == 2
    assert list(found.errors["property"]) == list(found.table)
    assert list(found.errors)[:3] == ["property", "error", "of_a_constant"]
    with pytest.raises(WeightspaceError, match="latents of another autoencoder"):
        load_readout(project_root / "data" / READOUT_FILE, "0")


def test_comparison_of_opposite_networks(project, task):
    weights = project.zoo.weights(project.zoo.select("val")[-2:])
    head = {k: -w if k in project.net.spec.head else w for k, w in weights.items()}
    found = project.compare(weights, head, task)
    assert np.allclose(found[["cosine", "correlation"]], -1, atol=1e-5)
    same = project.compare(weights, weights, task)
    assert np.allclose(same[["cosine", "agreement"]], 1)
    share = project.evaluate(weights, task)
    whole = (20 * share["train_accuracy"] + 10 * share["test_accuracy"]) / 30
    assert np.allclose(same["accuracy_a"], whole)


def test_latents_that_give_no_network_are_refused(project, monkeypatch):
    z = torch.zeros(1, project.autoencoder.latent)
    project.decode(z)  # the control
    nothing = {t.name: torch.full((1, *t.shape), torch.nan) for t in project.net.spec.tensors}
    monkeypatch.setattr(api, "decode_latents", lambda *_: nothing)
    with pytest.raises(WeightspaceError, match="NaN or infinity"):
        project.decode(z)


def test_latents_of_another_autoencoder_are_refused(project, tmp_path, monkeypatch):
    path = tmp_path / "z.safetensors"
    project.save_latents(path, torch.zeros(1, project.autoencoder.latent), ["a"])
    assert project.load_latents(path)[1] == ["a"]
    monkeypatch.setattr(api.Project, "_autoencoder_sha256", "other")
    with pytest.raises(WeightspaceError, match="another autoencoder"):
        project.load_latents(path)
