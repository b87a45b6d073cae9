"""The documentation site: it builds strictly, fetches nothing, and has every public package."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from test_layers import ORDER
from workspace import ROOT


def build(docs, out):
    """Build the site of a folder of pages; with --quiet MkDocs would not count warnings."""
    command = ("-m", "mkdocs", "build", "--strict", "--site-dir", str(out))
    return subprocess.run(
        [sys.executable, *command, "--config-file", str(docs / "site" / "mkdocs.yml")],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", out)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_built_and_fetches_nothing(site):
    pages = {p.relative_to(ROOT / "docs").with_suffix("") for p in ROOT.glob("docs/**/*.md")}
    built = {p.relative_to(site).with_suffix(""): p.read_text() for p in site.rglob("*.html")}
    assert pages <= set(built)
    for name, text in built.items():
        loaded = re.findall(
            r'<(?:script|link|img|iframe)[^>]+(?:src|href)="?(https?:[^" >]+)', text
        )
        assert not loaded, name


def test_every_public_package_is_in_the_reference(site):
    text = "".join(p.read_text() for p in (site / "api").glob("*.html"))
    shown = set(re.findall(r'id="weightspace\.(\w+)["\.]', text))
    assert set(ORDER) - {"__main__"} <= shown
    assert "nothing" not in shown


def test_doctests_are_code_and_roles_are_gone(site):
    text = (site / "api" / "evaluate.html").read_text()
    assert '<span class="gp">>>> </span>' in text.replace("&gt;", ">")
    assert "<p>>>>" not in text.replace("&gt;", ">")
    assert not [
        p
        for p in (site / "api").glob("*.html")
        if re.search(r"<p>[^<]*:(meth|func):", p.read_text())
    ]


def test_a_wrong_link_is_an_error(tmp_path):
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs" / "site", docs / "site")
    config = (docs / "site" / "mkdocs.yml").read_text()
    (docs / "site" / "mkdocs.yml").write_text(config.split("nav:")[0])
    (docs / "index.md").write_text("[nothing](nothing.md)\n")
    done = build(docs, tmp_path / "out")
    assert done.returncode != 0
    assert "nothing.md" in done.stdout + done.stderr
