"""The shared encoder and sampling from it."""

from dataclasses import replace

import pytest
import torch

from cases import section
from weightspace.artifacts import load_tensors, save_tensors
from weightspace.autoencoders import AUTOENCODERS
from weightspace.autoencoders.base import load_autoencoder
from weightspace.errors import WeightspaceError
from weightspace.evaluate.metrics import recall_at
from weightspace.learning.mlp import ResidualMlp
from weightspace.learning.result_matching import soft_result
from weightspace.registry import resolve
from weightspace.sampling.sampler import Condition, Sampler
from weightspace.shared_encoders import SHARED_ENCODERS
from weightspace.shared_encoders._critic import Critic
from weightspace.shared_encoders.base import Sizes, load_shared_encoder
from weightspace.shared_encoders.flow import Draws, build
from weightspace.weights.pca import TensorPca
from weightspace.weights.spec import output_orders, reorder_outputs
from weightspace.zoo.result import Result


@pytest.fixture(scope="module")
def autoencoder(world):
    """Autoencoder of the tiny zoo."""
    tiny = world()
    return resolve(AUTOENCODERS, "mlp", "autoencoder").fit(
        tiny.data, tiny.params.autoencoder, tiny.params.autoencoders.mlp, 3
    )[0]


@pytest.fixture(scope="module")
def data(world, autoencoder):
    """All that a shared encoder is fitted on."""
    tiny = world()
    return tiny.pairs(autoencoder)


@pytest.fixture(scope="module", params=sorted(SHARED_ENCODERS))
def fitted(request, world, data):
    """Shared encoder fitted on the tiny zoo, and its history; one per member of the family."""
    params = world().params
    settings = params.shared_encoder.model_copy(update={"model": request.param})
    options = params.shared_encoders.of(request.param)
    return resolve(SHARED_ENCODERS, request.param, "model").fit(data, settings, options, 3)


@pytest.fixture(scope="module")
def point(world, data):
    """The original study's model, fitted."""
    settings = world().params.shared_encoder.model_copy(update={"model": "point"})
    options = world().params.shared_encoders.point
    return resolve(SHARED_ENCODERS, "point", "model").fit(data, settings, options, 3)


def embed(model, dataset, tasks):
    """Embeddings of tasks of a dataset."""
    with torch.no_grad():
        return model.embed(dataset.images["train"], dataset.classes[tasks])


def conditions_of(model, dataset):
    """Embeddings of some tasks, and results."""
    tasks = torch.tensor([0, 7, 20, 41])
    return embed(model, dataset, tasks), torch.tensor([0.2, 0.5, 0.7, 0.9])


def draw(model, e, result, *masks):
    """One draw for each condition, always from the same noise."""
    with torch.no_grad():
        rng = torch.Generator().manual_seed(0)
        return model.sample(model.condition(e, result, *masks), 1, rng)[:, 0]


def test_save_and_load_are_equal_to_the_bit(fitted, world, tmp_path):
    model = fitted[0]
    model.save(tmp_path / "a.safetensors")
    again = load_shared_encoder(tmp_path / "a.safetensors")
    conditions = conditions_of(model, world().dataset)
    assert torch.equal(draw(again, *conditions), draw(model, *conditions))
    assert again.settings == model.settings
    assert again.options == model.options
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_two_fits_give_identical_bytes(fitted, data, tmp_path):
    torch.rand(5)
    settings, options = fitted[0].settings, fitted[0].options
    fit = resolve(SHARED_ENCODERS, settings.model, "model").fit
    model, history = fit(data, settings, options, 3)
    model.save(tmp_path / "a.safetensors")
    fitted[0].save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert history.equals(fitted[1])


def test_a_fit_that_diverges_names_the_key_to_change(fitted, data, world):
    settings = fitted[0].settings
    broken = replace(data, val=replace(data.val, z=data.val.z * torch.nan))
    options = world().params.shared_encoders.of(settings.model)
    with pytest.raises(WeightspaceError, match=r"^shared_encoder, epoch 1: .*shared_encoder\.lr"):
        resolve(SHARED_ENCODERS, settings.model, "model").fit(broken, settings, options, 3)


def test_range_comes_from_train_members(fitted, data):
    model, train = fitted[0], data.train
    low, high = train.result.quantile(torch.tensor([0.01, 0.99])).tolist()
    assert model.trained_range.tolist() == pytest.approx([low, high])
    e = torch.zeros(2, model.features)
    features = model.condition(e, model.trained_range)[:, model.features :]
    assert features.shape == (2, 1 + 2 * model.settings.fourier)
    assert features[:, 0].tolist() == pytest.approx([-1, 1], abs=1e-6)


def test_absent_conditions_are_learned(fitted):
    model = fitted[0]
    assert model.no_dataset.abs().max() > 0
    assert model.no_result.abs().max() > 0


def test_result_is_the_one_on_val_images(world, data):
    members = world().data.members["train"]
    assert data.train.result.tolist() == pytest.approx(members["val_accuracy"].tolist())
    assert data.train.result.tolist() != pytest.approx(members["train_accuracy"].tolist())
    assert Result("loss").of_members(members).tolist() == members["val_loss"].tolist()


def test_reordered_outputs_are_those_of_the_reordered_task(world):
    tiny = world()
    weights = tiny.data.weights["val"]
    images = tiny.dataset.images["val"][0]
    before = tiny.net.outputs(weights, images)
    for order in output_orders(3):
        after = tiny.net.outputs(reorder_outputs(tiny.net.spec, weights, order), images)
        torch.testing.assert_close(after, before[..., order])


def test_latents_of_all_orders_are_encoded(world, autoencoder, data):
    weights = world().data.weights["val"]
    for place, order in enumerate(output_orders(3)):
        with torch.no_grad():
            z = autoencoder.encode(reorder_outputs(autoencoder.spec, weights, order))
        torch.testing.assert_close(data.val.z[:, place], z)
    assert not torch.equal(data.val.z[:, 0], data.val.z[:, 1])


def test_a_withheld_condition_does_not_matter(fitted, world):
    model = fitted[0]
    e, result = conditions_of(model, world().dataset)
    other, low = e.flip(0), result.flip(0)
    off, on = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    assert torch.equal(draw(model, e, result, off, on), draw(model, other, result, off, on))
    assert not torch.equal(draw(model, e, result, off, on), draw(model, e, low, off, on))
    assert torch.equal(draw(model, e, result, on, off), draw(model, e, low, on, off))
    assert not torch.equal(draw(model, e, result, on, off), draw(model, other, result, on, off))
    assert torch.equal(draw(model, e, result), draw(model, e, result, on, on))


def test_withholding_is_row_by_row(fitted, world):
    model = fitted[0]
    e, result = conditions_of(model, world().dataset)
    mask = torch.tensor([True, False, True, False])
    off, on = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    mixed = draw(model, e, result, mask, ~mask)
    torch.testing.assert_close(mixed[~mask], draw(model, e, result, off, on)[~mask])
    torch.testing.assert_close(mixed[mask], draw(model, e, result, on, off)[mask])


def test_projections_are_unit_vectors(fitted, world, data):
    model = fitted[0]
    with torch.no_grad():
        a = model.project(model.condition(*conditions_of(model, world().dataset)))
        b = model.project_latent(data.val.z[:4, 0])
    for unit in (a, b):
        torch.testing.assert_close(unit.norm(dim=1), torch.ones(4))
    assert a.shape == b.shape


def test_residual_is_the_spread_around_the_prediction(world, point, data):
    model, train = point[0], data.train
    with torch.no_grad():
        e = embed(model, world().dataset, train.tasks)
        predicted = model.predict(model.condition(e, train.result))
    torch.testing.assert_close(model.residual, (train.z[:, 0] - predicted).std(0))
    assert torch.equal(model.centre, train.z[:, 0].mean(0))


def test_direction_is_a_unit_vector_and_length_is_that_of_the_latent(point, world):
    model = point[0]
    with torch.no_grad():
        condition = model.condition(*conditions_of(model, world().dataset))
        direction, log_length = model(condition)
        z = model.predict(condition)
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(4))
    torch.testing.assert_close((z - model.centre).norm(dim=1).log(), log_length)


def test_snapshots_of_one_run_are_no_negatives(world, data):
    settings = world().params.shared_encoder.model_copy(update={"epochs": 1, "model": "point"})
    point = resolve(SHARED_ENCODERS, "point", "model")
    one = {s: replace(p, runs=torch.zeros_like(p.runs)) for s, p in _splits(data).items()}
    found = {}
    for name, pairs in (("one", one), ("own", _splits(data))):
        history = point.fit(
            replace(data, **pairs), settings, world().params.shared_encoders.point, 3
        )[1]
        found[name] = history["train_nt_xent"][0], history["val_nt_xent"][0]
    assert found["one"] == pytest.approx((0, 0), abs=1e-6)
    assert min(found["own"]) > 0.5


def _splits(data):
    return {"train": data.train, "val": data.val}


def small(**changes):
    """Settings of a small shared encoder that is fitted fast."""
    sizes = {"width": 64, "depth": 1, "fourier": 2, "batch_size": 64, "lr": 3e-3, "dropout": 0}
    return section("shared_encoder", **sizes, **changes)


def test_learns_what_can_be_learned(world, data):
    """A latent that is a function of task and result is found by the contrastive loss."""
    tiny = world()
    rng = torch.Generator().manual_seed(1)
    settings = small(epochs=40, temperature=0.2)
    code = torch.randn(10, 3, 8, generator=rng)  # each class in each place adds a direction

    def with_latents(p):
        classes = tiny.dataset.classes[p.tasks]
        z = sum(code[classes[:, i], i] for i in range(3)) + 3 * p.result[:, None]
        return replace(p, z=z[:, None])

    made = replace(data, **{s: with_latents(p) for s, p in _splits(data).items()})
    model, history = resolve(SHARED_ENCODERS, "point", "model").fit(
        made, settings, tiny.params.shared_encoders.point, 0
    )
    assert history["val_nt_xent"].min() < history["val_nt_xent"][0] - 0.3
    assert history["val_length"].iloc[-1] < 0.5
    train = made.train
    with torch.no_grad():
        e = embed(model, tiny.dataset, train.tasks)
        asked = model.project(model.condition(e, train.result))
        similarity = asked @ model.project_latent(train.z[:, 0]).T
    recall, chance = recall_at(similarity, train.tasks, train.tasks, 1)
    assert recall > 0.5 > 5 * chance
    wrong, _ = recall_at(similarity, train.tasks.roll(9), train.tasks, 1)
    assert wrong < 0.3


def test_draws_of_the_flow_are_distributed_as_latents_are(world, data):
    """Latents of two kinds, more of one kind the higher R is: draws are of both, in that proportion."""
    tiny, rng = world(), torch.Generator().manual_seed(1)
    options = tiny.params.shared_encoders.flow.model_copy(
        update={"critic_steps": 0, "steps": 16, "contrast_weight": 0.0}
    )
    settings = small(epochs=150)
    kinds = torch.tensor(
        [[1.0, 1, 1, -1, -1, -1], [-1, 1, -1, 1, -1, 1]]
    )  # valid: layer norm keeps them

    def with_latents(p):
        result = torch.rand(len(p.tasks), generator=rng)
        first = torch.rand(len(result), 6, generator=rng) < result[:, None]
        return replace(p, z=kinds[(~first).long()], result=result)

    made = replace(data, **{s: with_latents(p) for s, p in _splits(data).items()})
    model, _ = resolve(SHARED_ENCODERS, "flow", "model").fit(made, settings, options, 0)
    shares = {}
    for asked in (0.15, 0.85):
        with torch.no_grad():
            e = embed(model, tiny.dataset, made.val.tasks[:50])
            z = model.sample(model.condition(e, torch.full((len(e),), asked)), 20, rng).flatten(
                0, 1
            )
        near = torch.cdist(z, kinds).min(1)
        assert near.values.median() < 0.7  # kinds are 3.5 apart
        shares[asked] = float((near.indices == 0).float().mean())
    assert 0.05 < shares[0.15] < shares[0.85] - 0.2 < 0.75, (
        shares
    )  # a draw that ignored R: no difference


def linear_critic(weight, error):
    """A critic of one class whose outputs are linear in the latent."""
    net = torch.nn.Linear(len(weight) + 1, 1, bias=False)
    net.weight.data = torch.tensor([[*weight, 0.0]])
    critic = Critic(net, Result("loss"))
    critic.error.fill_(error)
    return critic


def test_a_step_of_the_critic_ends_where_it_expects_the_target_but_never_goes_far():
    x, e = torch.tensor([[4.0, 3.0]]), torch.zeros(1, 1)
    sure = linear_critic([1.0, 0.5], error=1e-6)
    before = sure(x, e).mean(1)
    near = before + 0.1
    moved = x + sure.step(x, e, near, reach=1.0)
    torch.testing.assert_close(sure(moved, e).mean(1), near, atol=2e-3, rtol=0)
    far = sure.step(x, e, before + 50, reach=1.0)
    torch.testing.assert_close(far.norm(), torch.tensor(2**0.5))
    unsure = linear_critic([1.0, 0.5], error=5.0)
    assert unsure.step(x, e, near, reach=1.0).norm() < 0.1 * (moved - x).norm()


def test_what_the_critic_learns_from_is_what_drawn_networks_achieve(world, data, autoencoder):
    tiny = world()
    count = tiny.dataset.images["train"].shape[1]
    options = tiny.params.shared_encoders.flow.model_copy(update={"images_per_class": count})
    settings = tiny.params.shared_encoder
    model, _ = resolve(SHARED_ENCODERS, "flow", "model").fit(data, settings, options, 3)
    draws = Draws(model, data, "train", 9)
    draws.add(2, torch.Generator().manual_seed(0))
    draws.add(0, torch.Generator().manual_seed(1))
    assert len(draws) == 18
    val = Draws(model, data, "val", 40)
    val.add(0, torch.Generator().manual_seed(0))
    table = tiny.dataset.tasks
    for split, pool in (("train", draws), ("val", val)):
        known = {tuple(c) for c in table.loc[table["split"] == split, "classes"].map(list)}
        assert {tuple(c) for c in pool.classes.tolist()} <= known
    with torch.no_grad():
        weights = autoencoder.decode(model.latents(draws.x))
        images = tiny.dataset.images["train"][draws.classes].flatten(1, 2)
        outputs = tiny.net.outputs(weights, images)
    right = outputs.argmax(-1) == torch.arange(3).repeat_interleave(count)
    of_class = right.unflatten(1, (3, count)).float().mean(2)
    torch.testing.assert_close(draws.measured, of_class)
    assert not torch.allclose(draws.measured, of_class.roll(1, 1))  # the control: other classes


def test_slopes_say_where_the_result_of_a_drawn_network_rises(world, data, autoencoder):
    """A small movement along them raises the results on train images; one against them lowers these."""
    tiny = world()
    count = tiny.dataset.images["train"].shape[1]
    options = tiny.params.shared_encoders.flow.model_copy(update={"critic_images": count})
    model, _ = resolve(SHARED_ENCODERS, "flow", "model").fit(
        data, tiny.params.shared_encoder, options, 3
    )
    draws = Draws(model, data, "train", 60)
    draws.add(2, torch.Generator().manual_seed(0))
    assert draws.slopes.shape == draws.x.shape

    def soft(x):
        with torch.no_grad():
            images = tiny.dataset.images["train"][draws.classes].flatten(1, 2)
            outputs = autoencoder.outputs(tiny.net, model.latents(x), images)
        return soft_result(outputs, model.result)[1].mean(1)

    step = 0.02 * torch.nn.functional.normalize(draws.slopes, dim=1)
    rises = soft(draws.x + step) - soft(draws.x - step)
    assert rises.mean() > 0
    assert (rises > 0).float().mean() > 0.8
    across = soft(draws.x + step.roll(1, 0)) - soft(
        draws.x - step.roll(1, 0)
    )  # the control: others'
    assert rises.mean() > 2 * across.mean().abs()


def test_slopes_are_computed_where_a_loss_reads_them(world, data):
    """On val, and with a weight of 0, nothing runs backwards; the results are the same."""
    tiny, pools = world(), {}
    for weight in (1.0, 0.0):
        options = tiny.params.shared_encoders.flow.model_copy(update={"critic_slopes": weight})
        model = build(Sizes.of(data), tiny.params.shared_encoder, options, torch.Generator())
        for split in ("train", "val"):
            pools[split, weight] = Draws(model, data, split, 9)
            pools[split, weight].add(0, torch.Generator().manual_seed(0))
    assert pools["train", 1.0].slopes.any()
    for other in (("train", 0.0), ("val", 1.0)):
        assert not pools[other].slopes.any()
    for split in ("train", "val"):
        assert torch.equal(pools[split, 1.0].measured, pools[split, 0.0].measured)


def test_slopes_teach_a_critic_what_few_results_do_not():
    """Fitted on results and slopes of few draws it is nearer to new results than on results alone."""
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 12, generator=rng) / 12**0.5

    def truth(x):
        value = ((x @ a) ** 2 - (x @ b)).sigmoid()
        return value, torch.autograd.grad(value.sum(), x)[0]

    def fitted_error(weight):
        rng = torch.Generator().manual_seed(1)
        critic = Critic(ResidualMlp(12, 32, 1, 1, rng), Result("accuracy"))
        optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
        x = torch.randn(60, 12, generator=rng).requires_grad_()
        none = torch.zeros(60, 0)
        y, slopes = truth(x)
        for _ in range(200):
            loss = critic.losses(x, none, y.detach()[:, None], slopes, weight)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        new = torch.randn(500, 12, generator=rng).requires_grad_()
        error = critic(new, torch.zeros(500, 0))[:, 0] - truth(new)[0]
        return float(error.detach().square().mean())

    assert fitted_error(1.0) < 0.5 * fitted_error(0.0)


def test_a_critic_by_class_tells_how_often_each_output_is_the_largest_on_each_class_alone():
    rng = torch.Generator().manual_seed(0)
    critic = Critic(ResidualMlp(4 + 2 + 5, 16, 1, 3, rng), Result("accuracy"), (3, 5))
    x, d = torch.randn(6, 4, generator=rng), torch.randn(6, 3, 5, generator=rng)
    marks = torch.randn(6, 2, generator=rng)
    expected = critic(x, torch.cat([d.flatten(1), marks], 1))
    for k in range(3):
        logits = critic.net(torch.cat([x, marks, d[:, k]], 1))
        torch.testing.assert_close(expected[:, k], logits.softmax(1)[:, k])
    other = d.clone()
    other[:, 1] += 1
    changed = critic(x, torch.cat([other.flatten(1), marks], 1)) != expected
    assert changed.any(0).tolist() == [False, True, False]


@pytest.mark.parametrize("result", ["accuracy", "loss"])
def test_a_critic_by_class_foresees_results_on_unseen_class_sets(result):
    """Fitted on two of three class sets of six classes, where one that reads all at once is further off."""
    rng = torch.Generator().manual_seed(0)
    of_class = torch.randn(6, 5, generator=rng)
    sets = torch.tensor([[a, b, c] for a in range(6) for b in range(6) for c in range(6)])
    sets = sets[
        (sets[:, 0] != sets[:, 1]) & (sets[:, 1] != sets[:, 2]) & (sets[:, 0] != sets[:, 2])
    ]
    seen = sets.sum(1) % 3 > 0
    maps = torch.randn(8, 3, 5, generator=rng)  # a latent is a linear network on the class

    def drawn(pool, count):
        x = torch.randn(count, 8, generator=rng)
        d = of_class[pool[torch.randint(len(pool), (count,), generator=rng)]]
        outputs = torch.einsum("nl,lof,ncf->nco", x, maps, d) / 4
        right = outputs.softmax(2).diagonal(dim1=1, dim2=2)
        return x, d.flatten(1), right if result == "accuracy" else -right.log()

    (x, e, y), (of_new, e_new, y_new) = drawn(sets[seen], 600), drawn(sets[~seen], 300)

    def fitted_error(by_class):
        rng = torch.Generator().manual_seed(1)
        net = ResidualMlp(8 + (5 if by_class else 15), 32, 1, 3, rng)
        critic = Critic(net, Result(result), (3, 5) if by_class else None)
        optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
        for _ in range(300):
            loss = critic.losses(x, e, y, torch.zeros_like(x), 0.0)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float((critic(of_new, e_new) - y_new).detach().square().mean())

    assert fitted_error(by_class=True) < 0.5 * fitted_error(by_class=False)


def test_moved_draws_are_where_the_critic_expects_the_target(world, data, rng):
    """Its steps bring what a fitted critic expects to the target; none leave a draw as it is."""
    tiny = world()
    update = {"critic_draws": 400, "critic_epochs": 20, "critic_reach": 1.0, "critic_steps": 6}
    update |= {"critic_slopes": 0.0}  # networks of a few steps: their results have hardly a slope
    settings = tiny.params.shared_encoder
    shape = {"critic_width": settings.width, "critic_depth": settings.depth}
    update |= {"critic_by_class": False} | shape
    options = tiny.params.shared_encoders.flow.model_copy(update=update | {"precision": "float32"})
    model, _ = resolve(SHARED_ENCODERS, "flow", "model").fit(
        data, tiny.params.shared_encoder, options, 3
    )
    e, _ = conditions_of(model, tiny.dataset)
    e = e.repeat_interleave(20, 0)
    z = model.sample(model.condition(e, torch.full((80,), 0.4)), 1, rng)[:, 0]
    expected = model.critic(z, e).mean(1).detach()
    target = expected.quantile(torch.tensor([0.2, 0.8])).repeat(40)
    model.critic.error.fill_(1e-6)  # a critic that is sure of itself
    with torch.no_grad():
        reached = model.critic(model.towards(z, e, target), e).mean(1)
    assert (reached - target).abs().mean() < 0.2 * (expected - target).abs().mean()
    assert torch.equal(model.moved(z, e, target, 0), z)


def test_a_critic_that_is_never_wrong_and_sees_no_slope_moves_nothing():
    flat = linear_critic([0.0, 0.0], error=0.0)
    x, e = torch.tensor([[0.3, -0.2]]), torch.zeros(1, 1)
    assert torch.equal(flat.step(x, e, torch.tensor([9.0]), reach=1.0), torch.zeros(1, 2))


def test_the_error_of_the_critic_is_that_of_the_epoch_it_ends_at(world, data):
    tiny = world()
    options = tiny.params.shared_encoders.flow.model_copy(update={"precision": "float32"})
    model, _ = resolve(SHARED_ENCODERS, "flow", "model").fit(
        data, tiny.params.shared_encoder, options, 3
    )
    pool = Draws(model, data, "val", 600)  # other draws of the same tasks
    pool.add(options.critic_steps, torch.Generator().manual_seed(0))
    with torch.no_grad():
        e = model.embed(tiny.dataset.images["train"], pool.classes)
        expected = model.critic(pool.x, e).mean(1)
    error = (expected - pool.measured.mean(1)).square().mean().sqrt()
    assert 0.5 < error / model.critic.error < 2


def test_draws_do_not_depend_on_how_many_are_asked_for(fitted, world, autoencoder, monkeypatch):
    """They are drawn in blocks of a fixed size: the first ones are the same."""
    monkeypatch.setattr("weightspace.sampling.sampler.BLOCK", 4)
    tiny = world()
    sampler = Sampler(autoencoder, fitted[0], tiny.net)
    condition = Condition.of_images(tiny.dataset.images["train"][:3], torch.full((9,), 0.6))
    fewer = replace(condition, classes=condition.classes[:4], target=condition.target[:4])
    few, many = (
        sampler.latents(c, 2, torch.Generator().manual_seed(0)) for c in (fewer, condition)
    )
    torch.testing.assert_close(many[:4], few)
    assert not torch.allclose(many[0], many[4])


def test_embedding_is_per_task_whatever_the_batch(world, fitted):
    model, dataset = fitted[0], world().dataset
    tasks = torch.tensor([5, 2, 5, 33])
    with torch.no_grad():
        found = embed(model, dataset, tasks)
        single = torch.cat([embed(model, dataset, t[None]) for t in tasks])
    torch.testing.assert_close(found, single)
    assert not torch.equal(found[0], found[1])


def test_embedding_knows_the_order_of_the_classes(world, fitted):
    model, dataset = fitted[0], world().dataset
    first = dataset.tasks[dataset.tasks["class_set"] == 0]["task"].to_numpy()[:6]
    with torch.no_grad():
        e = embed(model, dataset, torch.tensor(first))
    assert torch.cdist(e, e)[~torch.eye(6, dtype=torch.bool)].min() > 1


def test_embedding_reads_train_images_only(world, fitted):
    model, dataset = fitted[0], world().dataset
    tasks = torch.tensor([0, 1])
    changed = dict(dataset.images)
    for part in ("val", "test"):
        changed[part] = changed[part] + 1
    with torch.no_grad():
        before, after = (
            embed(model, d, tasks) for d in (dataset, replace(dataset, images=changed))
        )
        moved = replace(dataset, images=dataset.images | {"train": dataset.images["train"] + 1})
        assert not torch.equal(before, embed(model, moved, tasks))
    assert torch.equal(before, after)


# sampling


@pytest.fixture
def sampler(world, autoencoder, fitted):
    """Sampler of the tiny world."""
    return Sampler(autoencoder, fitted[0], world().net)


@pytest.fixture
def condition(world):
    """Two requests."""
    return Condition.of_tasks(world().dataset, torch.tensor([0, 9]), torch.tensor([0.4, 0.9]))


def _latents(sampler, condition, draws=5, seed=0, **use):
    rng = torch.Generator().manual_seed(seed)
    return sampler.latents(condition, draws, rng, **use)


def test_draws_are_moved_towards_the_target_where_d_and_r_are_given(world, data, autoencoder):
    tiny = world()
    options = tiny.params.shared_encoders.flow
    model, _ = resolve(SHARED_ENCODERS, "flow", "model").fit(
        data, tiny.params.shared_encoder, options, 3
    )
    model.critic.error.fill_(1e-3)
    sampler = Sampler(autoencoder, model, tiny.net)
    request = Condition.of_tasks(tiny.dataset, torch.tensor([0, 9]), torch.tensor(model.bounds))
    moved, withheld = _latents(sampler, request), _latents(sampler, request, use_dataset=False)
    model.options = options.model_copy(update={"critic_steps": 0})  # the control: nothing moves
    plain = _latents(sampler, request)
    assert not torch.allclose(moved, plain, atol=1e-3)
    e = sampler.embed(request).repeat_interleave(5, 0)
    target = request.target.float().clamp(*model.bounds).repeat_interleave(5)
    expected = model.moved(plain.flatten(0, 1), e, target, options.critic_steps)
    torch.testing.assert_close(moved.flatten(0, 1), expected)
    assert torch.equal(withheld, _latents(sampler, request, use_dataset=False))


def test_draws_differ_and_are_reproducible(sampler, condition):
    z = _latents(sampler, condition)
    assert z.shape == (2, 5, 6)
    assert torch.pdist(z[0]).min() > 0
    assert torch.equal(z, _latents(sampler, condition))
    assert not torch.equal(z, _latents(sampler, condition, seed=1))


def test_draws_of_the_point_model_are_normal_around_its_prediction(
    world, autoencoder, point, condition
):
    model = point[0]
    z = _latents(Sampler(autoencoder, model, world().net), condition, draws=4000)
    with torch.no_grad():
        e = embed(model, world().dataset, torch.tensor([0, 9]))
        inside = torch.tensor([0.4, 0.9]).clamp(*model.bounds)
        centre = model.predict(model.condition(e, inside))
    standard = (z - centre[:, None]) / model.residual
    assert standard.mean(1).abs().max() < 0.08
    assert (standard.std(1) - 1).abs().max() < 0.06


def test_requests_outside_the_trained_range_are_drawn_at_its_end(
    fitted, autoencoder, world, condition
):
    model = fitted[0]
    sampler, (low, high) = Sampler(autoencoder, model, world().net), model.bounds

    def drawn(*targets):
        return _latents(sampler, condition.with_target(torch.tensor(targets)))

    ends, middle = drawn(low, high), (low + high) / 2
    assert torch.equal(drawn(low - 0.2, high + 0.2), ends)
    for row, inside in enumerate(drawn(middle, middle)):  # the control
        assert not torch.equal(inside, ends[row])


def test_controls_withhold_their_condition(sampler, world, condition):
    rng = [torch.Generator().manual_seed(0) for _ in range(2)]
    results = torch.tensor([0.4, 0.9])
    other = Condition.of_tasks(world().dataset, torch.tensor([31, 2]), results)
    a, b = (
        sampler.latents(c, 2, g, use_dataset=False)
        for c, g in zip((condition, other), rng, strict=True)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, _latents(sampler, condition, draws=2))


def test_drawn_networks_lie_side_by_side(sampler, condition):
    rng = torch.Generator().manual_seed(0)
    drawn = sampler.draw(condition, 5, rng)
    assert sampler.autoencoder.spec.check(drawn) == 10
    with torch.no_grad():
        expected = sampler.autoencoder.decode(_latents(sampler, condition).reshape(10, -1))
    assert all(torch.equal(drawn[k], w) for k, w in expected.items())


@pytest.mark.parametrize("name", sorted(AUTOENCODERS))
def test_draws_and_guidance_fit_the_latents_of_every_autoencoder(name, world, rng):
    """Train latents have size 1, draws only a fixed one where the autoencoder's have; guidance moves them."""
    tiny = world()
    fit = resolve(AUTOENCODERS, name, "autoencoder").fit
    autoencoder, _ = fit(tiny.data, tiny.params.autoencoder, tiny.params.autoencoders.of(name), 3)
    data = tiny.pairs(autoencoder)
    settings = tiny.params.shared_encoder.model_copy(update={"epochs": 2})
    model, _ = resolve(SHARED_ENCODERS, "flow", "model").fit(
        data, settings, tiny.params.shared_encoders.flow, 3
    )
    sampler = Sampler(autoencoder, model, tiny.net, tiny.params.guidance)
    condition = Condition.of_tasks(tiny.dataset, torch.tensor([0, 7]), torch.tensor([0.4, 0.8]))
    z = sampler.latents(condition, 5, rng)
    known = data.train.z[:, 0]
    torch.testing.assert_close(known.square().mean(), torch.tensor(1.0), atol=0.05, rtol=0)
    lengths = z.square().mean(-1).sqrt()
    assert (lengths < 2).all()
    assert (lengths.std() < 1e-3) == autoencoder.normalised, lengths
    moved = sampler.guided(z, condition, rng)
    step = (moved - z).square().mean().sqrt()
    assert 0 < step < 3 * tiny.params.guidance.rate, step
    assert all(w.isfinite().all() for w in sampler.decode(moved).values())


def _without_settings(tensors, meta):
    meta.pop("settings", None)
    meta.pop("modes", None)


def _without_a_tensor(tensors, meta):
    tensors.pop(sorted(tensors)[0])


def _with_another_shape(tensors, meta):
    tensors[sorted(tensors)[-1]] = torch.zeros(3, 3, 3)


@pytest.mark.parametrize("damage", [_without_settings, _without_a_tensor, _with_another_shape])
@pytest.mark.parametrize("kind", ["pca", "autoencoder", "shared_encoder"])
def test_a_file_of_another_version_is_one_line(
    kind, damage, fitted, autoencoder, world, tmp_path, monkeypatch
):
    (tmp_path / "data").mkdir()
    (tmp_path / "params.yaml").touch()
    path = tmp_path / "data" / f"{kind}.safetensors"
    model = {"pca": world().data.pca, "autoencoder": autoencoder, "shared_encoder": fitted[0]}[kind]
    model.save(path)
    tensors, meta = load_tensors(path, kind)
    damage(tensors, meta)
    with monkeypatch.context() as other_version:
        other_version.setattr("weightspace.artifacts.check_meta", lambda kind, meta: None)
        save_tensors(path, kind, tensors, {k: v for k, v in meta.items() if k != "kind"})
    read = {
        "pca": TensorPca.load,
        "autoencoder": load_autoencoder,
        "shared_encoder": load_shared_encoder,
    }[kind]
    with pytest.raises(
        WeightspaceError,
        match=r"(another (version|type or shape); found|required|is missing).*dvc repro",
    ) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
