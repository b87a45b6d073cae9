"""The report page: complete for a finished project, honest about what is missing, alone in one file."""

import base64
import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.table import Table

from weightspace.cli import app as cli
from weightspace.errors import WeightspaceError
from weightspace.evaluate.generation import KINDS, METRICS
from weightspace.evaluate.properties import key
from weightspace.report import gallery
from weightspace.report import html as page
from weightspace.report import tables as results
from weightspace.report.page import CAPTIONS, TABLES, WHOLE, write
from weightspace.report.page import answers as page_answers
from weightspace.report.plots import PLOTS, draw_plot
from workspace import ROOT

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def every(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def read(path):
    return Reader(path.read_text())


@pytest.fixture(autouse=True)
def _plots_are_drawn_once(monkeypatch):
    """The same file gives the same picture, as a test says."""

    def draw(path):
        file = path.name, path.read_bytes()
        if file not in PICTURES:
            PICTURES[file] = draw_plot(path)
        return PICTURES[file]

    monkeypatch.setattr("weightspace.report.page.draw_plot", draw)


PICTURES = {}  # name and bytes of a file -> what was drawn


@pytest.fixture
def finished(project_root, tmp_path):
    """A finished tiny project with the metrics that are committed, of another run."""
    root = tmp_path / "project"
    shutil.copytree(project_root, root)
    shutil.copytree(ROOT / "metrics", root / "metrics")
    return root


def alone(found):
    """Nothing of a page comes from elsewhere."""
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in found.found}
    for _, attrs in found.found:
        for name in ("src", "href", "srcset", "data"):
            assert attrs.get(name, "data:").startswith(("data:", "#"))
    style = " ".join(found.text)
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_is_one_file_with_everything(finished, tmp_path, project):
    out = tmp_path / "report" / "index.html"
    write(finished, out)
    assert [p.name for p in out.parent.iterdir()] == ["index.html"]
    found = read(out)
    alone(found)
    pictures = found.every("img")
    tasks = len(gallery.chosen_tasks(project))
    assert tasks > 0
    assert len(pictures) == len(PLOTS) + tasks * 4  # images and three matrices of each task
    for attrs in pictures:
        assert len(attrs["alt"]) > 10
        assert base64.b64decode(attrs["src"].partition("base64,")[2])
    assert len(found.every("table")) >= 4
    assert any(a.get("name") == "viewport" for a in found.every("meta"))
    for attrs in found.every("div"):
        assert attrs  # no box without a meaning


def test_the_same_project_gives_the_same_bytes(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("weightspace.report.page.draw_plot", draw_plot)  # anew
    for name in ("a.html", "b.html"):
        write(finished, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_figures_are_those_of_the_files(finished, tmp_path):
    path = finished / "metrics" / "sampling.json"
    data = json.loads(path.read_text())
    data["test_sets"] |= {"r2_identity": 0.12345, "control_shuffled_d_mae": 0.98765}
    path.write_text(json.dumps(data))
    write(finished, tmp_path / "a.html")
    text = read(tmp_path / "a.html").text
    assert "0.123" in text
    assert "0.988" in text


# a value of its own for every figure
GENERATION = {f"{k}_{f}": 0.1 + i / 1000 for i, (k, f) in enumerate(product(KINDS, METRICS))}
CLASSES = {
    key(reading, f"classes_{figure}"): 0.7 + i / 1000
    for i, (reading, figure) in enumerate(
        product(
            ("latent", "weight_statistics", "raw_weights", "hyperparameters", "chance"),
            ("recall", "exact"),
        )
    )
}


def cells(table):
    """Text of every cell of a table."""
    return [str(cell) for column in table.columns for cell in column.cells]


@pytest.mark.parametrize(
    ("figures", "make"),
    [
        (GENERATION, lambda f: results.generation_table(f | {"networks": 80})),
        (CLASSES, lambda f: results.properties_table(f | {"members": 9}, "val")),
    ],
)
def test_every_figure_stands_in_the_table_once(figures, make):
    found = cells(make(figures))
    assert [found.count(f"{value:.3f}") for value in figures.values()] == [1] * len(figures)


def test_generation_is_shown_where_it_was_measured(finished, tmp_path, capsys):
    """Results of earlier versions have none: the rest is shown all the same."""
    path, title = finished / "metrics" / "generation.json", "Generation without a condition"
    for known in (False, True):
        path.unlink(missing_ok=True)
        if known:
            path.write_text(json.dumps(GENERATION | {"networks": 80}))
        lines = write(finished, tmp_path / "a.html")
        assert ("missing: metrics/generation.json; run make repro" in lines) != known
        assert any(title in text for text in read(tmp_path / "a.html").text) == known
        results.show(finished)
        said = capsys.readouterr().out
        assert (title in said) == known
        assert "Sampling from P(W | D, R)" in said


@pytest.mark.parametrize("name", [*TABLES, *WHOLE])
def test_missing_metrics_are_named(name, finished, tmp_path):
    (finished / "metrics" / f"{name}.json").unlink(missing_ok=True)
    shutil.rmtree(finished / "data")  # its pictures take most of the time
    lines = write(finished, tmp_path / "a.html")
    assert f"missing: metrics/{name}.json; run make repro" in lines
    assert f"metrics/{name}.json" in read(tmp_path / "a.html").text


@pytest.mark.parametrize("name", PLOTS)
def test_missing_plots_are_named(name, finished, tmp_path):
    (finished / "metrics" / "plots" / name).unlink()
    shutil.rmtree(finished / "data")
    write(finished, tmp_path / "a.html")
    found = read(tmp_path / "a.html")
    assert f"metrics/plots/{name}" in found.text
    assert len(found.every("img")) == len(PLOTS) - 1


def test_a_project_that_has_not_run_says_so(tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    lines = write(tmp_path, tmp_path / "a.html")
    found = read(tmp_path / "a.html")
    assert not found.every("img")
    assert len(lines) == 1 + 1 + len(TABLES) + len(WHOLE) + len(PLOTS) + len(gallery.FILES)
    assert "No metrics yet; run make repro." in found.text


def test_missing_data_leaves_the_rest(finished, tmp_path):
    shutil.rmtree(finished / "data")
    lines = write(finished, tmp_path / "a.html")
    assert "missing: data/shared_encoder/shared_encoder.safetensors; run make repro" in lines
    assert len(read(tmp_path / "a.html").every("img")) == len(PLOTS)


@pytest.mark.parametrize(
    "name", ["metrics/sampling.json", "data/shared_encoder/shared_encoder.safetensors"]
)
def test_a_damaged_file_is_one_line_and_leaves_nothing(name, finished, tmp_path):
    (finished / name).write_text("{")
    with pytest.raises(WeightspaceError) as caught:
        write(finished, tmp_path / "a.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.html").exists()


def test_every_plot_of_the_pipeline_is_drawn():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    made = {name for s in stages.values() for entry in s.get("plots", []) for name in entry}
    assert {f"metrics/plots/{name}" for name in PLOTS} == made
    assert set(CAPTIONS) == set(PLOTS)


def test_own_templates_of_plots_are_there_and_the_scatter_has_its_lines():
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    named = {v["template"] for entry in plots for v in entry.values() if "template" in v}
    folder = ROOT / ".dvc" / "plots"
    assert {f.stem for f in folder.glob("*.json")} == named
    found = json.loads((folder / "scatter_fit.json").read_text())
    # fields are named after the calculation, so that text of a CSV file is a number before the fit
    assert [t["as"] for t in found["transform"]] == ["x", "y"]
    points, fit, identity = found["layer"]
    assert "transform" not in points
    assert fit["transform"] == [{"regression": "y", "on": "x", "groupby": ["rev"]}]
    assert identity["encoding"]["y"]["field"] == found["encoding"]["x"]["field"] == "x"


def test_text_cannot_become_markup():
    given = Table(title="<i>&")
    given.add_column("<script>")
    given.add_row("</td><script>alert(1)</script>")
    for html in (page.table(given), page.element("p", "<script>"), page.steps([("<b>", "<b>")])):
        assert "<script" not in html
        Reader(html)
    assert Reader(page.picture(b"", "png", '"><script>')).found[1][1]["alt"] == '"><script>'


def test_confusion_counts_rows_by_true_class():
    labels, guess = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    assert gallery.confusion(labels, guess, 3).tolist() == [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 0]]


def test_the_gallery_shows_test_tasks_and_their_images(project):
    for number in gallery.chosen_tasks(project):
        assert project.dataset.tasks["split"][number].startswith("test")
        array = np.asarray(Image.open(io.BytesIO(gallery.strip(project, number))))
        zoom = array.shape[0] // (3 * 9)  # three classes, eight pixels and a line each
        first = array[: 8 * zoom : zoom, : 8 * zoom : zoom] / 255
        images = project.dataset.images["test"][project.dataset.classes[number][0], 0, 0]
        wanted = (images * project.dataset.std + project.dataset.mean).numpy()
        assert np.abs(first - wanted).max() < 0.003


def test_the_diagonal_of_a_confusion_matrix_is_the_accuracy(project):
    for found in gallery.sampled(project, gallery.chosen_tasks(project)[0]):
        assert np.diag(found.confusion).mean() == pytest.approx(found.accuracy)  # equal classes
        assert np.allclose(found.confusion.sum(1), 1)


SAMPLING = {
    "tasks": 3,
    "draws": 16,
    "guided_draws": 4,
    "accuracy_at_top": 0.4,
    "unguided_r2_identity": 0.1,
    "unguided_best_of_n_r2_identity": 0.2,
    "r2_identity": 0.3,
    "best_of_n_r2_identity": 0.5,
    "image_gradients": 1440,
}


def rows_of(given):
    """Rows of a table as lists of text."""
    return [list(row) for row in zip(*(c.cells for c in given.columns), strict=True)]


def test_draws_without_gradients_come_first_and_guided_ones_are_named_and_apart():
    given = results.sampling_table(SAMPLING, "test_sets")
    found = [row[:2] for row in rows_of(given)][:4]
    assert found == [
        ["draws without gradients", "0.100"],
        ["best of 16 on train images, without gradients", "0.200"],
        ["guided draws (1,440 labelled image-gradients each)", "0.300"],
        ["best of 4 on train images, guided", "0.500"],
    ]
    assert [i for i, row in enumerate(given.rows) if row.end_section][:2] == [1, 3]
    told = next(iter(page_answers({"test_sets": SAMPLING})))
    assert told.index("0.10") < told.index("guided") < told.index("0.30")


@pytest.mark.parametrize(
    ("cost", "name", "said"),
    [
        (1440, "guided draw", "1,440"),
        (0, "draw without gradients", "0"),
        (None, "guided draw", "-"),
    ],
)
def test_starts_of_a_fine_tuning_stand_beside_what_they_cost(cost, name, said):
    starts = ("sampled", "control_nearest_task", "control_random")
    figures = {f"{s}_epoch_{e}": 0.5 for s in starts for e in (0, 1, 5)}
    figures |= {
        f"{s}_{k}": 0.5 for s in ("sampled", "scratch") for k in ("single", "best", "ensemble")
    }
    figures |= {"tasks": 3, "ensemble": 8, "scratch_image_gradients": 6336}
    figures |= {f"{s}_image_gradients": 0 for s in starts[1:]}
    figures |= {} if cost is None else {"sampled_image_gradients": cost}
    given = results.finetuning_table(figures, "test_sets")
    found = {row[0]: row[1] for row in rows_of(given)}
    assert found.pop("") == "labelled image-gradients on the task"
    assert found == {
        name: said,
        "nearest training task's network": "0",
        "random initialisation": "0",
        f"{name}, each": said,
        "trained from scratch, each": "6,336",
    }
    assert not [c.header for c in given.columns if "0 epochs" in c.header]


@pytest.mark.parametrize(
    ("high", "edge", "shown"),
    [(0.003, 1.0, "rate 0.003, 100 % at the edge"), (0.01, 0.0, "rate 0.003 to 0.01")],
)
def test_a_baseline_stands_beside_its_cost_its_tasks_and_the_edge_of_its_settings(
    high, edge, shown
):
    figures = {"r2_identity": 0.97, "mae": 0.03, "accuracy_at_top_mean": 0.98}
    figures |= {"r2_identity_low": 0.96, "r2_identity_high": 0.98}
    figures |= {"rate_low": 0.003, "rate_high": high, "rate_at_edge": edge}
    figures |= {"image_gradients": 1386.6, "tasks": 40}
    figures = {f"train_and_stop_{key}": value for key, value in figures.items()}
    figures |= {"ridge_head_accuracy_at_top_mean": 0.99, "ridge_head_image_gradients": 0}
    figures |= {"best_of_zoo_accuracy_at_top": 0.5}  # its row would need a mean
    given = rows_of(results.baselines_table(figures, "test_sets"))
    assert [row[1:] for row in given] == [
        ["0.970 (0.960 to 0.980)", "0.030", "0.980", "-", "-", "-", "1,387", shown, "40"],
        ["-", "-", "0.990", "-", "-", "-", "0", "", "all"],
    ]


def test_the_command_writes_the_page(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["weightspace", "report", "--root", str(finished)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    assert "Written to report/index.html" in capsys.readouterr().out
    assert (tmp_path / "report" / "index.html").is_file()


@pytest.mark.slow
def test_a_finished_pipeline_misses_nothing(finished_clone, tmp_path):
    root = finished_clone.root
    assert write(root, tmp_path / "a.html") == [f"Written to {tmp_path / 'a.html'}"]
    found = read(tmp_path / "a.html")
    alone(found)
    rows = re.findall(r"<tr>(.*?)</tr>", (tmp_path / "a.html").read_text())
    dashes = [row for row in rows if "<td>-</td>" in row or ">-, " in row]
    # what cannot be read off hyper-parameters, and correlations of results that do not vary, which
    # those of tiny networks may not; figures that always exist are there
    for name in ("cosine", "agreement, last snapshots", "trained from scratch: mean run"):
        assert any(name in row for row in rows), name
        assert not any(name in row for row in dashes), name
    assert len(dashes) < len(rows) / 3
