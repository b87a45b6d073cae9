"""Tables of experiments: definitions, jobs, means and intervals. Experiments themselves: test_dvc."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from weightspace.artifacts import read_json
from weightspace.cli.app import app
from weightspace.errors import WeightspaceError
from weightspace.evaluate.generation import KINDS, METRICS
from weightspace.experiments import dvc, suite, sweep
from workspace import ROOT, locate

FILES = ("reconstruction", "sampling", "properties", "novelty")
GENERATION = {"latent", "parameters"} | {f"{k}_{f}" for k in KINDS for f in METRICS}
DEFINITION = {
    "title": "A table",
    "seeds": [0, 1, 2],
    "split": "test_sets",
    "base": {"zoo.runs": 80},
    "stages": ["evaluate_sampling"],
    "columns": {"agreement": "reconstruction.agreement_mean", "R2": "sampling.r2_identity"},
    "rows": [
        {"name": "published", "published": {"agreement": 0.31}},
        {"name": "one", "set": {"pca.align": "matching"}, "read": {"sampling": "unguided_"}},
        {"name": "best", "read": {"sampling": "best_of_n_", "reconstruction": None}},
        {"name": "two", "set": {}},
    ],
}


@pytest.fixture
def definition(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(DEFINITION, sort_keys=False))
    return path


@pytest.fixture
def experiments(monkeypatch):
    """Experiments that run in no time; the figure of seed s in job j is j + s / 10."""
    ran = []

    def run_one(job, stages, baseline):
        assert stages == ["evaluate_sampling"]
        ran.append(job)
        return str(len(ran) - 1)

    def value(commit, metric):
        job = ran[int(commit)]
        seed = int(job[0].removeprefix("seed="))
        return len(metric) + (10 if "pca.align=matching" in job else 0) + seed / 10

    monkeypatch.setattr(suite, "baseline_commit", lambda: "base")
    monkeypatch.setattr(suite, "run_one", run_one)
    monkeypatch.setattr(suite, "value", value)
    return ran


def test_every_distinct_row_runs_once_for_each_seed(definition, experiments, tmp_path):
    suite.run_suite(definition, tmp_path / "results.md")
    expected = [
        job
        for seed in (0, 1, 2)
        for job in (
            (f"seed={seed}", "zoo.runs=80", "pca.align=matching"),
            (f"seed={seed}", "zoo.runs=80"),
        )
    ]
    assert experiments == expected


def test_settings_of_the_caller_replace_those_of_the_base(definition, experiments, tmp_path):
    definition.write_text(yaml.safe_dump(DEFINITION | {"remarks": "Of the table's own settings."}))
    out = tmp_path / "r.md"
    suite.run_suite(definition, out, ["zoo.runs=7", "sources.path=/a b"])
    assert experiments[1] == ("seed=0", "zoo.runs=7", "sources.path=/a b")
    text = out.read_text()
    assert "`sources.path=/a b`" in text
    assert f"suite {definition} -S zoo.runs=7 -S 'sources.path=/a b' --out {out}`" in text
    assert "own settings" not in text
    for wrong in ("zoo.runs", "=7", "zoo.runs="):
        with pytest.raises(WeightspaceError, match="not a setting"):
            suite.run_suite(definition, tmp_path / "r.md", [wrong])


def test_table_has_means_intervals_and_published_figures(definition, experiments, tmp_path):
    suite.run_suite(definition, tmp_path / "results.md")
    raw = pd.read_csv(tmp_path / "results.csv")
    one = raw[(raw["row"] == "one") & (raw["column"] == "R2")]["value"]
    key = len("sampling.test_sets.unguided_r2_identity")
    assert one.tolist() == pytest.approx([key + 10, key + 10.1, key + 10.2])
    text = (tmp_path / "results.md").read_text()
    out = tmp_path / "results.md"
    assert f"`python -m weightspace suite {definition} --out {out}`" in text
    assert "| published | 0.310 |  |" in text
    half = 4.302653 * 0.1 / 3**0.5  # Student's t with two degrees of freedom
    assert f"{key + 10.1:.3f} ± {half:.3f} |" in text
    assert "| best |  | " in text  # a figure that a row has not is no figure


def test_a_stage_from_the_cache_has_no_time_of_its_own(
    definition, experiments, tmp_path, monkeypatch
):
    definition.write_text(
        yaml.safe_dump(DEFINITION | {"columns": {"s": "cost/zoo:seconds", "R2": "sampling.r2"}})
    )
    seconds = {"base": 455.1, "0": 455.1, "1": 12.5}  # the first experiment trained no zoo
    monkeypatch.setattr(suite, "value", lambda commit, _: seconds.get(commit, 20.0))
    suite.run_suite(definition, tmp_path / "r.md")
    raw = pd.read_csv(tmp_path / "r.csv")
    raw = raw[(raw["seed"] == 0) & (raw["row"] != "best")].set_index(["row", "column"])["value"]
    assert np.isnan(raw["one", "s"])
    assert raw["two", "s"] == 12.5
    assert raw["one", "R2"] == 455.1  # other figures are outputs and may agree by chance


def test_large_numbers_have_no_decimals_and_constants_no_interval(tmp_path):
    table = suite.Suite.model_validate(DEFINITION | {"columns": {"n": "a:n", "s": "a:s"}})
    rows = [
        ("one", "n", 0, 590410.0, "a"),
        ("one", "n", 1, 590410.0, "b"),
        ("one", "s", 0, 290.2, "a"),
        ("one", "s", 1, 331.4, "b"),
    ]
    figures = pd.DataFrame(rows, columns=suite.COLUMNS)
    text = suite.markdown(table, figures, "made")
    assert re.search(r"\| one \| 590,410 \| 311 ± \d+ \|", text)


def test_interval_covers_the_mean_of_normal_values():
    rng = np.random.default_rng(0)
    found = [suite.interval(rng.normal(size=3)) for _ in range(2000)]
    covered = np.mean([abs(mean) <= half for mean, half in found])
    assert covered == pytest.approx(0.95, abs=0.02)
    assert suite.interval(np.array([2.0])) == (2.0, 0.0)


def test_a_failed_experiment_writes_nothing(definition, experiments, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "run_one", lambda *_: None)
    with pytest.raises(WeightspaceError, match="experiment failed"):
        suite.run_suite(definition, tmp_path / "results.md")
    assert not (tmp_path / "results.md").exists()


def test_an_interrupted_table_says_what_it_lacks_and_goes_on(
    definition, experiments, tmp_path, monkeypatch
):
    definition.write_text(yaml.safe_dump(DEFINITION | {"remarks": "What it says."}))
    whole, out = tmp_path / "whole.md", tmp_path / "r.md"
    value = suite.value
    monkeypatch.setattr(suite, "value", lambda *a: value(*a) * 12345.6789)  # of many digits
    suite.run_suite(definition, whole)
    jobs = experiments.copy()
    experiments.clear()
    run_one = suite.run_one
    monkeypatch.setattr(suite, "run_one", lambda *a: run_one(*a) if len(experiments) < 3 else None)
    with pytest.raises(WeightspaceError, match="experiment failed"):
        suite.run_suite(definition, out)
    assert (
        "Not complete, `--resume` continues: one without seed 2; best without seed 2; "
        "two without seed 1, 2.\n"
    ) in out.read_text()
    monkeypatch.setattr(suite, "run_one", run_one)
    suite.run_suite(definition, out, resume=True)
    assert experiments == jobs  # none twice
    assert out.read_text() == whole.read_text().replace(str(whole), str(out))
    assert out.with_suffix(".csv").read_bytes() == whole.with_suffix(".csv").read_bytes()
    assert "Not complete" not in out.read_text()
    assert out.read_text().endswith("|\n\nWhat it says.\n")
    definition.write_text(yaml.safe_dump(DEFINITION | {"remarks": "More."}))
    suite.run_suite(definition, out, resume=True)  # nothing to run, but other words
    assert experiments == jobs
    assert out.read_text().endswith("|\n\nMore.\n")
    more = DEFINITION["columns"] | {"cosine": "reconstruction.cosine_mean"}
    for change in ({"columns": more}, {"columns": more, "base": {"zoo.runs": 90}}):
        experiments.clear()
        definition.write_text(yaml.safe_dump(DEFINITION | change))
        suite.run_suite(definition, out, resume=True)  # another figure, then other settings
        assert len(experiments) == len(jobs)
        suite.run_suite(definition, whole)
        assert out.read_text() == whole.read_text().replace(str(whole), str(out))


def test_figures_of_other_settings_do_not_stay_in_a_table(
    definition, experiments, tmp_path, monkeypatch
):
    out = tmp_path / "r.md"
    suite.run_suite(definition, out)
    rows = [row for row in DEFINITION["rows"] if row["name"] != "two"]
    changed = [*rows, {"name": "two", "set": {"pca.components": 8}}]
    definition.write_text(yaml.safe_dump(DEFINITION | {"rows": changed}))
    monkeypatch.setattr(suite, "run_one", lambda *_: None)
    with pytest.raises(WeightspaceError, match="two: experiment failed"):
        suite.run_suite(definition, out, resume=True)
    assert "Not complete, `--resume` continues: two without seed 0, 1, 2.\n" in out.read_text()
    assert "two" not in set(pd.read_csv(out.with_suffix(".csv"))["row"])


def test_a_table_goes_on_only_from_figures(definition, experiments, tmp_path):
    for text in (None, "", "row,seed\na,0\n"):
        if text is not None:
            (tmp_path / "r.csv").write_text(text)
        with pytest.raises(WeightspaceError, match="no figures of an earlier run") as error:
            suite.run_suite(definition, tmp_path / "r.md", resume=True)
        assert "\n" not in str(error.value)
        assert not experiments


@pytest.mark.parametrize(
    "change", [{"rows": []}, {"colums": {}}, {"seeds": ["a"]}, {"rows": [{"set": {}}]}]
)
def test_bad_definitions_are_one_line(change, tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(DEFINITION | change, sort_keys=False))
    with pytest.raises(WeightspaceError) as error:
        suite.load_suite(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "page", "sets"),
    [
        ("ablation", "ablation", []),
        ("glyphs", "unseen_classes", []),
        ("autoencoders", "autoencoders", []),
        ("autoencoders", "autoencoders_small", ["zoo.runs=400"]),
    ],
)
def test_the_pages_show_their_raw_figures(name, page, sets):
    path, out = Path(f"benchmarks/{name}.yaml"), Path(f"docs/{page}.md")
    table = suite.load_suite(ROOT / path).changed(sets)
    figures = pd.read_csv((ROOT / out).with_suffix(".csv"))
    assert (ROOT / out).read_text() == suite.markdown(
        table, figures, suite.command(path, out, sets)
    )


@pytest.mark.parametrize("name", ["ablation", "autoencoders"])
def test_a_page_of_the_project_goes_on_from_its_own_figures(
    name, experiments, tmp_path, monkeypatch
):
    """The names of experiments beside the figures are those of the present settings."""
    monkeypatch.setattr(suite, "run_one", lambda job, *_: experiments.append(job))
    raw, copy = ROOT / "docs" / f"{name}.csv", tmp_path / f"{name}.csv"
    copy.write_bytes(raw.read_bytes())
    definition = ROOT / "benchmarks" / f"{name}.yaml"
    suite.run_suite(definition, copy.with_suffix(".md"), resume=True)
    assert not experiments
    assert copy.read_bytes() == raw.read_bytes()
    with pytest.raises(WeightspaceError, match="experiment failed"):  # the control
        suite.run_suite(definition, copy.with_suffix(".md"), ["zoo.runs=7"], resume=True)
    assert len(experiments) == 1


@pytest.mark.parametrize("name", ["table.yaml", "notes.md", "params.csv", "folder.md"])
@pytest.mark.parametrize("render", [False, True])
def test_a_table_is_written_over_an_earlier_one_only(
    name, render, definition, experiments, tmp_path
):
    """Not over the definition, another text, or raw figures; and no experiment runs before."""
    good = tmp_path / "good.md"
    suite.run_suite(definition, good)
    suite.run_suite(definition, good)  # the control
    (tmp_path / "folder.md").mkdir()
    (tmp_path / "notes.md").write_text("# Notes")
    for other in ("table", "notes", "folder"):
        (tmp_path / f"{other}.csv").write_bytes(good.with_suffix(".csv").read_bytes())
    (tmp_path / "params.csv").write_bytes(good.with_suffix(".csv").read_bytes())
    before, ran = {f: f.read_bytes() for f in tmp_path.iterdir() if f.is_file()}, len(experiments)
    with pytest.raises(WeightspaceError) as error:
        (suite.render_suite if render else suite.run_suite)(definition, tmp_path / name)
    assert "\n" not in str(error.value)
    assert {f: f.read_bytes() for f in tmp_path.iterdir() if f.is_file()} == before
    assert len(experiments) == ran


def test_raw_figures_are_written_over_earlier_ones_only(definition, experiments, tmp_path):
    (tmp_path / "r.csv").write_text("my,data\n1,2\n")
    with pytest.raises(WeightspaceError, match="this command did not write it"):
        suite.run_suite(definition, tmp_path / "r.md")
    assert (tmp_path / "r.csv").read_text() == "my,data\n1,2\n"
    assert not experiments


def test_a_table_is_rendered_anew_without_a_run(definition, experiments, tmp_path):
    out = tmp_path / "r.md"
    with pytest.raises(WeightspaceError, match=r"r.csv: no figures of an earlier run"):
        suite.render_suite(definition, out)
    suite.run_suite(definition, out)
    page, raw = out.read_text(), out.with_suffix(".csv").read_bytes()
    jobs = experiments.copy()
    out.write_text(f"An earlier layout\n{page.splitlines()[2]}\n")
    suite.render_suite(definition, out)
    assert out.read_text() == page
    changed = DEFINITION | {"title": "Another"}
    definition.write_text(yaml.safe_dump(changed, sort_keys=False))
    suite.render_suite(definition, out)
    assert out.read_text() == page.replace("# A table", "# Another")
    assert out.with_suffix(".csv").read_bytes() == raw
    assert experiments == jobs


def test_the_command_line_hands_on_what_it_was_given(definition, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(suite, "run_suite", lambda *a, **more: seen.append((*a, more)))
    monkeypatch.setattr(suite, "render_suite", lambda *a: seen.append(a))
    for words in ("--resume -S a=1 -S b=2", "--render --out x.md", "--render --resume"):
        done = CliRunner().invoke(app, ["suite", str(definition), *words.split()])
        assert (done.exit_code == 0) == (words != "--render --resume")
    assert seen == [
        (definition, Path("docs/table.md"), ["a=1", "b=2"], {"resume": True}),
        (definition, Path("x.md"), []),
    ]


@pytest.mark.parametrize("name", sorted(f.stem for f in (ROOT / "benchmarks").glob("*.yaml")))
def test_the_tables_of_the_project_are_valid(name):
    """Their settings are those of params.yaml and their figures those of the metric files."""
    from weightspace.params import validate_params

    found = suite.load_suite(ROOT / "benchmarks" / f"{name}.yaml")
    for row in found.rows:
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        for key, setting in (found.base | (row.set or {})).items():
            section, last = locate(params, key)
            assert last in section, key
            section[last] = yaml.safe_load(setting) if isinstance(setting, str) else setting
        validate_params(params)
    metrics = {f: read_json(ROOT / "metrics" / f"{f}.json") for f in FILES}
    for row in found.rows:
        for metric in filter(None, (row.columns or found.columns).values()):
            file, key = re.split(r"[.:]", metric)
            if ":" in metric:  # a file without splits
                known = GENERATION if file == "generation" else {"seconds", "peak_mib"}
                assert key in known, (row.name, metric)
                continue
            assert key in metrics[file]["test_sets"], (row.name, metric)
        for file, prefix in row.read.items():  # some figures have no variant, never all of them
            keys = [m.split(".")[1] for m in found.columns.values() if m and m.startswith(file)]
            known = [k for k in keys if f"{prefix}{k}" in metrics[file]["test_sets"]]
            assert prefix is None or known, (row.name, file)


def test_a_table_is_like_another_where_it_says_nothing_else(definition, tmp_path):
    base = suite.load_suite(definition)
    other = tmp_path / "other.yaml"
    other.write_text("like: table.yaml\ntitle: Another\nbase: {zoo.runs: 7}\n")
    assert suite.load_suite(other) == base.model_copy(
        update={"title": "Another", "base": {"zoo.runs": 7}}
    )
    other.write_text("like: nothing.yaml\n")
    with pytest.raises(WeightspaceError, match=r"nothing\.yaml: file is missing"):
        suite.load_suite(other)
    other.write_text("title: Another\nbase: {zoo.runs: 7}\n")  # the control
    with pytest.raises(WeightspaceError, match="not a table of experiments"):
        suite.load_suite(other)


def test_a_column_without_a_metric_is_that_of_rows_that_name_one(definition, experiments, tmp_path):
    row = {"name": "cost", "columns": {"seconds": "pca:seconds"}}
    columns = DEFINITION["columns"] | {"seconds": None}
    changed = DEFINITION | {"columns": columns, "rows": [*DEFINITION["rows"], row]}
    definition.write_text(yaml.safe_dump(changed, sort_keys=False))
    suite.run_suite(definition, tmp_path / "r.md")
    raw = pd.read_csv(tmp_path / "r.csv")
    assert set(raw[raw["column"] == "seconds"]["row"]) == {"cost"}
    assert set(raw[raw["row"] == "cost"]["column"]) == {"seconds"}
    assert "Not complete" not in (tmp_path / "r.md").read_text()


def test_images_of_a_person_choose_the_source(definition, experiments, tmp_path, monkeypatch):
    """Class folders or idx files; a table that names them already stays as it is, remarks included."""
    photos, files = tmp_path / "photos", tmp_path / "files"
    (photos / "cats").mkdir(parents=True)
    files.mkdir()
    (files / "train-images-idx3-ubyte.gz").touch()
    named = {"dataset.source": "idx", "sources.path": str(files)}
    changed = DEFINITION | {"base": named, "remarks": "What it says."}
    definition.write_text(yaml.safe_dump(changed, sort_keys=False))
    assert suite.image_settings(definition, files) == []
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    expected = ["dataset.source=folder", f"sources.path={photos}"]
    assert suite.image_settings(definition, Path("photos")) == expected  # absolute for experiments
    for images, remarks in ((files, 1), (photos, 0)):
        done = CliRunner().invoke(app, ["suite", str(definition), "--images", str(images)])
        assert done.exit_code == 0, done.output
        assert f"sources.path={images}" in experiments[-1]
        assert (tmp_path / "docs" / "table.md").read_text().count("What it says.") == remarks


def test_without_images_it_is_one_line_how_to_get_them(definition, experiments, tmp_path):
    with pytest.raises(WeightspaceError, match=r"no images.*dataset-fashion-mnist.*fetch") as error:
        suite.image_settings(definition, tmp_path / "nothing")
    assert "\n" not in str(error.value)
    assert not experiments


WRONG = {
    "no such key": "zoo.run=7",
    "no such section": "zoos.runs=7",
    "a section": "zoo=7",
    "below a value": "seed.a=7",
    "another type": "zoo.runs=many",
    "a fraction": "zoo.runs=7.5",
    "a truth value": "zoo.runs=true",
    "out of range": "zoo.runs=0",
    "beyond the limit": "zoo.runs=" + "1" + 30 * "0",
    "an open list": "zoo.epochs=[4",
    "a list of one": "zoo.epochs=[4]",
    "a list in the wrong order": "zoo.epochs=[8,4]",
    "no member": "autoencoder.model=none",
    "two values": "zoo.runs={value: 7}",
    "no number": "zoo.batch_size=.nan",
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_cannot_be_are_refused_before_the_first_run(
    case, experiments, tmp_path, monkeypatch
):
    """In the last row of a table, and in the last value of a sweep; the control is the table as it is."""
    key, _, value = WRONG[case].partition("=")
    path, out = tmp_path / "table.yaml", tmp_path / "r.md"
    row = {
        "name": "three",
        "set": {key: yaml.load(value, yaml.BaseLoader) if value != "[4" else value},
    }
    path.write_text(yaml.safe_dump(DEFINITION | {"rows": [*DEFINITION["rows"], row]}))
    for run in (
        lambda: suite.run_suite(path, out),
        lambda: suite.run_suite(path, out, [WRONG[case]]),
        lambda: sweep.run_sweep(
            ["seed=0,1", WRONG[case]], "reconstruction.val.x", None, ascending=False
        ),
    ):
        with pytest.raises(WeightspaceError) as error:
            run()
        assert "\n" not in str(error.value)
        assert key.split(".")[0] in str(error.value)
    assert not experiments
    assert not out.exists()


def test_settings_are_read_as_dvc_reads_them():
    dvc.check_settings(
        [("zoo.epochs=[4,8]", "autoencoder.lr=1e-3", "sources.path=/a b", "+seed=3")]
    )
