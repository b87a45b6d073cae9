"""Headline figures: copied from their files, of unseen class sets, with care where one is missing."""

import json
import re

import pytest

import summary as stage
from cases import tiny
from weightspace.evaluate.summary import (
    BASELINES,
    DISTRIBUTION,
    RECONSTRUCTION,
    SAMPLING,
    summarize,
)
from workspace import ROOT

KEYS = ["agreement", "agreement_late", "accuracy_r2"]
KEYS += ["draw_r2", "draw_mae", "draw_top", "scratch_top", "guided_r2", "recall_late"]
KEYS += ["draw_auc", "agreement_draws", "agreement_members"]
KEYS += ["error_overlap_draws", "error_overlap_members"]
KEYS += ["hypernetwork_r2", "hypernetwork_top"]
FILES = ("reconstruction", "sampling", "distribution", "baselines")


def files(result="accuracy"):
    """A value of its own for every figure that a headline is taken from, in each split."""
    names, others = (
        {k.format(result=result) for k in table.values()} for table in (SAMPLING, BASELINES)
    )
    return [
        {
            s: {k: 1000 * file + i + 10 * j for j, k in enumerate(sorted(keys))}
            for i, s in enumerate(splits)
        }
        for file, (keys, splits) in enumerate(
            (
                (set(RECONSTRUCTION.values()), ("test_sets", "test_classes")),
                (names, ("val", "test_sets", "test_classes")),
                (set(DISTRIBUTION.values()), ("val", "test_sets", "test_classes")),
                (others, ("val", "test_sets", "test_classes")),
            )
        )
    ]


@pytest.mark.parametrize("result", ["accuracy", "loss"])
def test_headlines_are_figures_of_unseen_class_sets(result):
    every = reconstruction, sampling, distribution, baselines = files(result)
    figures = summarize(*every, result)
    assert list(figures) == KEYS
    assert figures["agreement"] == reconstruction["test_sets"]["encoder_only_agreement_mean"]
    assert figures["draw_top"] == sampling["test_sets"][f"unguided_{result}_at_top_mean"]
    assert figures["scratch_top"] == sampling["test_sets"][f"{result}_scratch_single_mean"]
    assert figures["draw_auc"] == distribution["test_sets"]["auc_outputs"]
    assert (
        figures["hypernetwork_top"] == baselines["test_sets"][f"hypernetwork_{result}_at_top_mean"]
    )
    assert None not in figures.values()
    assert len(set(figures.values())) == len(KEYS)  # no figure for another
    for split in ("val", "test_classes"):
        for metrics in (sampling, distribution, baselines):
            metrics[split] = dict.fromkeys(metrics[split], -1)
    assert summarize(*every, result) == figures


def test_what_was_not_measured_is_none():
    every = reconstruction, sampling, _, baselines = files()
    del reconstruction["test_sets"], sampling["test_sets"]["r2_identity"]
    baselines.clear()  # without controls
    figures = summarize(*every, "accuracy")
    missing = [*RECONSTRUCTION, "guided_r2", *BASELINES]
    assert [k for k, v in figures.items() if v is None] == missing
    assert set(summarize({}, {}, {}, {}, "accuracy").values()) == {None}


def test_headlines_have_no_gradients_and_no_choice_but_one():
    keys = [
        *RECONSTRUCTION.values(),
        *SAMPLING.values(),
        *DISTRIBUTION.values(),
        *BASELINES.values(),
    ]
    assert not [k for k in keys if re.search("best_of_n|control_", k)]
    assert [k for k in SAMPLING if SAMPLING[k] == "r2_identity"] == ["guided_r2"]


def test_the_stage_writes_one_flat_file(tmp_path, monkeypatch):
    every = files()
    monkeypatch.setattr(stage, "METRICS", tmp_path)
    for name, figures in zip(FILES, every, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(figures))
    stage.main(tiny())
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written == summarize(*every, "accuracy")


def test_formats_describe_every_headline():
    text = (ROOT / "docs" / "formats.md").read_text()
    assert not [k for k in KEYS if f"`{k}`" not in text]
