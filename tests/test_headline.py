"""README's table and sentences: of the committed figures, and one clear line where there are none."""

import json
import shutil

import pytest
import yaml

from cases import merged
from weightspace.errors import WeightspaceError
from weightspace.params import load_params
from weightspace.report import provenance
from weightspace.report.headline import draws, facts, load_costs, measured
from weightspace.report.tables import as_markdown
from workspace import ROOT


@pytest.fixture
def root(tmp_path):
    """A project with the committed figures and settings, to be changed."""
    for name in ("metrics", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def settings(root, **changes):
    """Change settings of a project."""
    path = root / "params.yaml"
    path.write_text(yaml.safe_dump(merged(yaml.safe_load(path.read_text()), changes)))


def figures(root, name, change):
    """Change the figures of the headline split in a file of metrics."""
    path = root / "metrics" / f"{name}.json"
    every = json.loads(path.read_text())
    every["test_sets"] = change(every["test_sets"])
    path.write_text(json.dumps(every))


def as_loss(names):
    return {k.replace("accuracy_at_top", "loss_at_top"): v for k, v in names.items()}


def without_controls(names):
    return {k: v for k, v in names.items() if not k.startswith("control_")}


def undefined(names):
    return names | {"r2_identity": None}


def lock(root, **hashes):
    """A dvc.lock with the hashes of some files of code."""
    deps = [{"path": f"src/{name}.py", "md5": md5} for name, md5 in hashes.items()]
    stages = {"a": {"deps": [*deps, {"path": "data/zoo", "md5": "0"}]}, "b": {"deps": deps}}
    (root / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))


def test_figures_carry_the_code_seed_device_and_precision_they_come_from(root):
    def line():
        return provenance.line(root)

    lock(root, x="1", y="2")
    for cost in (root / "metrics" / "cost").glob("*.json"):
        plain = {
            k: v for k, v in json.loads(cost.read_text()).items() if k in ("seconds", "peak_mib")
        }
        cost.write_text(json.dumps(plain))
    assert line() == ""  # results of an earlier version do not say it
    on = {"device": "cpu", "precision": "bf16", "torch": "2.0"}
    cost.write_text(json.dumps(plain | on))
    said = line()
    assert "seed 0" in said
    assert "cpu, bf16, 2.0." in said
    assert measured(root).endswith(said)
    assert as_markdown(root).endswith(said)
    hashes = {provenance.code_hash(root)}
    for changed in ({"x": "1", "y": "3"}, {"x": "1"}, {"x": "1", "y": "2", "z": "4"}):
        lock(root, **changed)
        hashes.add(provenance.code_hash(root))
    assert len(hashes) == 4
    lock(root, y="2", x="1")
    assert line() == said
    other = next(c for c in (root / "metrics" / "cost").glob("*.json") if c != cost)
    other.write_text(json.dumps(plain | on | {"device": "GPU X"}))
    assert "GPU X, bf16, 2.0 and cpu, bf16, 2.0." in line()
    (root / "dvc.lock").unlink()
    assert line() == ""


@pytest.mark.parametrize("zero_shot", [True, False, None])
def test_tables_say_zero_shot_where_the_cards_do(root, zero_shot):
    for name in ("reconstruction", "sampling"):
        figures(root, name, lambda f: {k: v for k, v in f.items() if k != "zero_shot"})
        if zero_shot is not None:
            figures(root, name, lambda f: f | {"zero_shot": zero_shot})
    text = as_markdown(root)
    said = {True: "zero-shot: yes", False: "zero-shot: no", None: "unseen tasks"}
    for answer, words in said.items():
        assert text.count(words) == (2 if answer is zero_shot else 0)


@pytest.mark.parametrize("change", [as_loss, without_controls, undefined])
def test_figures_that_other_settings_do_not_give_are_one_line(root, change):
    assert draws(root).count("\n") >= 9  # the control: all are there
    figures(root, "sampling", change)
    with pytest.raises(
        WeightspaceError, match=r"metrics/sampling.json: test_sets: .*evaluate"
    ) as e:
        draws(root)
    assert "\n" not in str(e.value)


def test_facts_without_controls_are_one_line(root):
    assert facts(root).count("\n") >= 3
    figures(root, "reconstruction", without_controls)
    with pytest.raises(WeightspaceError, match="control_other_member_agreement_mean_late"):
        facts(root)


HYPERNETWORK = {
    "r2_identity": 0.961,
    "mae": 0.03,
    "accuracy_at_top_mean": 0.957,
    "agreement_draws": 0.987,
    "error_overlap_draws": 0.83,
    "auc_outputs": 0.92,
    "image_gradients": 0,
}


def test_baselines_stand_beside_draws_where_they_were_measured(root):
    path = root / "metrics" / "baselines.json"
    path.write_text("{}")  # without controls
    lines, sentences = draws(root).split("\n"), facts(root).split("\n")
    figures = {f"hypernetwork_{k}": v for k, v in HYPERNETWORK.items()}
    path.write_text(json.dumps({"test_sets": figures}))
    (row,) = set(draws(root).split("\n")) - set(lines)
    assert row.endswith("| 0.961 | 0.030 | 0.957 | 0 | - |")
    (sentence,) = set(facts(root).split("\n")) - set(sentences)
    assert all(k in sentence for k in ("R2 0.961", "0.957", "98.7 %", "0.83", "AUC of 0.92"))


def test_an_architecture_whose_training_nobody_timed_is_one_line(root):
    settings(root, zoo={"architecture": "resnet18"})
    path = root / "benchmarks" / "zoo_training.json"
    timed = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in timed.items() if k != "resnet18"}))
    with pytest.raises(WeightspaceError, match=r"zoo_training.json: .*'resnet18'"):
        draws(root)
    path.write_text(json.dumps(timed))
    assert draws(root)  # the control: timed


def test_training_with_batch_normalisation_has_its_rate(root):
    plain = load_costs(root).trained(24)
    settings(root, nets={"cnn": {"batch_norm": True}})
    normed = load_costs(root).trained(24)
    rates = json.loads((root / "benchmarks" / "zoo_training.json").read_text())
    plain_rate, normed_rate = (rates[k]["at_once"]["median"] for k in ("cnn", "cnn-batch-norm"))
    assert normed[0] == plain[0]
    assert normed[1] / plain[1] == pytest.approx(plain_rate / normed_rate) != 1
    settings(root, zoo={"architecture": "mlp"})
    assert load_costs(root).architecture == "mlp"


@pytest.mark.parametrize(("per_class", "images"), [(24, 24), (10**6, 90)])
def test_guidance_costs_what_its_settings_say(root, per_class, images):
    settings(root, guidance={"images_per_class": per_class, "sampling_steps": 7})
    guidance = load_params(root / "params.yaml").guidance
    gradients, _ = load_costs(root).guided(2)
    assert gradients == 2 * 7 * 3 * images == 2 * 7 * guidance.images_per_step(90, 3)
    assert load_costs(root).drawn(16)[0] == 0


def test_the_caption_says_what_the_cells_are(root):
    def means(names):
        tops = [k for k in names if k.endswith("accuracy_at_top")]
        return names | {f"{k}_mean": 0.5 for k in tops}

    figures(root, "sampling", lambda names: {k: v for k, v in names.items() if "top_mean" not in k})
    assert "(median)" in draws(root)
    assert "median accuracy over tasks" in measured(root)
    figures(root, "sampling", means)
    assert "(median)" not in draws(root)
    assert "mean accuracy over tasks" in measured(root)
    assert "as many steps of 64 images" in measured(root)
    settings(root, zoo={"batch_size": 64})
    assert "as many steps" not in measured(root)


def test_training_until_the_target_has_its_rows_where_it_was_measured(root):
    path = root / "metrics" / "baselines.json"
    row = {"r2_identity": 0.97, "mae": 0.03, "accuracy_at_top": 0.99, "image_gradients": 640.4}
    names = {f"train_and_stop_{key}": value for key, value in row.items()}
    path.write_text(json.dumps({"test_sets": names}))
    milliseconds = f"{load_costs(root).trained(24)[1] * 640.4 / (24 * 256):.2g}"
    cells = f"| 0.970 | 0.030 | 0.990 (median) | 640 | {milliseconds} |"
    assert f"trained from scratch until the target {cells}" in draws(root)
    assert "in the last three rows" in measured(root)
    for none in ({}, {"test_sets": {}}):  # the control: without controls nobody trains
        path.write_text(json.dumps(none))
        assert "until the target" not in draws(root)
        assert "in the last two rows" in measured(root)
