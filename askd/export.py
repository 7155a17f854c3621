"""A student for deployment: a folder with ONNX, .pt2, weights, thresholds and a model card, checked against PyTorch before it appears."""
from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import onnx
import torch

from askd import __version__, cli
from askd.benchmark import open_sets
from askd.data.cards import load_card
from askd.data.loader import to_unit
from askd.data.pairs import PairSet
from askd.deploy import faces, gate
from askd.deploy.card import model_card
from askd.deploy.graph import to_half, to_onnx, trace, with_native_input
from askd.deploy.int8 import quantise
from askd.deploy.native import up_kernel
from askd.engine.checkpoint import save_weights
from askd.errors import CheckpointError, DataError, RecipeError
from askd.evaluation.intervals import accuracy_metric, bootstrap
from askd.evaluation.scored import resamples_of
from askd.recipe import load
from askd.runtime.recognizer import META, MODEL, Recognizer, cosines
from askd.training_data import open_training
from askd.teachers import load_backbone

WHAT = "Export a run's network for deployment: ONNX, .pt2, weights, thresholds, model card. Of the keys below it takes data.* and eval.* alone."
USAGE = "RUN_FOLDER [out=FOLDER] [precision=fp32|fp16|int8] [input=aligned|native] [detector=FILE.onnx] [data.path=FOLDER] [eval.sets=[...]]"
CHOICES = {"precision": tuple(gate.LIMITS), "input": ("aligned", "native")}
PROGRAM, WEIGHTS, CARD, DETECTOR, MANIFEST = "student.pt2", "model.safetensors", "README.md", "detector.onnx", "manifest.json"
INT8_UNITS = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8")  # by which the gate's figures of an int8 file may differ
SEEN_BY_PROGRAM = 4  # faces that the .pt2 is checked on: it is the traced PyTorch itself


def main(argv: list[str]) -> None:
    """`python -m askd.export RUN_FOLDER [key=value ...]`"""
    options = dict(argument.split("=", 1) for argument in argv if "=" in argument)
    paths = [argument for argument in argv if "=" not in argument]
    overrides = [f"{key}={value}" for key, value in options.items() if key.startswith(("data.", "eval."))]
    ours = {key: value for key, value in options.items() if not key.startswith(("data.", "eval."))}
    if len(paths) != 1 or set(ours) - {"out", "precision", "input", "detector"}:
        raise RecipeError(f"usage: python -m askd.export {USAGE}, got {' '.join(argv) or 'nothing'}")
    for key, choices in CHOICES.items():
        if ours.get(key, choices[0]) not in choices:
            raise RecipeError(f"{key} must be one of {', '.join(choices)}, got {ours[key]}")
    run = Path(paths[0])
    if not (run / META).is_file() and (run / "student").is_dir():
        raise CheckpointError(f"{run} holds several runs; name one, for example {next((run / 'student').iterdir(), run / 'student/seed0')}")
    folder = Path(ours.pop("out", run / "export"))
    print(export(run, folder, overrides=overrides, **ours))


def export(run: Path, folder: Path, precision: str = "fp32", input: str = "aligned", detector: str | None = None,
           overrides: Sequence[str] = ()) -> Path:
    """Write the export of a run folder (or of a foreign checkpoint) to `folder`; returns its ONNX file.

    aligned: `image` (N, 3, 112, 112) float32 RGB in [-1, 1] -> `embedding` (N, E), what InsightFace's recognition models take and give.
    native: `crop` (N, 3, H, W) uint8 RGB. N is free. overrides: of the run's recipe, to find its data. A detector is copied in beside
    the student, and with `aligned` makes the folder a package for InsightFace's FaceAnalysis.
    CheckpointError, and nothing written, where the gate refuses; DataError where the faces to calibrate and judge on are missing.
    """
    if folder.resolve() == run.resolve():
        raise CheckpointError(f"out={folder} is the run folder itself, whose {WEIGHTS} and {META} the export would replace; choose another")
    if detector is not None and not Path(detector).is_file():
        raise DataError(f"detector={detector} is no file; name an InsightFace detector such as scrfd_2.5g_bnkps.onnx")
    reference, meta = load_backbone(run)
    reference.eval().requires_grad_(False)
    meta = {"sizes": [112], "degradation": "bicubic"} | meta
    chosen, sizes, recipe = choose_faces(run, meta, overrides)
    kernel = up_kernel(meta["degradation"])
    stage = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        stage.mkdir(parents=True)
        program = trace(reference, kernel if input == "native" else None)
        trunk = program if input == "aligned" else trace(reference, None)
        write_model(stage / MODEL, to_onnx(trunk), precision, kernel if input == "native" else None,
                    lambda: faces.as_trained(chosen.calibration, meta["sizes"], meta["degradation"]))
        torch.export.save(program, stage / PROGRAM)
        meta["export"] = {"precision": precision, "input": input, "kernel": kernel, "sha256": sha256(stage / MODEL),
                          "width": meta["network"]["embedding"], "thresholds": [], "askd": __version__,
                          "cpu": [unit for unit in INT8_UNITS if torch.cpu.get_capabilities().get(unit)]}
        save_weights(stage, reference.state_dict(), meta)
        lines, figures = gate.inspect(
            reference, Recognizer(stage), chosen.calibration, chosen.pairs, chosen.images, sizes, meta["degradation"])
        lines.append(program_line(reference, stage / PROGRAM, chosen.images, meta, input))
        print(gate.table(lines, precision), file=sys.stderr)
        gate.judge(lines[:-1], precision, str(run))
        gate.judge(lines[-1:], "fp32", str(run))
        meta["export"]["thresholds"] = [{"size": figure.size, **row} for figure in figures for row in figure.thresholds]
        meta["export"]["gate"] = [asdict(line) for line in lines]
        save_weights(stage, reference.state_dict(), meta)
        add_detector(stage, detector, meta)
        present = [stage / name for name in (MODEL, PROGRAM, WEIGHTS, META, DETECTOR, MANIFEST) if (stage / name).is_file()]
        intervals = [interval(figure, chosen) for figure in figures]
        (stage / CARD).write_text(model_card(
            meta, lines, figures, intervals, {file.name: sha256(file) for file in present}, chosen.held_out, chosen.trained_on, recipe))
        put_in_place(stage, folder)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder} ({error.strerror or error}); choose another out=") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    print(f"exported {folder / MODEL} ({(folder / MODEL).stat().st_size / 1e6:.1f} MB, {precision}, {input})", file=sys.stderr)
    return folder / MODEL


def choose_faces(run: Path, meta: dict, overrides: Sequence[str]) -> tuple[faces.Faces, list[int], str | None]:
    """The faces to calibrate and judge on, the sizes to judge at, and the recipe's text; rendered faces where a run has no recipe."""
    if not (run / "recipe.yaml").is_file():
        if overrides:
            raise RecipeError(f"{run} has no recipe.yaml, so there is nothing for {' '.join(overrides)} to change; leave it out")
        return faces.rendered(), sorted({112, *meta["sizes"]}, reverse=True), None
    recipe = load([f"recipe={run / 'recipe.yaml'}", *overrides])
    training, name = open_training(recipe, together=False)[1], None
    for pairs in open_sets(recipe):
        if isinstance(pairs, PairSet) and pairs.same.any() and not pairs.same.all():
            name = pairs.name
            break
    if name is None:
        raise DataError(f"{run}: no set of eval.sets={recipe.eval.sets} holds genuine and impostor pairs of images to judge the export on; name another")
    card = load_card(recipe.data.set)
    trained_on = f"{card.title} ({meta['images']} images of {meta['classes']} people). {card.described}. Terms: {card.terms}"
    sizes = sorted({*recipe.eval.sizes, *meta["sizes"]}, reverse=True)
    return faces.of_run(training, pairs, f"{recipe.data.set}/{name}", trained_on), sizes, (run / "recipe.yaml").read_text()


def write_model(path: Path, model: onnx.ModelProto, precision: str, native_kernel: str | None, calibration) -> None:
    """The ONNX file in its precision and with its input; `calibration()` gives the faces that int8 takes its ranges from."""
    if precision == "fp16":
        model = to_half(model)
    elif precision == "int8":
        model = quantise(model, calibration())
    if native_kernel is not None:
        model = with_native_input(model, native_kernel)
    onnx.save(model, path)


@torch.inference_mode()
def program_line(reference, path: Path, images: torch.Tensor, meta: dict, input: str) -> gate.Line:
    """The gate's line for the .pt2, read back from its file."""
    size = max(meta["sizes"])
    crop, seen = gate.as_camera(images[:SEEN_BY_PROGRAM], size, meta["degradation"])
    found = torch.export.load(path).module()(crop if input == "native" else to_unit(seen)).numpy()
    cosine = cosines(reference(to_unit(seen)).numpy(), found)
    return gate.Line(f"held out, {PROGRAM}", size, len(found), float(cosine.min()), float(cosine.mean()))


def interval(figure: gate.Measured, chosen: faces.Faces):
    """The bootstrap interval of an accuracy, over people where they are known; None where there is no accuracy."""
    if figure.result.accuracy is None:
        return None
    pairs = chosen.pairs
    kept, resamples = resamples_of(pairs.same, pairs.fold, pairs.identity, pairs.left, pairs.right)
    return bootstrap(accuracy_metric(figure.result.correct[kept]), resamples)


def add_detector(stage: Path, detector: str | None, meta: dict) -> None:
    """Copy a detector in; with aligned input also InsightFace's manifest, which ties both models to their hashes."""
    if detector is None:
        return
    shutil.copyfile(detector, stage / DETECTOR)
    if meta["export"]["input"] == "native":
        return
    name = re.sub(r"[^A-Za-z0-9._-]", "_", f"askd_{meta.get('recipe', 'imported')}_seed{meta.get('seed', 0)}")[:128]
    manifest = {
        "manifest_version": 2, "model_id": name, "license": "MODEL.LICENSE",  # InsightFace signs those; absent means non-commercial
        "tasks": {
            "detection": {"file": DETECTOR, "sha256": sha256(stage / DETECTOR)},
            "recognition": {"file": MODEL, "sha256": meta["export"]["sha256"], "embedding_dimension": meta["export"]["width"],
                            "preprocessing": {"mean": 127.5, "std": 127.5}},
        },
    }
    (stage / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def put_in_place(stage: Path, folder: Path) -> None:
    """Move a finished export to `folder`: whole where that is new, else file by file with meta.json, without which nothing loads, last."""
    if not folder.exists():
        os.replace(stage, folder)
        return
    (folder / META).unlink(missing_ok=True)
    for name in (MODEL, PROGRAM, WEIGHTS, CARD, DETECTOR, MANIFEST, META):
        if (stage / name).is_file():
            os.replace(stage / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    cli.run("export", WHAT, main, USAGE)
