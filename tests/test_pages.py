"""README and every page of docs: commands run or parse, links lead somewhere, figures are the code's."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest
import typer
import yaml
from typer.testing import CliRunner

import warm
from weightspace.cli.app import app, main
from weightspace.errors import WeightspaceError
from weightspace.experiments import sweep
from weightspace.params import validate_params
from weightspace.report.document import BLOCKS, document, pages, renewed, run_examples
from weightspace.report.markdown import BLOCK, EXAMPLE, replace_outputs
from weightspace.report.stages import direct, load_stages, picture
from workspace import ROOT

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in pages(ROOT)}
README = PAGES["README.md"]
# Run as they stand, in the clone, where everything is up to date.
RUN = {
    ("dvc", "repro"),
    ("dvc", "dag", "--md"),
    ("dvc", "params", "diff"),
    ("dvc", "metrics", "diff", "HEAD~1"),
    ("dvc", "queue", "status"),
}
# A remote would stay behind in the clone: test_dvc.py runs these in one of its own.
REMOTE = {("dvc", "remote", "add"), ("dvc", "push", "--run-cache"), ("dvc", "pull", "--run-cache")}
OURS = typer.main.get_command(app)


def commands(text):
    """Lines of the bash blocks of a Markdown text, without comments and prompts."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [tuple(line) for line in lines if line]


def inline(text):
    """Commands of ours between backquotes, outside blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"(?<!`)`((?:weightspace|python -m weightspace) [^`\n]+)`", prose)
    return [tuple(shlex.split(span)) for span in spans]


def parse(command):
    """Parse a command of ours with the real command line: it exists, and so do its options."""
    name, *words = command[3:] if command[0] == "python" else command[1:]
    assert name in OURS.commands, f"no command {name}"
    try:
        OURS.commands[name].make_context(name, words)
    except (typer.BadParameter, WeightspaceError) as error:
        # a file that another line of the page makes, or a bundle that `make bundle` puts here
        if not re.search(r"does not exist\.$|: no such project;", str(error)):
            raise


def named(command):
    """Command and options of a line in prose, which may leave out values."""
    name, *words = command[3:] if command[0] == "python" else command[1:]
    if name == "COMMAND":
        return
    assert name in OURS.commands, f"no command {name}"
    known = {o for p in OURS.commands[name].params for o in (*p.opts, *p.secondary_opts)}
    options = {w.partition("=")[0] for w in words if w.startswith("-")}
    assert options <= known | {"--help"}, options - known


def verify(command, clone):
    """Run a command of a page, or the part of it that is quick; fail on any that is not known."""
    ours = command[:3] == ("python", "-m", "weightspace") or command[0] == "weightspace"
    if command[0] == "dvc":
        verify_dvc(command, clone)
    elif command[0] == "make":
        # GNU make plans the target: it must exist, and so must all that it needs and a recipe
        planned = clone.run("make", "--dry-run", *command[1:])
        assert "Nothing to be done" not in planned.text
        for line in re.findall(r"^python -m weightspace sweep .*", planned.text, re.MULTILINE):
            parse_sweep(shlex.split(line), clone)
    elif command[:2] == ("tail", "-f"):  # without end; the file must be there
        assert clone.read(command[2]).startswith("step\t")
    elif ours and "sweep" in command:
        parse_sweep(command, clone)
    elif ours:
        parse(command)
    elif command[0] == "python":
        assert (clone.root / command[1]).is_file()
    elif command == ("pip", "install", "."):  # test_docs.py builds the wheel
        assert (clone.root / "pyproject.toml").is_file()
    else:
        assert command == ("source", ".venv/bin/activate"), f"no test for {shlex.join(command)}"


def verify_dvc(command, clone):
    """Run a command of DVC that is quick here; queue an experiment, ask a remote for its help."""
    if command in RUN or command[:3] in (("dvc", "exp", "show"), ("dvc", "plots", "show")):
        clone.dvc(*command[1:])
    elif command[:3] == ("dvc", "exp", "run") and "-S" in command:
        verify_experiment(command, clone)
    elif command == ("dvc", "exp", "run", "--run-all"):
        clone.dvc(*command[1:])  # of an empty queue
    else:
        assert command[:3] in REMOTE, f"no test for {shlex.join(command)}"
        clone.dvc(*command[1:], "--help")


def verify_experiment(command, clone):
    """Queue an experiment, which composes its settings; test_dvc.py runs one."""
    queue = (*command[1:], *(() if "--queue" in command else ("--queue",)))
    done = clone.dvc_all(queue, ("queue", "status"), ("queue", "remove", "--all"))
    queued = len(re.findall("Queued *$", done.text, re.MULTILINE))
    values = re.sub(r"\[.*?\]", "", command[command.index("-S") + 1].partition("=")[2])
    expected = values.count(",") + 1  # a list in brackets is one value
    assert queued == expected


def parse_sweep(command, clone):
    """Parse a sweep with the real command line, and every setting and the metric with it."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "run_sweep", lambda *args, **more: seen.append(args))
        done = CliRunner().invoke(app, list(command[3:]))
    assert done.exit_code == 0, done.output
    sets, metric, stage = seen[0]
    names = {s.partition("=")[0] for job in sweep.combinations(sets) for s in job}
    unknown = names - set(clone.dvc("params", "diff", "--all").text.split())
    assert not unknown, f"no key {', '.join(unknown)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone.root)
        patch.setenv("PATH", clone.env["PATH"])
        sweep._check_metric(metric, stage)
        assert sweep.value("HEAD", metric) is not None, f"no metric {metric}"


def not_run(text):
    """Commands of a page outside its examples, which another test runs."""
    return commands(EXAMPLE.sub("", text))


# test_docs.py runs the tutorial
COMMANDS = dict.fromkeys(
    command
    for page, text in PAGES.items()
    if page != "docs/tutorial.md"
    for command in not_run(text)
)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=shlex.join)
def test_commands_work(command, finished_clone):
    verify(command, finished_clone)
    assert finished_clone.run("git", "status", "--porcelain").text == ""  # and leave nothing behind


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "make nothing",
        "make Makefile",  # a target without a recipe
        "dvc nothing",
        "weightspace nothing",
        "weightspace sample --nothing 1",
        "python stages/nothing.py",
        "python -m weightspace sweep -S pca.component=8",
        "python -m weightspace sweep -S pca.components=8 --metric sampling.nothing",
        "dvc exp run -S pca.component=8",
    ],
)
def test_wrong_commands_are_noticed(command, finished_clone):
    errors = (AssertionError, WeightspaceError, typer.BadParameter.__base__)
    with pytest.raises(errors):
        verify(tuple(shlex.split(command)), finished_clone)


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_exist(page):
    for command in inline(PAGES[page]):
        named(command)


def test_wrong_commands_in_sentences_are_noticed():
    assert inline("`weightspace info x`\n```bash\n`weightspace no`\n```\n`weightspace no -n`") == [
        ("weightspace", "info", "x"),
        ("weightspace", "no", "-n"),
    ]
    for command in ("weightspace no", "weightspace sample --no"):
        with pytest.raises(AssertionError):
            named(tuple(command.split()))


def slug(heading):
    """Anchor of a heading."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


def broken(name, text, root=ROOT):
    """Relative links of a page that lead nowhere, anchors included."""
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    out = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = (root / name).parent / path if path else root / name
        known = []
        if target.suffix == ".md" and target.is_file():
            known = [slug(h) for h in re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)]
            if anchor.startswith("weightspace."):  # of code; the strict build of the site looks
                known.append(anchor)
        if "://" not in link and not (target.exists() and (not anchor or anchor in known)):
            out.append(link)
    return out


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert not broken(page, PAGES[page])


def test_broken_links_are_noticed():
    text = "[a](README.md#try-it) [b](nothing.md) [c](README.md#nothing) [d](https://x.org/y)"
    assert broken("x.md", text) == ["nothing.md", "README.md#nothing"]


def run_in_process(words, monkeypatch):
    """Run a command: weightspace in this process, python in another."""
    if words[0] == "python":
        subprocess.run([warm.programs() / "python", *words[1:]], check=True)
        return
    assert words[0] == "weightspace"
    monkeypatch.setattr(sys, "argv", list(words))
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code, shlex.join(words)


def absent(text):
    """Files between backquotes that are neither in the repository nor in the package."""
    names = set(re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|yaml|json|csv|js))`", text))
    names = {n for n in names if not re.search("NAME|stripes|^(metrics|data)/", n)}
    homes = (ROOT, ROOT / "src" / "weightspace")
    return sorted(n for n in names if not any((home / n).is_file() for home in homes))


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    assert not absent(PAGES[page])


def test_absent_files_are_noticed():
    assert absent("`zoo/train.py` `stages/zoo.py` `zoo/nothing.py`") == ["zoo/nothing.py"]


EXAMPLES = [page for page, text in PAGES.items() if EXAMPLE.search(text)]
WRITTEN = {
    "README.md": {"drawn"},
    "docs/guides/command_line.md": {"samples", "retrieved", "decoded", "latents.safetensors"},
    "docs/guides/images.md": {"letters", "photos", "from_photos"},
    "docs/guides/python.md": {"samples"},
    "docs/guides/checkpoints.md": {"mine"},
    "docs/guides/onnx.md": {"onnx"},
}


@pytest.mark.parametrize("page", EXAMPLES)
def test_examples_run(page, project_root, project, tmp_path, monkeypatch, capsys):
    """Examples of a page in order, with the classes and sizes of a tiny pipeline."""
    for name in ("data", "params.yaml"):
        (tmp_path / name).symlink_to(project_root / name)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    known = [str(c) for c in project.dataset.tasks["classes"][0]]
    text = PAGES[page].replace("3,8,1", ",".join(known)).replace('["3", "8", "1"]', str(known))
    names = {}

    def run(language, block):
        if language == "python":
            exec(block, names)
            return ""
        for words in commands(f"```bash\n{block}```"):
            run_in_process(words, monkeypatch)
        return ""

    replace_outputs(text.replace("channels=(8, 16)", "channels=(3, 4)"), run)
    assert {path.name for path in tmp_path.iterdir()} >= WRITTEN[page]
    if page == "docs/guides/images.md":
        assert "images unlike those of training: T (" in capsys.readouterr().err


def test_pages_with_examples_are_those_that_the_test_knows():
    assert set(EXAMPLES) == set(WRITTEN)


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if BLOCK.search(text)])
def test_generated_blocks_are_what_the_code_makes_of_the_committed_metrics(page):
    assert renewed(PAGES[page], ROOT) == PAGES[page], "run `make tables`"


def test_every_block_is_shown_somewhere():
    shown = {match["name"] for text in PAGES.values() for match in BLOCK.finditer(text)}
    assert shown == set(BLOCKS)


@pytest.fixture
def copied(tmp_path):
    """What the blocks of a small project are made from, with one page."""
    for name in ("metrics", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("a\n<!-- generated: draws -->\n<!-- /generated -->\nb\n")
    return tmp_path


def test_an_old_block_is_an_error_until_it_is_written(copied):
    with pytest.raises(WeightspaceError, match=r"README\.md: not up to date"):
        document(copied, write=False, outputs=False)
    assert document(copied, write=True, outputs=False) == ["README.md"]
    assert document(copied, write=False, outputs=False) == []
    text = (copied / "README.md").read_text()
    assert text.startswith("a\n<!-- generated: draws -->\n| network | R2 |")
    assert text.endswith("|\n<!-- /generated -->\nb\n")


def test_a_block_follows_the_metrics_and_the_settings(copied):
    document(copied, write=True, outputs=False)
    before = (copied / "README.md").read_text()
    assert "| 0 |" in before
    params = (copied / "params.yaml").read_text()
    (copied / "params.yaml").write_text(re.sub(r"sampling_steps: \d+", "sampling_steps: 7", params))
    document(copied, write=True, outputs=False)
    after = (copied / "README.md").read_text()
    assert "guided: 7 gradient steps" in after
    assert "| 504 |" in after  # 7 steps, 3 classes, 24 images each
    assert "| 504 |" not in before


def test_an_unknown_block_is_an_error(copied):
    with pytest.raises(WeightspaceError, match="no such block"):
        renewed("<!-- generated: nothing -->\n<!-- /generated -->", copied)


def test_outputs_of_examples_are_real(project_root, tmp_path):
    """Examples run in one empty folder; a failing one is an error."""
    for name in ("data", "params.yaml"):
        (tmp_path / name).symlink_to(project_root / name)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    run = "<!-- run -->\n```{}\n{}\n```\n"
    page = run.format("python", "x = 6") + run.format("python", "print(x * 7)")
    page += "\n```text\nold\n```\n" + run.format("bash", "ls | head -1\necho a >b")
    made = run_examples(page + "\n```text\nold\n```\n```bash\nexit 1\n```\n", tmp_path)
    assert "\n```text\n42\n```\n" in made
    assert "\n```text\ndata\n```\n" in made
    assert "old" not in made
    assert not (tmp_path / "b").exists()
    with pytest.raises(WeightspaceError, match="an example failed"):
        run_examples(run.format("bash", "exit 3"), tmp_path)


def test_readme_is_one_page_that_starts_with_python():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert lines.index("```python") < 40
    assert not re.search("[┃│━─╭]", README)
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len([line for line in block.splitlines() if line]) <= 11  # imports included


def test_pages_have_the_commands_a_user_needs():
    said = {" ".join(command) for text in PAGES.values() for command in commands(text)}
    needed = ["make repro", "make test", "dvc repro", "dvc exp run", "dvc exp show", "dvc dag"]
    needed += [
        "pip install .",
        "weightspace demo",
        "dvc params diff",
        "dvc metrics diff HEAD~1",
        "dvc plots show",
        "make sweep",
    ]
    uses = ("sample", "import", "encode", "decode", "compare", "retrieve", "predict", "export")
    uses += ("bundle --out", "fetch", "sample --root digits")
    needed += [f"weightspace {name} " for name in uses]
    assert not [n for n in needed if not any(line.startswith(n) for line in said)]


def merged(table, changes):
    """A table of settings with some of its keys changed."""
    return table | {
        k: merged(table.get(k, {}), v) if isinstance(v, dict) else v for k, v in changes.items()
    }


def test_settings_in_yaml_blocks_are_valid():
    # test_docs.py runs the example of extending.md, whose member the package does not have
    text = "\n".join(text for page, text in PAGES.items() if page != "docs/extending.md")
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    changes = [change for block in blocks for change in yaml.safe_load_all(block)]
    assert {c["dataset"]["source"] for c in changes if "dataset" in c} == {"idx", "npz", "folder"}
    for change in changes:
        assert validate_params(merged(params, change)) != validate_params(params)


def test_the_picture_of_the_stages_is_that_of_dvc_yaml():
    drawn = picture(ROOT)
    assert (ROOT / "docs" / "pictures" / "stages.svg").read_bytes() == drawn
    stages = load_stages(ROOT)
    assert all(f">{stage.name}</text>" in drawn.decode() for stage in stages)
    arrows = direct(stages)
    assert ("pca", "autoencoder") in arrows
    assert ("zoo", "autoencoder") not in arrows  # by way of pca
    assert {end for _, end in arrows} == {stage.name for stage in stages} - {"check"}


def test_the_original_study_has_one_name():
    assert not [page for page, text in PAGES.items() if re.search(r"\bdeck\b", text, re.IGNORECASE)]
