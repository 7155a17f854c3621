"""Cards: every one of ours is sound; missing files are named; the rendered sets hold what their cards promise."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from askd.data.cards import Card, load_card, open_set
from askd.data.decode import decode_rgb
from askd.data.demo import Render, draw_pairs
from askd.data.records import RecordSet
from askd.data.synthetic import render_face
from askd.errors import DataError
from askd.resources import list_resources

CARDS = sorted(list_resources("datasets"))
SMALL = Render(identities=2, images=2, verification_identities=20, verification_images=2, pairs=40, seed=3)


def card_file(folder: Path, **changes) -> Path:
    card = {"name": "mine", "title": "Mine", "format": "files", "described": "here", "terms": "none", **changes}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(card))
    return path


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> tuple[Card, Path]:
    folder = tmp_path_factory.mktemp("rendered") / "set"
    card = dataclasses.replace(load_card("demo"), render=SMALL)
    calls = []
    card.prepare(str(folder), workers=1, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 44) for i in range(44)]
    return card, folder


@pytest.mark.parametrize("name", CARDS)
def test_card_is_sound(name, tmp_path):
    card = load_card(name)
    assert card.name == name
    with pytest.raises(DataError) as missing:
        card.locate(str(tmp_path / "absent"))
    for words in (*card.expects, card.title, card.described, "absent is not there", f"datasets/{name}", "data.path="):
        assert words in str(missing.value)
    assert "\n" not in str(missing.value)


def test_every_card_is_in_the_table():
    table = (Path(__file__).parents[2] / "datasets" / "README.md").read_text()
    assert [name for name in CARDS if f"`{name}`" not in table] == []


def test_published_counts():
    counts = {name: (card.identities, card.images) for name in CARDS for card in [load_card(name)]}
    assert counts["casia"] == (10_572, 490_623)
    assert counts["ms1m"] == (85_742, 5_822_653)
    assert counts["ms1mv3"] == (93_431, 5_179_510)
    assert counts["glint360k"] == (360_232, 17_091_657)
    assert counts["lfw"] == (5_749, 13_233)
    assert counts["webface4m"] == (205_990, 4_235_242)
    assert counts["tinyface"] == (5_139, 7_804 + 3_728 + 4_443 + 153_428)  # training, probes, gallery, distractors
    assert counts["ijbc"] == (3_531, 469_375) and counts["ijbb"] == (1_845, 227_630)


def test_published_sizes_of_sets():
    published = {"lfw": 6_000, "agedb_30": 6_000, "calfw": 6_000, "cplfw": 6_000, "cfp_fp": 7_000, "cfp_ff": 7_000}
    counts = {(card, name): files.count for card in CARDS for name, files in load_card(card).sets.items()}
    bins = [(name, count) for (_, name), count in counts.items() if name in published]
    assert len(bins) > 20 and all(count == published[name] for name, count in bins)
    assert counts["tinyface", "tinyface"] == 3_728
    assert counts["ijbb", "ijbb"] == 8_000_000 + 10_270  # impostors, genuine pairs
    assert counts["ijbc", "ijbc"] == 15_658_489


@pytest.mark.parametrize("name", ["demo", "demo_full"])
def test_rendered_cards_count_what_they_render(name):
    card = load_card(name)
    assert (card.identities, card.images) == (card.render.identities, card.render.identities * card.render.images)
    assert len(draw_pairs(card.render)) == card.render.pairs


def test_demo_sets_share_no_people():
    assert load_card("demo").render.seed != load_card("demo_full").render.seed


def test_partly_missing_names_only_what_is_missing(tmp_path):
    (tmp_path / "aligned_112").mkdir()
    (tmp_path / "pairs.txt").touch()
    with pytest.raises(DataError, match=r"lacks pairsDevTest.txt, peopleDevTrain.txt, peopleDevTest.txt;"):
        load_card("lfw").locate(str(tmp_path))


def test_default_place_is_datasets_under_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets" / "casia").mkdir(parents=True)
    (tmp_path / "datasets" / "casia" / "train.rec").touch()
    assert load_card("casia").locate() == Path("datasets/casia")


def test_missing_verification_file_is_named(tmp_path):
    (tmp_path / "train.rec").touch()
    with pytest.raises(DataError, match="lacks agedb_30.bin; expected there for set agedb_30"):
        load_card("ms1m").evaluation_set("agedb_30", str(tmp_path))


def test_unknown_names_lead_to_the_closest():
    with pytest.raises(DataError, match="did you mean casia"):
        load_card("cassia")
    card = load_card("lfw")
    with pytest.raises(DataError, match=r"did you mean devtest\? It has devtest, devtest_all, view2"):
        card.evaluation_set("devtst")
    with pytest.raises(DataError, match=r"did you mean devtest\?.*CARD/SET"):
        open_set("devtst", card)
    with pytest.raises(DataError, match="agedb_30 has no evaluation set 'x'"):
        open_set("agedb_30/x", card)
    with pytest.raises(DataError, match="evaluation only"):
        load_card("agedb_30").training_faces()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sise": 3}, "sise.*keys name, title"),
        ({"sets": {"a": {"format": "bin", "fil": "x.bin"}}}, "fil.*keys format, file"),
        ({"sets": {"a": {"format": "zip", "file": "x.zip"}}}, "sets.a.format.*bin, lfw_pairs, all_pairs, csv"),
        ({"sets": {"a": {"format": "bin"}}}, "takes file, identities, got none"),
        ({"sets": {"a": {"format": "lfw_pairs", "images": "x", "pairs": "y", "people": "z"}}}, "takes images, pairs"),
        ({"identities": "many"}, "identities.*many"),
        ({"terms": None}, "terms"),
        ({"render": {"identities": 3}}, "render"),
    ],
)
def test_unsound_card_is_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message) as refused:
        load_card(str(card_file(tmp_path, **change)))
    assert "mine.yaml" in str(refused.value)


def test_card_that_is_no_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    for text in ("a: [1,", "- a\n- b\n", "just words"):
        path.write_text(text)
        with pytest.raises(DataError, match="mine.yaml"):
            load_card(str(path))


def test_card_by_path_opens_identity_folders(tmp_path):
    image = cv2.imencode(".png", np.zeros((112, 112, 3), np.uint8))[1].tobytes()
    for person, count in (("ann", 3), ("bob", 1), ("cem", 2)):
        (tmp_path / "faces" / person).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "faces" / person / f"{i}.png").write_bytes(image)
    (tmp_path / "train.txt").write_text("2\nann\t3\nbob\t1\n")
    (tmp_path / "test.txt").write_text("2\nbob\t1\ncem\t2\n")
    card = load_card(str(card_file(
        tmp_path, training={"images": "faces", "people": "train.txt"},
        sets={"all": {"format": "all_pairs", "images": "faces", "people": "test.txt"}},
    )))
    faces = card.training_faces(str(tmp_path))
    assert faces.class_names == ["ann", "bob"] and len(faces) == 4
    assert card.training_faces(str(tmp_path), min_images=2).class_names == ["ann"]
    pairs = card.evaluation_set("all", str(tmp_path))
    assert pairs.name == "all"
    assert sorted(pairs.same.tolist()) == [False, False, True]  # bob-cem twice, cem-cem
    with pytest.raises(DataError, match="lacks train.txt; expected there to train on"):
        (tmp_path / "train.txt").unlink()
        card.training_faces(str(tmp_path))


def test_draw_pairs_are_ten_balanced_independent_folds():
    render = load_card("demo").render
    pairs = draw_pairs(render)
    assert pairs == draw_pairs(render)
    assert pairs != draw_pairs(dataclasses.replace(render, seed=render.seed + 1))
    assert len({frozenset(pair[:2]) for pair in pairs}) == len(pairs) == render.pairs
    people = []
    for fold in range(10):
        part = pairs[fold * render.pairs // 10 : (fold + 1) * render.pairs // 10]
        assert Counter(same for *_, same in part) == {True: len(part) / 2, False: len(part) / 2}
        assert all((a[0] == b[0]) is same and a != b for a, b, same in part)
        people.append({identity for a, b, _ in part for identity, _ in (a, b)})
    assert sum(map(len, people)) == len(set.union(*people))  # no person in two folds
    assert min(set.union(*people)) >= render.identities  # none of them trained on


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": 30}, "multiple of 20"),
        ({"verification_identities": 25}, "of 10"),
        ({"pairs": 80}, "2 genuine pairs, a fold needs 4"),
    ],
)
def test_impossible_pairs_are_refused(tmp_path, change, message):
    card = dataclasses.replace(load_card("demo"), render=dataclasses.replace(SMALL, **change))
    with pytest.raises(DataError, match=message):
        card.prepare(str(tmp_path / "x"), workers=1)
    assert not list(tmp_path.iterdir())


def test_rendered_training_set_holds_the_renderers_faces(rendered):
    card, folder = rendered
    assert card.locate(str(folder)) == folder
    faces = card.training_faces(str(folder))
    assert isinstance(faces, RecordSet)
    assert faces.labels.tolist() == [0, 0, 1, 1]
    assert (folder / "property").read_text().strip() == "2,112,112"
    for i, (identity, sample) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        drawn, stored = render_face(identity, sample, seed=3), decode_rgb(faces.encoded(i), faces.name(i))
        error = np.abs(drawn.astype(float) - stored).mean()
        assert error < 4 < np.abs(drawn[..., ::-1].astype(float) - stored).mean()  # JPEG's error, and not BGR


def test_rendered_pairs_know_who_is_who(rendered):
    card, folder = rendered
    pairs = card.evaluation_set("verify", str(folder))
    assert len(pairs) == 40 and np.array_equal(pairs.fold, np.repeat(np.arange(10), 4))
    assert pairs.identity.shape == (len(pairs.images),) and len(np.unique(pairs.identity)) <= 20
    assert np.array_equal(pairs.identity[pairs.left] == pairs.identity[pairs.right], pairs.same)
    drawn = draw_pairs(SMALL)
    for k, (a, b, _) in enumerate(drawn):  # the file's people, renumbered in order
        ranks = sorted({identity for x, y, _ in drawn for identity, _ in (x, y)})
        assert (ranks[pairs.identity[pairs.left[k]]], ranks[pairs.identity[pairs.right[k]]]) == (a[0], b[0])


def test_identities_that_contradict_the_images_are_refused(rendered, tmp_path):
    card, folder = rendered
    shutil.copytree(folder, tmp_path / "copy")
    lines = (folder / "verify_identities.txt").read_text().splitlines()
    faces = [face for a, b, _ in draw_pairs(SMALL) for face in (a, b)]
    at = faces.index(Counter(faces).most_common(1)[0][0])  # an image that is in the file more than once
    (tmp_path / "copy" / "verify_identities.txt").write_text("\n".join([*lines[:at], "somebody", *lines[at + 1 :]]))
    with pytest.raises(DataError, match="image of another identity"):
        card.evaluation_set("verify", str(tmp_path / "copy"))
    (tmp_path / "copy" / "verify_identities.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match="79 lines for the 80 images"):
        card.evaluation_set("verify", str(tmp_path / "copy"))


def test_other_ways_to_name_a_verification_set(rendered, tmp_path, monkeypatch):
    card, folder = rendered
    assert open_set("verify", card, str(folder)).name == "verify"
    by_path = open_set(str(folder / "verify.bin"), load_card("lfw"))
    assert len(by_path) == 40 and by_path.identity is None
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "datasets" / "demo")
    assert open_set("demo/verify", load_card("lfw")).name == "demo/verify"


def test_prepare_renders_once_and_again_when_the_card_changed(rendered, tmp_path):
    card, folder = rendered
    copy = tmp_path / "set"
    shutil.copytree(folder, copy)
    before = os.stat(copy / "train.rec").st_mtime_ns
    card.prepare(str(copy), workers=1, progress=lambda done, total: pytest.fail("rendered again"))
    assert os.stat(copy / "train.rec").st_mtime_ns == before
    changed = dataclasses.replace(card, render=dataclasses.replace(SMALL, identities=1))
    changed.prepare(str(copy), workers=1)
    assert len(changed.training_faces(str(copy))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_prepare_never_replaces_what_it_did_not_render(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    card = dataclasses.replace(load_card("demo"), render=SMALL)
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        card.prepare(str(tmp_path), workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_interrupted_rendering_leaves_nothing(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    card = dataclasses.replace(load_card("demo"), render=SMALL)
    with pytest.raises(KeyboardInterrupt):
        card.prepare(str(tmp_path / "set"), workers=1, progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_card_checks_what_it_finds(rendered, tmp_path):
    card, folder = rendered
    mine = dataclasses.replace(card, identities=2, images=4)
    assert mine.check(str(folder)) == []
    assert card.check(str(folder)) == [
        f"demo: {folder} holds 2 identities and 4 images, {card.title} has 200 and 3,200; a part of it, or another release?"]
    assert dataclasses.replace(mine, images=5).check(str(folder)) == [
        f"demo: {folder} holds 4 images, {card.title} has 5; a part of it, or another release?"]
    assert dataclasses.replace(card, identities=None, images=None).check(str(folder)) == []
    other = dataclasses.replace(mine, sets={"verify": dataclasses.replace(card.sets["verify"], count=1_200)})
    assert mine.check(str(folder), sets=True) == [] == other.check(str(folder))
    assert "verify.bin: holds 40 pairs, the card says 1200" in other.check(str(folder), sets=True)[0]
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "verify.bin").write_bytes(b"no pickle")
    assert mine.check(str(tmp_path / "copy")) == []  # nothing of it is read unless asked for
    assert "verify.bin: at byte" in mine.check(str(tmp_path / "copy"), sets=True)[0]
    (tmp_path / "copy" / "verify.bin").unlink()
    assert mine.check(str(tmp_path / "copy")) == [f"demo: {tmp_path / 'copy'} lacks verify.bin ({mine.format})"]
    (tmp_path / "copy" / "verify.bin").touch()
    (tmp_path / "copy" / "train.rec").write_bytes(b"")
    assert "train.rec: is empty" in mine.check(str(tmp_path / "copy"))[0]


def test_lfw_is_what_its_card_says(shared):
    card = load_card("lfw")
    assert card.check(str(shared / "data" / "lfw")) == []


def test_lfw(shared):
    card, path = load_card("lfw"), str(shared / "data" / "lfw")
    faces = card.training_faces(path, min_images=4)
    assert (len(faces.class_names), len(faces)) == (430, 4_964)
    devtest = card.evaluation_set("devtest", path)
    assert (len(devtest), int(devtest.same.sum())) == (1_000, 500)
    assert all(devtest.same[devtest.fold == fold].sum() == 50 for fold in range(10))
    everything = card.evaluation_set("devtest_all", path)
    assert len(everything.images) == 3_708
    assert (len(everything), int(everything.same.sum())) == (3_708 * 3_707 // 2, 24_620)
    assert len(card.evaluation_set("view2", path)) == 6_000
    trained = set(faces.class_names)
    tested = {Path(name).parent.name for name in (*devtest.image_names, *everything.image_names)}
    assert not trained & tested
