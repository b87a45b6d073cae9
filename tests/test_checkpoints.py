"""Foreign checkpoints: read strictly, or refused by name; nothing in them is ever run."""

import io
import pickle
import re
from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from cases import build, networks
from weightspace.errors import WeightspaceError
from weightspace.project.network import Standardisation, load_network, save_networks
from weightspace.weights import checkpoints
from weightspace.weights.checkpoints import fit_state, read_networks, read_state
from weightspace.weights.spec import stack, take


@pytest.fixture(scope="module")
def net():
    return build("cnn")


@pytest.fixture(scope="module")
def state(net):
    """One network as its module's state_dict."""
    return take(networks(net, 1), 0)


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


WRAPPED = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "model": lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": []}},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "DataParallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "compiled in DataParallel": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "Lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 1},
    "double": lambda s: {k: v.double() for k, v in s.items()},
    "parameters": lambda s: {k: nn.Parameter(v) for k, v in s.items()},
}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize("case", WRAPPED)
def test_usual_forms_are_read(tmp_path, net, state, case, suffix):
    path = tmp_path / f"net{suffix}"
    torch.save(WRAPPED[case](state), path)
    assert same(fit_state(read_state(path), net.spec, path), state)


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_safetensors_are_read(tmp_path, net, state, prefix):
    path = tmp_path / "net.safetensors"
    save_file({prefix + k: v for k, v in state.items()}, path)
    weights = read_networks([path, path], net.spec)
    assert net.spec.check(weights) == 2
    assert same(take(weights, 1), state)


def test_an_old_file_of_torch_save_is_read(tmp_path, net, state):
    path = tmp_path / "old.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert same(fit_state(read_state(path), net.spec, path), state)


class Stock(nn.Module):
    """The architecture with PyTorch's own batch normalisation, whose state has counters."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(1, 3, 3, bias=False), nn.Conv2d(3, 4, 3, bias=False)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(4)])
        self.head = nn.Linear(16, 3)


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_counters_of_batch_normalisation_are_left_out_and_nothing_else_is(prefix):
    spec = build("cnn-batch-norm").spec
    stock = {prefix + k: v for k, v in Stock().state_dict().items()}
    counters = {k for k in stock if k.endswith(".num_batches_tracked")}
    assert len(counters) == 2
    weights = fit_state(stock, spec, "net.pt")
    assert set(weights) == set(spec.names)
    for name, value in weights.items():
        assert torch.equal(value, stock[prefix + name].float())
    for extra in (
        "head.num_batches_tracked",  # beside no running variance
        "norms.2.num_batches_tracked",
        "num_batches_tracked",
        "norms.0.num_batches",
        "norms.0.gain",
    ):
        with pytest.raises(WeightspaceError, match=re.escape(f"{extra}]")):
            fit_state(stock | {prefix + extra: torch.tensor(1)}, spec, "net.pt")


def test_a_counter_is_unknown_where_the_architecture_has_no_batch_normalisation(net, state):
    name = "head.num_batches_tracked"
    with pytest.raises(WeightspaceError, match="unknown"):
        fit_state(state | {name: torch.tensor(1)}, net.spec, "net.pt")


def change(state, **changes):
    """A state with some tensors replaced, or left out where None."""
    new = dict(state) | {k.replace("__", "."): v for k, v in changes.items()}
    return {k: v for k, v in new.items() if v is not None}


# name -> (what is done to the state, part of the message)
MISFITS = {
    "missing": (lambda s: change(s, head__bias=None), "missing [head.bias]"),
    "unknown": (lambda s: change(s, extra=torch.ones(1)), "unknown [extra]"),
    "shape": (lambda s: change(s, head__bias=torch.ones(4)), "'head.bias' has another shape"),
    "transposed": (lambda s: change(s, head__weight=s["head.weight"].T), "'head.weight'"),
    "one name without the prefix": (
        lambda s: {k if k == "head.bias" else f"module.{k}": v for k, v in s.items()},
        "unknown [module.convs.0.weight",
    ),
    "prefix and one missing": (
        lambda s: {f"module.{k}": v for k, v in s.items() if k != "head.bias"},
        "missing [head.bias], unknown none",
    ),
    "another prefix": (lambda s: {f"net.{k}": v for k, v in s.items()}, "unknown [net.convs"),
    "bool": (lambda s: change(s, head__bias=torch.ones(3) > 0), "'head.bias' cannot be used"),
    "complex": (lambda s: change(s, head__bias=torch.ones(3) * 1j), "'head.bias' cannot be used"),
    "sparse": (lambda s: change(s, head__bias=torch.ones(3).to_sparse()), "'head.bias' cannot"),
    "meta": (lambda s: change(s, head__bias=torch.ones(3, device="meta")), "'head.bias' cannot"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_misfits_are_refused_by_name(net, state, case):
    make, message = MISFITS[case]
    with pytest.raises(WeightspaceError) as caught:
        fit_state(make(state), net.spec, "x.pt")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nan_is_refused(tmp_path, net, state):
    path = tmp_path / "net.pt"
    torch.save(change(state, head__bias=torch.full((3,), torch.nan)), path)
    with pytest.raises(WeightspaceError, match=r"'head.bias' has NaN"):
        read_networks([path], net.spec)


class Bomb:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return (exec, ("open('ran', 'w').close()",))


NOT_STATES = {
    "code": Bomb(),
    "code beside tensors": {"state_dict": {"a": torch.ones(1)}, "callback": Bomb()},
    "a module": nn.Linear(2, 2),
    "a tensor": torch.ones(3),
    "a list": [torch.ones(3)],
    "nothing": {},
    "numbers": {"a": 1.0},
    "numbered tensors": {0: torch.ones(1)},
    "two tables": {"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.ones(1)}},
    "an unusual wrapper": {"weights of mine": {"a": torch.ones(1)}},
}


@pytest.mark.parametrize("case", NOT_STATES)
def test_other_contents_are_refused_and_not_run(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    torch.save(NOT_STATES[case], "net.pt")
    refused(tmp_path / "net.pt")
    assert not (tmp_path / "ran").exists()


def test_what_a_pickle_wanted_to_run_is_named(tmp_path):
    torch.save({"model": Bomb()}, tmp_path / "net.pt")
    with pytest.raises(WeightspaceError, match="found 'exec'"):
        read_state(tmp_path / "net.pt")


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path, state, monkeypatch):
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "net.pt")
    assert read_state(tmp_path / "net.pt")
    monkeypatch.setattr(checkpoints, "GIVEN_BYTES", 100_000)
    with pytest.raises(WeightspaceError, match="too large"):
        read_state(tmp_path / "net.pt")


def test_a_bare_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pt").write_bytes(pickle.dumps(Bomb()))
    assert b"exec" in (tmp_path / "net.pt").read_bytes()
    refused(tmp_path / "net.pt")
    assert not (tmp_path / "ran").exists()


def refused(path):
    with pytest.raises(WeightspaceError) as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "net.txt", "net"])
@pytest.mark.parametrize("content", [None, b"", b"text", bytes(64), b"PK\x03\x04", b"\x80\x02."])
def test_files_that_are_no_checkpoints(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(tmp_path / name)


def test_a_link_to_itself_and_a_folder(tmp_path):
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    (tmp_path / "dir.pt").mkdir()
    refused(tmp_path / "loop.pt")
    refused(tmp_path / "dir.pt")


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), suffix=st.sampled_from([".pt", ".safetensors"]), new=st.booleans())
def test_damaged_files_are_refused_or_read(tmp_path_factory, state, data, suffix, new):
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    if suffix == ".pt":
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=new)
        good = bytearray(buffer.getvalue())
    else:
        save_file(state, path)
        good = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(good[: data.draw(st.integers(len(good) // 2, len(good)))]))
    with suppress(WeightspaceError):
        assert all(isinstance(v, torch.Tensor) for v in read_state(path).values())


def test_own_networks_come_back(tmp_path, net, state):
    path = tmp_path / "net.safetensors"
    info = [{"classes": ["a", "b", "c"]}]
    save_networks(tmp_path, [path.name], net, stack([state]), Standardisation(0.5, 2.0), info)
    network = load_network(path)
    assert not network.module.training
    assert same(network.module.state_dict(), state)
    assert (network.classes, network.mean, network.std) == (["a", "b", "c"], 0.5, 2.0)


def test_a_foreign_file_is_not_taken_for_an_own_one(tmp_path, state):
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(WeightspaceError, match="no weightspace metadata"):
        load_network(tmp_path / "net.safetensors")
