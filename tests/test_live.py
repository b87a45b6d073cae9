"""Curves of a running fit: watchers get every epoch; without DVCLive there are none and no failure."""

import torch
from torch import nn

import _live
from weightspace.learning.loop import fit
from weightspace.params import AutoencoderSettings
from weightspace.progress import progress, watch


def settings(params, epochs):
    return params.autoencoder.model_copy(update={"epochs": epochs, "patience": epochs})


def test_a_watcher_gets_every_epoch_of_a_fit_as_it_ends(world):
    module, seen = nn.Linear(2, 1), []

    def loss(rows, split, rng):
        return {"loss": module(torch.ones(len(rows), 2)).square().mean()}

    changed: AutoencoderSettings = settings(world().params, 3)
    with watch("autoencoder", lambda row: seen.append((row, module.weight.detach().clone()))):
        history = fit("autoencoder", module, loss, {"train": 4, "val": 2}, changed, 0)
        fit("critic", module, loss, {"train": 4, "val": 2}, changed, 0)  # another fit
    fit("autoencoder", module, loss, {"train": 4, "val": 2}, changed, 0)  # no longer watched
    assert [row for row, _ in seen] == history.to_dict("records")
    assert not torch.equal(seen[0][1], seen[-1][1])  # called during the fit, not after it


def test_without_dvclive_the_block_runs_and_one_line_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(_live, "find_spec", lambda name: None)
    monkeypatch.setattr(_live, "ROOT", tmp_path)
    ran = []
    with _live.live("autoencoder"), progress("x", 1) as bar:
        bar.advance(metrics={"epoch": 1, "val_loss": 0.5})
        ran.append(1)
    assert ran
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("note:")] == [_live.NOTE]
    assert "pip install 'weightspace[pipeline]'" in _live.NOTE
    assert list(tmp_path.iterdir()) == []
