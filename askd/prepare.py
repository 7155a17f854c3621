"""Get faces ready: align photographs, move sets between formats without loss, and look at what a set holds."""
from __future__ import annotations

import difflib
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Optional, get_args, get_origin, get_type_hints

from omegaconf import MISSING
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from askd import cli
from askd.data import repack
from askd.data.align import align as align_faces
from askd.data.cards import load_card
from askd.data.cfp import SPLITS, read_cfp
from askd.data.classes import FILE as CLASSES
from askd.data.contact_sheet import contact_sheet, write_png
from askd.data.detector import Detector
from askd.data.faces import open_faces
from askd.data.inspect import look_through, open_images
from askd.data.inventory import lines_of, table
from askd.data.notes import WITHOUT
from askd.data.paircsv import read_pair_csv
from askd.data.pairs import PairSet, read_lfw_pairs
from askd.data.portrait import Portrait
from askd.data.verdicts import WRONG, compare_with_card, judge
from askd.errors import DataError, RecipeError
from askd.recipe import documented

WHAT = "Get faces ready: align photographs, move sets between formats without loss, look at what a set holds."
USAGE = "ACTION PATH ... [key=value ...]"
BadImage = Enum("BadImage", "fail skip")


@dataclass(frozen=True)
class Job:
    """How photographs are worked through."""

    detector: str = MISSING
    """File of an InsightFace detector with landmarks: scrfd_2.5g_bnkps.onnx, or det_10g.onnx of its packs."""
    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Each with a detector of its own."""
    on_bad_image: BadImage = BadImage.fail
    """An unreadable photograph: fail, or skip (without_face.txt lists it)."""


@dataclass(frozen=True)
class Inspection:
    """How a set is looked at."""

    out: Optional[str] = None
    """PNG for the contact sheet; null: none."""
    sizes: list[int] = field(default_factory=lambda: [28, 14])
    """Pixels: what the contact sheet's faces are degraded to."""
    card: Optional[str] = None
    """Dataset card whose identities and images the set should have."""
    detector: Optional[str] = None
    """Detector file, to measure alignment by landmarks on up to 300 faces; null: it is judged by where eyes stand out."""
    seed: int = 0
    """Another one, other faces on the contact sheet."""


@dataclass(frozen=True)
class Action:
    """What `python -m askd.prepare ACTION` takes and does."""

    paths: str
    what: str
    run: Callable[..., None]
    options: tuple[type, ...] = ()


def main(argv: list[str]) -> None:
    """`python -m askd.prepare ACTION PATH ... [key=value ...]`"""
    if not argv or argv[0] not in ACTIONS:
        raise RecipeError(f"{_unknown('action', argv[0], ACTIONS) if argv else 'say what to do: ' + ', '.join(ACTIONS)}; see --help")
    action = ACTIONS[argv[0]]
    given = [re.fullmatch(r"(\w+)=(.*)", argument, re.DOTALL) for argument in argv[1:]]
    paths = [argument for argument, option in zip(argv[1:], given) if option is None]
    if len(paths) != len(action.paths.split()) or any(path.startswith("-") for path in paths):
        raise RecipeError(f"usage: python -m askd.prepare {_usage(argv[0])}, got {' '.join(argv)}")
    options = parse(action, dict(option.groups() for option in given if option is not None))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: what is unfinished is cleared away
    action.run(*(Path(path).expanduser() for path in paths), *options)


def align(photos: Path, faces: Path, job: Job, portrait: Portrait) -> None:
    """`align PHOTOS FACES detector=FILE`"""
    started = time.perf_counter()
    with counting("aligning") as progress:
        done = align_faces(
            photos, faces, Path(job.detector).expanduser(), portrait, processes=job.processes,
            skip_bad=job.on_bad_image is BadImage.skip, progress=progress,
        )
    new, seconds = done.photographs - done.done_before, time.perf_counter() - started
    print(f"{faces}: {done.faces:,} faces of {done.photographs:,} photographs ({done.done_before:,} done before; {new:,} in "
          f"{seconds:.0f} s, {new / seconds:.1f} a second)")
    if done.faces:
        print(f"landmarks lie {done.distance:.2f} pixels from the template on average (landmarks.csv)")
    if done.reasons:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in done.reasons.most_common())
        print(f"without a face: {reasons} ({faces / WITHOUT})")


def pack(images: Path, folder: Path) -> None:
    """`pack SET FOLDER`"""
    with counting("packing") as progress:
        faces = open_faces(images)
        repack.pack(faces, folder, progress)
    print(f"{folder}: train.rec, train.idx, property, {CLASSES}: {len(faces):,} images of {len(faces.class_names):,} identities")


def unpack(rec: Path, folder: Path) -> None:
    """`unpack REC FOLDER`"""
    place = rec if rec.is_dir() else rec.parent
    if rec.suffix != ".rec" and not any(place.glob("[!.]*.rec")):
        raise DataError(f"{rec}: is no RecordIO set; expected a .rec file, or the folder that holds train.rec")
    with counting("unpacking") as progress:
        faces = open_faces(rec)
        repack.unpack(faces, place / CLASSES, folder, progress)
    print(f"{folder}: {len(faces):,} images of {len(faces.class_names):,} identities")


def pairs(protocol: Path, images: Path, out: Path) -> None:
    """`pairs PROTOCOL IMAGES OUT.bin`"""
    found = read_protocol(protocol, images)
    repack.pack_pairs(found, out)
    print(f"{out}: {len(found):,} pairs, {int(found.same.sum()):,} of them genuine")


def read_protocol(protocol: Path, images: Path) -> PairSet:
    """The pairs that a protocol describes: a .csv, CFP's Protocol/Split/FF or FP, or else one of LFW's files."""
    if protocol.suffix == ".csv":
        return read_pair_csv(protocol, images)
    if protocol.is_dir():
        if protocol.name not in SPLITS:
            raise DataError(f"{protocol}: is a folder; for CFP's pairs name its Protocol/Split/{' or Protocol/Split/'.join(SPLITS)}")
        return read_cfp(protocol.parent.parent, images, protocol.name)
    return read_lfw_pairs(images, protocol)


def inspect(path: Path, inspection: Inspection) -> None:
    """`inspect PATH`; exit status 1 if something is wrong"""
    card = None if inspection.card is None else load_card(inspection.card)
    detector = None if inspection.detector is None else Detector(Path(inspection.detector).expanduser(), sizes=(128,))
    try:
        images = open_images(path)
    except DataError as error:
        if not path.exists():
            raise
        print(f"{WRONG:<6} {error}")
        sys.exit(1)
    with counting("looking") as progress:
        seen = look_through(images, threads=os.cpu_count() or 1, progress=progress)
    findings = judge(images, seen, detector)
    if card is not None:
        findings += [compare_with_card(images, card.title, card.identities, card.images)]
    print("\n".join(table(path, images, seen)))
    for finding in findings:
        print("\n".join(lines_of(finding)))
    if inspection.out is not None and seen.whole:
        write_png(Path(inspection.out).expanduser(), contact_sheet(images, seen.whole, inspection.sizes, inspection.seed))
        print(f"contact sheet: {inspection.out}")
    if any(finding.verdict == WRONG for finding in findings):
        sys.exit(1)


ACTIONS = {
    "align": Action(
        "PHOTOS FACES", "photographs in identity folders -> faces of 112x112, ArcFace's template; stopped, it goes on",
        align, (Job, Portrait)),
    "pack": Action(
        "SET FOLDER", "identity folders -> train.rec, train.idx, property and classes.txt (names in the order of class ids)", pack),
    "unpack": Action(
        "REC FOLDER", "RecordIO -> identity folders, named by classes.txt where it lies beside the .rec", unpack),
    "pairs": Action("PROTOCOL IMAGES OUT.bin", "LFW's pairs.txt or pairsDev*.txt, a .csv, or CFP's Protocol/Split/FP -> an InsightFace .bin", pairs),
    "inspect": Action(
        "SET", "counts, broken and double images, RGB order, alignment; exit status 1 if something is wrong",
        inspect, (Inspection,)),
}
_SECONDS_A_LINE = 60
_LIMITS = {  # least, most; for lists of each number
    "threshold": (0, 1), "min_face": (0, math.inf), "detector_sizes": (32, 4096), "quality": (1, 100), "processes": (1, 1024),
    "sizes": (1, 112), "seed": (0, 2**63 - 1),
}


def parse(action: Action, given: dict[str, str]) -> list[Any]:
    """An object of each of the action's option classes; RecipeError for an unknown key, a value that does not fit, a missing one."""
    kinds = {key: kind for cls in action.options for key, kind in get_type_hints(cls).items()}
    for key in given:
        if key not in kinds:
            raise RecipeError(f"{_unknown('key', key, kinds)}; see --help")
    values = {key: _value(key, text, kinds[key]) for key, text in given.items()}
    made = [cls(**{entry.name: values[entry.name] for entry in fields(cls) if entry.name in values}) for cls in action.options]
    for options in made:
        for entry in fields(options):
            if getattr(options, entry.name) == MISSING:
                raise RecipeError(f"{entry.name}= is missing; see --help")
    return made


def _value(key: str, text: str, kind: Any) -> Any:
    if get_origin(kind) is list:
        return [_number(key, part, get_args(kind)[0]) for part in text.strip("[]").split(",")]
    if isinstance(kind, type) and issubclass(kind, Enum):
        if text not in kind.__members__:
            raise RecipeError(f"{key}: {_unknown('choice', text, kind.__members__)}")
        return kind[text]
    return _number(key, text, kind) if kind in (int, float) else text


def _number(key: str, text: str, kind: type) -> int | float:
    least, most = _LIMITS[key]
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise RecipeError(f"{key} must be {'a whole number' if kind is int else 'a number'} from {least} to {most}, got {text!r}")
    return number


def _unknown(what: str, name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, known, 1)
    choices = f"choose from {', '.join(known)}" if known else "there are none here"
    return f"unknown {what} {name!r}; {f'did you mean {close[0]}?' if close else choices}"


def _usage(name: str) -> str:
    return f"{name} {ACTIONS[name].paths}" + (" [key=value ...]" if ACTIONS[name].options else "")


def help_text(argv: list[str]) -> str:
    """All actions, or, where one is named, its keys."""
    named = next((argument for argument in argv if argument in ACTIONS), None)
    if named is None:
        lines = [WHAT, "", f"  python -m askd.prepare {USAGE}", ""]
        for name, action in ACTIONS.items():
            lines += [f"  {_usage(name)}", f"      {action.what}"]
        return "\n".join([*lines, "", "python -m askd.prepare ACTION --help names its keys."])
    lines = [ACTIONS[named].what, "", f"  python -m askd.prepare {_usage(named)}"]
    for cls in ACTIONS[named].options:
        for key, default, meaning in documented(cls, ""):
            lines += [f"  {key} ({'null' if default is None else default})", f"      {meaning}"]
    return "\n".join(lines)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows (done, total) on standard error with the time left: as a bar, or, where that is no terminal, as a line a minute."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        first: tuple[float, int] | None = None  # when work began, and what had been done before
        said = time.monotonic()

        def advance(done: int, total: int) -> None:
            nonlocal first, said
            bar.update(task, completed=done, total=total)
            now = time.monotonic()
            first = first or (now, done)
            if not console.is_terminal and now - said >= _SECONDS_A_LINE:
                left = (total - done) * (now - first[0]) / max(done - first[1], 1)
                print(f"{what}: {done:,} of {total:,}, {left / 60:.0f} minutes left", file=sys.stderr, flush=True)
                said = now

        yield advance


if __name__ == "__main__":
    cli.run("prepare", WHAT, main, USAGE, help_text)
