"""Searches and template comparisons of the sizes that benchmarks have: CPU seconds and peak memory, each in a process of its own.

    python benchmarks/identification.py [tinyface | million | ijbc_pairs | ijbc_pooling ...]

Embeddings are random, 512-d; "input" is what they occupy before the measured call.
"""
from __future__ import annotations

import multiprocessing
import resource
import sys
import time

import numpy as np

from askd.evaluation.identification import NOBODY, search
from askd.evaluation.templates import compare, pool


def embeddings(images: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((images, 512), dtype=np.float32)


def searching(probes: int, gallery: int, distractors: int):
    people = np.random.default_rng(1).integers(0, 2569, probes + gallery)
    identity = np.append(people, np.full(distractors, NOBODY))
    return search, (embeddings(len(identity)), np.arange(probes), np.arange(probes, len(identity)), identity)


def ijbc_pairs():
    rng = np.random.default_rng(1)
    left, right = rng.integers(0, 3531, 15_658_489), rng.integers(3531, 23_124, 15_658_489)
    return compare, (embeddings(23_124), left, right, np.arange(len(left)) < 19_557)


def ijbc_pooling():
    rng = np.random.default_rng(1)
    template = np.append(np.arange(23_124), rng.integers(0, 23_124, 469_375 - 23_124))
    return pool, (embeddings(469_375), template, rng.integers(0, 138_000, 469_375), 23_124)


CASES = {
    "tinyface": ("3,728 probes, 4,443 + 153,428 gallery", lambda: searching(3728, 4443, 153_428)),
    "million": ("500 probes, 1,000,000 gallery", lambda: searching(500, 2569, 997_431)),
    "ijbc_pairs": ("15,658,489 pairs of 23,124 templates", ijbc_pairs),
    "ijbc_pooling": ("469,375 images into 23,124 templates", ijbc_pooling),
}


def measure(case: str) -> None:
    what, prepare = CASES[case]
    function, arguments = prepare()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{case:13s} {what:40s} {cpu:7.1f} s CPU {wall:7.1f} s wall   input {before:5.2f} GiB, peak {peak:5.2f} GiB", flush=True)


def main() -> None:
    unknown = [case for case in sys.argv[1:] if case not in CASES]
    if unknown:
        sys.exit(f"unknown case {unknown[0]!r}; choose from {', '.join(CASES)}")
    for case in sys.argv[1:] or CASES:
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(case,))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
