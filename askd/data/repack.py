"""From one storage format to another without loss: the encoded bytes are moved, never decoded and encoded again."""
from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from askd.data.classes import FILE, read_classes, write_classes
from askd.data.decode import SIZE
from askd.photo import encoded_size
from askd.data.faces import FaceSet
from askd.data.pairs import PairSet, read_bin, write_bin
from askd.data.recordio import write_recordio
from askd.errors import DataError

Progress = Callable[[int, int], None]


def pack(faces: FaceSet, folder: Path, progress: Progress | None = None) -> None:
    """Write train.rec, train.idx, property and classes.txt (identity names in the order of their ids) to `folder`.

    Images come grouped by class id, otherwise in the set's order. DataError, and no train.rec, for an image that is not an aligned face of
    112x112 by its header, and where `folder` holds a train.rec already.
    """
    if (folder / "train.rec").exists():
        raise DataError(f"{folder / 'train.rec'} is there already; remove it, or choose another folder")
    order = np.argsort(faces.labels, kind="stable").tolist()

    def images():
        for done, index in enumerate(order, 1):
            yield int(faces.labels[index]), _face(faces.encoded(index), faces.name(index))
            if progress is not None:
                progress(done, len(order))

    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_recordio(folder, images(), len(faces.class_names))
        write_classes(folder / FILE, faces.class_names)
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error.strerror}); make room, or choose another folder") from None


def unpack(records: FaceSet, classes: Path, folder: Path, progress: Progress | None = None) -> None:
    """Write <identity>/000001.jpg|png ... to `folder`, all of them or nothing.

    Identities are named by the file `classes`, or, where there is none, by label, padded with zeros so that sorting keeps
    the ids; an identity's images are numbered in the order of their records. DataError where `folder` holds something,
    where a label has no name, and for a record that is no JPEG or PNG.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already; choose a new folder")
    names = _names(records.class_names, classes)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    numbers = np.zeros(len(names), np.int64)
    try:
        for name in names:
            (unfinished / name).mkdir(parents=True)
        for index, label in enumerate(records.labels.tolist()):
            encoded = records.encoded(index)
            encoded_size(encoded, records.name(index))  # a JPEG or a PNG, or a DataError
            numbers[label] += 1
            suffix = "png" if encoded.startswith(b"\x89PNG") else "jpg"
            (unfinished / names[label] / f"{numbers[label]:06d}.{suffix}").write_bytes(encoded)
            if progress is not None:
                progress(index + 1, len(records))
        os.replace(unfinished, folder)
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error.strerror}); make room, or choose another folder") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def pack_pairs(pairs: PairSet, file: Path) -> None:
    """Write a protocol's pairs as an InsightFace .bin; the file appears once reading it gives the same images, labels and folds.

    Folds are put in order, as a .bin keeps none: its readers cut the pairs into ten of equal length. DataError where the protocol's folds
    are not that, for an image that is no 112x112 face, and where `file` exists.
    """
    if file.suffix != ".bin" or file.exists():
        raise DataError(f"{file}: {'is there already' if file.exists() else 'is not named *.bin'}; choose another name")
    for encoded, name in zip(pairs.images, pairs.image_names):
        _face(encoded, name)
    unfinished = file.with_name(f".{file.stem}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            for order in (np.arange(len(pairs)), np.argsort(pairs.fold, kind="stable")):
                write_bin(unfinished, [(pairs.images[pairs.left[i]], pairs.images[pairs.right[i]], bool(pairs.same[i])) for i in order])
                if _same(read_bin(unfinished), pairs, order):
                    os.replace(unfinished, file)
                    return
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {file} ({error.strerror}); make room, or choose another place") from None
    raise DataError(f"{pairs.name}: its folds are not ten of equal length, and a .bin can hold no others; use the protocol as it is")


def _same(there: PairSet, pairs: PairSet, order: np.ndarray) -> bool:
    def images(of: PairSet, which: np.ndarray) -> list[tuple[bytes, bytes]]:
        return [(of.images[of.left[i]], of.images[of.right[i]]) for i in which]

    folds = np.array_equal(there.fold, pairs.fold[order])
    return folds and np.array_equal(there.same, pairs.same[order]) and images(there, np.arange(len(order))) == images(pairs, order)


def _face(encoded: bytes, name: str) -> bytes:
    width, height = encoded_size(encoded, name)
    if (width, height) != (SIZE, SIZE):
        raise DataError(f"{name}: is {width}x{height} pixels (width x height), expected an aligned face of {SIZE}x{SIZE}; "
                        f"align the photographs first: python -m askd.prepare align")
    return encoded


def _names(labels: list[str], classes: Path) -> list[str]:
    if not classes.is_file():
        width = max(map(len, labels))
        return [label.zfill(width) for label in labels]
    names = read_classes(classes)
    if int(labels[-1]) >= len(names):
        raise DataError(f"{classes}: names {len(names)} identities, but there are labels up to {labels[-1]}; it belongs to another set: "
                        f"fetch both again, or remove it to have folders named by label")
    return [names[int(label)] for label in labels]
