"""Gallery and probe folders, on hand-made trees: TinyFace's, SurvFace's, SCface's names, and one's own."""
from __future__ import annotations

import os
import pickle

import pytest

from askd.data.gallery import NOBODY
from askd.data.probes import OWN, SURVFACE, TINYFACE, read_gallery_probe
from askd.data.scface import read_scface
from askd.errors import DataError


def tree(root, **folders):
    """folder=names of images in it; each image holds its own name."""
    for folder, names in folders.items():
        for name in names.split():
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
    return root


def described(found):
    """(gallery, probe) as lists of (image, identity)."""
    sides = []
    for side in (found.gallery, found.probe):
        sides.append([(found.images.encoded(i).decode(), int(found.identity[i])) for i in side.tolist()])
    return sides


def test_tinyface(tmp_path):
    tree(tmp_path, Gallery_Match="12_3.jpg 2_1.jpg 12_1.jpg", Probe="2_9.jpg 12_2.jpg", Gallery_Distractor="7.jpg 2_1_x.jpg")
    (tmp_path / "Probe" / ".DS_Store").touch()
    (tmp_path / "Probe" / "probe_img_ID_pairs.mat").touch()
    found = read_gallery_probe(tmp_path, TINYFACE)
    gallery, probe = described(found)
    # Sorted by bytes; identities numbered as names: "12" < "2". A distractor's name says nothing.
    assert gallery == [("12_1.jpg", 0), ("12_3.jpg", 0), ("2_1.jpg", 1), ("2_1_x.jpg", NOBODY), ("7.jpg", NOBODY)]
    assert probe == [("12_2.jpg", 0), ("2_9.jpg", 1)]
    assert found.probe.dtype == found.gallery.dtype == found.identity.dtype == "int64"
    assert found.name == tmp_path.name and len(found.images) == 7


def test_survface(tmp_path):
    tree(tmp_path, gallery="100_cam1_1.jpg 101_cam1_1.jpg", mated_probe="100_cam3_1.jpg", unmated_probe="999_cam2_1.jpg distractors_5.jpg")
    gallery, probe = described(read_gallery_probe(tmp_path, SURVFACE))
    assert gallery == [("100_cam1_1.jpg", 0), ("101_cam1_1.jpg", 1)]
    assert probe == [("100_cam3_1.jpg", 0), ("999_cam2_1.jpg", NOBODY), ("distractors_5.jpg", NOBODY)]


def test_own_folders_flat_or_by_identity(tmp_path):
    tree(tmp_path, gallery="Ann_Lee/a.jpg Bo/b.png", probe="Bo_1.jpg Cem_1.jpg Ann_Lee_2.jpg")
    gallery, probe = described(read_gallery_probe(tmp_path, OWN))
    assert gallery == [("Ann_Lee/a.jpg", 0), ("Bo/b.png", 1)]
    assert probe == [("Ann_Lee_2.jpg", 0), ("Bo_1.jpg", 1), ("Cem_1.jpg", 2)]  # an open set: Cem has no mate
    tree(tmp_path, distractor="x.jpg")
    assert described(read_gallery_probe(tmp_path, OWN))[0][-1] == ("x.jpg", NOBODY)


def test_images_are_read_when_asked_for(tmp_path):
    tree(tmp_path, gallery="a_1.jpg", probe="a_2.jpg")
    images = pickle.loads(pickle.dumps(read_gallery_probe(tmp_path, OWN).images))
    (tmp_path / "probe" / "a_2.jpg").write_bytes(b"changed")
    assert images.encoded(1) == b"changed"
    os.remove(tmp_path / "probe" / "a_2.jpg")
    with pytest.raises(DataError, match="probe/a_2.jpg: cannot be read"):
        images.encoded(1)


@pytest.mark.parametrize(("layout", "folders", "message"), [
    (TINYFACE, {"Probe": "1_1.jpg", "Gallery_Distractor": "1.jpg"}, "Gallery_Match: cannot be read"),
    (TINYFACE, {"Gallery_Match": "1_1.jpg", "Probe": "1_2.jpg"}, "Gallery_Distractor: cannot be read"),
    (TINYFACE, {"Gallery_Match": "1_1.jpg", "Probe": "x.jpg", "Gallery_Distractor": "1.jpg"}, "Probe/x.jpg: its name does not say who"),
    (TINYFACE, {"Gallery_Match": "1_1.jpg", "Probe": "1_2.jpg 2_1.jpg", "Gallery_Distractor": "1.jpg"},
     "Probe/2_1.jpg: is of a person with no image in .*Gallery_Match, as are 1 of the 2 probes"),
    (TINYFACE, {"Gallery_Match": "1_1.jpg", "Probe": "readme.txt", "Gallery_Distractor": "1.jpg"}, "none of 1 identity folders holds"),
    (SURVFACE, {"gallery": "1_cam1_1.jpg", "mated_probe": "1_cam2_1.jpg"}, "unmated_probe: cannot be read"),
    (SURVFACE, {"gallery": "1_1.jpg", "mated_probe": "1_cam2_1.jpg"}, "gallery/1_1.jpg: its name does not say"),
    (OWN, {"gallery": "Ann_Lee.jpg", "probe": "Ann_1.jpg"}, "Ann_Lee.jpg: .* expected <identity>_<number>.jpg, or one folder per identity"),
    (OWN, {"gallery": "a_1.jpg", "probe": "b_1.jpg"}, "probe/b_1.jpg: is of a person with no image"),
    (OWN, {"gallery": "a/1.jpg b_1.jpg", "probe": "b_1.jpg"}, r"gallery: holds both images \(b_1.jpg\) and folders \(a\)"),
    (OWN, {"gallery": "a/1.bmp", "probe": "b_1.jpg"}, "1.bmp: images are read as"),
])
def test_faults_are_named(tmp_path, layout, folders, message):
    with pytest.raises(DataError, match=message) as refused:
        read_gallery_probe(tree(tmp_path, **folders), layout)
    assert "\n" not in str(refused.value)


def test_scface_one_set_per_distance(tmp_path):
    tree(tmp_path, mugshot="002_frontal.jpg 001_frontal.jpg 001_L1.jpg",
         surveillance="001_cam1_1.jpg 001_cam5_1.png 002_cam2_1.jpg 002_cam2_3.jpg 001_cam6_1.jpg 001_cam8.jpg")
    folders = tmp_path / "mugshot", tmp_path / "surveillance"
    gallery, probe = described(read_scface(*folders, 1))
    assert gallery == [("001_frontal.jpg", 0), ("002_frontal.jpg", 1)]
    assert probe == [("001_cam1_1.jpg", 0), ("001_cam5_1.png", 0), ("002_cam2_1.jpg", 1)]  # neither infra-red (cam6, cam8) nor nearer
    nearest = read_scface(*folders, 3)
    assert described(nearest)[1] == [("002_cam2_3.jpg", 1)] and nearest.name == "scface_1.00m"
    assert len(described(nearest)[0]) == 2
    tree(tmp_path, all="001_frontal.jpg 001_cam3_2.jpg")  # everything in one folder
    assert described(read_scface(tmp_path / "all", tmp_path / "all", 2)) == [[("001_frontal.jpg", 0)], [("001_cam3_2.jpg", 0)]]


@pytest.mark.parametrize(("mugshots", "surveillance", "distance", "message"), [
    ("001_L1.jpg", "001_cam1_1.jpg", 1, "mugshot: holds no image called like 001_frontal.jpg"),
    ("001_frontal.jpg", "001_cam1_1.jpg", 2, "surveillance: holds no image called like 001_cam1_2.jpg"),
    ("001_frontal.jpg", "002_cam1_1.jpg", 1, "002_cam1_1.jpg: .*mugshot lacks this subject's 002_frontal.jpg"),
    ("001_frontal.jpg", "me.jpg", 1, "me.jpg: is not called as SCface's images are"),
    ("001_frontal.jpg", "001_cam1_1.jpg", 4, r"distances are 1 \(4.20 m\), 2 \(2.60 m\), 3 \(1.00 m\), got 4"),
])
def test_faulty_scface(tmp_path, mugshots, surveillance, distance, message):
    tree(tmp_path, mugshot=mugshots, surveillance=surveillance)
    with pytest.raises(DataError, match=message):
        read_scface(tmp_path / "mugshot", tmp_path / "surveillance", distance)
