"""Any method on a named task: the pipeline's figures, one clear line for all that cannot be scored."""

import io
import json
import re
import shutil
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import fake_zoos
import weightspace as ws
from cases import section
from conftest import finish
from weightspace.artifacts import load_tensors, save_tensors
from weightspace.autoencoders.base import decode_latents, encode_members
from weightspace.data.tasks import SPLITS
from weightspace.errors import WeightspaceError
from weightspace.evaluate import hypernetwork, novelty
from weightspace.evaluate.baselines import DRAWS, of_hypernetwork
from weightspace.evaluate.distribution import some_members
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.properties import Features, evaluate_properties
from weightspace.evaluate.readings import latents
from weightspace.evaluate.reconstruction import reconstruct_splits, reconstruction_metrics
from weightspace.evaluate.sampling import evaluate_split
from weightspace.leaderboard import page
from weightspace.leaderboard.evaluate import seen, trained_on
from weightspace.leaderboard.figures import as_figures
from weightspace.leaderboard.method import tensor
from weightspace.leaderboard.named import folder_hash, load_task, names, open_data, task_hash
from weightspace.leaderboard.page import AIDED, entries, read_results, write_page
from weightspace.leaderboard.schema import Figure, Result, Selection, Task, validated
from weightspace.nets.base import build_net
from weightspace.params import load_params
from weightspace.rng import torch_stream
from weightspace.sampling.sampler import Condition
from weightspace.weights.spec import take
from weightspace.zoo.imported import Source, import_zoo, without_images
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo
from workspace import ROOT

RESULTS = ROOT / "benchmarks/results"
SPLIT = "test_sets"
CARD = {
    "name": "example",
    "title": "An example",
    "description": "Of the tests.",
    "source": "tests",
    "trained_on": [],
    "selection": "none",
    "fitted": {"networks": 0, "labelled_gradients": 0, "budget": "nothing"},
    "cost": {"labelled_gradients": 0, "forward_passes": 0},
}


@pytest.fixture(scope="module")
def root(world, tmp_path_factory):
    """A finished tiny project."""
    return finish(world("cnn"), tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def evaluation(root):
    return Evaluation.load(root / "data", load_params(root / "params.yaml"))


@pytest.fixture(scope="module")
def task(root):
    """Factory: a task of a family on that project."""
    params = load_params(root / "params.yaml")
    amounts = {
        name: getattr(params.evaluate, name)
        for name in (
            "targets",
            "draws",
            "bootstrap",
            "random_inputs",
            "novelty_networks",
            "two_sample_networks",
        )
    }

    def make(family, **changes):
        data = load_task("sampling/digits-sets").model_dump(mode="json")
        data["data"] |= {
            "zoo": folder_hash(root / "data" / "zoo"),
            "dataset": folder_hash(root / "data" / "dataset"),
        }
        net = {"name": "cnn", "settings": params.nets.cnn.model_dump(mode="json")}
        data |= {"name": f"{family}/tiny", "seed": params.seed, "net": net, "amounts": amounts}
        return validated(Task, data | changes, "task")

    return make


def one_line(text):
    """A person reads one line, and nothing in it moves the cursor."""
    assert text.isprintable()


def replayed(dataset, *drawn):
    """A sample function that hands out networks that were drawn for conditions, in their order."""
    known = [(condition.classes, condition.target, networks, n) for condition, networks, n in drawn]

    def sample(images, targets, draws, rng):
        of_class = dataset.images["train"]
        classes = torch.tensor(
            [next(k for k in range(len(of_class)) if of_class[k].equal(x)) for x in images]
        )
        for of_request, target, networks, n in known:
            rows = (of_request == classes).all(1).nonzero()[:, 0]
            if n == draws and len(rows) == len(targets) and target[rows].equal(targets):
                index = (rows[:, None] * n + torch.arange(n)).flatten()
                return take(networks, index)
        raise AssertionError("no such request")

    return sample


def same(figures, expected, fewest):
    """All figures that both have are equal, and these are many."""
    expected = as_figures(expected)
    both = figures.keys() & expected.keys()
    assert len(both) >= fewest
    assert {k: figures[k] for k in both} == {k: expected[k] for k in both}


def test_reconstruction_is_the_pipelines(evaluation, root, task):
    params, autoencoder = evaluation.params, evaluation.sampler.autoencoder
    whole = reconstruct_splits(root / "data", params)[SPLIT]
    one_pass = replace(whole, rebuilt=whole.encoder_only)
    expected = reconstruction_metrics(one_pass, params.evaluate, params.seed)
    result = ws.evaluate_method(
        task("reconstruction"),
        encode=lambda weights: encode_members(autoencoder, weights),
        decode=lambda z: decode_latents(autoencoder, z),
        card=CARD,
        root=root,
    )
    expected = {k: v for k, v in expected.items() if "_random" not in k}  # of refined networks
    more = ("agreement_mean_late", "accuracy_r2_identity")  # of which the pipeline has no intervals
    bare = {k: f.model_copy(update={"low": None, "high": None}) for k, f in result.figures.items()}
    same(result.figures | {k: bare[k] for k in more}, expected, 20)
    for name in ("agreement_mean", "agreement_mean_late", "accuracy_r2_identity"):
        figure = result.figures[name]
        assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9
    pipeline = reconstruction_metrics(whole, params.evaluate, params.seed)
    assert result.figures["agreement_mean"].value == pipeline["encoder_only_agreement_mean"]
    other = ws.evaluate_method(  # the control: latents of other networks
        task("reconstruction"),
        encode=lambda weights: encode_members(autoencoder, weights).roll(1, 0),
        decode=lambda z: decode_latents(autoencoder, z),
        card=CARD,
        root=root,
    )
    assert other.figures["agreement_mean"] != result.figures["agreement_mean"]
    assert other.task.given != result.task.given
    assert other.task.zoo == result.task.zoo


def test_draws_of_the_hypernetwork_are_the_pipelines(evaluation, root, task):
    dataset, seed = evaluation.runner.dataset, evaluation.params.seed
    made = hypernetwork.load(
        evaluation.runner, evaluation.params, root / "data/hypernetwork/hypernetwork.safetensors"
    )
    expected = of_hypernetwork(evaluation, made, SPLIT)
    rng = torch_stream(seed, "hypernetwork", "draws", SPLIT)
    grid = evaluation.grid(evaluation.tasks(SPLIT))
    members = some_members(evaluation, SPLIT)
    requests = Condition.of_tasks(
        dataset,
        torch.tensor(members["task"].to_numpy()),
        torch.from_numpy(evaluation.result.of_members(members)).float(),
    )
    drawn = [
        (c, made.networks(c, n, rng), n)
        for c, n in ((grid.condition(dataset), DRAWS), (requests, 1))
    ]
    asked = task("sampling")
    asked = asked.model_copy(update={"amounts": asked.amounts.model_copy(update={"draws": DRAWS})})
    result = ws.evaluate_method(asked, sample=replayed(dataset, *drawn), card=CARD, root=root)
    same(result.figures, expected, 15)
    assert result.figures["r2_identity"].low < result.figures["r2_identity"].high
    assert "agreement_members" in result.figures  # undefined in so small a zoo


def test_draws_of_the_sampler_are_the_pipelines(evaluation, root, task):
    sampler, dataset = evaluation.sampler, evaluation.runner.dataset
    grid = evaluation.grid(evaluation.tasks(SPLIT))
    rng = torch_stream(evaluation.seed, "evaluate", "draws", SPLIT)
    draws = evaluation.settings.draws
    z = sampler.latents(grid.condition(dataset), draws, rng)
    drawn = replayed(dataset, (grid.condition(dataset), sampler.networks(z), draws))
    pipeline, _ = evaluate_split(evaluation, SPLIT)
    expected = {
        k.removeprefix("unguided_"): v
        for k, v in pipeline.items()
        if k.startswith("unguided_") and "best_of_n" not in k
    }

    def sample(images, targets, count, rng):
        if count == draws:
            return drawn(images, targets, count, rng)
        return sampler.networks(sampler.latents(Condition.of_images(images, targets), 1, rng)).take(
            slice(None)
        )

    result = ws.evaluate_method(task("sampling"), sample=sample, card=CARD, root=root)
    for name, value in expected.items():
        assert result.figures[name].value == pytest.approx(value, abs=1e-12)
    assert len(expected) >= 6


def test_properties_are_the_pipelines(evaluation, root, task):
    zoo, autoencoder = evaluation.zoo, evaluation.sampler.autoencoder
    members = {s: t for s in SPLITS if len(t := zoo.select(s))}
    x = latents(zoo, autoencoder, members)
    classes = evaluation.runner.dataset.classes
    known = torch.arange(int(classes.max()) + 1)
    present = {
        s: (classes[torch.tensor(t["task"].to_numpy())][..., None] == known).any(1).numpy()
        for s, t in members.items()
    }
    expected = evaluate_properties(Features(members, x, present), evaluation.seed)[SPLIT]
    expected = {k.removeprefix("latent_"): v for k, v in expected.items() if "latent_" in k}
    result = ws.evaluate_method(
        task("properties"),
        encode=lambda weights: encode_members(autoencoder, weights),
        card=CARD,
        root=root,
    )
    values = {k: result.figures[k].value for k in expected}
    assert values == {k: f.value for k, f in as_figures(expected).items()}
    assert len(expected) >= 8
    tau = result.figures["test_accuracy_tau"]
    assert tau.low <= tau.high
    assert 0 < result.figures["test_accuracy_tau_ceiling"].value <= 1


def test_networks_of_others_are_scored_by_their_believed_results(task, tmp_path, monkeypatch):
    """A zoo of the layout of Unterthiner et al., without images; of others than the scored, not at random."""
    monkeypatch.setattr(fake_zoos, "RUNS", 40)
    rng = torch.Generator().manual_seed(0)
    images, labels = torch.rand(50, 1, 8, 8, generator=rng), torch.arange(50) % 10
    (tmp_path / "theirs").mkdir()
    fake_zoos.make_matrix(tmp_path / "theirs", images, labels)
    dataset = without_images((1, 8, 8), 10)
    options = section("nets", convnet=fake_zoos.NETS["matrix"]).of("convnet")
    runner = TaskRunner(build_net("convnet", dataset.shape, 10, options), dataset)
    source = Source(
        tmp_path / "theirs", "matrix", None, {"activation": "relu"}, "0.5,0.25,0.25", believe=True
    )
    import_zoo(source, runner, tmp_path / "zoo")
    members = Zoo.open(tmp_path / "zoo").members
    assert members["val_accuracy"].isna().all()
    data = load_task("properties/unterthiner-cifar10gs").data.model_dump(mode="json")
    asked = task("properties", net=None, data=data)
    result = ws.evaluate_method(asked, encode=flat, card=CARD, root=tmp_path)
    truth = members.loc[members["split"] == SPLIT, "test_accuracy"]
    assert result.figures["members"].value == len(truth) == 15
    most = truth.value_counts().iloc[0] / len(truth)
    assert result.figures["test_accuracy_most_frequent"].value == pytest.approx(most)
    assert result.figures["test_accuracy_tau"].low <= result.figures["test_accuracy_tau"].high
    assert result.figures["test_accuracy_tau_ceiling"].value < 1  # 50 images: many share a value
    assert not result.pinned
    assert "classes_recall" not in result.figures
    told = dict(zip(members["member"], members["test_accuracy"], strict=True))
    known = {
        w.tobytes(): told[i]
        for i, w in enumerate(flat(Zoo.open(tmp_path / "zoo").weights(members)).numpy())
    }

    def oracle(weights):
        return torch.tensor([[known[w.tobytes()]] for w in flat(weights).numpy()])

    perfect = ws.evaluate_method(asked, encode=oracle, card=CARD, root=tmp_path)
    assert perfect.figures["test_accuracy_r2"].value > 0.9


def test_novelty_is_the_pipelines_and_copies_show(evaluation, root, task):
    sampler, dataset = evaluation.sampler, evaluation.runner.dataset
    expected = novelty.evaluate_novelty(evaluation)[SPLIT]
    rng = torch_stream(evaluation.seed, "novelty", "draws", SPLIT)
    tasks = novelty.Comparison.of(
        evaluation,
        SPLIT,
        novelty.Finished.of(evaluation),
        lambda c: sampler.networks(sampler.latents(c, novelty.DRAWS, rng)),
    ).tasks
    rng = torch_stream(evaluation.seed, "novelty", "draws", SPLIT)
    condition = evaluation.best_condition(tasks)
    z = sampler.guided(sampler.latents(condition, novelty.DRAWS, rng), condition, rng)
    drawn = replayed(dataset, (condition, sampler.networks(z), novelty.DRAWS))
    result = ws.evaluate_method(task("novelty"), sample=drawn, card=CARD, root=root)
    expected = {k: v for k, v in expected.items() if "control" not in k and np.isfinite(v)}
    assert {k: result.figures[k].value for k in expected} == pytest.approx(expected, rel=1e-6)
    assert len(expected) >= 8  # close, not equal: they are decoded in other blocks
    known = evaluation.zoo.weights(evaluation.zoo.select("train", last_only=True).iloc[:1])
    copies = ws.evaluate_method(
        task("novelty"),
        sample=lambda images, targets, draws, rng: {
            k: w.expand(len(targets) * draws, *w.shape[1:]) for k, w in known.items()
        },
        card=CARD,
        root=root,
    )
    assert copies.figures["weight_distance"].value == pytest.approx(0, abs=1e-6)
    assert copies.figures["function_distance"].value == 0


def flat(weights):
    return torch.cat([w.flatten(1) for w in weights.values()], 1)


def identity(asked, root, card=CARD, out=None, encode=flat, decode=lambda z: z):
    return ws.evaluate_method(asked, encode=encode, decode=decode, card=card, root=root, out=out)


def test_a_result_stands_alone(task, root, tmp_path):
    asked, out = task("reconstruction"), tmp_path / "deep" / "result.json"
    result = identity(asked, root, out=out)
    assert result.figures["agreement_mean"].value == 1
    assert Result.read(out) == result
    assert result.task.sha256 == task_hash(asked)
    assert result.task.zoo == asked.data.zoo
    assert result.pinned
    identity(asked, root, out=out)  # an earlier result is written over
    other = tmp_path / "notes.json"
    other.write_text('{"mine": 1}')
    with pytest.raises(WeightspaceError, match="did not write it"):
        identity(asked, root, out=other)
    assert other.read_text() == '{"mine": 1}'


def test_arrays_do_as_well_as_tensors(task, root):
    arrays = identity(
        task("reconstruction"),
        root,
        encode=lambda weights: flat(weights).numpy().astype(np.float64),
        decode=lambda z: z.numpy(),
    )
    assert arrays.figures == identity(task("reconstruction"), root).figures


def test_what_a_function_is_given_is_a_copy(task, root):
    def vandal(weights):
        z = flat(weights)
        for w in weights.values():
            w.zero_()
        return z

    asked = task("reconstruction")
    assert identity(asked, root, encode=vandal).figures == identity(asked, root).figures


def test_zero_shot_is_read_off_the_card(task, root, evaluation):
    dataset = evaluation.runner.dataset
    scored = [dataset.class_names[c] for c in dataset.classes[evaluation.tasks(SPLIT)[0]]]
    source = task("reconstruction").data.source

    def of(**card):
        trained = {"source": source, "parts": ["train"], "class_sets": []} | card
        return identity(task("reconstruction"), root, CARD | {"trained_on": [trained]}).zero_shot

    assert identity(task("reconstruction"), root).zero_shot.class_sets
    assert of().class_sets
    assert of().images
    assert not of(class_sets=[scored[::-1]]).class_sets  # in another order
    assert not of(class_sets=[scored]).classes
    assert not of(class_sets=None).class_sets
    assert of(class_sets=[scored], source="other").class_sets
    assert not of(class_sets=[scored], source=source.upper()).class_sets
    assert not of(parts=["train", "test"]).images


def test_cards_of_the_pipeline_say_what_was_trained_on():
    card = {
        "source": "digits",
        "images": ["train"],
        "class_sets": {"train": [["1", "0"]], "val": [["0", "1"], ["2", "3"]]},
    }
    assert trained_on(card).class_sets == [["0", "1"], ["2", "3"]]


def nothing(*_):
    raise ValueError("nothing\nto see")


HOSTILE = {
    "raises": (nothing, r"encode: the method's function failed \(ValueError: nothing to see\)"),
    "ends the program": (sys.exit, r"encode: the method's function failed \(SystemExit"),
    "None": (lambda w: None, "encode: gave another type; found NoneType"),
    "a list": (lambda w: flat(w).tolist(), "encode: gave another type; found list"),
    "text": (lambda w: np.array(["a"]), "encode: gave another type"),
    "objects": (lambda w: np.array([None]), "encode: gave another type"),
    "complex": (lambda w: flat(w).to(torch.complex64), "encode: gave another type"),
    "truth values": (lambda w: flat(w) > 0, "encode: gave another type"),
    "sparse": (lambda w: flat(w).to_sparse(), "encode: gave another type"),
    "meta": (lambda w: flat(w).to("meta"), "encode: gave another type"),
    "NaN": (lambda w: flat(w) * torch.nan, "encode: gave NaN or infinity"),
    "infinity": (lambda w: flat(w).double() * 1e300, "encode: gave NaN or infinity"),
    "too few": (lambda w: flat(w)[1:], "encode: another shape"),
    "one axis": (lambda w: flat(w)[:, 0], "encode: another shape"),
    "no columns": (lambda w: flat(w)[:, :0], "encode: another shape"),
}
HOSTILE_DECODE = {
    "raises": (nothing, "decode: the method's function failed"),
    "latents": (lambda z: z[:, :5], "decode: another shape"),
    "too few": (lambda z: z[1:], "decode: another shape"),
    "a table of nothing": (lambda z: {}, "decode: tensors do not match"),
    "other names": (lambda z: {"a": z}, "decode: tensors do not match"),
    "NaN": (lambda z: z / 0 * 0, "decode: gave NaN or infinity"),
}


@pytest.mark.parametrize(("function", "line"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_encoder_is_one_line(function, line, task, root):
    with pytest.raises(WeightspaceError, match=line) as caught:
        identity(task("reconstruction"), root, encode=function)
    one_line(str(caught.value))


@pytest.mark.parametrize(("function", "line"), HOSTILE_DECODE.values(), ids=HOSTILE_DECODE)
def test_a_hostile_decoder_is_one_line(function, line, task, root):
    with pytest.raises(WeightspaceError, match=line) as caught:
        identity(task("reconstruction"), root, decode=function)
    one_line(str(caught.value))


def test_columns_that_change_their_number_are_refused(task, root):
    calls = []

    def encode(weights):
        calls.append(1)
        return flat(weights)[:, : 5 + len(calls)]

    with pytest.raises(
        WeightspaceError, match="encode: columns change their number; found 6 and 7"
    ):
        ws.evaluate_method(task("properties"), encode=encode, card=CARD, root=root)


@pytest.mark.parametrize("missing", ["encode", "decode"])
def test_a_missing_function_is_named(missing, task, root):
    given = {"encode": flat, "decode": lambda z: z, missing: None}
    with pytest.raises(WeightspaceError, match=f"needs a function '{missing}'; found NoneType"):
        ws.evaluate_method(task("reconstruction"), card=CARD, root=root, **given)


CARDS = {
    "nothing": ({}, "card: 'name': Field required"),
    "a list": ([], "card"),
    "an unknown key": (CARD | {"zero_shot": True}, "card: 'zero_shot': Extra inputs"),
    "a name of a path": (CARD | {"name": "../x"}, "card: 'name'"),
    "a control character": (CARD | {"title": "a\x1b[1A"}, "card: 'title'"),
    "text for a count": (
        CARD | {"cost": {"labelled_gradients": "0", "forward_passes": 0}},
        "card: 'cost",
    ),
    "another selection": (CARD | {"selection": "luck"}, "card: 'selection'"),
}


@pytest.mark.parametrize(("card", "line"), CARDS.values(), ids=CARDS)
def test_a_card_that_is_not_complete_is_one_line(card, line, task, root):
    with pytest.raises((WeightspaceError, TypeError), match=line) as caught:
        identity(task("reconstruction"), root, card)
    one_line(str(caught.value))


def test_data_of_another_task_is_refused(task, root, tmp_path):
    asked = task("reconstruction")
    with pytest.raises(
        WeightspaceError, match=r"no zoo of task reconstruction/tiny; .*make repro"
    ) as caught:
        identity(asked, tmp_path)
    one_line(str(caught.value))
    other = asked.model_copy(update={"data": asked.data.model_copy(update={"dataset": "0" * 64})})
    with pytest.raises(
        WeightspaceError,
        match=f"not the dataset of task reconstruction/tiny, version {asked.version}",
    ):
        identity(other, root)
    inside = identity(asked, root / "data")  # the folders themselves
    assert inside.task == identity(asked, root).task


def test_a_zoo_of_another_architecture_is_refused(task, root):
    net = {"name": "cnn", "settings": {"channels": [2, 2], "batch_norm": False}}
    with pytest.raises(WeightspaceError, match="another architecture"):
        identity(task("reconstruction", net=net), root)


def broken(result, path, value):
    data = json.loads(json.dumps(result))
    *keys, last = path
    inner = data
    for key in keys:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return data


BROKEN = [
    (("task",), None),
    (("task", "zoo"), "abc"),
    (("task", "name"), "sampling/../x"),
    (("figures",), {}),
    (("figures", "agreement_mean", "value"), "1"),
    (("figures", "agreement_mean", "p"), 0.5),
    (("format",), 2),
    (("zero_shot", "images"), 1),
    (("more",), 1),
    (("milliseconds",), -1),
    (("networks",), True),
]


@pytest.mark.parametrize(("path", "value"), BROKEN, ids=str)
def test_a_malformed_result_is_one_line(path, value, task, root, tmp_path):
    out = tmp_path / "result.json"
    good = identity(task("reconstruction"), root, out=out).model_dump(mode="json")
    out.write_text(json.dumps(broken(good, path, value)))
    with pytest.raises(WeightspaceError, match=r"result\.json: '") as caught:
        Result.read(out)
    one_line(str(caught.value))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 5000])
def test_what_is_no_result_at_all_is_one_line(text, tmp_path):
    out = tmp_path / "result.json"
    out.write_text(text)
    with pytest.raises(WeightspaceError) as caught:
        Result.read(out)
    one_line(str(caught.value))


@pytest.mark.parametrize("name", names())
def test_every_task_can_be_loaded(name):
    loaded = load_task(name)
    assert loaded.name == name
    assert loaded.figures[0].better in ("higher", "lower")
    assert loaded.data.make


@pytest.mark.parametrize("name", names())
def test_absent_data_is_one_line_that_says_what_to_do(name, tmp_path):
    with pytest.raises(
        WeightspaceError, match=f"no zoo of task {name}; (run|train|fetch) "
    ) as caught:
        open_data(load_task(name), tmp_path)
    one_line(str(caught.value))


def test_a_hash_is_of_values_and_not_of_their_form(root, tmp_path):
    folder = tmp_path / "dataset"
    shutil.copytree(root / "data/dataset", folder)
    before, path = folder_hash(folder), folder / "tasks.parquet"
    table = pd.read_parquet(path)
    table.to_parquet(path, compression=None, index=False)
    images, meta = load_tensors(folder / "images.safetensors", "dataset")
    images = {name: x.clone() for name, x in images.items()}
    save_tensors(folder / "images.safetensors", "dataset", images, {**meta, "more": 1})
    assert folder_hash(folder) == before
    images["test"][0, 0, 0, 0, 0] += 1
    save_tensors(folder / "images.safetensors", "dataset", images, meta)
    assert folder_hash(folder) != before
    images["test"][0, 0, 0, 0, 0] -= 1
    save_tensors(folder / "images.safetensors", "dataset", images, meta)
    table.loc[0, "split"] = "val"
    table.to_parquet(path, index=False)
    assert folder_hash(folder) != before


def test_an_unknown_task_is_one_line(tmp_path):
    with pytest.raises(WeightspaceError, match="did you mean 'sampling/digits-sets'"):
        load_task("sampling/digit-sets")
    path = tmp_path / "task.yaml"
    path.write_text("name: sampling/x\nversion: one\n")
    with pytest.raises(WeightspaceError, match=r"task\.yaml: "):
        load_task(path)


def test_what_is_told_of_a_task_changes_no_hash(task):
    asked = task("sampling")
    assert task_hash(asked) == task_hash(asked.model_copy(update={"question": "Another?"}))
    assert task_hash(asked) != task_hash(asked.model_copy(update={"seed": asked.seed + 1}))


def test_the_data_of_a_task_is_opened_as_the_evaluation_reads_it(task, root, evaluation):
    data = open_data(task("sampling"), root)
    assert data.bounds == pytest.approx(evaluation.bounds, abs=1e-7)
    assert data.runner.net.spec == evaluation.zoo.spec


def test_tensors_with_gradients_and_of_other_precision_are_taken():
    x = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    assert tensor("encode", x).dtype == torch.float32
    assert not tensor("encode", x).requires_grad


def test_what_members_were_seen_is_written_for_the_card(task, root):
    asked = task("reconstruction")

    def of(*splits):
        return identity(asked, root, CARD | {"trained_on": [seen(asked, root, splits)]}).zero_shot

    assert of("train", "val").class_sets
    assert not of("train", SPLIT).class_sets


GUIDE = (ROOT / "docs/guides/evaluate_a_method.md").read_text()


def test_the_example_of_the_guide_runs(task, root, tmp_path, monkeypatch, capsys):
    blocks = dict(re.findall(r"^```(python|json)\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL))
    code = blocks["python"].replace("PCA(64)", "PCA(8)")  # the zoo is tiny
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(task("reconstruction").model_dump(mode="json")))
    (tmp_path / "card.json").write_text(blocks["json"])
    (tmp_path / "data").symlink_to(root / "data")
    monkeypatch.chdir(tmp_path)
    assert code.count('"reconstruction/digits"') == 1
    names = {}
    exec(code.replace("reconstruction/digits", str(path)), names)
    assert "class_sets=True" in capsys.readouterr().out
    assert names["result"].method.name == "pca-64"


def test_the_guide_names_every_task():
    assert set(re.findall(r"^\| `([a-z]+/[^`]+)`", GUIDE, re.MULTILINE)) == set(names())


def test_the_form_asks_for_what_a_card_has():
    form = yaml.safe_load((ROOT / "docs/leaderboard_entry.yml").read_text())
    fields = {field.get("id"): field for field in form["body"]}
    assert {"task", "method", "result", "code", "selection", "trained"} <= fields.keys()
    options = fields["selection"]["attributes"]["options"]
    assert set(options) == set(get_args(Selection))


def test_the_committed_page_belongs_to_the_committed_results(tmp_path):
    for path in write_page(RESULTS, tmp_path):
        assert path.read_bytes() == (ROOT / "docs" / path.name).read_bytes(), "run make leaderboard"


def test_committed_results_are_of_the_tasks_as_they_are():
    for name, results in read_results(RESULTS).items():
        asked = load_task(name)
        for result in results:
            assert result.task.sha256 == task_hash(asked), f"{name}: run the peers again"
            assert {shown.name for shown in asked.figures} <= result.figures.keys()
    assert sum(map(len, read_results(RESULTS).values())) >= 10


@pytest.fixture
def entry(task, root, tmp_path):
    """A folder with one result."""
    result = identity(task("reconstruction"), root)
    named = result.task.model_copy(update={"name": "reconstruction/digits"})
    result = result.model_copy(update={"task": named})
    path = tmp_path / "results/reconstruction/digits/example.json"
    result.write(path)
    return path, result


def test_the_page_is_one_file_that_says_what_is_to_be_known(entry, tmp_path):
    path, result = entry
    claimed = result.method.model_copy(update={"selection": "test", "title": "<b>bold</b> claims"})
    result.model_copy(update={"method": claimed}).write(path)
    html, table = (p.read_text() for p in write_page(tmp_path / "results", tmp_path))
    assert "<b>" not in html.partition("<main>")[2].replace("<b>bold</b> claims", "!")
    assert "&lt;b&gt;bold&lt;/b&gt; claims" in html
    assert "chosen on test" in html
    assert f"of another version ({result.task.version})" in html  # the tiny task is no named one
    assert "published only" in html
    assert not re.search(r"\b(src|href)=(?!\"#)|\burl\(|@import", html)  # nothing is fetched
    rows = pd.read_csv(io.StringIO(table))
    row = rows[(rows["method"] == "example") & (rows["figure"] == "agreement_mean")].iloc[0]
    assert row["value"] == 1
    assert row["selection"] == "test"
    claims = rows.dropna(subset="published")
    assert {"mlp", "behavioural", "weight-statistics"} <= set(claims["method"])


def test_the_best_row_comes_first(entry, tmp_path):
    _, result = entry
    worse = {"agreement_mean": result.figures["agreement_mean"].model_copy(update={"value": 0.5})}
    other = result.model_copy(
        update={
            "method": result.method.model_copy(update={"name": "another"}),
            "figures": result.figures | worse,
        }
    )
    rows = entries(load_task("reconstruction/digits"), [other, result])
    assert [row.name for row in rows] == ["example", "another", "mlp"]


def test_what_takes_labels_of_the_task_stands_apart(entry):
    _, result = entry

    def of(name, task, value, **cost):
        card = result.method.model_copy(
            update={"name": name, "title": name, "cost": result.method.cost.model_copy(update=cost)}
        )
        figures = {"r2_identity": Figure(value=value), "agreement_mean": Figure(value=value)}
        named = result.task.model_copy(update={"name": task})
        return result.model_copy(update={"method": card, "task": named, "figures": figures})

    drawn, read = load_task("sampling/digits-sets"), load_task("reconstruction/digits")
    rows = [
        of("guided", drawn.name, 0.9, labelled_gradients=1440),
        of("chosen", drawn.name, 0.8, forward_passes=4320),
        of("plain", drawn.name, 0.1),
    ]
    assert [e.name for e in entries(drawn, rows)] == ["plain", "guided", "chosen"]
    html = page.section(drawn, entries(drawn, rows))
    assert html.index("plain") < html.index(AIDED) < html.index("guided")
    probes = [of("probes", read.name, 0.9, forward_passes=256), of("plain", read.name, 0.1)]
    assert [e.name for e in entries(read, probes)][:2] == ["probes", "plain"]
    assert AIDED not in page.section(read, entries(read, probes))


@pytest.mark.parametrize("name", ["other.json", "../../sampling/digits-sets/example.json"])
def test_a_result_in_the_wrong_folder_is_refused(name, entry, tmp_path):
    path, _ = entry
    moved = path.parent / name
    moved.parent.mkdir(parents=True, exist_ok=True)
    path.rename(moved)
    with pytest.raises(WeightspaceError, match="result of another task or method") as caught:
        read_results(tmp_path / "results")
    one_line(str(caught.value))
