"""Dataset encoders: one contract for all, and what each embedding means."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from cases import section
from weightspace.dataset_encoders import DATASET_ENCODERS, deepsets
from weightspace.dataset_encoders import distillation as distil
from weightspace.errors import WeightspaceError
from weightspace.registry import resolve
from weightspace.shared_encoders import SHARED_ENCODERS
from weightspace.shared_encoders.base import load_shared_encoder

SETTINGS = section(
    "dataset_encoders",
    distillation={"images": 2, "networks": 8, "batch": 4, "steps": 15, "width": 4},
    deepsets={"width": 8},
)


class TinyClip:
    """A model with the calls of open_clip's: its features are the mean of each colour and a one."""

    visual = SimpleNamespace(output_dim=4)

    def to(self, device):
        """Itself: it has no values."""
        return self

    def eval(self):
        return self

    def requires_grad_(self, _):
        return self

    def encode_image(self, x):
        assert x.shape[1:] == (3, 16, 16)
        return torch.cat([x.mean((2, 3)), torch.ones(len(x), 1)], 1)


@pytest.fixture
def open_clip(monkeypatch):
    """The package `open_clip`, tiny."""
    reads = {"size": 16, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    package = SimpleNamespace(
        create_model=lambda name, pretrained: TinyClip(),
        get_model_preprocess_cfg=lambda model: reads,
    )
    monkeypatch.setitem(sys.modules, "open_clip", package)
    return package


def made(name, shape=(1, 8, 8), seed=0):
    """An encoder of some name."""
    rng = torch.Generator().manual_seed(seed)
    return resolve(DATASET_ENCODERS, name, "shared_encoder.dataset_encoder").build(
        shape, SETTINGS.of(name), rng
    )


def pictures(shape=(1, 8, 8), classes=4, count=9, seed=0):
    """Images of classes: a pattern for each, and noise."""
    rng = torch.Generator().manual_seed(seed)
    patterns = torch.randn(classes, 1, *shape, generator=torch.Generator().manual_seed(7))
    return patterns + 0.5 * torch.randn(classes, count, *shape, generator=rng)


@pytest.fixture(params=sorted(DATASET_ENCODERS))
def encoder(request, open_clip):
    """Each encoder, prepared."""
    found = made(request.param)
    found.prepare(pictures())
    return found


@torch.no_grad()
def test_embedding_ignores_the_order_of_images_and_the_other_classes(encoder):
    images = pictures(seed=1)
    e = encoder(images)
    assert e.shape == (4, encoder.features)
    order = torch.randperm(images.shape[1], generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(encoder(images[:, order]), e, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoder(images[[2, 0]]), e[[2, 0]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoder(images), e, atol=0, rtol=0)
    assert (e[0] - e[1]).norm() > 0.05  # the control


@torch.no_grad()
@pytest.mark.parametrize("name", ["distillation", "statistics"])
def test_embedding_knows_a_class_by_other_images_of_it(name):
    encoder = made(name)
    encoder.prepare(pictures(count=40))
    a, b = encoder(pictures(count=40, seed=1)), encoder(pictures(count=40, seed=2))
    assert torch.cdist(a, b).argmin(1).tolist() == [0, 1, 2, 3]


@torch.no_grad()
@pytest.mark.parametrize("name", ["distillation", "clip"])
def test_saved_and_loaded_it_embeds_new_images_alike(name, open_clip):
    encoder, again = made(name), made(name, seed=1)
    encoder.prepare(pictures())
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again(pictures(seed=3)), encoder(pictures(seed=3)), rtol=0, atol=0)
    assert all("model" not in key for key in encoder.state_dict())


def mismatch(images, shown, seed=11, width=8):
    """Mean mismatch of the gradients of classes' images on networks that no step has seen."""
    nets = distil.random_networks(8, images.shape[2], width, torch.Generator().manual_seed(seed))
    found = [
        distil.distance(distil.gradients(nets, x), distil.gradients(nets, y)).mean()
        for x, y in zip(shown, images, strict=True)
    ]
    return float(torch.stack(found).mean())


def learned(images, settings, **changes):
    """Distilled images of classes, with settings that differ from some."""
    encoder = made("distillation")
    encoder.settings = settings.model_copy(update=changes)
    return torch.stack([encoder.distil(own) for own in images])


def test_distilled_images_match_the_gradients_of_new_networks():
    """Far better than what they start from, as many real images, and images of another class."""
    images = pictures(count=40)
    settings = SETTINGS.distillation.model_copy(
        update={"networks": 16, "batch": 4, "steps": 40, "width": 8}
    )
    found = learned(images, settings)
    start = learned(images, settings, steps=0)
    own = mismatch(images, found)
    assert own < 0.7 * mismatch(images, start)
    assert own < 0.7 * mismatch(images, images[:, : settings.images])
    assert own < 0.5 * mismatch(images, found.roll(1, 0))
    assert mismatch(images, images) == pytest.approx(0, abs=1e-5)
    frozen = learned(images, settings, lr=1e-9)  # the control: steps that do not move
    assert mismatch(images, frozen) == pytest.approx(mismatch(images, start), rel=1e-3)


def test_distilled_images_are_the_same_to_the_bit_in_any_order_and_company():
    images = pictures(count=40)
    found = learned(images, SETTINGS.distillation)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    assert torch.equal(learned(images[:, order], SETTINGS.distillation), found)
    assert torch.equal(learned(images[[2, 0]], SETTINGS.distillation), found[[2, 0]])
    assert not torch.equal(learned(images[:, 1:], SETTINGS.distillation), found)  # the control


def test_gradients_of_many_networks_are_those_of_each_convolution_network():
    """Against one network written with convolutions, in float64."""
    rng, images = torch.Generator().manual_seed(0), pictures(count=5)[0].double()
    nets = [w.double() for w in distil.random_networks(3, 1, 4, rng)]
    first, second, head = (w[1].clone().requires_grad_() for w in nets)
    x = images
    for weights in (first, second):
        kernel = weights.T.unflatten(1, (x.shape[1], 3, 3))
        x = F.gelu(F.instance_norm(F.conv2d(x, kernel, padding=1), eps=1e-3))
        x = F.avg_pool2d(x, 2) if weights is first else x
    loss = F.cross_entropy(x.mean((2, 3)) @ head, torch.zeros(5, dtype=torch.long))
    for each in (distil.gradients, distil.gradients_one_by_one):
        wanted = torch.autograd.grad(loss, (first, second, head), retain_graph=True)
        for got, want in zip(each(nets, images), wanted, strict=True):
            torch.testing.assert_close(got[1], want)
            assert not torch.allclose(got[0], want)  # the control: another network


def test_dear_embeddings_are_made_once(monkeypatch):
    encoder, images, calls = made("distillation"), pictures(), []
    real = type(encoder).distil
    monkeypatch.setattr(type(encoder), "distil", lambda s, x: calls.append(1) or real(s, x))
    first = encoder(images)
    assert torch.equal(encoder(images), first)
    assert len(calls) == 4
    encoder(images.clone())  # other images, as far as anybody knows
    assert len(calls) == 8


@pytest.mark.parametrize("model", sorted(SHARED_ENCODERS))
def test_a_shared_encoder_is_fitted_on_distilled_images(model, world, tmp_path):
    tiny = world()
    autoencoder, _ = resolve({"mlp": "weightspace.autoencoders.mlp"}, "mlp", "autoencoder").fit(
        tiny.data, tiny.params.autoencoder, tiny.params.autoencoders.mlp, 3
    )
    settings = tiny.params.shared_encoder.model_copy(
        update={"model": model, "dataset_encoder": "distillation", "epochs": 1}
    )
    data = tiny.pairs(autoencoder, encoder=SETTINGS.distillation)
    fitted, _ = resolve(SHARED_ENCODERS, model, "model").fit(
        data, settings, tiny.params.shared_encoders.of(model), 3
    )
    fitted.save(tmp_path / "a.safetensors")
    again, tasks = load_shared_encoder(tmp_path / "a.safetensors"), torch.arange(3)
    assert again.sizes.dataset_encoder == SETTINGS.distillation
    images, classes = tiny.dataset.images["train"], tiny.dataset.classes[tasks]
    assert torch.equal(again.embed(images, classes), fitted.embed(images, classes))


def test_clip_reads_images_in_its_own_scale(open_clip):
    encoder = made("clip", (1, 8, 8))
    images = torch.linspace(-2, 3, 64).reshape(1, 1, 1, 8, 8).repeat(2, 3, 1, 1, 1)
    encoder.prepare(images)
    x = encoder.pixels(images[0])
    assert x.shape == (3, 3, 16, 16)
    assert float(x.min()) == pytest.approx(-2, abs=0.1)  # (0 - 0.5) / 0.25
    assert float(x.max()) == pytest.approx(2, abs=0.1)


def test_without_its_package_clip_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(WeightspaceError, match=r"open_clip_torch.*weightspace\[clip\]") as error:
        made("clip")
    assert "\n" not in str(error.value)


def test_a_package_that_breaks_when_imported_is_one_line(monkeypatch):
    """As open_clip does beside a torchvision that was built for another torch."""

    def broken(name):
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    monkeypatch.setattr("weightspace.dataset_encoders.clip.import_module", broken)
    with pytest.raises(WeightspaceError, match=r"torchvision::nms does not") as error:
        made("clip")
    assert "\n" not in str(error.value)


def test_weights_without_a_name_are_refused():
    """open_clip would give random ones."""
    with pytest.raises(WeightspaceError, match="at least 1 character"):
        section("dataset_encoders", clip={"pretrained": ""})


def test_weights_that_cannot_be_had_are_one_line(open_clip, monkeypatch):
    def offline(name, pretrained):
        raise OSError("no connection\nto anywhere")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(WeightspaceError, match=r"cannot be had.*no connection to") as error:
        made("clip")
    assert "\n" not in str(error.value)


def gradients_of(encoder, images):
    """Embeddings and the gradients of their squares."""
    e = encoder(images)
    return e, torch.autograd.grad(e.square().sum(), list(encoder.parameters()))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 28)])
def test_a_learned_set_encoder_takes_images_block_by_block(shape, monkeypatch):
    """With the embeddings and gradients of all at once, and never more than a block in memory."""
    encoder, images = made("deepsets", shape), pictures(shape)
    expected, whole = gradients_of(encoder, images)
    sizes = []
    encoder.of_image.register_forward_hook(lambda _, x, __: sizes.append(len(x[0])))
    gradients_of(encoder, images)
    assert max(sizes) == 36  # the control: 4 classes of 9 images at once
    sizes.clear()
    monkeypatch.setattr(deepsets, "BLOCK", 10)
    e, parts = gradients_of(encoder, images)
    torch.testing.assert_close(e, expected)
    torch.testing.assert_close(parts, whole)
    assert max(sizes) == 10


def fitted_accuracy(shape, draw):
    """Accuracy on new images of classes' nearest embeddings, after some steps on others."""
    encoder, rng = made("deepsets", shape), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    head = torch.nn.Linear(encoder.features, 4)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(head(encoder(draw(rng))), torch.arange(4)).backward()
        optimizer.step()
    with torch.no_grad():
        right = [head(encoder(draw(rng))).argmax(1) == torch.arange(4) for _ in range(20)]
    return float(torch.stack(right).float().mean())


def bars(rng, count=12, side=24):
    """Classes of bars in four directions at random positions: every pixel has the same statistics."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase = torch.rand(4, count, 1, 1, 1, generator=rng) * side
    axes = torch.stack([x, y, x + y, x - y])[:, None, None].float()
    return torch.sin((axes + phase) * (2 * torch.pi * 3 / side))


def test_a_learned_set_encoder_knows_what_pixel_statistics_are_blind_to():
    blind = made("statistics", (1, 24, 24))
    many = bars(torch.Generator().manual_seed(1), count=4000)
    raw = blind.describe(many)
    assert float(torch.cdist(raw, raw).max()) < 0.06 * float(raw.norm(dim=1).min())  # the control
    assert fitted_accuracy((1, 24, 24), bars) > 0.9
