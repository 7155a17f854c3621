"""Images per second and core from a .rec to a degraded HR/LR batch: the per-sample way against ours, in one run.

    OMP_NUM_THREADS=1 python benchmarks/data.py [images=1024] [rounds=7]

The faces are rendered and packed first, then read in one process, without workers, on one thread. The ways take turns, `rounds` times; a
round is the processor time (so that a busy machine does not count) of one epoch. Prints the medians and appends them to
benchmarks/results/data.jsonl. `share of decode` is the time of `decode alone`, the floor, in that of a way.
"""
from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import gaussian_blur

from askd.data.decode import decode_rgb
from askd.data.faces import FaceSet, open_faces
from askd.data.loader import TrainingBatches, prepare
from askd.data.recordio import write_recordio
from askd.data.synthetic import render_identities

RESULTS = Path(__file__).parent / "results" / "data.jsonl"
CPU = torch.device("cpu")
BATCH, JPEG_QUALITY, SAMPLES = 128, 95, 8
SIZES = (14, 28)


class PerSample(Dataset):
    """As one would first write it: decode, mirror, normalise, interpolate down and up and blur, image by image."""

    def __init__(self, faces: FaceSet, size: int, blur: bool):
        self.faces, self.size, self.blur = faces, size, blur

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        image = cv2.imdecode(np.frombuffer(self.faces.encoded(index), np.uint8), cv2.IMREAD_COLOR_RGB)
        if torch.rand(()) < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        hr = (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
        lr = F.interpolate(hr[None], self.size, mode="bicubic", antialias=True)
        lr = F.interpolate(lr, 112, mode="bicubic").clamp(-1, 1)[0]
        return hr, gaussian_blur(lr, [5, 5], [0.1, 2.0]) if self.blur else lr, int(self.faces.labels[index])


class PerSampleOpenCV(PerSample):
    """The same on 8 bits by OpenCV, which has no antialiased cubic: another degradation, and the fastest per sample."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        image = cv2.imdecode(np.frombuffer(self.faces.encoded(index), np.uint8), cv2.IMREAD_COLOR_RGB)
        if torch.rand(()) < 0.5:
            image = cv2.flip(image, 1)
        lr = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)
        lr = cv2.GaussianBlur(cv2.resize(lr, (112, 112), interpolation=cv2.INTER_CUBIC), (5, 5), 0.1, sigmaY=2.0)
        hr, lr = ((torch.from_numpy(each).permute(2, 0, 1).float() / 255 - 0.5) / 0.5 for each in (image, lr))
        return hr, lr, int(self.faces.labels[index])


def per_sample(dataset: Dataset) -> Callable[[], None]:
    """An epoch of torch's own loader."""
    def epoch() -> None:
        for _ in DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True):
            pass
    return epoch


def ours(faces: FaceSet, size: int, augment: str = "flip") -> Callable[[], None]:
    """An epoch as askd.teach and askd.distill see it."""
    batches = TrainingBatches(faces, batch=BATCH, sizes=[size], augment=augment)

    def epoch() -> None:
        for batch in islice(batches.iterate(0), batches.steps_per_epoch):
            prepare(batch, CPU, "bicubic", quantise=augment == "surveillance")
    return epoch


def decode(faces: FaceSet) -> Callable[[], None]:
    """An epoch's JPEGs to pixels, and nothing else."""
    def epoch() -> None:
        for index in range(len(faces)):
            decode_rgb(faces.encoded(index), "")
    return epoch


def pack(folder: Path, images: int) -> FaceSet:
    """Rendered faces as a RecordIO set."""
    people = images // SAMPLES
    rendered = render_identities(range(people), SAMPLES, 0, workers=1)
    bgr = ((identity, cv2.cvtColor(image, cv2.COLOR_RGB2BGR)) for identity, _, image in rendered)
    jpegs = ((identity, cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()) for identity, image in bgr)
    write_recordio(folder, jpegs, classes=people)
    return open_faces(folder)


def main() -> None:
    options = {"images": 1024, "rounds": 7} | {key: int(value) for key, value in (argument.split("=") for argument in sys.argv[1:])}
    torch.set_num_threads(1), cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        faces = pack(Path(folder), options["images"] // BATCH * BATCH)
        ways = {("decode alone", 112): decode(faces)}
        for size in SIZES:
            ways |= {
                ("per sample, torch", size): per_sample(PerSample(faces, size, blur=True)),
                ("per sample, torch, no blur", size): per_sample(PerSample(faces, size, blur=False)),
                ("per sample, OpenCV", size): per_sample(PerSampleOpenCV(faces, size, blur=True)),
                ("ours", size): ours(faces, size),
                ("ours, augment=adaface", size): ours(faces, size, "adaface"),
                ("ours, augment=surveillance", size): ours(faces, size, "surveillance"),
            }
        seconds: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
        for _ in range(options["rounds"] + 1):
            for way, epoch in ways.items():
                began = time.process_time()
                epoch()
                seconds[way].append(time.process_time() - began)
    medians = {way: statistics.median(times[1:]) for way, times in seconds.items()}  # the first round warms up
    report(medians, len(faces), options["rounds"])


def report(medians: dict[tuple[str, int], float], images: int, rounds: int) -> None:
    """The table, and a line in RESULTS."""
    floor = medians["decode alone", 112]
    print(f"{images} images of 112 px, JPEG {JPEG_QUALITY}, batches of {BATCH}, median of {rounds} rounds, one core; "
          f"torch {torch.__version__}, OpenCV {cv2.__version__}, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}\n")
    print("| from .rec to HR/LR batch | px | images/s | to per sample, torch | share of decode |\n|---|---:|---:|---:|---:|")
    rows = []
    for (way, size), seconds in medians.items():
        ratio = medians["per sample, torch", size] / seconds if size in SIZES else None
        rows.append({"way": way, "size": size, "images_per_second": images / seconds, "ratio": ratio, "decode_share": floor / seconds})
        print(f"| {way} | {size} | {images / seconds:,.0f} | {f'{ratio:.2f}x' if ratio else ''} | {floor / seconds:.0%} |")
    line = {"images": images, "batch": BATCH, "rounds": rounds, "torch": torch.__version__, "opencv": cv2.__version__, "rows": rows}
    with open(RESULTS, "a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
