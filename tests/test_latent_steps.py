"""Losses on outputs, and gradient steps on latents through them."""

import pytest
import torch

from cases import FILE, build, networks
from weightspace.autoencoders.base import Autoencoder
from weightspace.learning.behavioural import behaviour
from weightspace.learning.result_matching import result_error, soft_result
from weightspace.nets import base
from weightspace.nets.base import build_net
from weightspace.params import GuidanceSettings, validate_params
from weightspace.sampling.latent_steps import BETAS, BLOCK, Adam, LatentSteps
from weightspace.weights import spec
from weightspace.weights.spec import count
from weightspace.zoo.result import Result

ACCURACY, LOSS = Result("accuracy"), Result("loss")
SETTINGS = GuidanceSettings(sampling_steps=60, encoding_steps=60, rate=0.02, images_per_class=40)


class Plain(Autoencoder):
    """Latent = weights."""

    name = "plain"

    def __init__(self, spec):
        super().__init__()
        self.spec, self.latent = spec, spec.numel

    def _encode(self, weights):
        return self.spec.flatten(weights)

    def decode(self, z):
        return self.spec.unflatten(z)

    def meta(self):
        return {}


class Sphere(Plain):
    """Latent = weights of fixed length."""

    def nearest_valid(self, z):
        return 5 * torch.nn.functional.normalize(z, dim=1)


class Counted(Plain):
    """Notes how many networks are run at once."""

    def __init__(self, spec):
        super().__init__(spec)
        self.sizes = []

    def outputs_of(self, net, weights, images):
        self.sizes.append(count(weights))
        return super().outputs_of(net, weights, images)


@pytest.fixture
def net():
    return build("cnn")


@pytest.fixture
def task(rng):
    """Images (c, n, C, H, W) of three classes that a network can tell apart."""
    centres = torch.randn(3, 1, 1, 8, 8, generator=rng)
    return centres + 0.5 * torch.randn(3, 40, 1, 8, 8, generator=rng)


def guide(autoencoder, net, z, task, target, result=ACCURACY, settings=SETTINGS, seed=0):
    """Guided latents for one task, which has all classes."""
    classes = torch.arange(len(task)).expand(len(z), -1)
    rng = torch.Generator().manual_seed(seed)
    return LatentSteps(autoencoder, net, settings).guide(z, task, classes, target, result, rng)


def test_soft_result_is_accuracy_and_loss_per_class(rng):
    outputs = torch.randn(5, 12, 3, generator=rng)
    labels = torch.arange(3).repeat_interleave(4)
    hard, soft = soft_result(outputs, ACCURACY)
    right = (outputs.argmax(-1) == labels).float().reshape(5, 3, 4).mean(2)
    assert torch.equal(hard, right)
    assert (soft - hard).abs().max() < 0.3
    loss, _ = soft_result(outputs, LOSS)
    entropy = torch.nn.functional.cross_entropy
    expected = torch.stack([entropy(o, labels) for o in outputs])
    torch.testing.assert_close(loss.mean(1), expected)


def test_result_error_has_the_hard_value_and_a_gradient(rng):
    outputs = torch.randn(5, 12, 3, generator=rng).requires_grad_()
    target = torch.linspace(0, 1, 5)
    error, _ = result_error(outputs, target, ACCURACY)
    labels = torch.arange(3).repeat_interleave(4)
    accuracy = (outputs.argmax(-1) == labels).float().mean(1)
    torch.testing.assert_close(error, (accuracy - target).square())
    (slope,) = torch.autograd.grad(error.sum(), outputs)
    right = slope[:, torch.arange(12), labels].sum(1)  # raising the right output raises accuracy
    gap = accuracy - target
    assert (torch.sign(right) == torch.sign(gap)).all()


def test_behaviour_of_a_copy_has_no_error(rng):
    y = torch.randn(4, 20, 3, generator=rng)
    spread = y.std(1, keepdim=True)
    same = behaviour(y, y, spread, 15)
    other = behaviour(y.roll(1, 0), y, spread, 15)
    for name, value in same.items():
        assert float(value) == pytest.approx(0, abs=1e-6), name
        assert float(other[name]) > 0.05, name


def test_guided_networks_reach_the_request(net, task):
    autoencoder, target = Plain(net.spec), torch.tensor([0.4, 0.6, 0.8, 1.0] * 3)
    z = autoencoder.encode(networks(net, 12))

    def gap(latents):
        outputs = net.outputs(autoencoder.decode(latents), task.flatten(0, 1))
        return (soft_result(outputs, ACCURACY)[0].mean(1) - target).abs().mean()

    moved = guide(autoencoder, net, z, task, target)
    assert gap(moved) < 0.5 * gap(z)
    assert not moved.requires_grad


def test_guidance_towards_a_loss(net, task):
    autoencoder, target = Plain(net.spec), torch.full((6,), 0.5)
    z = autoencoder.encode(networks(net, 6))
    moved = guide(autoencoder, net, z, task, target, LOSS)

    def loss(latents):
        outputs = net.outputs(autoencoder.decode(latents), task.flatten(0, 1))
        return soft_result(outputs, LOSS)[0].mean(1)

    assert (loss(moved) - 0.5).abs().max() < 0.15 < (loss(z) - 0.5).abs().min()


def test_imitation_recovers_the_outputs_of_the_original(net, task, rng):
    autoencoder, weights = Plain(net.spec), networks(net, 5)
    images = task.flatten(0, 1).expand(5, -1, -1, -1, -1)
    outputs = net.outputs(weights, images)
    z = autoencoder.encode(weights)
    start = z + 0.3 * torch.randn(z.shape, generator=rng)
    moved = LatentSteps(autoencoder, net, SETTINGS).refine(
        start, images, outputs, torch.Generator()
    )

    def error(latents):
        return (net.outputs(autoencoder.decode(latents), images) - outputs).square().mean()

    assert error(moved) < 0.3 * error(start)


def test_a_latent_moves_as_if_it_were_alone(net, task):
    """Otherwise a draw would depend on how many others were asked for."""
    autoencoder, target = Plain(net.spec), torch.tensor([0.4, 0.9, 0.6])
    z = autoencoder.encode(networks(net, 3))

    def moved(rows):
        return guide(autoencoder, net, z[rows], task, target[rows], seed=1)

    torch.testing.assert_close(moved(slice(0, 3))[1:2], moved(slice(1, 2)), atol=1e-3, rtol=1e-3)


def test_latents_stay_valid_and_no_steps_change_nothing(net, task):
    autoencoder = Sphere(net.spec)
    z = autoencoder.nearest_valid(autoencoder.encode(networks(net, 3)))
    target, off = torch.ones(3), SETTINGS.model_copy(update={"sampling_steps": 0})
    moved = guide(autoencoder, net, z, task, target)
    assert not torch.equal(moved, z)
    torch.testing.assert_close(moved.norm(dim=1), torch.full((3,), 5.0))
    unmoved = guide(autoencoder, net, z, task, target, settings=off)
    assert torch.equal(unmoved, z)


@pytest.mark.parametrize("per_class", [2, 40])
def test_the_more_images_a_step_has_the_fewer_latents_it_moves(per_class, net, task, monkeypatch):
    """A gradient holds what every image is between the layers of every network."""
    numbers = net.spec.numel + 3 * 40 * net.activations
    monkeypatch.setattr(spec, "BLOCK_NUMBERS", 4 * numbers)
    autoencoder, few = Counted(net.spec), {"sampling_steps": 1, "images_per_class": per_class}
    z, target = autoencoder.encode(networks(net, 10)), torch.full((10,), 0.5)
    guide(autoencoder, net, z, task, target, settings=SETTINGS.model_copy(update=few))
    assert sorted(autoencoder.sizes) == ([2, 4, 4] if per_class == 40 else [10])


@pytest.mark.parametrize("fewest", [1, base.FEWEST])
def test_several_tasks_at_once_are_those_one_after_the_other(fewest, net, task, rng, monkeypatch):
    """They see the images that they would see alone, however few networks run at once."""
    monkeypatch.setattr(base, "CACHED", 1)
    monkeypatch.setattr(base, "FEWEST", fewest)
    torch.set_num_threads(2)
    decoded, decode = [], Plain.decode
    monkeypatch.setattr(Plain, "decode", lambda self, z: decoded.append(len(z)) or decode(self, z))
    classes = torch.tensor([[0, 1, 2]] * 3 + [[1, 2, 0]] + [[2, 0, 1]] * 2)
    autoencoder, target = Plain(net.spec), torch.tensor([0.4, 0.6, 0.8, 0.5, 0.9, 0.7])
    z = autoencoder.encode(networks(net, 6))
    few = SETTINGS.model_copy(update={"sampling_steps": 3, "images_per_class": 5})
    steps = LatentSteps(autoencoder, net, few)

    def moved(order, groups):
        generator, out = torch.Generator().manual_seed(1), torch.empty_like(z)
        for group in groups:
            rows = torch.tensor(order)[group]
            out[rows] = steps.guide(z[rows], task, classes[rows], target[rows], ACCURACY, generator)
        return out

    order = [0, 1, 2, 3, 4, 5]
    together = moved(order, [slice(0, 6)])
    assert decoded == [6] * 3
    one_by_one = moved(order, [slice(0, 3), slice(3, 4), slice(4, 6)])
    torch.testing.assert_close(together, one_by_one, atol=1e-4, rtol=1e-4)
    others_first = moved([3, 4, 5, 0, 1, 2], [slice(0, 6)])
    assert not torch.allclose(together, others_first, atol=1e-2)  # the control: other images


def test_all_of_a_block_are_moved_at_once_with_the_settings_of_the_digits():
    params = validate_params(FILE, "params.yaml")
    net = build_net("cnn", (1, 8, 8), 3, params.nets.of("cnn"))
    steps = LatentSteps(Plain(net.spec), net, params.guidance)
    images = params.guidance.images_per_step(params.dataset.samples_per_class.train, 3)
    assert steps.at_once(images) == BLOCK > steps.at_once(100 * images)


def test_descent_is_adam_with_a_falling_rate():
    """The first step of Adam is the rate against the sign of the gradient, the last is shorter."""
    autoencoder = Plain(build("mlp").spec)
    z = torch.tensor([[3.0, -3.0]])
    steps = LatentSteps(autoencoder, None, SETTINGS.model_copy(update={"rate": 0.1}))
    one = steps.descend(z, lambda x, _: x.square().sum(), 1)
    torch.testing.assert_close(one, torch.tensor([[2.9, -2.9]]))
    two = steps.descend(z, lambda x, _: x.square().sum(), 2)
    assert 2.8 < float(two[0, 0]) < 2.87


def test_adam_gives_the_bits_of_torch():
    rng = torch.Generator().manual_seed(1)
    start, slopes = torch.randn(7, 5, generator=rng), torch.randn(9, 7, 5, generator=rng)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    adam, other = Adam(ours), torch.optim.Adam([theirs], betas=BETAS)
    for step, slope in enumerate(slopes):
        other.param_groups[0]["lr"] = rate = 0.03 * (1 - step / len(slopes))
        theirs.grad = slope
        other.step()
        adam.step(slope, rate)
        assert torch.equal(ours, theirs)
    assert not torch.equal(ours, start)  # the control: they moved
