"""What a training set of ten million records costs to open: seconds, memory per record, and eight spawned readers.

    python benchmarks/index.py [records=10000000] [folder=FOLDER]

Writes a RecordIO set of tiny "images" (0.9 GB for ten million), InsightFace's header and identity ranges included, to
a temporary folder, opens it with and without its .idx in fresh processes, and appends a line to
benchmarks/results/index.jsonl. Memory is the process's own (RssAnon), above what it had before opening: the mapped file's
pages belong to the page cache. "Peak" is the most that was seen while opening, looked at every 5 ms. The file has just
been written, so it is in the page cache; from a cold disk, opening a real set also reads one page per image.
"""
from __future__ import annotations

import json
import multiprocessing
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from askd.data.recordio import HEADER, MAGIC, PART
from askd.data.records import RecordSet

RESULTS = Path(__file__).parent / "results" / "index.jsonl"
IMAGES_PER_PERSON = 100
IMAGE = 48  # bytes
WORKERS, READS = 8, 20_000
AT_A_TIME = 1 << 20
_RECORD = np.dtype([("magic", "<u4"), ("length", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8"), ("id2", "<u8"),
                    ("image", "<u8", IMAGE // 8)])
_RANGE = np.dtype([("magic", "<u4"), ("length", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8"), ("id2", "<u8"),
                   ("bounds", "<f4", 2)])


def image_of(key: int) -> bytes:
    """A record's payload says which one it is, all over."""
    return np.full(IMAGE // 8, key, "<u8").tobytes()


def synthesise(folder: Path, records: int) -> None:
    people = -(-records // IMAGES_PER_PERSON)
    with open(folder / "train.rec", "wb") as rec, open(folder / "train.idx", "w") as idx:
        write(rec, idx, ranges([0], [(records + 1, records + people + 1)]))
        for start in range(1, records + 1, AT_A_TIME):
            keys = np.arange(start, min(start + AT_A_TIME, records + 1))
            part = np.zeros(len(keys), _RECORD)
            part["magic"], part["length"], part["id"] = MAGIC, _RECORD.itemsize - PART.size, keys
            part["label"], part["image"] = (keys - 1) // IMAGES_PER_PERSON, keys[:, None]
            write(rec, idx, part)
        firsts = np.arange(1, records + 1, IMAGES_PER_PERSON)
        bounds = np.stack([firsts, np.minimum(firsts + IMAGES_PER_PERSON, records + 1)], 1)
        write(rec, idx, ranges(np.arange(records + 1, records + people + 1), bounds))
    (folder / "property").write_text(f"{people},112,112\n")


def ranges(keys, bounds) -> np.ndarray:
    part = np.zeros(len(keys), _RANGE)
    part["magic"], part["length"], part["flag"], part["id"], part["bounds"] = MAGIC, HEADER.size + 8, 2, keys, bounds
    return part


def write(rec, idx, part: np.ndarray) -> None:
    start = rec.tell()
    rec.write(part.tobytes())
    offsets = range(start, rec.tell(), part.itemsize)
    idx.write("".join(f"{key}\t{offset}\n" for key, offset in zip(part["id"].tolist(), offsets)))


def own_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def open_and_report(folder: Path, answer) -> None:
    before, peak, done = own_memory(), [0], threading.Event()

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu = time.perf_counter(), time.process_time()
    faces = RecordSet(folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    done.set()
    watcher.join()
    kept = faces.labels.nbytes + faces._offsets.nbytes
    answer.put({"seconds": seconds, "cpu_seconds": cpu, "images": len(faces), "peak": max(peak[0], own_memory()) - before,
                "resident": own_memory() - before, "kept": kept})


def read_some(faces: RecordSet, seed: int, answer) -> None:
    start = time.perf_counter()
    for index in np.random.default_rng(seed).integers(len(faces), size=READS).tolist():
        assert faces.encoded(index) == image_of(index + 1) and faces.labels[index] == index // IMAGES_PER_PERSON
    answer.put((READS / (time.perf_counter() - start), own_memory()))


def in_fresh_process(target, *arguments):
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=target, args=(*arguments, answer))
    process.start()
    result = answer.get()
    process.join()
    return result


def spawn_readers(folder: Path) -> dict:
    faces = RecordSet(folder)
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    processes = [context.Process(target=read_some, args=(faces, seed, answer)) for seed in range(WORKERS)]
    start = time.perf_counter()
    for process in processes:
        process.start()
    rates, memory = zip(*(answer.get() for _ in processes))
    for process in processes:
        process.join()
    return {"workers": WORKERS, "seconds": time.perf_counter() - start, "reads": WORKERS * READS,
            "reads_per_second_each": float(np.median(rates)), "memory_each": max(memory)}


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    records = int(options.pop("records", 10_000_000))
    with tempfile.TemporaryDirectory(dir=options.pop("folder", None)) as name:
        if options:
            sys.exit(f"unknown: {', '.join(options)}; {__doc__}")
        folder = Path(name)
        synthesise(folder, records)
        sizes = {file: (folder / file).stat().st_size for file in ("train.rec", "train.idx")}
        line = {"records": records, **sizes, "with_idx": in_fresh_process(open_and_report, folder)}
        line["readers"] = spawn_readers(folder)
        (folder / "train.idx").unlink()
        line["without_idx"] = in_fresh_process(open_and_report, folder)
    line["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"
    print(f"{records:,} records\n{'':22s}{'open':>9s}{'of it CPU':>11s}{'peak':>16s}{'resident after':>18s}{'kept':>16s}")
    for kind in ("with_idx", "without_idx"):
        found = line[kind]
        assert found["images"] == records
        memory = [f"{found[part] / records:9.1f} B/record" for part in ("peak", "resident", "kept")]
        print(f"{kind.replace('_', ' .'):22s}{found['seconds']:7.2f} s{found['cpu_seconds']:9.2f} s{''.join(memory)}")
    readers = line["readers"]
    print(f"{WORKERS} spawned workers: {readers['reads']:,} images read in {readers['seconds']:.1f} s from start to end, "
          f"{readers['reads_per_second_each']:,.0f} a second each, {readers['memory_each'] / 1e6:.0f} MB each")
    with open(RESULTS, "a") as results:
        results.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
