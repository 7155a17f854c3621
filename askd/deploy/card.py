"""The model card: README.md of an export folder, from what is recorded and what was measured, nothing else."""
from __future__ import annotations

from askd.deploy.gate import FARS, Line, Measured, table
from askd.evaluation.intervals import Interval

ARITHMETIC = {
    "fp32": "float32 throughout",
    "fp16": "float16 weights and arithmetic, float32 input and output (ONNX Runtime computes in float32 where a CPU has no float16 kernels)",
    "int8": "int8 weights per output channel and 8-bit activations for convolutions and linear layer; first convolution, residual sums, "
            "batch norms, PReLU and attention in float32; static ranges from faces at the sizes above. Checked on a CPU with {units}: where int8 is computed otherwise "
            "(AVX2 alone can saturate, VNNI does not) check again",
}
FEED = {
    "aligned": "`image` (N, 3, 112, 112) float32, RGB, (x - 127.5) / 127.5, aligned to the ArcFace template: what InsightFace feeds",
    "native": "`crop` (N, 3, H, W) uint8, RGB, H and W from 7 to 112, the ArcFace template at the camera's own resolution; the graph enlarges "
              "(kernel `{kernel}`) and normalises as training did",
}
FILES = {
    "student.onnx": "the network, weights inside",
    "student.pt2": "the same through `torch.export`, float32: `torch.export.load(...).module()`",
    "model.safetensors": "the weights under PyTorch's names; with meta.json, `askd.teachers.load_backbone(FOLDER)`",
    "meta.json": "how to rebuild and feed it, thresholds, the gate's lines",
    "detector.onnx": "the face detector given at export; its own terms apply",
    "manifest.json": "makes this folder an InsightFace package: `FaceAnalysis(name=FOLDER)`",
}


def model_card(meta: dict, lines: list[Line], figures: list[Measured], intervals: list[Interval | None], hashes: dict[str, str],
               held_out: str, trained_on: str, recipe: str | None) -> str:
    """The card as Markdown.

    meta: the export's meta.json. figures, with the interval of each accuracy: on the set that `held_out` names. hashes: file -> sha256.
    trained_on: the training data and its terms, in words. recipe: the resolved YAML, where there is one.
    """
    export, sizes = meta["export"], ", ".join(map(str, meta["sizes"]))
    name = f"{meta.get('recipe', meta.get('source', 'imported'))} {meta.get('role', 'network')}"
    network = ", ".join(f"{key} {value}" for key, value in meta["network"].items())
    teacher = meta.get("teacher")
    taught = f", taught by {teacher['recipe'] or teacher['path']} (sha256 {teacher['sha256'][:12]})" if teacher else ""
    parts = [
        f"# {name}, {export['precision']}, {export['input']} input",
        f"A face recogniser for faces of {sizes} pixels: a face goes in, {export['width']} numbers come out, and the cosine of two such "
        "embeddings says how alike the faces are.",
        "## What it is\n\n"
        f"- architecture: {meta['backbone']} ({network})\n"
        f"- trained: by askd, seed {meta.get('seed', 'unknown')}, at {sizes} px, degradation `{meta['degradation']}`{taught}\n"
        f"- data: {trained_on}\n"
        f"- arithmetic: {ARITHMETIC[export['precision']].format(units=', '.join(export.get('cpu', [])) or 'units that torch does not name')}\n"
        f"- input: {FEED[export['input']].format(kernel=export['kernel'])}\n"
        f"- output: `embedding` (N, {export['width']}) float32, not normalised",
        "## How good it is\n\n"
        f"The exported file itself, on {held_out}. One embedding per face, no mirror image, cosine; accuracy by ten folds, each at the other "
        "nine's best threshold, 95 % interval by bootstrap. Faces are shrunk to the size, stored in 8 bits and enlarged again.\n\n"
        + _figures(figures, intervals),
        "## Thresholds\n\n"
        "Cosine from which two faces are taken for one person, as measured above at that size: the largest attained FAR that is not above "
        "the one named. Measure again on your own cameras and people before you rely on one.\n\n" + _thresholds(figures),
        "## The parity gate\n\n"
        "This file against the trained network in PyTorch, face by face. Outside these limits nothing is written. Accuracy here is the mean "
        "of genuine pairs accepted and impostors refused among all pairs of these faces, of both at PyTorch's thresholds.\n\n"
        + table(lines, export["precision"]),
        "## Use\n\n"
        "For verification and search among faces like those it was measured on, with a person deciding whatever matters. Not for "
        "faces much smaller than it was trained on, not as the only ground of a decision about anybody, not to infer anything but "
        "likeness. Error rates differ between groups of people; the figures above say nothing about any group by itself.\n\n"
        "```python\nfrom askd.runtime.recognizer import Recognizer, cosines\n\n"
        "embeddings = Recognizer(\"FOLDER\").embed(faces)   # needs numpy, OpenCV and ONNX Runtime alone\n```",
        "## Files (sha256)\n\n" + "\n".join(f"- `{file}` `{digest}`: {FILES[file]}" for file, digest in hashes.items()),
    ]
    if recipe is not None:
        parts.append(f"## Training recipe\n\n```yaml\n{recipe.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def _figures(figures: list[Measured], intervals: list[Interval | None]) -> str:
    rows = [f"| size | accuracy | 95 % interval | AUC | {' | '.join(f'TAR @ FAR {far:g}' for far in FARS)} |",
            f"|---:|---:|---:|---:|{'---:|' * len(FARS)}"]
    for measured, interval in zip(figures, intervals):
        result = measured.result
        accuracy = "–" if result.accuracy is None else f"{100 * result.accuracy:.2f} %"
        spread = "–" if interval is None or interval.low is None else f"{100 * interval.low:.2f} – {100 * interval.high:.2f}, by {interval.unit}"
        area = "–" if result.auc is None else f"{result.auc:.4f}"
        rates = " | ".join("too few impostors" if row["tar"] is None else f"{100 * row['tar']:.2f} %" for row in measured.thresholds)
        rows.append(f"| {measured.size} px | {accuracy} | {spread} | {area} | {rates} |")
    return "\n".join(rows)


def _thresholds(figures: list[Measured]) -> str:
    rows = [f"| size | {' | '.join(f'FAR {far:g}' for far in FARS)} | impostor pairs |", f"|---:|{'---:|' * len(FARS)}---:|"]
    for measured in figures:
        cells = ["too few impostors" if row["threshold"] is None else f"{row['threshold']:.4f}" for row in measured.thresholds]
        rows.append(f"| {measured.size} px | {' | '.join(cells)} | {measured.thresholds[0]['impostors']:,} |")
    return "\n".join(rows)
