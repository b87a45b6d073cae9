"""ONNX files: another program computes what PyTorch does, from images as a person has them."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from cases import WORLDS
from weightspace.errors import WeightspaceError
from weightspace.project import onnx as onnx_export
from weightspace.project.network import Standardisation, load_network, save_networks


@pytest.fixture
def written(world, tmp_path):
    """Factory: a trained network of an architecture as a file, and its dataset."""

    def write(name):
        tiny = world(name)
        weights = tiny.zoo.weights(tiny.zoo.members.tail(1))
        scale = Standardisation(tiny.dataset.mean, tiny.dataset.std)
        path = tmp_path / f"{name}.safetensors"
        save_networks(
            tmp_path, [path.name], tiny.net, weights, scale, [{"classes": ["ä", "b", "c"]}]
        )
        return path, tiny.dataset

    return write


def real_images(dataset):
    """Test images in [0, 1], as they were before standardisation."""
    x = dataset.images["test"].flatten(0, 1)[::7]
    return (x * dataset.std + dataset.mean).clamp(0, 1).numpy().astype(np.float32)


@pytest.mark.parametrize("name", WORLDS)
def test_outputs_are_those_of_pytorch(name, written, tmp_path):
    path, dataset = written(name)
    (file,) = onnx_export.export_onnx([path], tmp_path / "out")
    assert file.name == f"{name}.onnx"
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    network, images = load_network(path), real_images(dataset)
    run = ReferenceEvaluator(model)
    for some in (images, images[:1]):  # any number of images
        (got,) = run.run(["outputs"], {"images": some})
        wanted = network.outputs(some).numpy()
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert wanted.std() > 1e-3  # outputs that differ, so that the comparison says something
    raw = network.module(torch.from_numpy(images)).detach().numpy()  # not standardised
    assert abs(raw - network.outputs(images).numpy()).max() > 1e-2


def test_the_file_names_the_classes_and_no_path_of_this_machine(written):
    path, _ = written("cnn")
    data = onnx_export.onnx_bytes(load_network(path))
    meta = {p.key: p.value for p in onnx.load_from_string(data).metadata_props}
    assert json.loads(meta["classes"]) == ["ä", "b", "c"]
    assert b".py" not in data
    assert onnx_export.onnx_bytes(load_network(path)) == data  # same network, same bytes


def test_without_the_extra_it_is_one_line(written, tmp_path, monkeypatch):
    path, _ = written("cnn")
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    with pytest.raises(WeightspaceError, match=r"needs the extra 'onnx'.*pip install") as caught:
        onnx_export.export_onnx([path], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
