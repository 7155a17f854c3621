"""Compiled or not, and the words for it."""
from __future__ import annotations

import pytest

from askd.engine.compiling import choose_compile
from askd.errors import RecipeError


def test_a_cpu_compiles_only_when_asked(monkeypatch):
    monkeypatch.setenv("CXX", "python3")  # something that is there
    assert choose_compile(None, "cpu") == (False, "eager: compile=true pays in runs of hours")
    assert choose_compile(True, "cpu") == (True, "compiled, as asked for")
    assert choose_compile(False, "cpu") == (False, "eager, as asked for")


def test_without_a_compiler_asking_is_an_error_and_leaving_it_open_is_not(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(RecipeError, match=r"compile=true on cpu needs a C\+\+ compiler .*use compile=false"):
        choose_compile(True, "cpu")
    with pytest.raises(RecipeError, match="compile=true on cuda needs Triton and a C compiler"):
        choose_compile(True, "cuda")
    chosen, why = choose_compile(None, "cuda")
    assert not chosen and "needs Triton and a C compiler" in why


def test_cuda_compiles_where_it_can(monkeypatch):
    monkeypatch.setenv("CC", "python3")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == "triton" else None)
    assert choose_compile(None, "cuda") == (True, "compiled")
