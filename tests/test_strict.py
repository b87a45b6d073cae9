"""Hostile files: each one clear line, no traceback, nothing written, and little memory."""

import gzip
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from weightspace import artifacts
from weightspace.artifacts import (
    AUTOENCODER_FILE,
    IMAGES_FILE,
    META_KEY,
    OUTPUTS_FILES,
    PCA_FILE,
    READOUT_FILE,
    SHARED_ENCODER_FILE,
    again,
    load_tensors,
    read_json,
    read_meta,
    read_parquet,
    save_tensors,
    write_parquet,
)
from weightspace.autoencoders.base import load_autoencoder
from weightspace.data.dataset import Dataset
from weightspace.data.images import ImageSet, read_images
from weightspace.errors import CONTROL, WeightspaceError, printable, problem, shown
from weightspace.evaluate.readout import load_readout
from weightspace.metadata import MOST_LEVELS, check_names, parse_json
from weightspace.project.describe import describe
from weightspace.project.network import load_network
from weightspace.report.plots import draw_plot
from weightspace.report.tables import as_markdown
from weightspace.shared_encoders.base import load_shared_encoder
from weightspace.weights.pca import TensorPca

BUDGET = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ROOT = Path(__file__).resolve().parent.parent
NAMES = [
    "a\nerror: b",
    "\x1b[2Ab",
    "a\rb",
    "\x00",
    "a\u2028b",
    "\u202etxt",
    "\udc80",
    "\x9b31m",
    "\x7f",
]


def refused(call, *words):
    """The line by which a call refuses; it names all these words."""
    with pytest.raises(WeightspaceError) as error:
        call()
    line = str(error.value)
    assert line.isprintable() or all(c.isprintable() or ord(c) > 127 for c in line)
    assert len(line) < 2000
    for word in words:
        assert word in line
    return line


def read_or_refused(call):
    """What a call gives and no line, or nothing and the line by which it refuses."""
    try:
        return call(), ""
    except WeightspaceError as error:
        line = str(error)
    assert "\n" not in line
    return None, line


# a hash in every artefact

OPENED = {
    IMAGES_FILE: lambda path: Dataset.load(path.parent),
    PCA_FILE: TensorPca.load,
    AUTOENCODER_FILE: load_autoencoder,
    SHARED_ENCODER_FILE: load_shared_encoder,
    READOUT_FILE: lambda path: load_readout(path, read_meta(path)["autoencoder"]),
    OUTPUTS_FILES["train"]: lambda path: load_tensors(path, "outputs"),
}


@pytest.fixture(scope="module")
def data(project_root, world, tmp_path_factory):
    """Copy of a finished tiny pipeline with its stored outputs; each test restores what it damages."""
    root = tmp_path_factory.mktemp("damaged")
    folder = shutil.copytree(project_root, root, dirs_exist_ok=True) / "data"
    world().data.originals["train"].save(folder / OUTPUTS_FILES["train"])
    return folder


@pytest.mark.parametrize("file", OPENED, ids=str)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 1.0])
def test_a_flipped_bit_in_an_artefact_is_noticed_when_it_is_opened(file, part, data):
    path = data / file
    whole = path.read_bytes()
    OPENED[file](path)  # the control
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    index = start + int(part * (len(whole) - 1 - start))
    try:
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 4]) + whole[index + 1 :])
        refused(lambda: OPENED[file](path), path.name, "changed after it was written", "dvc repro")
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Folder with a small file of tensors and a small table, and their bytes."""
    folder = tmp_path_factory.mktemp("small")
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(3)}
    save_tensors(folder / "x.safetensors", "example", tensors, {"mean": 0.25, "names": ["ü", "b"]})
    table = pd.DataFrame({"run": np.arange(40), "loss": np.linspace(0, 1, 40), "name": ["ab"] * 40})
    write_parquet(folder / "x.parquet", table)
    return folder, *((folder / f"x.{end}").read_bytes() for end in ("safetensors", "parquet"))


@BUDGET
@given(index=st.integers(0, 10**6), bit=st.integers(0, 7))
@example(index=108, bit=0)  # of the name of the hash: as if there were none
def test_any_flipped_bit_of_a_tensor_file_is_noticed(index, bit, small, capsys):
    """Of its header, its metadata and its values alike."""
    artifacts._warn_of_no_hash.cache_clear()
    folder, whole, _ = small
    path, index = folder / "x.safetensors", index % len(whole)
    path.write_bytes(whole[:index] + bytes([whole[index] ^ 1 << bit]) + whole[index + 1 :])
    _, line = read_or_refused(lambda: load_tensors(path, "example"))
    assert "x.safetensors" in (line or capsys.readouterr().err)


def test_a_flipped_bit_in_the_pages_of_a_table_is_noticed(small):
    folder, _, whole = small
    path, noticed = folder / "x.parquet", 0
    table = pd.read_parquet(folder / "x.parquet")
    footer = len(whole) - 8 - struct.unpack("<I", whole[-8:-4])[0]
    for index in range(4, footer, 5):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 16]) + whole[index + 1 :])
        read, line = read_or_refused(lambda: read_parquet(path))
        noticed += bool(line)
        if not line:
            pd.testing.assert_frame_equal(read, table)  # a part that no value depends on
    assert noticed > (footer - 4) // 10


def test_an_artefact_is_hashed_once_in_a_process(tmp_path, monkeypatch):
    path, compute, noted = tmp_path / "x.safetensors", artifacts._sha256_of_file, []
    save_tensors(path, "example", {"a": torch.ones(2)}, {})
    monkeypatch.setattr(artifacts, "_sha256_of_file", lambda *a: noted.append(a) or compute(*a))
    for seconds, times in ((60, 1), (60, 1), (30, 2)):
        os.utime(path, (0, 1_000_000 - seconds))
        for _ in range(2):
            load_tensors(path, "example")
        assert len(noted) == times


def test_advice_is_by_place(project_root, tmp_path):
    assert "dvc repro" in again(project_root / "data" / PCA_FILE)
    assert "dvc" not in again(tmp_path / "data" / PCA_FILE)
    assert "get the file again" in again(tmp_path / "network.safetensors")


# metadata


@pytest.fixture(scope="module")
def network(project, tmp_path_factory):
    """A network that the project wrote: its file."""
    folder = tmp_path_factory.mktemp("network")
    weights = {k: w[:1] for k, w in project.zoo.weights(project.zoo.members.iloc[:1]).items()}
    project.save(folder, ["a.safetensors"], weights, [{"classes": ["0", "1", "2"]}])
    return folder / "a.safetensors"


def forge(path, change, out):
    """A network with other metadata and the right hash."""
    tensors, meta = load_tensors(path, "network")
    change(meta)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "check_meta", lambda *a: None)
        patch.setattr(artifacts, "parse_json", json.loads)
        patch.setattr(artifacts, "canonical", lambda data: json.dumps(data, sort_keys=True))
        save_tensors(out, "network", tensors, meta)
    return out


VALUES = [0, -1, "NaN", "1", True, None, [], {}, float("nan"), float("inf")]
FORGED = {
    **{f"std {v!r}": {"std": v} for v in VALUES},
    **{f"mean {v!r}": {"mean": v} for v in VALUES[2:]},
    **{f"classes {v!r}": {"classes": v} for v in (["0"], [], "012", None, [0, 1, 2], ["0", "0", "1"], 3)},
    **{f"name {n!r}": {"classes": ["0", "1", n]} for n in ("", "a" * 300, *NAMES)},
    **{f"net {v!r}": {"net": v} for v in (None, [], {}, "cnn")},
}  # fmt: skip
NETS = {
    **{f"channels {v!r}": {"settings": {"channels": v, "batch_norm": False}}
       for v in ([10**9], [65536, 65536], [-1], [1.5], [True], "8", [], None, [10**400])},
    **{f"shape {v!r}": {"shape": v} for v in ([1, 8], [1, 8, 8, 1], [0, 8, 8], [1, 10**9, 10**9], "188", [True, 8, 8])},
    **{f"outputs {v!r}": {"classes": v} for v in (0, -1, 2, 10**9, "3", 3.0, None)},
    **{f"architecture {v!r}": {"architecture": v} for v in ("", "none", "../cnn", None, 3, "os", "a\nb")},
    "unknown setting": {"settings": {"channels": [8], "batch_norm": False, "more": 1}},
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
def test_forged_metadata_of_a_network_is_one_line(case, network, tmp_path):
    path = forge(network, lambda meta: meta.update(FORGED[case]), tmp_path / "a.safetensors")
    refused(lambda: load_network(path), "a.safetensors")


@pytest.mark.parametrize("case", NETS)
def test_forged_sizes_of_an_architecture_are_one_line_and_make_nothing(case, network, tmp_path):
    path = forge(network, lambda meta: meta["net"].update(NETS[case]), tmp_path / "a.safetensors")
    refused(lambda: load_network(path), "a.safetensors")


TEXTS = {
    "brackets": '{"kind":"network","a":' + "[" * 100_000 + "]" * 100_000 + "}",
    "levels": '{"kind":"network","a":' + "[" * MOST_LEVELS + "]" * MOST_LEVELS + "}",
    "open": '{"kind":"network"',
    "twice": '{"kind":"network","kind":"network"}',
    "a list": '["network"]',
    "a number": "7",
    "nothing": "",
    "digits": '{"kind":"network","a":' + "9" * 5000 + "}",
    "infinite": '{"kind":"network","a":1e999}',
    "NaN": '{"kind":"network","a":NaN}',
    "kind": '{"kind":["network"]}',
    "no kind": "{}",
}


@pytest.mark.parametrize("case", TEXTS)
def test_metadata_that_is_not_plain_json_is_one_line(case, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"a": torch.ones(2)}, metadata={META_KEY: TEXTS[case]}))
    refused(lambda: load_network(path), "a.safetensors")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@BUDGET
@given(key=st.sampled_from(["net", "classes", "mean", "std", "kind", "sha256", "more"]), value=JSON)
@example(key="std", value=0.5)
def test_any_json_in_a_place_of_metadata_is_read_or_one_line(key, value, network, tmp_path):
    path = forge(network, lambda meta: meta.update({key: value}), tmp_path / "a.safetensors")
    loaded, line = read_or_refused(lambda: load_network(path))
    assert (loaded is None) == bool(line)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": {1: [float("nan")]}}])
def test_metadata_that_no_reader_would_take_is_not_written(value, tmp_path):
    path = tmp_path / "a.safetensors"
    refused(lambda: save_tensors(path, "example", {"a": torch.ones(2)}, {"mean": value}))
    refused(lambda: save_tensors(path, "dataset", {"a": torch.ones(2)}, {"mean": 0.5}), "'dataset'")
    assert list(tmp_path.iterdir()) == []


# images


def idx(shape, data=b"", axes=3):
    """Bytes of an idx file that announces a shape."""
    return bytes([0, 0, 8, axes]) + struct.pack(f">{axes}I", *shape) + data


def pair(folder, images, *, packed):
    """Write image and label files, plain or gzip."""
    files = {"a-images-idx3-ubyte": images, "a-labels-idx1-ubyte": idx((2,), b"\0\1", axes=1)}
    for name, content in files.items():
        end, content = (".gz", gzip.compress(content, 1)) if packed else ("", content)
        (folder / (name + end)).write_bytes(content)
    return folder


BOMB = bytes(100_000_000)
IDX = {
    "longer": idx((2, 4, 4), BOMB),
    "shorter": idx((1 << 16, 200, 200), bytes(10)),
    "too many": idx((2**32 - 1, 2**32 - 1, 2**32 - 1)),
    "16 GiB": idx((1 << 20, 1 << 7, 1 << 7)),
    "in its header": idx((2, 4, 4))[:9],
    "no header": b"",
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("case", IDX)
def test_an_idx_file_takes_no_more_memory_than_it_is_worth(case, packed, tmp_path):
    folder = pair(tmp_path, IDX[case], packed=packed)
    tracemalloc.start()
    try:
        refused(lambda: read_images(folder), "a-images")
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [True, False])
def test_an_idx_file_is_read_in_parts(packed, tmp_path, monkeypatch):
    """The control."""
    monkeypatch.setattr("weightspace.data.sources.idx.READ_BYTES", 7)
    folder = pair(tmp_path, idx((2, 4, 4), bytes(range(32))), packed=packed)
    images = read_images(folder).images
    assert (images * 255).round().astype(np.uint8).tobytes() == bytes(range(32))


# names


@pytest.mark.parametrize("name", NAMES)
def test_control_characters_in_names_are_refused_or_escaped(name, tmp_path):
    refused(lambda: check_names(["a", name], "classes"), "control character")
    refused(lambda: ImageSet(np.zeros((1, 1, 2, 2)), np.zeros(1, int), [name], "images"))
    assert printable(f"x{name}").isascii()
    line = refused(lambda: (_ for _ in ()).throw(problem("x", where=name, got=name)))
    assert name not in line or name.isprintable()
    if not set(name) & {"\x00", "\udc80"}:
        (tmp_path / "images" / name).mkdir(parents=True)
        refused(lambda: read_images(tmp_path / "images"), "control character")


def test_names_of_any_language_are_kept():
    check_names(["naïve", "日本", "نام", "a b", "👩‍🔬", "x" * 300], "classes")
    assert printable("naïve 日本 👩‍🔬") == "naïve 日本 👩‍🔬"


def test_paths_are_named_as_a_person_would_type_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "data" / "x") == str(Path("data", "x"))
    assert shown(Path("data")) == "data"
    assert shown(tmp_path.parent / "x") == str(tmp_path.parent / "x")
    assert str(problem("is gone", where=tmp_path / "x")) == "x: is gone"


# JSON and Ctrl-C


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{", '{"a":NaN}', '{"a":1,"a":2}', "[" * 100_000, "\xff"]
)
def test_metrics_that_are_no_table_of_json_are_one_line(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    refused(lambda: read_json(path), "x.json")


def test_plain_json_is_read():
    assert parse_json('{"a": [1.5, true, null, "b"]}') == {"a": [1.5, True, None, "b"]}


STAGE = """
import sys, time
sys.path.insert(0, {stages!r})
sys.argv[0] = {stages!r} + "/zoo.py"
import _stage
from pathlib import Path
import multiprocessing
from weightspace.jobs import local
from weightspace.params import load_params

class Job:
    name, device = "job", "cpu"
    def execute(self):
        print("ready", flush=True)
        time.sleep(60)

if __name__ == "__main__":
    runtime = load_params({stages!r} + "/../params.yaml").runtime.model_copy(update={{"workers": 1}})
    list(local.execute([Job(), Job()], runtime))
"""


@pytest.mark.parametrize(("number", "word"), [("SIGINT", "interrupted"), ("SIGTERM", "terminated")])
def test_ctrl_c_and_a_request_to_end_of_a_stage_are_one_line(number, word, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(STAGE.format(stages=str(ROOT / "stages")))
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(
        [sys.executable, str(script)],
        env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"  # a worker is busy
        start = time.monotonic()
        os.killpg(process.pid, getattr(signal, number))  # as a terminal does: workers hear it, too
        _, text = process.communicate(timeout=90)
    assert process.returncode == 128 + getattr(signal, number)
    assert time.monotonic() - start < 30  # not the minute that its jobs take
    (line,) = text.splitlines()
    assert line.startswith(f"error: {word}")


# figures and plot data

METRICS = sorted((ROOT / "metrics").glob("*.json"))
OTHER = {
    "no split": {},
    "no figures": {"test_sets": {}},
    "a list": {"test_sets": []},
    "text": {"test_sets": "none"},
    "null": {"test_sets": None},
    "a number": {"test_sets": 3},
    "figures of text": {"test_sets": dict.fromkeys(("members", "tasks", "cosine_mean", "r2_identity"), "x")},
}  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Folder of a project with the committed metrics and plot data, which no test changes."""
    root = tmp_path_factory.mktemp("reported")
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    shutil.copytree(ROOT / "metrics", root / "metrics")
    return root


@pytest.mark.parametrize("name", ["reconstruction", "sampling", "finetuning"])
@pytest.mark.parametrize("case", OTHER)
def test_metrics_of_another_structure_are_one_line(name, case, reported, tmp_path):
    root = shutil.copytree(reported, tmp_path / "project")
    assert "Reconstruction" in as_markdown(root)  # the control
    (root / "metrics" / f"{name}.json").write_text(json.dumps(OTHER[case]))
    if (name, case) == ("reconstruction", "no split"):  # its splits are the ones that are shown
        assert "Reconstruction" not in as_markdown(root)
    else:
        refused(lambda: as_markdown(root), f"{name}.json", "dvc repro")


PLOTS_HERE = sorted((ROOT / "metrics" / "plots").glob("*.csv"))


@pytest.mark.parametrize("path", PLOTS_HERE, ids=lambda path: path.stem)
def test_plot_data_that_is_cut_off_or_of_another_kind_is_one_line(path, tmp_path):
    whole, copy = path.read_bytes(), tmp_path / path.name
    ends = [len(whole) - 1, len(whole) - 3, len(whole) // 2, whole.index(b"\n") - 1, 5, 0]
    pieces = [whole[: end - (whole[end - 1 : end] == b"\n")] for end in ends]
    for content in (*pieces, b"a,b\n1,2\n", b"\xff\xfe\n", re.sub(rb"[0-9]+\.", b"x.", whole)):
        copy.write_bytes(content)
        refused(lambda: draw_plot(copy), path.name)


# info


def test_info_knows_folders_of_stages_and_exported_networks(project_root, tmp_path):
    facts = describe(project_root / "data")
    assert facts["kind"] == "data of a project"
    assert len(facts["zoo: sha256 of its shards"]) == 64
    (tmp_path / "new" / "data").mkdir(parents=True)
    (tmp_path / "new" / "params.yaml").touch()
    assert "nothing" in describe(tmp_path / "new" / "data")["finished"]
    for file in (PCA_FILE, AUTOENCODER_FILE):
        facts = describe((project_root / "data" / file).parent)
        assert facts["kind"] == file.stem
        assert facts["sha256"] == read_meta(project_root / "data" / file)["sha256"]
    assert len(describe(project_root / "data" / "dataset")["sha256"]) == 64
    (tmp_path / "a.onnx").write_bytes(b"graph")
    for path in (tmp_path, tmp_path / "a.onnx"):
        assert describe(path)["kind"] == "ONNX"


@pytest.mark.parametrize("end", [-1, -5000, 100, 7, 0])
def test_info_notices_a_shard_that_is_cut_off(end, project_root, tmp_path):
    folder = shutil.copytree(project_root / "data" / "zoo", tmp_path / "zoo")
    assert describe(folder)["kind"] == "zoo"
    path = folder / "weights-00001.safetensors"
    path.write_bytes(path.read_bytes()[:end])
    refused(lambda: describe(folder), path.name)


def test_info_escapes_what_a_file_says(tmp_path):
    path = tmp_path / "x.safetensors"
    names = {"a\nerror: b": torch.ones(2), "\x1b[2J": torch.ones(2)}
    save_tensors(path, "example", names, {"a\x1b": {"b\n": "c\r"}})
    said = [text for pair in describe(path).items() for text in map(str, pair)]
    assert any("error: b" in text for text in said)
    assert not any(CONTROL.search(text) for text in said)
