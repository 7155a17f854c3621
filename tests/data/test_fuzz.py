"""A short run of benchmarks/fuzz.py: the same mutations and judgement, some hundred inputs per format."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("benchmarks_fuzz", SOURCE)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def sound(fuzz, tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    fuzz.write_sound(root)
    return root


def test_sound_files_are_read(fuzz, sound):
    for name, form in fuzz.FORMATS.items():
        assert form.read(sound / form.file) == form.fewest((sound / form.file).read_bytes()), name


def test_damaged_files_are_read_or_refused(fuzz, sound):
    for name in fuzz.FORMATS:
        counts, failures = fuzz.fuzz(sound, name, range(160), seed=1)
        assert not failures, failures[0]
        outcomes = {outcome: sum(count for (_, found), count in counts.items() if found == outcome) for _, outcome in counts}
        assert outcomes["DataError"] > 10 and outcomes["same"] > 0, (name, outcomes)


def test_a_reader_that_forgets_an_image_is_caught(fuzz, sound, monkeypatch):
    read = fuzz.FORMATS["rec"].read
    forgetful = fuzz.Format("with_idx/train.rec", lambda path: read(path) - 1, fuzz.FORMATS["rec"].fewest)
    monkeypatch.setitem(fuzz.FORMATS, "rec", forgetful)
    counts, failures = fuzz.fuzz(sound, "rec", range(40), seed=1)
    assert failures and len(failures) == sum(count for (_, outcome), count in counts.items() if outcome == "FAILED")
    assert "only='rec/" in failures[0] and "8 of 9 were read" in failures[0]
