"""How mxnet.rec and mxnet.idx were made: rendered faces, some with magic words in them, packed by mxnet 1.9.1 itself.

    python tests/data/golden/make.py render FOLDER        where askd is installed
    MXNET/bin/python make.py pack FOLDER                  Python 3.8, pip install mxnet==1.9.1 numpy==1.23.5
    MXNET/bin/python make.py list FILE.rec                what mxnet reads in a file of ours: key, labels, length, SHA-256

The test holds what `list` printed for mxnet.rec.
"""
import hashlib
import struct
import sys
from pathlib import Path

import numpy as np

WORD = struct.pack("<I", 0xCED7230A)
PEOPLE = ((3, 2), (5, 3), (9, 2))  # class id, images
LABELS = {2: [3.0], 4: [5.0, 0.25, -7.0], 5: [5.0, 1.5], 7: 9.0}  # others: the plain class id


def render(folder):
    import cv2

    from askd.data.synthetic import render_face

    key = 0
    for identity, images in PEOPLE:
        for sample in range(images):
            key += 1
            bgr = cv2.cvtColor(render_face(identity, sample), cv2.COLOR_RGB2BGR)
            jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
            (folder / f"{key}.jpg").write_bytes(MAGIC_WORDS.get(key, bytes)(jpeg))


def commented(jpeg, words):
    """A JPEG comment right behind the first marker; its content starts at byte 6."""
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(words) + 2) + words + jpeg[2:]


def trailing(jpeg, words):
    return jpeg + bytes(-len(jpeg) % 4) + words


MAGIC_WORDS = {
    1: lambda jpeg: commented(jpeg, b"12" + WORD),
    3: lambda jpeg: commented(jpeg, WORD + b"not aligned"),
    4: lambda jpeg: commented(jpeg, b"12" + WORD + WORD + b"abc" + WORD),
    5: lambda jpeg: trailing(jpeg, WORD),
    6: lambda jpeg: trailing(jpeg, WORD + b"abcd" + WORD + WORD + b"e"),
}


def pack(folder):
    mxnet = import_mxnet()
    IRHeader = mxnet.recordio.IRHeader
    record = mxnet.recordio.MXIndexedRecordIO(str(folder / "mxnet.idx"), str(folder / "mxnet.rec"), "w")
    last = sum(images for _, images in PEOPLE)
    header = np.array([last + 1, last + 1 + len(PEOPLE)], np.float32)
    record.write_idx(0, mxnet.recordio.pack(IRHeader(0, header, 0, 0), b""))
    key, ranges = 1, []
    for identity, images in PEOPLE:
        ranges.append((key, key + images))
        for key in range(key, key + images):
            label = LABELS.get(key, identity)
            label = np.array(label, np.float32) if isinstance(label, list) else label
            record.write_idx(key, mxnet.recordio.pack(IRHeader(0, label, key, 0), (folder / f"{key}.jpg").read_bytes()))
        key += 1
    for number, bounds in enumerate(ranges):
        header = IRHeader(0, np.array(bounds, np.float32), key + number, 0)
        record.write_idx(key + number, mxnet.recordio.pack(header, b""))
    record.close()


def list_records(rec):
    mxnet = import_mxnet()
    record = mxnet.recordio.MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "r")
    for key in record.keys:
        header, image = mxnet.recordio.unpack(record.read_idx(key))
        print(key, np.ravel(header.label).tolist(), len(image), hashlib.sha256(image).hexdigest())


def import_mxnet():
    np.bool = bool  # mxnet 1.9.1 is older than its removal
    import mxnet

    return mxnet


if __name__ == "__main__":
    {"render": render, "pack": pack, "list": list_records}[sys.argv[1]](Path(sys.argv[2]))
