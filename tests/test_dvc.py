"""The pipeline as DVC runs it: what reruns, what stays, what a broken run leaves behind."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from weightspace.experiments.stages import MARK, NEUTRAL, closure, generated
from weightspace.params import load_params
from weightspace.report import provenance
from weightspace.runtime import environment
from workspace import ROOT, TINY, Workspace

pytestmark = pytest.mark.slow
STAGES = sorted(f.stem for f in (ROOT / "stages").glob("[!_]*.py"))
# params key that selects a member of a family -> folder of the family's files
FAMILIES = {
    "dataset.source": "src/weightspace/data/sources",
    "zoo.architecture": "src/weightspace/nets",
    "autoencoder.model": "src/weightspace/autoencoders",
    "shared_encoder.dataset_encoder": "src/weightspace/dataset_encoders",
}


@pytest.fixture
def workspace(finished_clone):
    """The finished clone, brought back to its last commit afterwards."""
    yield finished_clone
    finished_clone.restore()
    if not (finished_clone.root / "data" / "check").exists():  # a run that failed removed it
        finished_clone.dvc("checkout", "data/check")


@pytest.fixture
def copied(finished_clone, tmp_path):
    """A copy of the finished clone, its cache included, to be changed at will."""
    return finished_clone.copy(tmp_path / "copy")


def parameter(params, name):
    """Value of a dotted key."""
    for part in name.split("."):
        params = params[part]
    return params


def dependencies(params, text=None):
    """Stage -> its deps in dvc.yaml, with templates replaced by values of params."""
    text = (ROOT / "dvc.yaml").read_text() if text is None else text
    text = re.sub(r"\$\{(\w[\w.]*)\}", lambda m: str(parameter(params, m[1])), text)
    return {name: set(stage["deps"]) for name, stage in yaml.safe_load(text)["stages"].items()}


@pytest.fixture(scope="module")
def params():
    """params.yaml of the project."""
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def test_the_generated_dependencies_are_those_of_the_code():
    text = (ROOT / "dvc.yaml").read_text()
    assert generated(text, ROOT) == text, "run `python -m weightspace stages --write`"
    assert text.count(MARK) == len(STAGES)
    lines = text.splitlines(keepends=True)
    for i, line in enumerate(lines):  # the control: no line of a block can be left out
        if line.startswith("      - src/weightspace/zoo/"):
            assert generated("".join(lines[:i] + lines[i + 1 :]), ROOT) == text


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_imports(stage, params):
    deps = dependencies(params)[stage]
    assert not closure([ROOT / "stages" / f"{stage}.py"], ROOT) - deps
    assert not [d for d in deps if d.endswith(".py") and not (ROOT / d).is_file()]


def test_every_stage_runs_its_script():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert sorted(stages) == STAGES
    assert {stage["cmd"] for stage in stages.values()} == {f"python stages/{s}.py" for s in stages}


@pytest.mark.parametrize("key", FAMILIES)
def test_only_the_selected_member_is_a_dependency(key, params):
    folder = ROOT / FAMILIES[key]
    members = {f"{FAMILIES[key]}/{f.name}" for f in folder.glob("*.py")}
    leaves = {
        m
        for m in members
        if Path(m).name not in NEUTRAL | {"base.py"} and not Path(m).name.startswith("_")
    }
    for leaf in leaves:
        section, name = key.split(".")
        chosen = params | {section: params[section] | {name: Path(leaf).stem}}
        used = set().union(*dependencies(chosen).values()) & leaves
        assert used == {leaf}


# check resolves the selected members only to see that they exist, and must start when one does not
@pytest.mark.parametrize("stage", [s for s in STAGES if s != "check"])
def test_deps_cover_what_a_run_loaded(stage, finished_clone, params):
    """Imports made by name while a stage runs, the selected member of each family among them."""
    loaded = set(json.loads((finished_clone.root.parent / "loaded" / f"{stage}.json").read_text()))
    assert not [f for f in loaded if f.startswith("..")], "imported from another place"
    needed = {f for f in loaded if Path(f).name not in NEUTRAL}
    assert needed > {"src/weightspace/artifacts.py", "src/weightspace/runtime.py"}
    assert len(needed) > 3 or stage == "summary"  # which reads two files of metrics
    assert not needed - dependencies(params)[stage]


def test_every_stage_gives_the_same_bytes_again(finished_clone, copied):
    """In another process and in one go; DVC finds nothing that differs from its lock."""
    copied.run("git", "clean", "-fdXq", "data")
    shutil.rmtree(copied.root / "metrics")
    names = ("check", "dataset", "zoo", "outputs", "pca", "autoencoder", "shared_encoder")
    copied.stages(*names, "hypernetwork", "evaluate_*", "summary")
    assert copied.hashes("data") == finished_clone.hashes("data")
    again = copied.dvc("repro")
    assert "Data and pipelines are up to date." in again.text
    assert "Running stage" not in again.text
    assert copied.read("dvc.lock") == finished_clone.read("dvc.lock")
    scores = copied.root / "metrics" / "sampling.json"
    scores.write_text(scores.read_text().replace("1", "2"))  # the control
    assert planned(copied) == {"evaluate_sampling", "summary"}


def test_without_controls_the_other_figures_stay(copied):
    def figures():
        return {
            f"{file} {split} {key}": value
            for file in ("sampling", "properties")
            for split, found in json.loads(copied.read(f"metrics/{file}.json")).items()
            for key, value in found.items()
        }

    every = figures()
    copied.set({"evaluate.controls": False})
    copied.stages("evaluate_sampling", "evaluate_properties")
    kept = figures()
    assert kept == {k: every[k] for k in kept}
    readings = ("raw_weights", "weight_statistics", "hyperparameters")
    draws = ("shuffled_d", "shuffled_r", "one_other_class", "other_d_guided_by_own")
    draws += ("d_only", "r_only", "guidance_only")
    draws += ("nearest_task", "noised_copy", "average", "head_only")
    names = [f"control_{name}_" for name in readings + draws]
    gone = {name.split(" ")[2] for name in every.keys() - kept.keys()}
    assert {next(c for c in names if f.startswith(c)) for f in gone} == set(names)
    rest = {name.split(" ")[2] for name in kept if "control_" in name}
    assert rest
    assert all(f.startswith(("control_mean_", "control_chance_")) for f in rest)
    copied.run("python", "-m", "weightspace", "results")
    copied.run("python", "-m", "weightspace", "report")


def planned(workspace):
    """Stages that `dvc repro` would run."""
    return running(workspace.dvc("repro", "--dry").text)


def running(text):
    """Stages of which DVC says that it runs them."""
    return set(re.findall(r"Running stage '(\w+)'", text))


# settings -> stages that `dvc repro` would run
RERUNS = [
    # evaluate_sampling follows when data/shared_encoder has changed, which a dry run cannot know
    ({"shared_encoder.temperature": 0.5}, {"check", "shared_encoder"}),
    (
        {"shared_encoder.result": "loss"},
        {
            "check",
            "shared_encoder",
            "hypernetwork",
            "evaluate_sampling",
            "evaluate_distribution",
            "evaluate_baselines",
            "evaluate_novelty",
            "summary",
        },
    ),
    ({"evaluate.draws": 3}, {"check", "evaluate_sampling"}),
    (
        {"evaluate.controls": False},
        {
            "check",
            "hypernetwork",
            *(f"evaluate_{k}" for k in ("sampling", "distribution", "baselines", "properties")),
        },
    ),
    (
        {
            "nets.mlp.hidden": [7],
            "autoencoders.mlp.hidden": [7],
            "shared_encoders.point.length_weight": 0.2,
            "dataset_encoders.deepsets.width": 9,
            "sources.glyphs.noise": 0.2,
            "sources.folder.size": 9,
            "runtime.workers": 2,
            "runtime.device": "cpu",
        },
        {"check"},
    ),
    ({"autoencoders.functional.depth": 2}, {"check", "autoencoder"}),
    ({"shared_encoders.flow.steps": 3}, {"check", "shared_encoder"}),
    ({"outputs.probes": 9}, {"check", "outputs"}),
    ({"pca.identity_below": 3}, {"check", "pca"}),
]
# One process asks about every text of params.yaml.
ASK = """
import json, sys
from pathlib import Path
from dvc.cli import main

for text in json.loads(Path(sys.argv[1]).read_text()):
    Path("params.yaml").write_text(text)
    print("next", flush=True)
    assert main(["repro", "--dry"]) == 0
"""


def planned_for(workspace, changes, file):
    """Stages that `dvc repro` would run after each of some changes of settings."""
    texts = []
    for settings in changes:
        workspace.set(settings)
        texts.append(workspace.read("params.yaml"))
        workspace.restore()
    file.write_text(json.dumps(texts))
    _, *parts = workspace.run("python", "-c", ASK, str(file)).text.split("next\n")
    return [running(part) for part in parts]


def test_settings_rerun_their_own_stages(workspace, tmp_path):
    changes = [settings for settings, _ in RERUNS]
    planned_stages = planned_for(workspace, [*changes, {}], tmp_path / "texts.json")
    assert planned_stages.pop() == set()  # the control: params.yaml as it was
    for (settings, expected), stages in zip(RERUNS, planned_stages, strict=True):
        assert stages == expected, settings


def test_new_images_rerun_the_dataset(workspace, tmp_path):
    """Whether they are in the repository or elsewhere."""
    workspace.write("images/new.npz", "anything")
    assert {"check", "dataset"} <= planned(workspace)
    (workspace.root / "images/new.npz").unlink()
    assert planned(workspace) == set()
    workspace.set({"sources.path": str(tmp_path)})
    assert {"check", "dataset"} <= planned(workspace)


def test_editing_a_member_reruns_only_its_users(workspace):
    unused, used = "src/weightspace/nets/mlp.py", "src/weightspace/dataset_encoders/statistics.py"
    workspace.write(unused, workspace.read(unused) + "# edited\n")
    assert planned(workspace) == set()
    workspace.write(used, workspace.read(used) + "# edited\n")
    users = {"shared_encoder", "hypernetwork", "evaluate_baselines"}
    users |= {f"evaluate_{k}" for k in ("sampling", "distribution", "novelty", "finetuning")}
    assert planned(workspace) == users  # the control


BAD = {
    "unknown key": (
        ("critic_rounds:", "critic_roounds:"),
        "unknown key 'shared_encoders.flow.critic_roounds'",
        "'critic_rounds'?",
    ),
    "architecture": (
        ("architecture: cnn", "architecture: cnm"),
        "zoo.architecture 'cnm'",
        "'cnn'?",
    ),
    "too few classes": (
        ("classes_per_task: 3", "classes_per_task: 11"),
        "dataset.classes_per_task: too few classes for a task; found 10 classes",
        "expected at least 11",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_stop_before_anything_is_lost(case, workspace):
    (old, new), *said = BAD[case]
    folders = [f"data/{f.name}" for f in (workspace.root / "data").iterdir() if f.is_dir()]
    folders = sorted({*folders, "metrics"} - {"data/check"})
    before = workspace.hashes(*folders)
    assert len(before) > 25
    text = workspace.read("params.yaml")
    assert text.count(old) == 1
    workspace.write("params.yaml", text.replace(old, new))
    done = workspace.dvc("repro", ok=False)
    assert done.code != 0
    assert len(done.errors) == 1, done.text
    assert done.errors[0].startswith("error: params.yaml: ")
    assert all(part in done.errors[0] for part in said), done.errors[0]
    assert "Traceback" not in done.text
    assert workspace.hashes(*folders) == before


def test_metrics_are_flat_and_valid_json(finished_clone):
    def no_constant(name):
        raise AssertionError(f"{name} is not JSON")

    files = list((finished_clone.root / "metrics").rglob("*.json"))
    assert {f.name for f in files} >= {"zoo.json", "sampling.json", "summary.json"}
    for file in files:
        figures = json.loads(file.read_text(), parse_constant=no_constant)
        splits = [v for v in figures.values() if isinstance(v, dict)]
        scalars = [v for table in [figures, *splits] for v in table.values() if v not in splits]
        assert splits == [] or set(figures) <= {"val", "test_sets", "test_classes"}
        assert scalars
        kinds = int | float | str if file.parent.name == "cost" else int | float
        assert all(v is None or isinstance(v, kinds) for v in scalars), file.name


def test_every_stage_says_what_it_ran_on(finished_clone):
    said = [
        json.loads(f.read_text()) for f in (finished_clone.root / "metrics/cost").glob("*.json")
    ]
    assert len(said) == len(STAGES)
    on = environment(load_params(finished_clone.root / "params.yaml"))
    assert set(on) == {"device", "precision", "torch"}
    assert all(on.items() <= cost.items() for cost in said)
    line = provenance.line(finished_clone.root)
    assert all(value in line for value in on.values())
    assert f"`{provenance.code_hash(finished_clone.root)}`" in line


def test_the_summary_lacks_no_figure(finished_clone):
    figures = json.loads(finished_clone.read("metrics/summary.json"))
    assert len(figures) == 16
    missing = {name for name, value in figures.items() if value is None}
    assert missing <= {"agreement_members", "error_overlap_members"}  # no task may have two runs
    sampling = json.loads(finished_clone.read("metrics/sampling.json"))["test_sets"]
    assert figures["draw_r2"] == sampling["unguided_r2_identity"]


def test_queued_experiments_run_their_own_code_and_link_the_zoo(copied, tmp_path):
    """Code of the moment of queueing, not of the main workspace, not of an installed package.

    One that runs after the zoo sees its files by another name, not as copies.
    """
    file, old = "src/weightspace/zoo/generate.py", '"members": len(table)'
    code, script, notes = (
        copied.read(file),
        copied.read("stages/shared_encoder.py"),
        tmp_path / "notes",
    )
    assert code.count(old) == 1
    copied.write(file, code.replace(old, f'"marker": 41, {old}'))
    copied.dvc("exp", "run", "--queue", "--name", "queued", "zoo")
    copied.write(file, code)
    note = f"""
    from pathlib import Path

    weights = (DATA / "zoo").glob("weights-*")
    Path({str(notes)!r}).write_text(" ".join(str(w.stat().st_ino) for w in weights))
"""
    start = '    """Write data/shared_encoder and the loss curves."""\n'
    assert script.count(start) == 1
    copied.write("stages/shared_encoder.py", script.replace(start, start + note))
    copied.dvc("exp", "run", "--queue", "-S", "shared_encoder.temperature=0.2", "shared_encoder")
    copied.write(file, code.replace(old, f'"marker": 42, {old}'))
    copied.dvc("exp", "run", "--run-all")
    shown = copied.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").text.split()
    ref = next(name for name in shown if name.endswith("/queued"))
    assert json.loads(copied.run("git", "show", f"{ref}:metrics/zoo.json").text)["marker"] == 41
    assert "marker" not in json.loads(copied.read("metrics/zoo.json"))
    inodes = {f.stat().st_ino for f in (copied.root / ".dvc/cache/files").rglob("*")}
    seen = set(map(int, notes.read_text().split()))
    assert len(seen) == -(-TINY["zoo.runs"] // TINY["zoo.runs_per_shard"])
    assert seen <= inodes


def test_a_killed_zoo_resumes_with_the_same_bytes(finished_clone, copied):
    forget(copied, "zoo", "data/zoo")
    shards = -(-TINY["zoo.runs"] // TINY["zoo.runs_per_shard"])
    process = copied.start("dvc", "repro", "zoo")
    end = time.monotonic() + 120
    while not (kept := found(copied, ".work/zoo/*")) and time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = found(copied, ".work/zoo/*")
    assert 0 < len(kept) < shards
    assert not found(copied, "data/zoo")
    copied.dvc("repro", "zoo")
    after = found(copied, "data/zoo")
    assert len(after) == shards
    assert kept.items() <= after.items()  # the very same files: same inode, same time
    assert copied.hash_of("zoo", "data/zoo") == finished_clone.hash_of("zoo", "data/zoo")
    assert copied.hash_of("zoo", "metrics/zoo.json") == finished_clone.hash_of(
        "zoo", "metrics/zoo.json"
    )
    assert not found(copied, ".work/zoo/*")


def forget(workspace, stage, folder):
    """Remove an output and all that DVC remembers of it, so that its stage must run."""
    name = workspace.hash_of(stage, folder)
    cache = workspace.root / ".dvc" / "cache"
    (cache / "files" / "md5" / name[:2] / name[2:]).unlink()
    shutil.rmtree(cache / "runs")
    shutil.rmtree(workspace.root / folder)


def found(workspace, folder):
    """Finished shards in a folder: name -> inode and time of its last change."""
    stats = {f.name: f.stat() for f in workspace.root.glob(f"{folder}/weights-*.safetensors")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def test_a_second_clone_gets_the_zoo_without_training(finished_clone, copied, tmp_path):
    """By a remote, here a folder, with the commit that has its dvc.lock."""
    copied.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    copied.dvc("push", "--run-cache")
    copied.commit("a remote")
    copied.run("git", "clone", "--quiet", ".", str(tmp_path / "second"))
    second = Workspace(tmp_path / "second")
    second.dvc("pull", "--run-cache")
    assert "Running stage" not in second.dvc("repro").text
    assert second.hashes("data") == finished_clone.hashes("data")
    (second.root / "dvc.lock").unlink()  # the run cache knows what an earlier run made
    shutil.rmtree(second.root / "data" / "dataset")
    done = second.dvc("repro", "dataset")
    assert "Stage 'dataset' is cached - skipping run" in done.text
    assert second.hashes("data") == finished_clone.hashes("data")
    second.restore()
    second.set({"zoo.batch_size": 9})  # the control
    assert "zoo" in planned(second)


def test_two_repros_at_once_are_one_line(copied):
    """DVC's lock; that of the zoo is tested in test_zoo.py."""
    forget(copied, "zoo", "data/zoo")
    first = copied.start("dvc", "repro", "zoo", quick=True)
    end = time.monotonic() + 60
    while not list(copied.root.glob(".work/zoo/*")) and time.monotonic() < end:
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    second = copied.dvc("repro", "zoo", ok=False)
    text, _ = first.communicate()
    assert first.returncode == 0, text
    assert second.code != 0
    errors = [line for line in second.text.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == 1
    assert "is busy" in errors[0]
    assert "Traceback" not in second.text


METRIC = "sampling.val.w_to_d_recall_at_5"
COST = {"seconds": -1}


def cost(stage):
    """File where a stage writes what it cost."""
    return f"metrics/cost/{stage}.json"


def sweep(workspace, *arguments):
    """Run the project's sweep command."""
    return workspace.run("python", "-m", "weightspace", "sweep", *arguments, ok=False)


def rows(text):
    """Rows of the sweep's table."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_sweep_ends_with_a_sorted_table(copied):
    for stage in STAGES:
        copied.write(cost(stage), json.dumps(COST))
    copied.commit("mark what each stage measures of itself")
    stop = ("--stage", "evaluate_sampling")
    done = sweep(copied, "-S", "shared_encoder.lr=0.002,1e-6", "--metric", METRIC, *stop)
    assert done.code == 0, done.text
    table = rows(done.text)
    assert {row[0] for row in table} == {"0.002", "1e-6"}
    assert [float(row[1]) for row in table] == sorted((float(r[1]) for r in table), reverse=True)
    baseline = json.loads(copied.read("metrics/sampling.json"))["val"]["w_to_d_recall_at_5"]
    assert float(next(row[1] for row in table if row[0] == "0.002")) == pytest.approx(
        baseline, abs=1e-4
    )
    # DVC wrote the small value in a form that YAML 1.1 reads as text, and it was taken as a number
    shown = copied.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").text.split()
    ref = next(name for name in shown if "1e-6" in name)
    written = yaml.safe_load(copied.run("git", "show", f"{ref}:params.yaml").text)[
        "shared_encoder"
    ]["lr"]
    assert written == "1e-06"
    # stages that do not read the setting did not run: the mark in what they measured is still there
    costs = {s: json.loads(copied.run("git", "show", f"{ref}:{cost(s)}").text) for s in STAGES}
    ran = {stage for stage, figures in costs.items() if figures != COST}
    assert ran == {"check", "shared_encoder", "evaluate_sampling"}
    assert copied.run("git", "status", "--porcelain").text == ""


def test_sweep_fails_when_an_experiment_fails(copied):
    done = sweep(copied, "-S", "dataset.source=digits,npz", "--metric", METRIC)  # no such images
    assert done.code == 2
    assert [row[0] for row in rows(done.text)] == ["digits"]  # the failed one is left out
    assert done.errors[-1].startswith("error: sweep: 1 of 2 experiments failed")
    assert "found dataset.source=npz;" in done.errors[-1]


@pytest.mark.parametrize("arguments", [("--metric", "nothing.mae"), ("--stage", "shared_encoder")])
def test_sweep_refuses_a_metric_that_it_would_not_measure(arguments, finished_clone):
    """A sweep that stops before the metric's stage would show its baseline in every row."""
    done = sweep(finished_clone, "-S", "shared_encoder.lr=0.001", *arguments)
    assert done.code == 2
    assert len(done.errors) == 1
    assert "is written by no stage" in done.errors[0]


@pytest.mark.parametrize("stage", ["autoencoder", "shared_encoder"])
def test_curves_can_be_seen_while_a_fit_runs(stage, finished_clone):
    """DVCLive's files say what the history says, row by row; git and DVC do not know of them."""
    history = pd.read_csv(finished_clone.root / "metrics" / "plots" / f"{stage}_loss.csv")
    folder = finished_clone.root / "dvclive" / stage / "plots" / "metrics"
    curves = {f.stem: pd.read_csv(f, sep="\t") for f in folder.glob("*.tsv")}
    assert curves.keys() == set(history) - {"epoch"}
    for name, curve in curves.items():
        assert list(curve["step"]) == list(history["epoch"])
        assert np.allclose(curve[name], history[name], rtol=1e-3)
    assert "dvclive" not in finished_clone.run("git", "status", "--porcelain").text
    assert "dvclive" not in finished_clone.read("dvc.yaml") + finished_clone.read("dvc.lock")
