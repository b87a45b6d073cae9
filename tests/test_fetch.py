"""Public image files: fetched from a server on this machine; what is wrong is one line and no file."""

import gzip
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from typer.testing import CliRunner

from test_sources import FASHION, write_idx
from weightspace.cli.app import app
from weightspace.data.fetch import IMAGE_SETS, fetch
from weightspace.data.sources import SOURCES
from weightspace.errors import WeightspaceError
from weightspace.params import IdxSettings
from weightspace.registry import resolve

NAME = "fashion-mnist"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Contents of a small image set with the names of the real one, packed: a server gives them."""
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / "made", prefix=prefix, pack=gzip.compress, end=".gz")
    packed = {p.name: p.read_bytes() for p in (tmp_path / "made").iterdir()}
    sums = {n: hashlib.sha256(gzip.decompress(data)).hexdigest() for n, data in packed.items()}
    assert set(sums) == set(IMAGE_SETS[NAME].contents)
    monkeypatch.setitem(IMAGE_SETS, NAME, IMAGE_SETS[NAME]._replace(contents=sums))
    return packed


@pytest.fixture
def home(files):
    """Address of a server of the files; ``cut`` names one that breaks off in the middle."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        cut = None

        def do_GET(self):
            name = self.path.rpartition("/")[2]
            asked.append(name)
            if name not in files:
                self.send_error(404)
                return
            data = files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if name == Handler.cut else data)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/data", asked, Handler
        server.shutdown()
        thread.join()


def names(folder):
    """Everything in a folder, hidden files too."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_files_arrive_byte_for_byte_and_the_source_reads_them(files, home, tmp_path):
    address, asked, _ = home
    folder = tmp_path / "new" / "folder"
    done = CliRunner().invoke(app, ["fetch", NAME, "--to", str(folder), "--from", address])
    assert done.exit_code == 0, done.output
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == files
    assert sorted(asked) == sorted(files)
    images, labels, _ = resolve(SOURCES, "idx", "test").load(
        folder, IdxSettings(size="original", labels="auto"), 0, 0
    )
    assert (len(images), len(np.unique(labels))) == (72, 4)
    asked.clear()
    assert all("there already" in line for line in fetch(NAME, folder, address))
    assert asked == []  # what is there and right is not fetched again


def test_files_packed_in_another_way_are_the_same(files, home, tmp_path):
    """As those of the Debian package are: a hash of the packed bytes would refuse them."""
    name = "t10k-labels-idx1-ubyte.gz"
    before = files[name]
    files[name] = gzip.compress(gzip.decompress(before), compresslevel=1, mtime=7)
    assert files[name] != before
    assert len(list(fetch(NAME, tmp_path / "f", home[0]))) == 4


@pytest.mark.parametrize("fault", ["wrong", "no gzip", "missing", "cut"])
def test_a_file_with_other_contents_is_one_line_and_is_not_written(fault, files, home, tmp_path):
    name = sorted(files)[2]
    changed = {"wrong": gzip.compress(b"other"), "no gzip": b"<html>"}
    if fault in changed:
        files[name] = changed[fault]
    elif fault == "missing":
        del files[name]
    else:
        home[2].cut = name
    says = {"wrong": "sha256", "no gzip": "no gzip file", "missing": "404", "cut": "broke off"}
    with pytest.raises(WeightspaceError, match=says[fault]) as error:
        list(fetch(NAME, tmp_path / "f", home[0]))
    assert "\n" not in str(error.value)
    assert name in str(error.value)
    assert not {n for n in names(tmp_path / "f") if n not in files or n == name}
    assert getattr(error.value.__cause__, "closed", True)  # no connection is left open


def test_without_a_network_it_is_one_line(home, tmp_path):
    closed = home[0].rpartition(":")[0] + ":9"
    with pytest.raises(WeightspaceError, match=r"cannot be fetched.*Debian") as error:
        list(fetch(NAME, tmp_path / "f", closed))
    assert "\n" not in str(error.value)
    assert names(tmp_path / "f") == set()


def test_a_wrong_file_that_is_there_stays_and_is_named(files, home, tmp_path):
    path = tmp_path / sorted(files)[0]
    path.write_bytes(b"mine")
    with pytest.raises(WeightspaceError, match=f"{path.name}: no gzip file.*remove it"):
        list(fetch(NAME, tmp_path, home[0]))
    assert path.read_bytes() == b"mine"
    with pytest.raises(WeightspaceError, match=r"did you mean 'fashion-mnist'\?"):
        list(fetch("fashion_mnist", tmp_path, home[0]))


@pytest.mark.skipif(not FASHION.is_dir(), reason="apt-get install dataset-fashion-mnist")
def test_files_of_the_debian_package_are_those_of_the_image_set(tmp_path):
    """Nothing is fetched: every file is there, with the contents that are expected."""
    assert [line.partition(": ")[2] for line in fetch(NAME, FASHION, "http://127.0.0.1:9")] == [
        "there already, as expected"
    ] * 4
