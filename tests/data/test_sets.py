"""What eval.sets may name: every format through a card, through a path, and what a folder is recognised by."""
from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from askd.data.cards import load_card, open_set
from askd.data.gallery import IdentificationSet, TemplateSet
from askd.data.pairs import PairSet, write_bin
from askd.data.sets import FORMATS, SetFormat, read_path, size
from askd.errors import DataError


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


LFW = {
    "faces/Ann/Ann_0001.jpg": "a1", "faces/Ann/Ann_0002.jpg": "a2", "faces/Bo/Bo_0001.jpg": "b1",
    "pairs.txt": "1\t1\nAnn\t1\t2\nAnn\t1\tBo\t1\n", "people.txt": "2\nAnn\t2\nBo\t1\n",
}
CSV = {"a.jpg": "a", "b.jpg": "b", "mine.csv": "a.jpg,b.jpg,1\nb.jpg,a.jpg,0\n"}
CFP = {f"Data/Images/{person}/{kind}/01.jpg": f"{person}{kind}" for person in "12" for kind in ("frontal", "profile")}
CFP |= {"Data/Images/1/frontal/02.jpg": "1frontal2"}
CFP |= {"Protocol/Pair_list_F.txt": "1 x/1/frontal/01.jpg\n2 x/1/frontal/02.jpg\n3 x/2/frontal/01.jpg\n",
        "Protocol/Pair_list_P.txt": "1 x/1/profile/01.jpg\n2 x/2/profile/01.jpg\n"}
CFP |= {f"Protocol/Split/{split}/{fold:02d}/{kind}.txt": pair for fold in range(1, 11)
        for split, kind, pair in (("FF", "same", "1,2"), ("FF", "diff", "1,3"), ("FP", "same", "1,1"), ("FP", "diff", "1,2"))}
TINYFACE = {"Probe/1_1.jpg": "", "Gallery_Match/1_2.jpg": "", "Gallery_Distractor/9.jpg": ""}
SURVFACE = {"gallery/1_cam1_1.jpg": "", "mated_probe/1_cam2_1.jpg": "", "unmated_probe/distractors_1.jpg": ""}
SCFACE = {"mug/001_frontal.jpg": "", "sur/001_cam1_1.jpg": "", "sur/001_cam2_1.jpg": "", "sur/001_cam1_2.jpg": ""}
OWN = {"gallery/Ann/x.jpg": "", "probe/Ann_1.jpg": "", "probe/Bo_1.jpg": ""}
FACE = bytes.fromhex("89504e470d0a1a0a0000000d494844520000007000000070").decode("latin-1")  # a PNG's header: 112x112
IJB = {"meta/ijbx_face_tid_mid.txt": "1.jpg 1 1\n2.jpg 2 2\n", "meta/ijbx_template_pair_label.txt": "1 2 0\n"}

ALL = {  # format -> (files, the card's keys, what it becomes, pairs or probes)
    "bin": ({}, {"file": "lfw.bin"}, PairSet, 2),
    "lfw_pairs": (LFW, {"images": "faces", "pairs": "pairs.txt"}, PairSet, 2),
    "all_pairs": (LFW, {"images": "faces", "people": "people.txt"}, PairSet, 3),
    "csv": (CSV, {"file": "mine.csv"}, PairSet, 2),
    "cfp_ff": (CFP, {"protocol": "Protocol", "images": "Data/Images"}, PairSet, 20),
    "cfp_fp": (CFP, {"protocol": "Protocol", "images": "Data/Images"}, PairSet, 20),
    "tinyface": (TINYFACE, {"images": "."}, IdentificationSet, 1),
    "survface": (SURVFACE, {"images": "."}, IdentificationSet, 2),
    "scface": (SCFACE, {"gallery": "mug", "probe": "sur", "distance": 1}, IdentificationSet, 2),
    "gallery_probe": (OWN, {"images": "."}, IdentificationSet, 2),
    "ijb": (IJB, {"protocol": "meta", "images": "loose_crop"}, TemplateSet, 1),
}


@pytest.fixture
def dataset(tmp_path):
    """dataset(format): its files in a folder of that name."""
    def make(name: str) -> Path:
        root = write(tmp_path / name, ALL[name][0])
        if name == "bin":
            root.mkdir()
            write_bin(root / "lfw.bin", [(b"a", b"b", True), (b"a", b"c", False)])
        if name == "ijb":
            (root / "loose_crop").mkdir()
            for i in (1, 2):
                (root / "loose_crop" / f"{i}.jpg").write_bytes(FACE.encode("latin-1"))
        return root
    return make


def card_of(root: Path, name: str, **keys):
    card = {"name": "mine", "title": "Mine", "format": "files", "described": "here", "terms": "none"}
    path = root.parent / f"{name}.yaml"
    path.write_text(yaml.safe_dump(card | {"sets": {"eval": {"format": name, **keys}}}))
    return load_card(str(path))


def test_every_format_is_tested():
    assert set(ALL) == set(SetFormat.__members__) == {key.name for key in FORMATS}


@pytest.mark.parametrize("name", ALL)
def test_format_through_a_card(dataset, name):
    root, (_, keys, kind, count) = dataset(name), ALL[name]
    opened = open_set("eval", card_of(root, name, **keys, count=count), str(root))
    assert type(opened) is kind and size(opened) == count and opened.name == "eval"
    unit = "probes" if kind is IdentificationSet else "pairs"
    with pytest.raises(DataError, match=f"holds {count} {unit}, the card says 7; fetch it again"):
        open_set("eval", card_of(root, name, **keys, count=7), str(root))
    with pytest.raises(DataError, match=f"sets.eval: format {name} takes .*, got none"):
        card_of(root, name)
    with pytest.raises(DataError, match=f"sets.eval: format {name} takes"):
        card_of(root, name, **keys, **({"distance": 1} if name != "scface" else {"people": "x"}))


@pytest.mark.parametrize(("name", "path"), [
    ("bin", "lfw.bin"), ("csv", "mine.csv"), ("lfw_pairs", ""), ("cfp_fp", ""), ("tinyface", ""), ("survface", ""), ("gallery_probe", ""),
    ("ijb", ""),
])
def test_format_by_its_content(dataset, name, path):
    root = dataset(name)
    opened = open_set(str(root / path), load_card("lfw"))
    assert type(opened) is ALL[name][2] and size(opened) == ALL[name][3]
    assert opened.name == (Path(path).stem or name)


def test_lfw_beside_its_pairs(dataset):
    root = dataset("lfw_pairs")
    for person in ("Ann", "Bo"):
        shutil.move(root / "faces" / person, root / person)
    assert [image.decode() for image in read_path(root).images] == ["a1", "a2", "b1"]


def test_names_that_mean_no_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=re.escape("empty: holds no evaluation set; looked for Protocol/Pair_list_F.txt")):
        open_set("empty", load_card("lfw"))
    with pytest.raises(DataError, match="lfw has no evaluation set 'none'; It has devtest, .* or of a folder with an evaluation set"):
        open_set("none", load_card("lfw"))
    with pytest.raises(DataError, match="none.csv: cannot be read"):
        open_set("none.csv", load_card("lfw"))
    with pytest.raises(DataError, match="tinyface: datasets/tinyface is not there; expected there for set tinyface: ."):
        open_set("tinyface/tinyface", load_card("lfw"))


def test_a_cards_own_set_comes_before_a_folder_of_its_name(dataset, tmp_path, monkeypatch):
    root = dataset("csv")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eval").mkdir()
    assert size(open_set("eval", card_of(root, "csv", file="mine.csv"), str(root))) == 2
