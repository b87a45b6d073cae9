"""Words of the pages: one name for one thing, and a name is introduced where it is used."""

import re

import pytest

from workspace import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = [ROOT / "Makefile", ROOT / "params.yaml", ROOT / "dvc.yaml"]
OTHERS += sorted((ROOT / "benchmarks").glob("*.yaml"))
OTHERS += [f for folder in ("src", "stages") for f in sorted((ROOT / folder).rglob("*.py"))]
GONE = re.compile(r"\b([Dd]eck|ladder|[Cc]odecs?)\b")  # words of 0.1; a Ladder VAE is another thing
STUDY = "A Contrastive Approach to Weight Space Learning"


def name(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_original_study_is_named_where_it_is_mentioned(page):
    text = " ".join(page.read_text().split())
    named = ("Swanevelder" in text and STUDY in text) or "(original_study.md)" in text
    assert named or "original study" not in text


@pytest.mark.parametrize("path", [*PAGES, *OTHERS], ids=name)
def test_words_that_were_replaced_are_gone(path):
    assert not GONE.findall(path.read_text())


def test_words_that_were_replaced_are_found():
    assert GONE.findall("the deck's Codec; a ladder. decked, codecs; Ladder VAE") == [
        "deck",
        "Codec",
        "ladder",
        "codecs",
    ]
