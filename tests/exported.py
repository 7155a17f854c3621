"""A network whose batch norms have seen something, as a run folder and exported, once for all tests; and renamed parts of it."""
from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from askd.data.synthetic import render_face
from askd.engine.checkpoint import save_weights
from askd.export import export
from askd.models import make_backbone
from askd.models.iresnet import IResNet
from askd.runtime.recognizer import META, MODEL
from askd.teachers import load_backbone

NETWORK = {"attention": "cbam", "embedding": 32, "dropout": 0.4}
META_OF_RUN = {"role": "student", "recipe": "mini", "seed": 3, "backbone": "iresnet10", "network": NETWORK, "sizes": [28], "degradation": "bicubic"}


@dataclass(frozen=True)
class Exported:
    """run: the run folder; folder: its fp32, aligned export; backbone: the network in PyTorch. Read them, change nothing."""

    run: Path
    folder: Path
    backbone: IResNet


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Exported:
    """Exported with rendered faces, for it has no recipe."""
    return _exported(tmp_path_factory.getbasetemp())


@cache
def _exported(base: Path) -> Exported:
    run = base / "untrained"
    save_weights(run, make_network().state_dict(), META_OF_RUN)
    export(run, base / "deploy")
    return Exported(run, base / "deploy", load_backbone(run)[0].eval().requires_grad_(False))


def make_network() -> IResNet:
    """The same each time."""
    torch.manual_seed(5)
    backbone = make_backbone("iresnet10", **NETWORK)
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return backbone


def with_model(source: Path, target: Path, model: bytes, **changed: object) -> Path:
    """A copy of an export with another ONNX file, and a meta.json that vouches for it."""
    shutil.copytree(source, target)
    (target / MODEL).write_bytes(model)
    meta = json.loads((target / META).read_text())
    meta["export"] |= {"sha256": hashlib.sha256(model).hexdigest(), **changed}
    (target / META).write_text(json.dumps(meta))
    return target


def edited(folder: Path, edit) -> bytes:
    """The folder's ONNX model after `edit(model)`."""
    model = onnx.load(folder / MODEL)
    edit(model)
    return model.SerializeToString()


def some_faces(count: int) -> np.ndarray:
    """Rendered people, uint8 (N, 112, 112, 3) RGB."""
    return np.stack([render_face(identity, 0) for identity in range(count)])
