"""Damaged files, very many of them: every reader returns what is there or raises one DataError that names the file.

    python benchmarks/fuzz.py [inputs=100000] [seed=0] [only=FORMAT[/NUMBER]]

Each input is a sound file with one mutation, decided by (seed, format, number) alone; half of the tar and PNG inputs get their
checksums put right again, so that the damage gets past them. A failure is any other exception, an error of several lines or
without the file's name, more than 20 seconds, more than 512 MB, a crash of the interpreter, or fewer images or pairs than
before where the mutation has not taken them out (`fewest`). It prints the `only=` that repeats it. Exit status 1 if there was one.
"""
from __future__ import annotations

import io
import multiprocessing
import pickle
import re
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from askd.data.decode import decode_rgb
from askd.data.faces import open_faces
from askd.data.folder import read_people
from askd.data.pairs import read_bin, read_lfw_pairs
from askd.data.recordio import MAGIC_WORD, write_recordio
from askd.errors import DataError

SECONDS, MEMORY = 20, 512 << 20
PEOPLE = 4
WORDS = [0, 1, 3, 4, 24, (1 << 29) - 1, 1 << 29, 2 << 29 | 8, 3 << 29, 1 << 31, (1 << 32) - 1]


# Mutations: (bytes, random generator) -> bytes. --------------------------------------------------------------------------


def flip(data: bytearray, rng) -> bytes:
    for at in rng.integers(len(data), size=rng.integers(1, 4)):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def truncate(data: bytearray, rng) -> bytes:
    return data[:rng.integers(len(data))]


def insert(data: bytearray, rng) -> bytes:
    at = rng.integers(len(data) + 1)
    return data[:at] + rng.bytes(rng.integers(1, 20)) + data[at:]


def remove(data: bytearray, rng) -> bytes:
    at, length = rng.integers(len(data)), 1 << int(rng.integers(10))
    return data[:at] + data[at + length:]


def number(data: bytearray, rng) -> bytes:
    """A length, an offset, a count: four bytes where such may lie, or a run of digits."""
    digits = [found.span() for found in re.finditer(rb"[0-9]+", data[:1 << 14])]
    if digits and rng.random() < 0.5:
        start, end = digits[rng.integers(len(digits))]
        return data[:start] + str(int(rng.choice([0, 1, 7, 99, 4096, 1 << 31, 1 << 40, 9 * 10**18]))).encode() + data[end:]
    at = int(rng.integers(max(len(data) // 4, 1))) * 4
    value = int(rng.choice(WORDS)) if rng.random() < 0.7 else int(rng.integers(4 * len(data)))
    return data[:at] + struct.pack("<I" if rng.random() < 0.7 else ">I", value) + data[at + 4:]


def magic(data: bytearray, rng) -> bytes:
    at = int(rng.integers(max(len(data) // 4, 1))) * 4
    return data[:at] + MAGIC_WORD + data[at + (4 if rng.random() < 0.5 else 0):]


def splice(data: bytearray, rng) -> bytes:
    """A piece of the file at another place, in addition or instead of what was there; often whole blocks or lines."""
    lines = [0] + [found.end() for found in re.finditer(rb"\n", data)]
    unit = int(rng.choice([1, 4, 512]))
    start, end, to = sorted(rng.integers(len(data), size=2)) + [rng.integers(len(data))]
    if rng.random() < 0.3:
        start, end, to = sorted(rng.choice(lines, 2)) + [rng.choice(lines)]
        unit = 1
    start, end, to = (int(value) // unit * unit for value in (start, end, to))
    piece = data[start:end]
    return data[:to] + piece + data[to + (len(piece) if rng.random() < 0.5 else 0):]


def zeros(data: bytearray, rng) -> bytes:
    at, length = int(rng.integers(len(data))), 1 << int(rng.integers(10))
    return data[:at] + bytes(min(length, len(data) - at)) + data[at + length:]


MUTATIONS = {mutation.__name__: mutation for mutation in (flip, truncate, insert, remove, number, magic, splice, zeros)}


# Formats: a sound set in a folder, the file of it that is damaged, and how it is read. -----------------------------------


@dataclass(frozen=True)
class Format:
    """`read` returns the number of images (pairs, people) after reading all of them, `fewest` the number that a file must give."""

    file: str
    read: Callable[[Path], int]
    fewest: Callable[[bytes], int]
    mend: Callable[[bytes], bytes] = bytes


def faces(path: Path) -> int:
    opened = open_faces(path)
    assert len(opened.labels) == len(opened) and set(opened.labels.tolist()) == set(range(len(opened.class_names)))
    assert all(isinstance(opened.encoded(index), bytes) and opened.name(index) for index in range(len(opened)))
    return len(opened)


def image(path: Path) -> int:
    pixels = decode_rgb(path.read_bytes(), str(path))
    assert pixels.shape == (112, 112, 3) and pixels.dtype == np.uint8
    return 1


def pairs(path: Path) -> int:
    opened = read_bin(path)
    assert opened.left.max() < len(opened.images) > opened.right.max() and opened.left.min() >= 0 <= opened.right.min()
    return len(opened)


def always(count: int) -> Callable[[bytes], int]:
    return lambda damaged: count


def lines(damaged: bytes) -> int:
    """A list has no count of its own: as many images as there are lines."""
    return len(damaged.decode("utf-8-sig").removesuffix("\n").split("\n"))


def members(damaged: bytes) -> int:
    """A tar has no count of its own: as many images as tarfile finds, or all where it refuses what we need not look at."""
    try:
        with tarfile.open(fileobj=io.BytesIO(damaged)) as tar:
            return sum(member.isreg() and member.name.endswith(".jpg") for member in tar)
    except tarfile.TarError:
        return IMAGES


def mend_tar(damaged: bytes) -> bytes:
    data = bytearray(damaged)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257:at + 262] == b"ustar":
            data[at + 148:at + 156] = b" " * 8
            data[at + 148:at + 156] = b"%06o\0 " % sum(data[at:at + 512])
    return bytes(data)


def mend_png(damaged: bytes) -> bytes:
    data, at = bytearray(damaged), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at:at + 4], "big")
        end = at + 8 + length
        data[end:end + 4] = struct.pack(">I", zlib.crc32(data[at + 4:end]))[:max(len(data) - end, 0)]
        at = end + 4
    return bytes(data)


IMAGES = 2 * PEOPLE + 1
FORMATS = {
    "rec": Format("with_idx/train.rec", lambda path: faces(path.parent), always(IMAGES)),
    "rec without .idx": Format("scanned/train.rec", lambda path: faces(path.parent), always(IMAGES)),
    "idx": Format("with_idx/train.idx", lambda path: faces(path.parent), always(IMAGES)),
    "property": Format("with_idx/property", lambda path: faces(path.parent), always(IMAGES)),
    "bin": Format("python3.bin", pairs, always(IMAGES - 1)),
    "bin of Python 2": Format("python2.bin", pairs, always(IMAGES - 1)),
    "list": Format("faces.txt", faces, lines),
    "list csv": Format("faces.csv", faces, lines),
    "people": Format("people.txt", lambda path: len(read_people(path)), always(PEOPLE)),
    "pairs": Format("pairs.txt", lambda path: len(read_lfw_pairs(path.parent, path)), always(4)),
    "tar": Format("ustar.tar", faces, members, mend_tar),
    "tar pax": Format("pax.tar", faces, members, mend_tar),
    "jpeg": Format("face.jpg", image, always(1)),
    "jpeg progressive": Format("progressive.jpg", image, always(1)),
    "png": Format("face.png", image, always(1), mend_png),
}


def write_sound(root: Path) -> None:
    labels = [number // 2 for number in range(IMAGES)]
    payloads = [b"image %d " % number + MAGIC_WORD * (number % 3) + b"." * number for number in range(IMAGES)]
    for folder in ("with_idx", "scanned"):
        write_recordio(root / folder, zip(labels, payloads), PEOPLE + 1)
    (root / "scanned" / "train.idx").unlink()
    same = [number % 2 == 0 for number in range(IMAGES - 1)]
    arrays = [np.frombuffer(payload, np.uint8) for payload in payloads * 2]
    (root / "python3.bin").write_bytes(pickle.dumps((arrays[:len(same) * 2], same), protocol=4))
    (root / "python2.bin").write_bytes(python2_pickle((payloads * 2)[:len(same) * 2], same))
    for number, payload in enumerate(payloads):
        path = root / f"p{labels[number]}" / f"p{labels[number]}_{number % 2 + 1:04d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(payload)
    rows = [(f"p{label}/p{label}_{number % 2 + 1:04d}.jpg", f"person {label}") for number, label in enumerate(labels)]
    (root / "faces.txt").write_text("".join(f"{file}\t{label}\n" for file, label in rows))
    (root / "faces.csv").write_text("".join(f"{file},{label}\n" for file, label in rows))
    (root / "people.txt").write_text(f"{PEOPLE}\n" + "".join(f"p{person}\t2\n" for person in range(PEOPLE)))
    (root / "pairs.txt").write_text("2\t1\np0\t1\t2\np0\t1\tp1\t2\np2\t1\t2\np2\t1\tp3\t2\n")
    for name, kind in (("ustar.tar", tarfile.USTAR_FORMAT), ("pax.tar", tarfile.PAX_FORMAT)):
        with tarfile.open(root / name, "w", format=kind) as tar:
            for number, payload in enumerate(payloads):
                for suffix, data in (("jpg", payload), ("cls", b"%d" % labels[number])):
                    member = tarfile.TarInfo(f"{'' if kind == tarfile.USTAR_FORMAT else 'x' * 120}{number}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    face = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8), (31, 31), 0)
    for name, options in (("face.jpg", ()), ("progressive.jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)), ("face.png", ())):
        (root / name).write_bytes(cv2.imencode(name[-4:], face, options)[1].tobytes())


def python2_pickle(images: list[bytes], same: list[bool]) -> bytes:
    """Protocol 2, as Python 2 wrote str: SHORT_BINSTRING items, memoised."""
    parts = [b"\x80\x02]q\x00("]
    for number, image in enumerate(images, 1):
        parts.append(b"U" + bytes([len(image)]) + image + b"q" + bytes([number]))
    flags = b"".join(b"\x88" if flag else b"\x89" for flag in same)
    return b"".join([*parts, b"e]q\xfe(", flags, b"e\x86q\xff."])


# Running them. -----------------------------------------------------------------------------------------------------------


class TooSlow(BaseException):
    pass


def damage(name: str, number: int, seed: int, sound: bytes) -> tuple[str, bytes]:
    rng = np.random.default_rng([seed, list(FORMATS).index(name), number])
    mutation = list(MUTATIONS)[number % len(MUTATIONS)]
    data = bytes(MUTATIONS[mutation](bytearray(sound), rng))
    return mutation, FORMATS[name].mend(data) if rng.random() < 0.5 else data


def attempt(name: str, path: Path, damaged: bytes) -> str:
    """What became of it: DataError, same, more, or fewer where a mutation took images out; AssertionError for a failure."""
    form = FORMATS[name]
    path.write_bytes(damaged)
    try:
        count = form.read(path)
    except DataError as error:
        assert "\n" not in str(error) and path.stem in str(error), f"an error without the file's name, or of several lines: {error!r}"
        return "DataError"
    fewest = form.fewest(damaged)
    assert count >= fewest, f"{count} of {fewest} were read"
    sound = form.fewest(SOUND[name])
    return "same" if count == sound else "more" if count > sound else "fewer"


SOUND: dict[str, bytes] = {}


def fuzz(root: Path, name: str, numbers: range, seed: int, at=None) -> tuple[Counter, list[str]]:
    """Counts per (mutation, outcome) and the failures; `at.value` is the number at work."""
    form, counts, failures = FORMATS[name], Counter(), []
    path = root / form.file
    SOUND[name] = path.read_bytes()
    try:
        for number in numbers:
            if at is not None:
                at.value = number
            mutation, damaged = damage(name, number, seed, SOUND[name])
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                outcome = attempt(name, path, damaged)
            except (Exception, TooSlow):  # whatever it is, it is a finding
                outcome = "FAILED"
                failures.append(f"seed={seed} only='{name}/{number}' ({mutation}):\n{traceback.format_exc(limit=-4)}")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            counts[mutation, outcome] += 1
    finally:
        path.write_bytes(SOUND[name])
    return counts, failures


def too_slow(*_) -> None:
    raise TooSlow(f"took more than {SECONDS} seconds")


def limited_fuzz(root: Path, name: str, numbers: range, seed: int, at, answer) -> None:
    signal.signal(signal.SIGALRM, too_slow)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, in_use + MEMORY))
    answer.put(fuzz(root, name, numbers, seed, at))


def in_child(root: Path, name: str, numbers: range, seed: int) -> tuple[Counter, list[str]]:
    context = multiprocessing.get_context("fork")
    at, answer = context.Value("q", 0), context.Queue()
    child = context.Process(target=limited_fuzz, args=(root, name, numbers, seed, at, answer))
    child.start()
    while child.is_alive() and answer.empty():
        time.sleep(0.05)
    if answer.empty() and child.exitcode is not None:
        return Counter({("any", "FAILED"): 1}), [f"seed={seed} only='{name}/{at.value}': the interpreter ended with {child.exitcode}"]
    result = answer.get()
    child.join()
    return result


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    inputs, seed = int(options.pop("inputs", 100_000)), int(options.pop("seed", 0))
    only, _, chosen = options.pop("only", "").partition("/")
    if options or only and only not in FORMATS:
        sys.exit(f"formats: {', '.join(FORMATS)}\n{__doc__}")
    names = [only] if only else list(FORMATS)
    each = -(-inputs // len(names))
    outcomes = ("DataError", "same", "more", "fewer", "FAILED")
    table, broken = {}, []
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        write_sound(Path(folder))
        for name in names:
            numbers = range(int(chosen), int(chosen) + 1) if chosen else range(each)
            table[name], failures = in_child(Path(folder), name, numbers, seed)
            broken += failures
            print(name, "done", file=sys.stderr)
    print(f"| format | mutation | {' | '.join(outcomes)} |\n|---|---|{'---:|' * len(outcomes)}")
    for name, counts in table.items():
        for mutation in sorted({mutation for mutation, _ in counts}):
            print(f"| {name} | {mutation} | {' | '.join(str(counts[mutation, outcome]) for outcome in outcomes)} |")
    totals = sum(table.values(), Counter())
    summary = [sum(count for (_, found), count in totals.items() if found == outcome) for outcome in outcomes]
    print(f"| all | {sum(summary)} inputs | {' | '.join(map(str, summary))} |\n")
    print("\n".join(broken[:20]))
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
