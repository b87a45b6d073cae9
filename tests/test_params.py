"""params.yaml: complete, typed, and wrong entries are one line."""

import re
from pathlib import Path

import pytest
import yaml

from cases import CONVNET, merged
from cases import FILE as VALUES
from weightspace.errors import WeightspaceError
from weightspace.params import Params, Settings, load_params, validate_params
from weightspace.report.settings import reference

FILE = Path(__file__).parent.parent / "params.yaml"


def _keys(data, prefix=""):
    for key, value in data.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def _set(data, key, value):
    *sections, last = key.split(".")
    for section in sections:
        data = data[section]
    data[last] = value


def _load(tmp_path, change):
    data = yaml.safe_load(FILE.read_text())
    change(data)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(data))
    return load_params(path)


def test_the_committed_file_is_complete():
    found = load_params(FILE)
    assert set(_keys(yaml.safe_load(FILE.read_text()))) == set(_keys(found.model_dump()))


def _fields(model):
    for name, field in model.model_fields.items():
        yield name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from _fields(field.annotation)


def test_the_schema_has_no_values_of_its_own():
    """params.yaml is the only place of a value."""
    fields = list(_fields(Params))
    assert len(fields) > 100
    assert [name for name, field in fields if not field.is_required()] == []


@pytest.mark.parametrize("key", sorted(_keys(yaml.safe_load(FILE.read_text()))))
def test_no_key_may_be_left_out(key, tmp_path):
    def remove(data):
        *sections, last = key.split(".")
        for section in sections:
            data = data[section]
        del data[last]

    with pytest.raises(WeightspaceError, match=f"params.yaml: key '{key}' is missing"):
        _load(tmp_path, remove)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sede", 1, ["unknown key 'sede'", "did you mean 'seed'?"]),
        ("datset", {}, ["unknown key 'datset'", "did you mean 'dataset'?"]),
        ("zoo.run", 5, ["unknown key 'zoo.run'", "did you mean 'runs'?"]),
        ("pca.component", 5, ["'pca.component'", "did you mean 'components'?"]),
        (
            "shared_encoder.temprature",
            1,
            ["'shared_encoder.temprature'", "did you mean 'temperature'?"],
        ),
        ("autoencoder.epoch", 5, ["'autoencoder.epoch'", "did you mean 'epochs'?"]),
        ("dataset.splits.tests", 0.1, ["'dataset.splits.tests'", "did you mean 'test_sets'?"]),
        ("nets.cnn.chanels", [8], ["'nets.cnn.chanels'", "did you mean 'channels'?"]),
        ("pca.xyz", 5, ["'pca.xyz'", "valid: components, identity_below"]),
        ("zoo", 7, ["'zoo'", "found 7"]),
        ("zoo", None, ["'zoo'", "found None"]),
        ("zoo.runs", "many", ["'zoo.runs'", "found 'many'"]),
        ("zoo.runs", 1.5, ["'zoo.runs'", "found 1.5"]),
        ("zoo.runs", 0, ["'zoo.runs'", "found 0"]),
        ("zoo.init", "random", ["'zoo.init'", "independent", "shared", "found 'random'"]),
        ("zoo.momentum", 1, ["'zoo.momentum'", "less than 1"]),
        ("zoo.adam_lr", [0.1, 0.01], ["'zoo.adam_lr'", "0.1 is above the upper end 0.01"]),
        ("zoo.epochs", [5, 4], ["'zoo.epochs'", "above"]),
        ("zoo.epochs_drawn", "normal", ["'zoo.epochs_drawn'", "mean and standard deviation"]),
        ("zoo.epochs_drawn", [100, 0], ["'zoo.epochs_drawn'", "found [100, 0]"]),
        ("runtime.executor", "slurm", ["'runtime.executor'", "'local' or 'ray'"]),
        ("zoo.epochs", 5, ["'zoo.epochs'", "found 5"]),
        ("zoo.adam_lr", [0, 0.1], ["'zoo.adam_lr.0'", "greater than 0"]),
        ("zoo.optimizers", [], ["'zoo.optimizers'", "found []"]),
        ("zoo.optimizers", ["adm"], ["'zoo.optimizers.0'", "found 'adm'"]),
        ("dataset.tasks", "al", ["'dataset.tasks'", "found 'al'"]),
        ("dataset.tasks", 0, ["'dataset.tasks'", "found 0"]),
        ("dataset.tasks", -6, ["'dataset.tasks'", "found -6"]),
        ("sources.glyph", {}, ["'sources.glyph'", "did you mean 'glyphs'?"]),
        ("sources.digits.size", 8, ["'sources.digits.size'", "unknown key"]),
        ("sources.glyphs.scale", [1, 0.5], ["'sources.glyphs.scale'", "above the upper end"]),
        ("sources.glyphs.classes", 0, ["'sources.glyphs.classes'", "found 0"]),
        ("sources.idx.labels", [9, 0], ["'sources.idx.labels'", "first and the last label"]),
        ("sources.idx.labels", [0, "x"], ["'sources.idx.labels'", "found [0, 'x']"]),
        ("sources.npz.size", "big", ["'sources.npz.size'", "or 'original'"]),
        ("sources.folder.colours", "blue", ["'sources.folder.colours'", "'grey' or 'rgb'"]),
        ("sources.path", "", ["'sources.path'", "found ''"]),
        ("dataset.splits.train", 0.9, ["'dataset.splits'", "add up to 1"]),
        ("dataset.samples_per_class.train", 1, ["'dataset.samples_per_class.train'", "found 1"]),
        ("shared_encoder.dropout", 1.1, ["'shared_encoder.dropout'", "found 1.1"]),
        ("shared_encoder.temperature", float("nan"), ["'shared_encoder.temperature'", "found nan"]),
        ("autoencoder.hidden", [3], ["unknown key 'autoencoder.hidden'"]),
        ("autoencoders.tokens.windw", 3, ["'autoencoders.tokens.windw'", "did you mean 'window'?"]),
        (
            "autoencoders.functional.behaviour_weight",
            0,
            ["'autoencoders.functional'", "cannot both be 0"],
        ),
        ("autoencoder.lr", float("inf"), ["'autoencoder.lr'", "found inf"]),
        ("runtime.workers", "al", ["'runtime.workers'", "found 'al'"]),
        ("seed", -1, ["'seed'", "found -1"]),
    ],
)
def test_a_wrong_entry_is_one_line(key, value, words, tmp_path):
    with pytest.raises(WeightspaceError) as error:
        _load(tmp_path, lambda data: _set(data, key, value))
    message = str(error.value)
    assert "\n" not in message
    for word in ["params.yaml", *words]:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: [1", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("", "not a table of settings"),
        ("- seed", "found list"),
        ("1: 2", "params.yaml"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (None, "file is missing"),
    ],
)
def test_a_wrong_file_is_one_line(text, words, tmp_path):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WeightspaceError, match=words) as error:
        load_params(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_several_errors_are_counted(tmp_path):
    with pytest.raises(WeightspaceError, match=r"and 1 more"):
        _load(tmp_path, lambda d: (_set(d, "zoo.runs", 0), _set(d, "pca.components", 0)))


def _with(tmp_path, key, text):
    """Load the committed file with another text as the value of a key."""
    *sections, last = key.split(".")
    head, start = FILE.read_text(), 0
    for section in sections:
        start = head.index(f"{section}:", start)
    begin = re.compile(rf"\b{last}: *").search(head, start).end()
    old = re.compile(r"\[[^\]]*\]|[^,}\n #]+").match(head, begin)
    path = tmp_path / "params.yaml"
    path.write_text(head[:begin] + text + head[old.end() :])
    value = load_params(path)
    for part in key.split("."):
        value = getattr(value, part)
    return value


NUMBERS = [
    ("shared_encoder.lr", "1e-06", 1e-6),
    ("autoencoder.weight_decay", "0", 0.0),
    ("zoo.adam_lr", "[1e-05, 1.5E-2]", (1e-5, 1.5e-2)),
    ("zoo.runs", "400", 400),
    ("dataset.tasks", "60", 60),
]


@pytest.mark.parametrize(("key", "text", "number"), NUMBERS)
def test_numbers_are_read_as_dvc_reads_them(key, text, number, tmp_path):
    """Which is by YAML 1.2; PyYAML alone takes 1e-06 for text."""
    value = _with(tmp_path, key, text)
    assert value == number
    assert type(value) is type(number)


COUNTS = [
    "true",
    "60.0",
    "1" + 400 * "0",
    "'60'",
    "1:30",
    "0x10",
    "060",
    "1_000",
    "1e3",
    ".inf",
    "~",
]
STRICT = [
    *(("zoo.runs", text) for text in COUNTS),
    *(("dataset.tasks", text) for text in COUNTS),
    *(("nets.cnn.channels", f"[8, {text}]") for text in COUNTS),
    *(("seed", text) for text in (*COUNTS, str(2**63))),
    *(("shared_encoder.lr", text) for text in ("true", "'0.1'", "1e999", ".nan", "-.inf", "1" + 400 * "0")),
    *(("nets.cnn.batch_norm", text) for text in ("1", "yes", "on", "'true'", "0.0", "~")),
    *(("runtime.device", text) for text in ("1", "true", "~")),
    ("pca.components", "65537"),
    ("zoo.optimizers", "adam"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "text"), STRICT)
def test_types_are_strict_and_counts_have_upper_limits(key, text, tmp_path):
    with pytest.raises(WeightspaceError, match=re.escape(f"'{key}")) as error:
        _with(tmp_path, key, text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_every_count_has_an_upper_limit():
    """Of the whole schema, so that a new key is in it by itself."""

    def unlimited(node, name=""):
        if isinstance(node, list):
            return [n for part in node for n in unlimited(part, name)]
        if not isinstance(node, dict):
            return []
        if node.get("type") == "integer":
            return [] if "maximum" in node else [name]
        return [n for key, part in node.items() for n in unlimited(part, key)]

    assert unlimited(Params.model_json_schema()) == []
    assert unlimited({"zoo": {"runs": {"type": "integer", "minimum": 1}}}) == ["runs"]


DOUBLE = [
    ("zoo:", "zoo: {}\nzoo:", "zoo"),
    ("  runs:", "  runs: 7\n  runs:", "runs"),
    ("  runs:", '  runs: 7\n  "runs":', "runs"),
    ("cnn: {", "cnn: {batch_norm: true, ", "batch_norm"),
]


@pytest.mark.parametrize(("old", "new", "key"), DOUBLE)
def test_a_key_that_stands_twice_is_refused_by_name_and_line(old, new, key, tmp_path):
    path, text = tmp_path / "params.yaml", FILE.read_text()
    assert text.count(f"{old}") == 1
    path.write_text(text.replace(old, new))
    line = 1 + text[: text.index(old)].count("\n")
    with pytest.raises(WeightspaceError, match=f"'{key}' stands twice, in lines {line} and"):
        load_params(path)


def test_settings_cannot_be_changed_after_loading():
    with pytest.raises(ValueError, match="frozen"):
        load_params(FILE).seed = 1


def test_a_dictionary_has_the_same_errors():
    with pytest.raises(WeightspaceError, match="did you mean 'runs'"):
        validate_params({"zoo": {"rums": 1}}, "experiment")


def test_the_reference_is_up_to_date():
    """If not: `python -m weightspace params`."""
    assert (FILE.parent / "docs" / "params.md").read_text() == reference(FILE)


def test_the_reference_has_every_key_with_its_meaning():
    rows = re.findall(
        r"^\| `(\S+)` \| `(.+?)` \| (.+?) \| (.+?) \|$", reference(FILE), re.MULTILINE
    )
    found = [name for name, _, _, _ in rows]
    assert sorted(found) == sorted(leaves(yaml.safe_load(FILE.read_text())))
    kinds = {name: kind for name, _, kind, _ in rows}
    assert (
        kinds
        | {
            "seed": f"integer from 0 to {2**63 - 1:,}",
            "zoo.init": "`independent`, `shared`",
            "dataset.tasks": "integer from 1 to 10,000,000; or `all`; or `sets`",
            "zoo.adam_lr": "[number above 0, number above 0]",
            "zoo.momentum": "number, 0 or more, below 1",
            "sources.idx.labels": "[integer from 0 to 10,000,000, integer from 0 to 10,000,000]; or `auto`",
            "nets.cnn.channels": "list, each integer from 1 to 65,536",
            "pca.align": "`none`, `matching`",
            "shared_encoder.dropout": "number from 0 to 1",
        }
        == kinds
    )


def leaves(table, prefix=""):
    """Dotted names of all settings."""
    out = []
    for key, value in table.items():
        out += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return out


def test_a_section_that_the_file_may_leave_out():
    """Old settings and bundles have no `nets.convnet`: it is validated where it is, and needed when selected."""
    params = validate_params(merged(VALUES, {"nets": {"convnet": CONVNET}}))
    assert params.nets.of("convnet").channels == (3, 4)
    assert validate_params(VALUES)  # without
    with pytest.raises(WeightspaceError, match="no settings of 'convnet'"):
        validate_params(VALUES).nets.of("convnet")
    for key, value, words in (
        ("kernels", [3], "kernels must have 2 entries"),
        ("activation", "cosine", "nets.convnet.activation"),
        ("stride", [1, 1], "did you mean 'strides'?"),
    ):
        changed = {"nets": {"convnet": CONVNET | {key: value}}}
        with pytest.raises(WeightspaceError, match=re.escape(words)):
            validate_params(merged(VALUES, changed))
