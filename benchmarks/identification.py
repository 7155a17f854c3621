"""Searches and template comparisons of the sizes that benchmarks have: CPU seconds and peak memory, each in a process of its own.

    python benchmarks/identification.py [tinyface | million | million_mapped | ijbc_pairs | ijbc_pooling ...]

Embeddings are random, 512-d; "input" is what they occupy before the measured call. `million_mapped` searches them as askd.benchmark does,
mapped from the cache on disk: "own" memory is what the process cannot give back (RssAnon), sampled while it searches.
"""
from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from askd.evaluation.identification import NOBODY, search
from askd.evaluation.store import Store
from askd.evaluation.templates import compare, pool


def embeddings(images: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((images, 512), dtype=np.float32)


def searching(probes: int, gallery: int, distractors: int):
    people = np.random.default_rng(1).integers(0, 2569, probes + gallery)
    identity = np.append(people, np.full(distractors, NOBODY))
    return search, (embeddings(len(identity)), np.arange(probes), np.arange(probes, len(identity)), identity)


def mapped(folder: Path):
    """The million of `million`, written batch by batch to a store and found in it again."""
    people = np.random.default_rng(1).integers(0, 2569, 500 + 2569)
    identity = np.append(people, np.full(997_431, NOBODY))
    store, rng = Store(folder), np.random.default_rng(0)
    unfinished = store.create({"model": "random"}, 1, len(identity), 512)
    for start in range(0, len(identity), 20_000):
        part = slice(start, min(start + 20_000, len(identity)))
        unfinished.rows[0, part] = rng.standard_normal((part.stop - part.start, 512), dtype=np.float32)
    unfinished.finish()
    return search, (store.find({"model": "random"})[0], np.arange(500), np.arange(500, len(identity)), identity)


def ijbc_pairs(folder: Path):
    rng = np.random.default_rng(1)
    left, right = rng.integers(0, 3531, 15_658_489), rng.integers(3531, 23_124, 15_658_489)
    return compare, (embeddings(23_124), left, right, np.arange(len(left)) < 19_557)


def ijbc_pooling(folder: Path):
    rng = np.random.default_rng(1)
    template = np.append(np.arange(23_124), rng.integers(0, 23_124, 469_375 - 23_124))
    return pool, (embeddings(469_375), template, rng.integers(0, 138_000, 469_375), 23_124)


CASES = {
    "tinyface": ("3,728 probes, 4,443 + 153,428 gallery", lambda folder: searching(3728, 4443, 153_428)),
    "million": ("500 probes, 1,000,000 gallery", lambda folder: searching(500, 2569, 997_431)),
    "million_mapped": ("500 probes, 1,000,000 gallery, mapped", mapped),
    "ijbc_pairs": ("15,658,489 pairs of 23,124 templates", ijbc_pairs),
    "ijbc_pooling": ("469,375 images into 23,124 templates", ijbc_pooling),
}


def measure(case: str, folder: Path) -> None:
    what, prepare = CASES[case]
    function, arguments = prepare(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    own, done = [anonymous()], threading.Event()
    watch = threading.Thread(target=lambda: [own.append(anonymous()) for _ in iter(lambda: done.wait(0.05), True)])
    watch.start()
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done.set()
    watch.join()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{case:14s} {what:40s} {cpu:7.1f} s CPU {wall:7.1f} s wall   input {before:5.2f} GiB, peak {peak:5.2f} GiB, "
          f"own {max(own):5.2f} GiB", flush=True)


def anonymous() -> float:
    """GiB of this process's own memory, files that it has mapped aside."""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 2**20


def main() -> None:
    unknown = [case for case in sys.argv[1:] if case not in CASES]
    if unknown:
        sys.exit(f"unknown case {unknown[0]!r}; choose from {', '.join(CASES)}")
    for case in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(case, Path(folder)))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
