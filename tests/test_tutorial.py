"""The README's tutorial, done to a copy of the project as it is written there: the new term loads, compares and can be called by name."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
HEADING = "### Add your own distillation loss in ten minutes"
CHECK = """
import torch
from askd.models.iresnet import IResNet
from askd.recipe import help_text, load
from askd.method import check_method, make_terms
from askd.models.features import Features

recipe = load(["recipe=demo", "method=correlation"])
(name, (weight, term)), = make_terms(recipe).items()
generator = torch.Generator().manual_seed(0)
a, b = (torch.randn(3, 8, generator=generator) for _ in range(2))
expected = 1 - torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b)]).mean()
assert (name, weight, recipe.name) == ("correlation", 10, "demo_correlation")
torch.testing.assert_close(term(Features(a, (), ()), Features(b, (), ()), None), expected)
small = dict(blocks=(1, 1, 1, 1), widths=(4, 4, 8, 8), stem_stride=2, embedding=6)
assert check_method(recipe, IResNet(**small), IResNet(**small), "teacher") is None
assert "distill.correlation.weight (10.0)" in help_text("distill", "", "") and "  correlation " in help_text("distill", "", "")
"""


def test_the_tutorial_does_what_it_says(tmp_path):
    _, found, section = (REPOSITORY / "README.md").read_text().partition(HEADING)
    assert found, f"README.md has no section {HEADING!r}"
    section = re.split(r"\n##+ ", section)[0]
    blocks = {kind: text for kind, text in re.findall(r"```(\w+)\n(.*?)```", section, re.S)}
    loss, method = re.search(r"`(askd/losses/\w+\.py)`", section).group(1), re.search(r"`(methods/\w+\.yaml)`", section).group(1)
    for folder in ("askd", "recipes", "methods"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / loss).write_text(blocks["python"])
    (tmp_path / method).write_text(blocks["yaml"])
    patched = subprocess.run(["git", "apply", "-C1", "-"], cwd=tmp_path, input=blocks["diff"], text=True, capture_output=True)
    assert patched.returncode == 0, f"the tutorial's diff does not apply any more: {patched.stderr}"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CHECK], cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
