"""Fits read stored outputs and take weights block by block."""

import re
from dataclasses import dataclass, field, replace

import pytest
import torch

from weightspace.artifacts import PCA_FILE, load_tensors
from weightspace.autoencoders import AUTOENCODERS
from weightspace.autoencoders.base import encode_orders, load_autoencoder
from weightspace.errors import WeightspaceError
from weightspace.learning import loop
from weightspace.learning.behavioural import BehaviouralLoss
from weightspace.registry import resolve
from weightspace.shared_encoders.base import encode_pairs
from weightspace.weights.pca import fit_pca
from weightspace.weights.spec import Weights, output_orders, take
from weightspace.zoo.outputs import Originals, choose_probes
from weightspace.zoo.result import Result

BLOCK = 7


@dataclass
class Recorded:
    """Networks that note how many of them are taken at once."""

    weights: Weights
    taken: list[int] = field(default_factory=list)

    def __len__(self):
        return len(next(iter(self.weights.values())))

    def take(self, index):
        """Some networks."""
        out = take(self.weights, index)
        self.taken.append(len(next(iter(out.values()))))
        return out


def recorded(data):
    """The same data, its networks recorded."""
    return replace(data, weights={split: Recorded(w) for split, w in data.weights.items()})


def fit(tiny, data, name, **options):
    """An autoencoder fitted in short, its behaviour part of the loss."""
    own = tiny.params.autoencoders.of(name).model_copy(update={"behaviour_weight": 1.0} | options)
    settings = tiny.params.autoencoder.model_copy(update={"model": name, "epochs": 2})
    return resolve(AUTOENCODERS, name, "autoencoder").fit(data, settings, own, 0)[0]


def test_stored_outputs_are_those_of_the_members(world):
    tiny = world()
    for split, originals in tiny.data.originals.items():
        table = tiny.data.members[split]
        assert originals.members.tolist() == table["member"].to_list()
        for row in (0, len(table) - 1):
            network = take(tiny.data.weights[split], slice(row, row + 1))
            task = torch.tensor([table["task"][row]])
            images, _ = tiny.dataset.task_batch(task, "train")
            with torch.no_grad():
                on_task = tiny.net.outputs(network, images[0])[0]
                on_probes = tiny.net.outputs(network, originals.probes)[0]
            torch.testing.assert_close(originals.on_task[row], on_task)
            torch.testing.assert_close(originals.on_probes[row], on_probes)
            shifted = on_task.roll(images.shape[1] // 3, 0)  # the control: another order of classes
            assert (originals.on_task[row] - shifted).abs().max() > 0.01


def test_probes_are_as_many_train_images_of_each_seen_class(world):
    dataset = world().dataset
    count = len(dataset.seen)
    probes = choose_probes(dataset, 2 * count, 0)
    for i, probe in enumerate(probes):
        of_class = dataset.images["train"][dataset.seen[i % count]]
        assert (of_class == probe).flatten(1).all(1).any()
    assert len(probes.flatten(1).unique(dim=0)) == 2 * count
    most = count * dataset.images["train"].shape[1]
    assert len(choose_probes(dataset, 10**6, 0)) == most


def test_what_is_read_is_what_was_written(world, tmp_path):
    data, path = world().data, tmp_path / "val.safetensors"
    members = data.members["val"]
    data.originals["val"].save(path)
    again = Originals.load(path, members)
    assert all(
        torch.equal(a, b)
        for a, b in zip(*map(_values, (again, data.originals["val"])), strict=True)
    )
    for other in (members.iloc[1:], members.assign(member=members["member"].to_numpy()[::-1])):
        with pytest.raises(WeightspaceError, match="outputs of other members") as caught:
            Originals.load(path, other)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(WeightspaceError, match=re.escape("file is missing")):
        Originals.load(tmp_path / "train.safetensors", members)


def _values(originals):
    return vars(originals).values()


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_a_fit_takes_no_more_than_a_block_or_a_batch(name, world, monkeypatch):
    monkeypatch.setattr("weightspace.autoencoders.base.BLOCK", BLOCK)
    monkeypatch.setattr("weightspace.autoencoders._feature_pca.BLOCK", BLOCK)
    tiny = world()
    data = recorded(tiny.data)
    fit(tiny, data, name)
    taken = [n for networks in data.weights.values() for n in networks.taken]
    if name == "functional":
        assert not taken  # outputs suffice, and the decoder starts at an untrained network
        return
    size = tiny.params.autoencoder.batch_size
    assert max(taken) <= max(BLOCK, size) < len(data.weights["train"])
    per_step = name in ("tokens", "reverse_pca")  # the others read weights before the first step
    assert (max(taken) > BLOCK) == per_step


def test_learned_probes_run_the_members_of_each_step(world):
    tiny = world()
    data = recorded(tiny.data)
    fit(tiny, data, "functional", learn_probes=True)
    taken = [n for networks in data.weights.values() for n in networks.taken]
    members = sum(data.counts.values())
    assert sum(taken) == 2 * members  # in each of two epochs all
    assert max(taken) <= tiny.params.autoencoder.batch_size


@pytest.mark.parametrize("name", ["functional", "mlp"])
def test_latents_of_stored_outputs_are_those_of_the_weights(name, world):
    """No weights are read where outputs suffice; other probes than those stored do not."""
    tiny = world()
    autoencoder, orders = fit(tiny, tiny.data, name), output_orders(3)
    data = recorded(tiny.data)
    networks, originals = data.weights["val"], data.originals["val"]
    pairs = encode_pairs(
        data.members["val"], networks, originals, tiny.runner, autoencoder, Result("accuracy")
    )
    assert bool(networks.taken) == (name == "mlp")
    expected = encode_orders(autoencoder, tiny.data.weights["val"], orders)
    torch.testing.assert_close(pairs.z, expected, atol=2e-3, rtol=2e-3)  # products in bf16
    assert (pairs.z[:, 0] - pairs.z[:, 1]).abs().max() > 0.05
    networks.taken.clear()
    other = replace(originals, probes=originals.probes + 1, on_probes=originals.on_probes + 1)
    z = encode_orders(autoencoder, networks, orders, other)
    assert networks.taken
    torch.testing.assert_close(z, expected, atol=2e-3, rtol=2e-3)


def test_the_behavioural_loss_shows_images_of_the_members_task(world):
    tiny = world()
    data = tiny.data
    loss = BehaviouralLoss(tiny.runner, data.probes, data.originals, tiny.params.autoencoder)
    tasks, index = torch.tensor([3, 0]), torch.tensor([[0, 59, 20], [19, 41, 7]])
    images, _ = tiny.dataset.task_batch(tasks, "train")
    expected = images[torch.arange(2)[:, None], index]
    assert torch.equal(loss._images(tasks, index), expected)
    assert not torch.equal(loss._images(tasks.flip(0), index), expected)


@pytest.mark.parametrize("name", ["tokens", "reverse_pca"])
def test_scale_and_centre_do_not_depend_on_the_block(name, world, monkeypatch):
    tiny = world()
    autoencoder = fit(tiny, tiny.data, name)
    fitted = {}
    for block in (1000, BLOCK, 1):
        monkeypatch.setattr("weightspace.autoencoders._feature_pca.BLOCK", block)
        autoencoder.fit_scale(tiny.data.weights["train"])
        fitted[block] = autoencoder.scale.clone(), autoencoder.centre.clone()
    for block in (BLOCK, 1):
        torch.testing.assert_close(fitted[block], fitted[1000], rtol=1e-6, atol=1e-7)
    autoencoder.fit_scale(take(tiny.data.weights["train"], slice(BLOCK)))  # the control: fewer
    assert not torch.allclose(autoencoder.scale, fitted[1000][0])


def test_the_file_of_an_autoencoder_refers_to_its_pca(world, tmp_path):
    """It holds no basis; without the right one beside it, it is refused in one line."""
    tiny = world()
    file, beside = tmp_path / "autoencoder" / "a.safetensors", tmp_path / PCA_FILE
    autoencoder = fit(tiny, tiny.data, "mlp")
    autoencoder.save(file)
    tensors, meta = load_tensors(file, "autoencoder")
    assert not [name for name in tensors if name.startswith("pca.")]
    assert meta["pca"]["sha256"] == tiny.pca.sha256
    with pytest.raises(WeightspaceError, match="file is missing") as missing:
        load_autoencoder(file)
    assert str(beside) in str(missing.value)
    tiny.pca.save(beside)
    assert load_autoencoder(file).pca.sha256 == tiny.pca.sha256
    settings = tiny.params.pca.model_copy(update={"components": 3})
    fit_pca(tiny.zoo.spec, tiny.data.weights["train"], settings).save(beside)
    with pytest.raises(WeightspaceError, match="fitted with another PCA") as other:
        load_autoencoder(file)
    assert str(file) in str(other.value)
    assert "\n" not in str(other.value)
    fit(tiny, tiny.data, "tokens").save(file)
    load_autoencoder(file)  # reads no PCA


@pytest.mark.parametrize("name", ["functional", "mlp"])
def test_the_best_state_of_a_fit_holds_no_basis(name, world, monkeypatch):
    tiny, sizes = world(), []
    copied = loop._copied

    def note(module, room=None):
        out = copied(module, room)
        sizes.append(sum(x.numel() for x in out.values()))
        return out

    monkeypatch.setattr(loop, "_copied", note)
    autoencoder = fit(tiny, tiny.data, name)
    trained = sum(p.numel() for p in autoencoder.parameters())
    buffers = sum(x.numel() for n, x in autoencoder.named_buffers() if not n.startswith("pca."))
    assert set(sizes) == {trained + buffers}
    assert sum(x.numel() for x in autoencoder.pca.tensors.values()) > 0
