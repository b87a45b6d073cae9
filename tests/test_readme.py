"""Every command of README.md: run in a clone with tiny settings, or verified where a run is long."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from weightspace.cli.app import app, main
from weightspace.errors import WeightspaceError
from weightspace.experiments import sweep
from weightspace.params import validate_params
from workspace import ROOT

README = ROOT / "README.md"
# Run as they stand, in the clone, where everything is up to date.
RUN = {
    ("dvc", "repro"),
    ("dvc", "dag", "--md"),
    ("dvc", "params", "diff"),
    ("dvc", "metrics", "diff", "HEAD~1"),
    ("dvc", "queue", "status"),
    ("python", "-m", "weightspace", "results"),
}


def commands(text):
    """Lines of the bash blocks of a Markdown text, without comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [tuple(line) for line in lines if line]


# A remote would stay behind in the clone: test_dvc.py runs these in one of its own.
REMOTE = {("dvc", "remote", "add"), ("dvc", "push", "--run-cache"), ("dvc", "pull", "--run-cache")}

OWN = "## Use it on your own data"  # this section runs as a whole, in order, in a tiny project
BEFORE, SECTION = README.read_text().split(OWN)
SECTION, AFTER = SECTION.split("\n## ", 1)
COMMANDS = commands(BEFORE + AFTER)


def verify(command, clone):
    """Run a command of the README, or the part of it that is quick; fail on any that is not known."""
    if command[0] == "make":
        # GNU make plans the target: it must exist, and so must all that it needs and a recipe
        planned = clone.run("make", "--dry-run", *command[1:])
        assert "Nothing to be done" not in planned.text
        for line in re.findall(r"^python -m weightspace sweep .*", planned.text, re.MULTILINE):
            parse_sweep(shlex.split(line), clone)
    elif command in RUN or command[:3] == ("dvc", "exp", "show"):
        clone.dvc(*command[1:]) if command[0] == "dvc" else clone.run(*command)
    elif command[:2] == ("tail", "-f"):  # without end; the file must be there
        assert clone.read(command[2]).startswith("step\t")
    elif command[:3] == ("dvc", "plots", "show"):
        clone.dvc(*command[1:])
    elif command[:3] == ("python", "-m", "weightspace") and command[3] == "sweep":
        parse_sweep(command, clone)
    elif command[:3] == ("dvc", "exp", "run") and "-S" in command:
        # queued, which composes the settings, and not run: test_dvc.py runs a queued experiment
        clone.dvc(*command[1:], *(() if "--queue" in command else ("--queue",)))
        queued = clone.dvc("queue", "status").text.count("Queued")
        wanted = command[command.index("-S") + 1].partition("=")[2].count(",") + 1
        clone.dvc("queue", "remove", "--all")
        assert queued == wanted
    elif command == ("dvc", "exp", "run", "--run-all"):
        clone.dvc(*command[1:])  # of an empty queue
    elif command[:3] in REMOTE:
        clone.dvc(*command[1:], "--help")
    else:
        raise AssertionError(f"README has a command that no test verifies: {shlex.join(command)}")


def parse_sweep(command, clone):
    """Parse a sweep with the real command line, and every setting and the metric with it."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "run_sweep", lambda *args, **more: seen.append(args))
        done = CliRunner().invoke(app, list(command[3:]))
    assert done.exit_code == 0, done.output
    sets, metric, stage = seen[0]
    for name in {s.partition("=")[0] for job in sweep.combinations(sets) for s in job}:
        assert name in clone.dvc("params", "diff", "--all").text.split(), f"no key {name}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone.root)
        patch.setenv("PATH", clone.env["PATH"])
        sweep._check_metric(metric, stage)
        assert sweep.value("HEAD", metric) is not None, f"no metric {metric}"


@pytest.mark.slow
@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS), ids=shlex.join)
def test_commands_work(command, finished_clone):
    verify(command, finished_clone)
    assert finished_clone.run("git", "status", "--porcelain").text == ""  # and leave nothing behind


def test_own_data_section_works(project_root, project, tmp_path, monkeypatch, capsys):
    """Commands and Python of the section, with the classes and sizes of a tiny pipeline."""
    for name in ("data", "params.yaml"):
        (tmp_path / name).symlink_to(project_root / name)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    known = ",".join(str(c) for c in project.dataset.tasks["classes"][0])
    assert "channels=(8, 16)" in SECTION
    text = SECTION.replace("3,8,1", known).replace("channels=(8, 16)", "channels=(3, 4)")
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    for language, block in blocks:
        if language == "python":
            exec(block, {})
            continue
        for words in commands(f"```bash\n{block}```"):
            run_here(words, monkeypatch)
    made = {p.name for p in tmp_path.iterdir()}
    assert made >= {"samples", "onnx", "found", "decoded", "letters", "mine", "latents.safetensors"}
    assert "images unlike those of training: T (" in capsys.readouterr().err


def test_ten_lines_of_python_work(project_root, project, tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"<!-- quick -->\n```python\n(.*?)^```", README.read_text(), re.M | re.S)
    assert len([line for line in block.splitlines() if line]) <= 11  # imports included
    for name in ("data", "params.yaml"):
        (tmp_path / name).symlink_to(project_root / name)
    monkeypatch.chdir(tmp_path)
    known = [str(c) for c in project.dataset.tasks["classes"][0]]
    exec(block.replace('["3", "8", "1"]', str(known)), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["target", "test_accuracy"]
    assert len(said) == 6
    assert len(list((tmp_path / "drawn").glob("network-*.safetensors"))) == 4


def run_here(words, monkeypatch):
    """Run a command of the section: weightspace in this process, python in another."""
    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], check=True)
        return
    assert words[0] == "weightspace"
    monkeypatch.setattr(sys, "argv", list(words))
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code, shlex.join(words)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "make nothing",
        "make Makefile",  # a target without a recipe
        "dvc nothing",
        "python -m weightspace sweep -S pca.component=8",
        "python -m weightspace sweep -S pca.components=8 --metric sampling.nothing",
        "dvc exp run -S pca.component=8",
    ],
)
def test_wrong_commands_are_found(command, finished_clone):
    with pytest.raises((AssertionError, WeightspaceError)):
        verify(tuple(shlex.split(command)), finished_clone)


def test_readme_has_the_commands_a_user_needs():
    said = {" ".join(command) for command in COMMANDS + commands(SECTION)}
    needed = ("make repro", "make test", "dvc repro", "dvc exp run", "dvc exp show", "dvc dag")
    needed += ("dvc params diff", "dvc metrics diff HEAD~1", "dvc plots show", "make sweep")
    commands_of_ours = (
        "sample",
        "import",
        "encode",
        "decode",
        "compare",
        "retrieve",
        "predict",
        "export",
    )
    needed += tuple(f"weightspace {name} " for name in commands_of_ours)
    assert not [n for n in needed if not any(line.startswith(n) for line in said)]


def merged(table, changes):
    """A table of settings with some of its keys changed."""
    return table | {
        k: merged(table[k], v) if isinstance(v, dict) else v for k, v in changes.items()
    }


def test_settings_in_yaml_blocks_are_valid():
    blocks = re.findall(r"^```yaml\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    changes = [change for block in blocks for change in yaml.safe_load_all(block)]
    assert {c["dataset"]["source"] for c in changes if "dataset" in c} == {"idx", "npz", "folder"}
    for change in changes:
        assert validate_params(merged(params, change)) != validate_params(params)


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert links
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]
