"""A student for deployment: one ONNX file with a dynamic batch, checked against PyTorch before it appears."""
from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from askd import cli
from askd.errors import CheckpointError, RecipeError
from askd.models.iresnet import IResNet
from askd.teachers import load_backbone

WHAT = "Export a run's network to ONNX. Takes the run folder and `out` alone: the keys below are the run's own."
USAGE = "RUN_FOLDER [out=FOLDER]"
LEAST_COSINE = 0.9999  # between PyTorch's and ONNX Runtime's embedding of the same image, both float32


def main(argv: list[str]) -> None:
    """`python -m askd.export RUN_FOLDER [out=FOLDER]`"""
    options = dict(argument.split("=", 1) for argument in argv if "=" in argument)
    paths = [argument for argument in argv if "=" not in argument]
    if len(paths) != 1 or set(options) - {"out"}:
        raise RecipeError(f"usage: python -m askd.export {USAGE}, got {' '.join(argv) or 'nothing'}")
    run = Path(paths[0])
    if not (run / "meta.json").is_file() and (run / "student").is_dir():
        raise CheckpointError(f"{run} holds several runs; name one, for example {next((run / 'student').iterdir(), run / 'student/seed0')}")
    print(export(run, Path(options.get("out", run / "export"))))


def export(run: Path, folder: Path) -> Path:
    """Write folder/student.onnx (and meta.json) from a run folder; returns the ONNX file.

    Input `image` (N, 3, 112, 112) float32 RGB in [-1, 1], N free; output `embedding` (N, E), not normalised: what InsightFace's
    recognition models take and give. CheckpointError, and no file, where ONNX Runtime's embeddings differ from PyTorch's.
    """
    backbone, meta = load_backbone(run)
    backbone.eval()
    model = to_onnx(backbone)
    cosine = parity(backbone, model)
    if not cosine >= LEAST_COSINE:
        raise CheckpointError(f"{run}: ONNX embeddings differ from PyTorch's (cosine {cosine:.6f} < {LEAST_COSINE}); nothing written")
    target = folder / "student.onnx"
    description = json.dumps(meta | {"onnx": {"least_cosine_to_pytorch": round(cosine, 7)}}, indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in ((target, model), (folder / "meta.json", description.encode())):
            partial = path.with_name(path.name + ".tmp")
            partial.write_bytes(content)
            os.replace(partial, path)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder} ({error.strerror}); choose another out=") from None
    print(f"exported {target} ({target.stat().st_size / 1e6:.1f} MB); least cosine to PyTorch {cosine:.6f}", file=sys.stderr)
    return target


def to_onnx(backbone: IResNet) -> bytes:
    """One self-contained ONNX model with a dynamic batch and static 112 x 112, checked by onnx's own checker."""
    program = torch.onnx.export(
        backbone, (torch.zeros(2, 3, 112, 112),), input_names=["image"], output_names=["embedding"],
        dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1)}}, dynamo=True, verbose=False,
    )
    model = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def parity(backbone: IResNet, model: bytes) -> float:
    """The least cosine between PyTorch's and ONNX Runtime's embeddings over batches of 1 and 8 noise images, smooth and rough."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    rough = torch.rand(8, 3, 112, 112, generator=generator) * 2 - 1
    smooth = torch.nn.functional.interpolate(torch.rand(8, 3, 7, 7, generator=generator) * 2 - 1, (112, 112), mode="bicubic").clamp(-1, 1)
    cosines = []
    for images in (rough, smooth, smooth[:1]):
        with torch.inference_mode():
            ours = backbone(images).double().numpy()
        theirs = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0].astype(np.float64)
        cosines.append((ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1))
    return float(np.concatenate(cosines).min())


if __name__ == "__main__":
    cli.run("export", WHAT, main, USAGE)
