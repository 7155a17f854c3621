"""Whether to compile the networks, and why."""
from __future__ import annotations

import importlib.util
import os
import shutil

import torch

from askd.errors import RecipeError


def choose_compile(asked: bool | None, device: torch.device | str) -> tuple[bool, str]:
    """Whether torch.compile is to be used on a device, and the words for it; RecipeError where it is asked for and cannot work.

    asked None: yes on CUDA where Triton and a C compiler are there; no on a CPU, where compiling takes longer than a short run.
    """
    kind = torch.device(device).type
    compiler, lacks = os.environ.get("CXX", "g++"), "a C++ compiler (g++, or the one that CXX names)"
    if kind == "cuda":
        compiler, lacks = os.environ.get("CC", "gcc"), "Triton and a C compiler (gcc, or the one that CC names)"
    able = shutil.which(compiler) is not None and (kind != "cuda" or importlib.util.find_spec("triton") is not None)
    if asked and not able:
        raise RecipeError(f"compile=true on {kind} needs {lacks}; install it, or use compile=false")
    if asked is not None:
        return asked, "compiled, as asked for" if asked else "eager, as asked for"
    if kind == "cuda":
        return able, "compiled" if able else f"eager: compiling needs {lacks}"
    return False, "eager: compile=true pays in runs of hours"
