"""What the webdataset package writes and reads must be what we read; tarfile writes what it would not."""
from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import pickle
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.data.shards import ShardSet, expand_braces
from askd.errors import DataError

webdataset = pytest.importorskip("webdataset")
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}

LONG = "folder/" * 9 + "\u00e9" * 30  # ustar splits it in two, the others need an extra header


def pack(path: Path, members: list, kind: str = "ustar") -> Path:
    """members: (name, bytes), or a TarInfo of something that is no file."""
    with tarfile.open(path, "w", format=FORMATS[kind]) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(faces):
    return [(faces.encoded(i), faces.class_names[label]) for i, label in enumerate(faces.labels)]


def as_webdataset_reads(*shards: Path) -> list[tuple[bytes, str]]:
    samples = webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False)
    return [(next(sample[kind] for kind in ("jpg", "png", "jpeg") if kind in sample),
             sample["cls"].decode() if "cls" in sample else str(json.loads(sample["json"])["label"])) for sample in samples]


images = st.lists(st.tuples(st.binary(max_size=1500), st.integers(0, 50), st.sampled_from(["jpg", "png", "jpeg"]), st.booleans(),
                            st.sampled_from(["", "d/", "long/" * 40, "\u00e9/"])), min_size=1, max_size=8)


@settings(deadline=None, max_examples=30)
@given(images, st.integers(0, 3))
def test_what_webdataset_writes(samples, cut):
    with tempfile.TemporaryDirectory() as folder:
        shards = [Path(folder) / f"x-{number}.tar" for number in range(2)]
        for shard, part in zip(shards, (samples[:cut + 1], samples[cut + 1:])):
            with webdataset.TarWriter(str(shard)) as writer:
                for number, (image, label, kind, as_json, prefix) in enumerate(part):
                    content = {"json": {"label": label, "x": 1}} if as_json else {"cls": label}
                    writer.write({"__key__": f"{prefix}{number:05d}", kind: image, "note.txt": "no label", **content})
        faces = ShardSet(folder)
        assert contents(faces) == [(image, str(label)) for image, label, *_ in samples] == as_webdataset_reads(*shards)
        assert faces.class_names == [str(label) for label in sorted({label for _, label, *_ in samples})]
        assert faces.labels.dtype == np.int64


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_of_tar(tmp_path, kind):
    shard = pack(tmp_path / "a.tar", [
        special("folder", tarfile.DIRTYPE), ("__meta__/info.txt", b"left alone"), ("README", b"no key"),
        (f"{LONG}.jpg", b"one"), (f"{LONG}.cls", b"Ada\n"), ("./2.PNG", b""), ("./2.json", b'{"label": "Bob"}'),
    ], kind)
    faces = ShardSet(shard)
    assert contents(faces) == [(b"one", "Ada"), (b"", "Bob")]
    assert faces.name(0) == f"{shard}: {LONG}.jpg"


def test_same_key_in_two_shards_and_numbers_in_order(tmp_path):
    for shard, label in (("b", b"9"), ("a", b"10")):
        pack(tmp_path / f"{shard}.tar", [("0.cls", label), ("0.jpg", shard.encode())])
    faces = ShardSet(tmp_path)
    assert contents(faces) == [(b"a", "10"), (b"b", "9")] and faces.class_names == ["9", "10"]
    assert contents(ShardSet(tmp_path / "{b,a}.tar")) == [(b"b", "9"), (b"a", "10")]
    with pytest.raises(DataError, match=r"c.tar: cannot be read \(No such file"):
        ShardSet(tmp_path / "{a..c}.tar")


def test_patterns_are_the_packages(tmp_path, monkeypatch):
    assert expand_braces(Path("x-{08..10}.tar")) == [Path("x-08.tar"), Path("x-09.tar"), Path("x-10.tar")]
    monkeypatch.setitem(__import__("sys").modules, "webdataset.shardlists", None)
    with pytest.raises(DataError, match=r"pip install 'askd\[webdataset\]'"):
        expand_braces(Path("x-{08..10}.tar"))


def test_pickles_small_and_reads_in_a_spawned_process(tmp_path):
    count = 2000
    pack(tmp_path / "a.tar", [member for i in range(count) for member in ((f"{i}.jpg", b"%d" % i), (f"{i}.cls", b"%d" % (i // 9)))])
    faces = ShardSet(tmp_path)
    assert len(pickle.dumps([value for name, value in vars(faces).items() if name != "class_names"])) < 20 * count + 1000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(faces.encoded, [0, 1999, 17]) == [b"0", b"1999", b"17"]


GOOD = [("0.jpg", b"image"), ("0.cls", b"3")]


@pytest.mark.parametrize(("members", "message"), [
    ([], "holds no samples"),
    ([("0.jpg", b"x"), ("1.jpg", b"y"), ("1.cls", b"0")], "sample 0 has no .cls and no .json, only jpg"),
    ([*GOOD, ("1.cls", b"0")], "sample 1 has 0 images"),
    ([*GOOD, ("1.png", b"x"), ("1.jpg", b"x"), ("1.cls", b"0")], "sample 1 has 2 images"),
    ([*GOOD, ("0.JPG", b"x")], "sample 0 has jpg twice"),
    ([*GOOD, ("1.jpg", b"x"), ("1.cls", b"0"), ("0.jpg", b"image"), ("0.cls", b"3")], "sample 0 comes back"),
    ([("0.jpg", b"x"), ("0.cls", b" \n")], "sample 0 has no label: its .cls is"),
    ([("0.jpg", b"x"), ("0.cls", b"3\0\0x")], "sample 0 has no label: its .cls is"),
    ([("0.jpg", b"x"), ("0.cls", b"\xff")], r"sample 0 has a .cls that cannot be read \(UnicodeDecodeError"),
    ([("0.jpg", b"x"), ("0.cls", b"9" * 70000)], "sample 0 has 70000 bytes of .cls"),
    ([("0.jpg", b"x"), ("0.json", b"{]")], r"sample 0 has a .json that cannot be read \(JSONDecodeError"),
    ([("0.jpg", b"x"), ("0.json", b"[" * 60000)], r"sample 0 has a .json that cannot be read \(RecursionError"),
    ([("0.jpg", b"x"), ("0.json", b'{"label": %s}' % (b"9" * 5000))], "sample 0 has a .json that cannot be read"),
    ([("0.jpg", b"x"), ("0.json", b'{"label": 1.5}')], "sample 0 has no label: `label` in its .json is '1.5'"),
    ([("0.jpg", b"x"), ("0.json", b'{"label": true}')], "sample 0 has no label"),
    ([("0.jpg", b"x"), ("0.json", b'[3]')], "sample 0 has no label: `label` in its .json is 'None'"),
    ([*GOOD, ("/etc/1.jpg", b"x")], r"the name '/etc/1.jpg' is empty, absolute"),
    ([*GOOD, ("a/../../1.jpg", b"x")], r"the name 'a/../../1.jpg'"),
    ([*GOOD, ("a\n1.jpg", b"x")], "control characters"),
    ([*GOOD, special("1.jpg", tarfile.SYMTYPE, "/etc/passwd")], r"1.jpg is a link, a device or the like \(type b'2'\)"),
    ([*GOOD, special("1.jpg", tarfile.LNKTYPE, "0.jpg")], "1.jpg is a link"),
    ([*GOOD, special("1.jpg", tarfile.FIFOTYPE)], "1.jpg is a link, a device"),
])
def test_what_is_no_training_set(tmp_path, members, message):
    shard = pack(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=message) as caught:
        ShardSet(shard)
    assert str(shard) in str(caught.value) and "\n" not in str(caught.value)


def test_compressed_shards_are_refused_with_the_remedy(tmp_path):
    plain = pack(tmp_path / "a.tar", GOOD).read_bytes()
    (tmp_path / "a.tar").write_bytes(gzip.compress(plain))
    with pytest.raises(DataError, match="a.tar: is compressed.*unpack it to a plain .tar"):
        ShardSet(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(plain)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(plain))
    with pytest.raises(DataError, match="b.tar.gz: is compressed"):
        ShardSet(tmp_path)


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_anywhere(tmp_path, kind):
    shard = pack(tmp_path / "a.tar", [*GOOD, (LONG + ".jpg", b"image " * 99), (LONG + ".cls", b"4")], kind)
    whole = shard.read_bytes()
    end = len(whole.rstrip(b"\0"))
    end += -end % 512  # the last label's block; a block of zeros is the end mark
    for length in {*range(0, end + 512, 64), end, end + 511}:
        shard.write_bytes(whole[:length])
        with pytest.raises(DataError, match="a.tar"):
            ShardSet(shard)
    shard.write_bytes(whole[:end + 512])
    assert len(ShardSet(shard)) == 2


def test_archives_joined_are_not_read_as_the_first_of_them(tmp_path):
    shard = pack(tmp_path / "a.tar", GOOD)
    shard.write_bytes(shard.read_bytes() * 2)
    with pytest.raises(DataError, match="a.tar: at byte 10240: bytes follow the archive's end"):
        ShardSet(shard)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_flipped_bit_never_shortens_the_set(tmp_path, kind):
    shard = pack(tmp_path / "a.tar", [*GOOD, (LONG + ".jpg", b"image"), (LONG + ".cls", b"4")], kind)
    whole = shard.read_bytes()
    for position in [at for at in range(len(whole)) if whole[at] or at % 211 == 0]:
        mutated = bytearray(whole)
        mutated[position] ^= 1 << position % 8
        shard.write_bytes(mutated)
        try:
            assert len(contents(ShardSet(shard))) == 2
        except DataError as error:
            assert "a.tar" in str(error) and "\n" not in str(error)
