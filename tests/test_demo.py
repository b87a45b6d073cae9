"""The demo: what it shows is what the networks do, on a terminal and as a page."""

import io
import re
import sys

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.text import Text

from weightspace.cli import app as cli
from weightspace.cli import demo as terminal
from weightspace.data.dataset import class_labels
from weightspace.errors import WeightspaceError
from weightspace.report import demo as demos
from weightspace.rng import torch_stream
from weightspace.sampling.sampler import Condition, Sampler


@pytest.fixture(scope="module")
def drawn(project):
    return demos.draw(project, seed=0)


def test_the_task_is_one_that_nothing_was_fitted_to(project, drawn):
    tasks = project.dataset.tasks.set_index("task")
    assert tasks["split"][drawn.task] == "test_sets"
    fitted = set(tasks.loc[tasks["split"].isin(("train", "val")), "class_set"])
    assert tasks["class_set"][drawn.task] not in fitted
    assert drawn.classes == [project.dataset.class_names[c] for c in tasks["classes"][drawn.task]]
    others = {demos.draw(project, seed).task for seed in range(4)}
    assert len(others) > 1


def test_results_are_those_of_the_networks(project, drawn):
    asked = [answer.first.target for answer in drawn.answers]
    low, high = project.trained_range
    assert len(asked) == 3
    assert low <= min(asked) < max(asked) <= high
    target = torch.tensor(asked).repeat_interleave(demos.NETWORKS)
    tasks = torch.full((len(target),), drawn.task)
    sampler = Sampler(project.autoencoder, project.shared_encoder, project.net)
    condition = Condition.of_tasks(project.dataset, tasks, target)
    weights = sampler.draw(condition, 1, torch_stream(0, "demo", "draw"))
    images, _ = project.dataset.task_batch(tasks[:1], "test")
    with torch.no_grad():
        guess = project.net.run(weights, images[0]).argmax(-1)
    labels = class_labels(len(drawn.classes), drawn.pixels.shape[1])
    accuracy = (guess == labels).double().mean(1).numpy().reshape(len(asked), -1)
    for answer, expected in zip(drawn.answers, accuracy, strict=True):
        assert np.allclose(answer.results, expected)
        assert answer.first.accuracy == pytest.approx(expected[0])
        assert answer.first.confusion.diagonal().mean() == pytest.approx(expected[0])
    assert drawn.images == len(labels)


def test_images_are_shown_as_they_are():
    image = torch.tensor([[[0.0, 1.0, 0.5], [1.0, 0.0, 0.0], [0.2, 0.2, 1.0]]])
    assert [str(line) for line in terminal.shades(image)] == ["  ██▒▒", "██    ", "░░░░██"]
    lines = terminal.half_blocks(image)
    assert [str(line) for line in lines] == ["▀▀▀", "▀▀▀"]
    spans = [span.style for span in lines[0].spans]
    assert [(s.color.triplet[0], s.bgcolor.triplet[0]) for s in spans] == [
        (0, 255),
        (255, 0),
        (128, 0),
    ]
    red = terminal.half_blocks(torch.tensor([[[1.0]], [[0.0]], [[0.0]]]))[0].spans[0].style
    assert tuple(red.color.triplet) == (255, 0, 0)


@pytest.mark.parametrize("colours", [None, "truecolor"])
@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_all_of_it_and_no_line_is_too_long(colours, width, drawn, monkeypatch):
    file = io.StringIO()
    out = Console(file=file, width=width, color_system=colours, force_terminal=bool(colours))
    monkeypatch.setattr(terminal, "console", lambda: out)
    terminal.show(drawn)
    text = Text.from_ansi(file.getvalue()).plain
    assert max(len(line) for line in text.splitlines()) <= width
    assert ("▀" in text, any(c in text for c in "░▒▓█")) == (bool(colours), not colours)
    for answer in drawn.answers:
        assert f"{answer.first.target:.2f}" in text
        assert f"accuracy {answer.first.accuracy:.2f}" in " ".join(text.split())
    words = " ".join(text.split())
    assert "in one pass" in words
    assert "no gradient on any image" in words
    assert f"{project_count(drawn)} networks" in words


def project_count(drawn):
    """Networks of all requests."""
    return sum(len(answer.results) for answer in drawn.answers)


def test_large_images_are_made_small(drawn, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(terminal, "console", lambda: Console(file=file, width=80))
    big = torch.rand(3, 4, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    terminal.show(demos.Demo(**{**vars(drawn), "pixels": big}))
    assert max(map(len, file.getvalue().splitlines())) <= 80
    assert "█" in file.getvalue() or "▓" in file.getvalue()


def test_the_command_shows_writes_a_page_and_says_what_to_do_next(
    project_root, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "demo.html"
    words = ["weightspace", "demo", "--root", str(project_root), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    for _ in range(2):  # also over the page of an earlier time
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert not caught.value.code
    shown = capsys.readouterr().out
    assert shown.splitlines()[-2:] == [f"{what}: {command}" for what, command in demos.NEXT]
    page = out.read_text()
    assert page.startswith("<!doctype html>")
    assert not re.findall(r'(?:src|href)="(?!data:)', page)  # it loads nothing
    assert page.count("<img") == 2 + 3
    assert "<script" not in page
    assert "in one pass" in page
    out.write_text("mine")
    with pytest.raises(WeightspaceError, match="did not write it"):
        demos.check_out(out)
