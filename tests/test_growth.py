"""Cost as the work grows: the model that predicts it, the benchmarks that measure it, the tables of it."""

import json
import os
import subprocess

import pytest

import warm
from weightspace.params import load_params
from weightspace.report import scale
from workspace import ROOT

RUNS = (500, 1000, 2000, 4000)


@pytest.fixture
def growth(monkeypatch):
    for folder in ("benchmarks", "stages"):
        monkeypatch.syspath_prepend(ROOT / folder)
    import growth

    return growth


def zoos(cost, *, workers=0.0):
    """Figures of a stage whose CPU seconds are a function of the runs."""
    return {
        n: {
            "members": 6 * n,
            "zoo": {
                "seconds": cost(n) / 1.5,
                "cpu_seconds": cost(n),
                "in_workers": workers,
                "resident_mib": 500,
                "anonymous_mib": 300,
            },
        }
        for n in RUNS
    }


def test_a_model_of_the_smaller_half_predicts_the_larger(growth):
    measured = {n: 3 + 0.05 * n for n in RUNS}
    model = growth.model(growth.line, measured, (50_000,))
    assert model["fitted_on"] == [500, 1000]
    assert list(model["predicted"]) == ["2000", "4000"]
    assert [p["error"] for p in model["predicted"].values()] == [0, 0]
    assert model["extrapolated"]["50000"] == pytest.approx(2503)


def test_growth_that_is_no_line_shows_as_an_error_of_the_prediction(growth):
    squared = growth.model(growth.line, {n: 1e-4 * n**2 for n in RUNS})
    assert squared["predicted"]["4000"]["error"] < -0.5
    changed = {n: 3 + 0.05 * n for n in RUNS} | {4000: 100.0}  # of the larger half alone
    assert growth.model(growth.line, changed)["factors"] == pytest.approx([3, 0.05])


def test_nothing_costs_less_than_nothing(growth):
    falling = growth.model(growth.line, {n: 100 - 0.01 * n for n in RUNS}, (50_000,))
    assert min(falling["factors"]) >= 0
    assert falling["extrapolated"]["50000"] > 0


def test_training_by_width_is_values_between_layers_and_weights(growth):
    measured = {w: 2 + 0.5 * w + 0.1 * w**2 for w in (4, 8, 16, 32, 64)}
    model = growth.model(growth.layers, measured)
    assert model["fitted_on"] == [4, 8, 16]
    assert model["factors"] == pytest.approx([2, 0.5, 0.1])
    assert [p["error"] for p in model["predicted"].values()] == [0, 0]


def measured(growth, cost, workers=0.0):
    """What benchmarks/growth.py writes, of a made-up stage."""
    of_zoo = zoos(cost, workers=workers)
    sizes = {str(n): figures for n, figures in of_zoo.items()}
    figures = growth.conditions()() | {"zoos": sizes, "models": growth.of_stages(of_zoo)}
    return {"stages": figures}


def test_what_workers_do_is_divided_among_machines_and_nothing_else(growth):
    params = load_params(ROOT / "params.yaml")
    costs, runs = {"zoo": 360.0, "pca": 3600.0}, params.zoo.runs
    models = measured(growth, lambda n: 3 + 0.05 * n, workers=0.75)["stages"]["models"]
    same = scale.stage_hours(costs, models, params, runs)
    assert scale.total(same, 1) == pytest.approx(sum(costs.values()) / 3600)
    assert scale.total(same, float("inf")) == pytest.approx((0.25 * 360 + 3600) / 3600)
    assert scale.total(same, 2) == pytest.approx((0.25 * 360 + 0.75 * 180 + 3600) / 3600)
    more = scale.stage_hours(costs, models, params, 4 * runs)
    grown = (3 + 0.05 * 4 * runs) / (3 + 0.05 * runs)
    assert sum(more["zoo"]) / sum(same["zoo"]) == pytest.approx(grown, rel=1e-3)
    assert more["pca"] == same["pca"]  # the control: of no model


def test_a_fit_grows_with_every_epoch():
    models = {
        "autoencoder": {"cpu_seconds": {"factors": [5.0, 0.01]}},
        "autoencoder, an epoch": {"cpu_seconds": {"factors": [1.0, 0.002]}},
    }
    assert scale.modelled(models, "autoencoder", 1, 100) == pytest.approx(6)
    assert scale.modelled(models, "autoencoder", 81, 100) == pytest.approx(6 + 80 * 1.2)
    assert scale.modelled(models, "pca", 1, 100) == 0


def test_tables_show_figures_and_errors(growth, tmp_path):
    assert scale.growth(tmp_path).startswith("Not measured yet")
    assert scale.memory(tmp_path).startswith("Not measured yet")
    (tmp_path / "benchmarks").mkdir()
    figures = measured(growth, lambda n: 100 + 0.1 * n)
    figures["stages"]["zoos"]["4000"]["zoo"]["cpu_seconds"] = 1000.0  # after the model was fitted
    (tmp_path / scale.GROWTH).write_text(json.dumps(figures))
    row = next(line for line in scale.growth(tmp_path).split("\n") if line.startswith("| `zoo`"))
    cells = row.strip("| ").split(" | ")
    assert cells[:7] == ["`zoo`", "150", "200", "300", "1,000", "+0%, +0%", "85 min"]
    assert scale.widths(tmp_path).startswith("Not measured yet")


def run(*words):
    """Run a benchmark as a person does."""
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [warm.programs() / "python", *words],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_growth_of_a_tiny_pipeline_is_measured(tmp_path):
    out = tmp_path / "growth.json"
    words = ["--runs", "36", "48", "--widths", "2", "4", "--rounds", "1", "--out", str(out)]
    run("benchmarks/growth.py", "--quick", "--stages", "zoo", "outputs", *words)
    figures = json.loads(out.read_text())
    assert [figures["stages"]["zoos"][n]["members"] for n in ("36", "48")] == [108, 144]
    small = figures["stages"]["zoos"]["36"]
    assert small["zoo"]["in_workers"] > 0.2 > small["outputs"]["in_workers"] >= 0
    assert 100 < small["outputs"]["anonymous_mib"] < small["outputs"]["resident_mib"] < 2000
    assert set(figures["stages"]["models"]) == {"zoo", "outputs"}
    widths = figures["resnet18"]["widths"]
    ratio = widths["4"]["flops_per_run_step"] / widths["2"]["flops_per_run_step"]
    assert 3.5 < ratio < 4.5  # operations go with the square of the width


def test_memory_of_narrow_networks_is_measured_and_other_widths_stay(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    out = tmp_path / scale.MEMORY
    other = {"sizes": {"9 members": {"pca": {"anonymous_mib": 1, "resident_mib": 2}}}}
    other |= {"numbers_of_a_network": 7, "pixels": 8, "machine": "m", "python": "3", "torch": "2"}
    out.write_text(json.dumps({"widths": {"1": other}}))
    words = ["--width", "2", "--members", "24", "--pixels", "8", "--stages", "outputs"]
    words += ["--work", str(tmp_path), "--out", str(out)]
    run("benchmarks/memory.py", *words)
    widths = json.loads(out.read_text())["widths"]
    assert list(widths) == ["1", "2"]
    peak = widths["2"]["sizes"]["24 members, 2 draws"]["outputs"]
    assert 100 < peak["anonymous_mib"] < peak["resident_mib"] < 2000
    table = scale.memory(tmp_path)
    assert f"| `outputs` | | {peak['anonymous_mib']} ({peak['resident_mib']}) |" in table
    assert "| `pca` | 1 (2) | |" in table
    before = out.read_text()
    run("benchmarks/memory.py", *words)  # nothing is left to do
    assert json.loads(out.read_text())["widths"]["2"] == json.loads(before)["widths"]["2"]
