"""Networks of several widths in one zoo: one latent space, one sampler, the width in the request."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

import weightspace as ws
from cases import WORLDS, networks, tiny, world_params
from weightspace.artifacts import (
    AUTOENCODER_FILE,
    DATASET_FOLDER,
    at_width,
    load_tensors,
    read_json,
)
from weightspace.autoencoders import tokens
from weightspace.autoencoders.base import AutoencoderData, decode_latents, encode_members
from weightspace.cli import app
from weightspace.data.dataset import Dataset
from weightspace.errors import WeightspaceError
from weightspace.evaluate.metrics import agreement
from weightspace.experiments.preflight import check, check_widths
from weightspace.learning.result_matching import soft_result
from weightspace.nets.base import net_for
from weightspace.params import CnnSettings, MlpSettings, Resnet18Settings, load_params, widened
from weightspace.shared_encoders.base import SharedEncoderData, load_shared_encoder
from weightspace.shared_encoders.flow import Draws
from weightspace.zoo.plan import width_of
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.shards import ShardJob, train_shard
from workspace import clone

WIDTHS = [1, 2]
# Small, but enough for a latent to say what its network does
SETTINGS = {
    "zoo.widths": WIDTHS,
    "zoo.runs": 96,
    "zoo.runs_per_shard": 12,
    "zoo.epochs": [4, 6],
    "pca.components": 16,
    "outputs.probes": 32,
    "autoencoder.latent": 16,
    "autoencoder.lr": 0.003,
    "autoencoder.batch_size": 32,
    "autoencoder.epochs": 40,
    "autoencoder.own_queries": 12,
    "autoencoder.other_queries": 6,
    "autoencoders.functional.width": 64,
    "shared_encoder.epochs": 20,
    "shared_encoders.flow.critic_draws": 200,
    "shared_encoders.flow.critic_epochs": 4,
    "shared_encoders.flow.critic_rounds": 1,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A project of two widths where all stages have run."""
    workspace = clone(tmp_path_factory.mktemp("widths") / "clone", SETTINGS)
    stages = ("check", "dataset", "zoo", "outputs", "pca", "autoencoder", "shared_encoder")
    workspace.stages(*stages, "hypernetwork", "evaluate_*", "summary")
    return workspace.root


@pytest.fixture(scope="module")
def narrow(root):
    """The project, as it is loaded."""
    return ws.load(root)


@pytest.fixture(scope="module")
def wide(narrow):
    """The same at the other width."""
    return narrow.at(2)


@pytest.fixture(scope="module")
def task(narrow):
    """A task of training, its images given anew."""
    dataset = narrow.dataset
    classes = dataset.classes[dataset.tasks_of("train")[0]].tolist()
    images = torch.cat([dataset.images[part][classes] for part in dataset.images], 1)
    pixels = (images * dataset.std + dataset.mean)[:, :, 0].flatten(0, 1).numpy()
    labels = np.repeat([f"class {c}" for c in classes], images.shape[1])
    return narrow.task((pixels.clip(0, 1), labels), [f"class {c}" for c in classes])


def test_a_shard_has_one_width_and_a_run_is_what_it_is_in_a_zoo_of_one(root, narrow, tmp_path):
    tables = [narrow.at(w).zoo.members for w in WIDTHS]
    assert all(set(t["split"]) >= {"train", "val", "test_sets"} for t in tables)
    assert not set(tables[0]["shard"]) & set(tables[1]["shard"])
    params, shard = narrow.params, int(tables[0]["shard"].iloc[0])
    alone = params.zoo.model_copy(update={"widths": (1.0,)})
    data = root / "data"
    job = ShardJob(data / DATASET_FOLDER, alone, params.nets.cnn, params.seed, tmp_path, shard)
    train_shard(job)
    assert job.weights_path.read_bytes() == (data / "zoo" / job.weights_path.name).read_bytes()


def test_every_cycle_of_shards_has_every_width():
    widths = (1.0, 0.5, 2.0)
    drawn = [[width_of(3 * cycle + i, widths, 0) for i in range(3)] for cycle in range(8)]
    assert all(sorted(cycle) == sorted(widths) for cycle in drawn)
    assert any(a != b for a, b in pairwise(drawn))  # the control: the order is drawn


def test_sizes_are_multiplied():
    cnn = CnnSettings(channels=(8, 16), batch_norm=True)
    assert widened(cnn, 0.5) == CnnSettings(channels=(4, 8), batch_norm=True)
    assert widened(MlpSettings(hidden=(6,)), 2).hidden == (12,)
    assert widened(Resnet18Settings(width=8, stem="small"), 0.25).width == 2
    with pytest.raises(WeightspaceError, match=r"width 0\.3 gives no sizes"):
        widened(cnn, 0.3)


@pytest.mark.parametrize("name", WORLDS)
def test_every_architecture_has_networks_of_twice_the_width(name):
    params = world_params(name)
    both = params.model_copy(update={"zoo": params.zoo.model_copy(update={"widths": (1.0, 2.0)})})
    one, two = (net_for(p, (1, 8, 8), 3) for p in both.each_width())
    assert two.spec.groups == {group: 2 * units for group, units in one.spec.groups.items()}
    assert one.spec == net_for(params, (1, 8, 8), 3).spec
    outputs = two.outputs(networks(two, 2), torch.zeros(5, 1, 8, 8))
    assert outputs.shape == (2, 5, 3)


def decoded(project, z, tasks):
    """Outputs on test images of latents that a project decodes."""
    networks = decode_latents(project.autoencoder, z)
    return TaskRunner(project.net, project.dataset).outputs(networks, tasks, "test")


@pytest.mark.parametrize("members_of", WIDTHS)
def test_one_latent_is_one_function_at_every_width(narrow, wide, members_of):
    project = narrow if members_of == 1 else wide
    members = project.zoo.select("train", last_only=True)
    tasks = members["task"].to_numpy()
    z = encode_members(project.autoencoder, project.zoo.networks(members))
    at_narrow, at_wide = (decoded(p, z, tasks) for p in (narrow, wide))
    same = float(agreement(at_narrow, at_wide).mean())
    other = float(agreement(at_narrow, decoded(wide, z.roll(1, 0), tasks)).mean())
    assert same > 0.85
    assert same > other + 0.3  # the control: another latent gives another function
    runner = TaskRunner(project.net, project.dataset)
    original = runner.outputs(project.zoo.networks(members), tasks, "test")
    assert min(agreement(original, y).mean() for y in (at_narrow, at_wide)) > 0.5


def test_encoder_and_trunk_are_one_and_references_are_not(root, narrow, wide):
    files = [at_width(root / "data" / AUTOENCODER_FILE, w) for w in WIDTHS]
    one, other = (load_tensors(file, "autoencoder")[0] for file in files)
    shared = [n for n in one if n.startswith(("encoder.", "decoder.blocks", "probes"))]
    assert shared
    assert all(torch.equal(one[n], other[n]) for n in shared)
    assert len(one["reference"]) == narrow.net.spec.numel < wide.net.spec.numel
    assert wide.net.spec.groups == {k: 2 * n for k, n in narrow.net.spec.groups.items()}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_width_is_part_of_a_request(narrow, task, tmp_path, width):
    drawn, guided = (
        narrow.sample(task, accuracy=0.8, n=6, width=width, guidance_steps=steps)
        for steps in (0, 100)
    )
    spec = narrow.at(width).net.spec
    assert spec.check(drawn.weights) == 6
    on_train = [float(s.table["train_accuracy"].mean()) for s in (drawn, guided)]
    assert on_train[1] > on_train[0] + 0.05  # the steps are taken through the decoder of the width
    drawn.save(tmp_path / "drawn")
    network = ws.load_network(tmp_path / "drawn" / "network-00000.safetensors")
    assert {n: tuple(x.shape) for n, x in network.module.state_dict().items()} == {
        t.name: t.shape for t in spec.tensors
    }
    images = task.images["test"]
    right = network.module(images.flatten(0, 1)).argmax(1).unflatten(0, images.shape[:2])
    accuracy = (right == torch.arange(len(images))[:, None]).double().mean()
    assert float(accuracy) == pytest.approx(drawn.table["test_accuracy"][0])
    assert ("--width 2" in (tmp_path / "drawn" / "MODEL_CARD.md").read_text()) == (width == 2)


def test_the_width_changes_what_is_drawn_and_the_default_is_the_first(narrow, wide, task):
    asked = {"accuracy": 0.9, "n": 2, "guidance_steps": 0}
    default, first = narrow.sample(task, **asked), narrow.sample(task, **asked, width=1)
    assert all(torch.equal(default.weights[n], first.weights[n]) for n in first.weights)
    assert default.net.spec != narrow.sample(task, **asked, width=2).net.spec
    images, classes = narrow.dataset.images["train"], narrow.dataset.classes
    a, b = (p.shared_encoder.embed(images, classes) for p in (narrow, wide))
    assert a.shape == b.shape
    assert (a != b).any(1).all()


def test_latents_of_one_width_are_read_at_the_other(narrow, wide, tmp_path):
    z = wide.encode(wide.zoo.weights(wide.zoo.members.iloc[:2]))
    wide.save_latents(tmp_path / "z.safetensors", z, ["a", "b"])
    again = narrow.load_latents(tmp_path / "z.safetensors").z
    assert torch.equal(again, z)
    assert narrow.net.spec.check(narrow.decode(again)) == 2


@pytest.fixture
def run(monkeypatch, capsys, root):
    """Run the command line on the project: exit code and standard error."""

    def call(*words):
        arguments = ["weightspace", words[0], "--root", str(root), *map(str, words[1:])]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as caught:
            app.main()
        return caught.value.code or 0, capsys.readouterr().err

    return call


def test_the_command_line_decodes_one_latent_at_every_width(run, narrow, wide, tmp_path):
    nets, z = tmp_path / "nets", tmp_path / "z.safetensors"
    members = wide.zoo.weights(wide.zoo.members.iloc[:2])
    names = ["a.safetensors", "b.safetensors"]
    wide.save(nets, names, members, [{"classes": ["a", "b", "c"]}] * 2)
    assert run("encode", nets, "--out", z, "--width", 2)[0] == 0
    for width, project in ((1, narrow), (2, wide)):
        assert run("decode", z, "--out", tmp_path / str(width), "--width", width)[0] == 0
        networks = project.networks(tmp_path / str(width))
        assert project.net.spec.check(networks) == 2
    code, error = run("decode", z, "--out", tmp_path / "no", "--width", 3)
    assert (code, error) == (2, "error: zoo.widths: no networks of width 3; expected 1, 2\n")
    assert not (tmp_path / "no").exists()


def test_an_unknown_width_is_one_line(narrow, wide, task):
    with pytest.raises(WeightspaceError, match=r"no networks of width 3; expected 1, 2$"):
        narrow.sample(task, accuracy=0.9, width=3)
    with pytest.raises(WeightspaceError, match=r"at width 1 only; found width 2$"):
        wide.predict(wide.zoo.weights(wide.zoo.members.iloc[:2]))


def test_evaluations_give_figures_of_every_width(root):
    for name, key in (("reconstruction", "agreement_mean"), ("sampling", "unguided_r2_identity")):
        figures = read_json(root / "metrics" / f"{name}.json")
        assert {"val", "test_sets"} <= set(figures)
        assert all({key, f"width_2_{key}"} <= set(of_split) for of_split in figures.values())


def test_a_critic_runs_every_draw_at_its_width(root, narrow, wide):
    model = load_shared_encoder(root / "data" / "shared_encoder" / "shared_encoder.safetensors")
    runners = [TaskRunner(p.net, p.dataset) for p in (narrow, wide)]
    encoder = narrow.params.dataset_encoders.of(narrow.params.shared_encoder.dataset_encoder)
    pairs = [None, None]
    data = SharedEncoderData(
        runners[0], narrow.autoencoder, *pairs, encoder, {2.0: (runners[1], wide.autoencoder)}
    )
    model.options = model.options.model_copy(update={"critic_images": 1000})  # all there are
    draws = Draws(model, data, "train", 6)
    rng = torch.Generator().manual_seed(0)
    x = model.standard(torch.randn(6, model.sizes.latent, generator=rng))
    classes = narrow.dataset.classes[draws.tasks[:6]]
    width = torch.tensor([0, 1, 1, 0, 1, 0])
    results, slopes = draws._measure(x, classes, width, rng)
    images = narrow.dataset.images["train"][classes].flatten(1, 2)
    for i, w in enumerate(width.tolist()):
        z, autoencoder = model.latents(x[[i]]), (narrow, wide)[w].autoencoder
        outputs = autoencoder.outputs(runners[w].net, z, images[[i]]).detach()
        torch.testing.assert_close(results[i], soft_result(outputs, model.result)[0][0])
    _, others = draws._measure(x, classes, 1 - width, rng)
    assert not torch.isclose(slopes, others, atol=1e-4).all(1).any()


def test_tokens_read_every_width_with_one_pair_of_transformers(root):
    params = load_params(root / "params.yaml")
    data = [AutoencoderData.load(root / "data", one) for one in params.each_width()]
    settings = params.autoencoder.model_copy(update={"model": "tokens", "epochs": 2})
    fitted, _ = tokens.fit_widths(data, settings, params.autoencoders.tokens, params.seed)
    assert fitted[0].encoder is fitted[1].encoder
    for autoencoder, one in zip(fitted, data, strict=True):
        rebuilt = decode_latents(autoencoder, encode_members(autoencoder, one.weights["val"]))
        assert one.net.spec.check(rebuilt) == one.counts["val"]


REFUSED = {
    "mlp": {"autoencoder": {"model": "mlp"}},
    "variational": {"autoencoder": {"model": "variational"}},
    "residual": {"autoencoder": {"model": "residual"}},
    "reverse_pca": {"autoencoder": {"model": "reverse_pca"}},
    "point": {"shared_encoder": {"model": "point"}},
    "coefficients": {"autoencoders": {"functional": {"reads": "coefficients"}}},
    "structural": {"autoencoders": {"functional": {"structural_weight": 1.0}}},
    "probes": {"autoencoders": {"functional": {"learn_probes": True}}},
    "order": {"zoo": {"widths": [2, 1]}},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_support_several_widths_says_so(case):
    sections = {"zoo": {"widths": WIDTHS}, "shared_encoder": {"model": "flow"}} | REFUSED[case]
    with pytest.raises(WeightspaceError) as error:
        check_widths(tiny(**sections))
    assert str(error.value).startswith("params.yaml: ")
    assert "\n" not in str(error.value)
    if case != "order":  # the control: with one width it is nobody's business
        check_widths(tiny(**REFUSED[case]))


@pytest.mark.parametrize("widths", [[1], WIDTHS])
def test_an_unknown_architecture_is_told_of_first(widths):
    models = {"autoencoder": {"model": "functional"}, "shared_encoder": {"model": "flow"}}
    params = tiny(zoo={"architecture": "cnm", "widths": widths}, **models)
    with pytest.raises(WeightspaceError, match=r"unknown zoo\.architecture 'cnm'"):
        check(params)


@pytest.mark.parametrize("model", ["functional", "tokens"])
def test_what_supports_several_widths_is_not_refused(model):
    flow = {"model": "flow"}
    check_widths(tiny(zoo={"widths": WIDTHS}, autoencoder={"model": model}, shared_encoder=flow))


def test_a_zoo_of_one_width_has_no_mark_of_it(project):
    assert "width" not in project.zoo.members
    assert project.shared_encoder.sizes.marks == 0
    images, classes = project.dataset.images["train"], project.dataset.classes
    model = project.shared_encoder
    assert torch.equal(
        model.embed(images, classes), model.embed_classes(model.dataset_encoder(images), classes)
    )
    assert isinstance(project.dataset, Dataset)
