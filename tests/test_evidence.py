"""`make evidence`: what is measured beside the pipeline, and its page."""

import json
import sys

import pytest
import torch

from cases import build, networks
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.evidence import STEPS
from weightspace.evaluate.weight_likeness import with_norms, with_unit_norms
from weightspace.params import load_params
from weightspace.report import evidence
from weightspace.zoo.outputs import choose_probes, read_originals
from workspace import ROOT


@pytest.fixture
def script(monkeypatch):
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import evidence as module

    yield module
    sys.modules.pop("evidence")


def write(root, **parts):
    """Parts of a run, as the benchmark writes them."""
    about = {"seconds": 120, "code": "abc", "seed": 3, "machine": "x86_64, 2 cores"}
    path = root / evidence.FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({name: about | {"figures": f} for name, f in parts.items()}))


def test_a_number_for_each_class_needs_no_image(script):
    encoder, images = script.Lookup(4), torch.randn(4, 3, 1, 2, 2)
    encoder.prepare(images[:2])
    assert encoder(images).tolist() == torch.eye(4).tolist()
    assert torch.equal(encoder(images), encoder(torch.zeros_like(images)))
    assert encoder.features == 4


def test_draws_by_number_are_measured_beside_those_by_image(script, project_root, monkeypatch):
    params = load_params(project_root / "params.yaml")
    evaluation = Evaluation.load(project_root / "data", params)
    runner, zoo = evaluation.runner, evaluation.zoo
    probes = choose_probes(runner.dataset, 10, 0)
    originals = {
        split: read_originals(runner, table, zoo.networks(table), probes)
        for split, table in {s: zoo.select(s) for s in ("train", "val")}.items()
    }
    monkeypatch.setattr(script, "load_originals", lambda *_: originals)
    figures = script.PARTS["lookup"](evaluation)
    assert figures["images"] == script.drawn(evaluation)  # the encoder is in its place again
    assert figures["images"] != figures["one_hot"]
    assert figures["images"].keys() == figures["one_hot"].keys()


def test_scaled_units_keep_the_outputs_and_scaled_tensors_do_not():
    net = build("cnn")
    weights, donor = networks(net, 3), networks(net, 3, seed=1)
    images = torch.randn(8, *net.meta["shape"])
    before = net.run(weights, images)
    scaled = with_unit_norms(net.spec, weights, donor)
    torch.testing.assert_close(net.run(scaled, images), before, rtol=1e-4, atol=1e-5)
    units = [w["convs.0.weight"].flatten(2).norm(dim=2) for w in (scaled, donor, weights)]
    torch.testing.assert_close(units[0], units[1])
    assert not torch.allclose(units[2], units[1])
    other = with_norms(weights, donor)
    norms = [w["convs.0.weight"].flatten(1).norm(dim=1) for w in (other, donor)]
    torch.testing.assert_close(*norms)
    assert not torch.allclose(net.run(other, images), before, rtol=1e-4, atol=1e-5)


def test_draws_are_changed_and_measured_in_each_way(script, project_root):
    params = load_params(project_root / "params.yaml")
    rows = script.PARTS["weights"](Evaluation.load(project_root / "data", params))
    assert [row["change"] for row in rows] == list(evidence.CHANGES)
    by_name = {row["change"]: row for row in rows}
    same = [by_name[name]["r2_identity"] for name in ("none", "units")]
    assert same[0] == pytest.approx(same[1], abs=1e-6)
    assert by_name["lost_1"]["r2_identity"] != pytest.approx(same[0], abs=1e-6)


def test_an_interrupted_run_keeps_its_parts(script, project_root, tmp_path, monkeypatch):
    def stopped(_):
        raise KeyboardInterrupt

    parts = {"baselines": lambda _: {"a": 1.0}, "against_steps": stopped}
    monkeypatch.setattr(script, "PARTS", parts)
    monkeypatch.chdir(project_root)
    monkeypatch.setattr(script, "code_hash", lambda _: "abc")
    out = tmp_path / "evidence.json"
    out.write_text(json.dumps({"lookup": {"figures": {}}}))
    monkeypatch.setattr(sys, "argv", ["evidence.py", "--out", str(out)])
    with pytest.raises(KeyboardInterrupt):
        script.main()
    made = json.loads(out.read_text())
    assert set(made) == {"lookup", "baselines"}
    assert made["baselines"]["figures"] == {"a": 1.0}
    assert made["baselines"]["code"] == "abc"


def test_the_page_says_what_was_not_measured(tmp_path):
    assert "`make evidence`" in evidence.tables(tmp_path)


def test_each_part_has_its_table_time_and_code(tmp_path):
    rows = [
        {
            "start": start,
            "steps": steps,
            "r2_identity": 0.5 + steps / 1000,
            "mae": 0.1,
            "image_gradients": 72 * steps,
            **({"rate": 0.03} if steps else {}),
        }
        for start in evidence.STARTS
        for steps in STEPS
    ]
    side = {"r2_identity": 0.9, "mae": 0.05, "accuracy_at_top_mean": 0.96}
    side |= {"r2_identity_low": 0.88, "r2_identity_high": 0.92}
    steps_random = {"accuracy_at_top": 0.7, "accuracy_at_top_mean": 0.7, "image_gradients": 1440}
    steps_random = {f"steps_random_{key}": value for key, value in steps_random.items()}
    lookup = {"images": side, "one_hot": side | {"r2_identity": 0.8}}
    changed = side | {"change": "units", "auc_outputs": 0.57}
    changed |= {f"auc_{kind}": 0.5 for kind in ("weights", "weights_linear", "matched")}
    changed |= {"auc_matched_linear": 0.875}
    parts = {"against_steps": rows, "weights": [changed], "lookup": lookup}
    write(tmp_path, baselines=steps_random, **parts)
    text = evidence.tables(tmp_path)
    assert text.count("2 minutes on x86_64, 2 cores; code `abc`, seed 3.") == 4
    assert "0.960 | 0.570 | 0.500 | 0.500 | 0.500 | 0.875 |" in text
    assert "| draws | 0.500 (0.100) | 0.505 (0.100) | 0.520 (0.100) |" in text
    assert "0, 360, 1,440, 7,200, 28,800" in text
    assert "| a one-hot vector for each class | 0.800 (0.880 to 0.920) | 0.050 | 0.960 |" in text
    assert "steps of a guided draw: random weights" in text
    write(tmp_path, lookup=lookup)  # the control
    assert "random weights" not in evidence.tables(tmp_path)
