"""Device and precision: a GPU that is required is there or said to be missing; bf16 where it is fast."""

from threading import Barrier, BrokenBarrierError

import pytest
import torch

from cases import tiny
from fake_device import fake_device
from weightspace.errors import WeightspaceError
from weightspace.params import RuntimeSettings
from weightspace.runtime import device, environment, precision, side_by_side

CPU = torch.device("cpu")


def runtime(where):
    return RuntimeSettings(device=where, workers=1, executor="local")


@pytest.mark.parametrize("supported", [True, False])
@pytest.mark.parametrize("library", [True, False])
def test_bf16_where_the_cpu_has_it(supported, library, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: library)
    linear, x = torch.nn.Linear(2, 3), torch.ones(4, 2)
    with precision("bf16", CPU):
        assert linear(x).dtype == (torch.bfloat16 if supported and library else torch.float32)
    with precision("float32", CPU):
        assert linear(x).dtype == torch.float32


@pytest.mark.parametrize("supported", [True, False])
def test_the_environment_names_the_lowest_precision_that_is_computed_in(supported, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    half = tiny(autoencoder={"model": "functional"})  # its precision is that of params.yaml
    expected = {"device": "cpu", "precision": "bf16", "torch": torch.__version__}
    assert half.autoencoders.functional.precision == "bf16"
    assert environment(half) == expected | ({} if supported else {"precision": "float32"})
    assert environment(tiny())["precision"] == "float32"  # models that have no such setting


@pytest.mark.parametrize("supported", [True, False])
def test_bf16_on_a_gpu_whatever_the_cpu_has(supported, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    with fake_device() as gpu:
        linear, x = torch.nn.Linear(2, 3).to(gpu), torch.ones(4, 2, device=gpu)
        with precision("bf16", x.device):
            assert linear(x).dtype == torch.bfloat16
        with precision("float32", x.device):
            assert linear(x).dtype == torch.float32
        with precision("bf16", CPU):  # says nothing about tensors elsewhere
            assert linear(x).dtype == torch.float32


def test_a_gpu_that_is_required_and_missing_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device(runtime("auto")) == device(runtime("cpu")) == CPU
    with pytest.raises(WeightspaceError, match=r"runtime\.device: no GPU.*set runtime\.device"):
        device(runtime("cuda"))


def test_auto_takes_the_gpu_and_cpu_does_not():
    with fake_device():
        chosen = [device(runtime(where)).type for where in ("auto", "cuda", "cpu")]
    assert chosen == ["cuda", "cuda", "cpu"]


def test_parts_run_side_by_side_each_on_one_thread():
    """As many at once as torch has threads, and it has as many afterwards, whatever happened."""
    torch.set_num_threads(2)
    meeting, done = Barrier(2, timeout=60), []

    def work(part):
        meeting.wait()  # for another part: one after the other would wait in vain
        done.append((part, torch.get_num_threads()))
        if part == "bad":
            raise ValueError(part)

    side_by_side(work, ["a", "b"])
    assert sorted(done) == [("a", 1), ("b", 1)]
    with pytest.raises(ValueError, match="bad"):
        side_by_side(work, ["c", "bad"])
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    with pytest.raises(BrokenBarrierError):
        side_by_side(lambda _: meeting.wait(0), ["d", "e"])
