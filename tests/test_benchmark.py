"""The benchmark's numbers are those one gets by hand, its differences subtract them, and it finds what to compare."""
from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.metrics import roc_auc_score

from askd import benchmark as benchmark_module
from askd.benchmark import errors_named, main
from askd.data.cards import load_card, open_set
from askd.data.decode import decode_rgb
from askd.data.degrade import degrade, upsample
from askd.data.gallery import NOBODY, IdentificationSet, TemplateSet
from askd.data.pairs import NO_FOLD, PairSet, read_bin, write_bin
from askd.engine.checkpoint import save_weights
from askd.errors import CheckpointError, RecipeError
from askd.evaluation import scored
from askd.evaluation.differences import differences_text
from askd.evaluation.exhibits import distinct_faces
from askd.evaluation.gather import Encoded
from askd.teachers import load_backbone, weights_hash
from tiny import distilled, run, world  # noqa: F401, fixtures

ROLES = ("teacher", "baseline", "student")


@pytest.fixture
def runs(distilled, tmp_path):  # noqa: F811
    """A copy of runs/mini without its benchmark and checkpoints."""
    copy = tmp_path / "mini"
    left_out = shutil.ignore_patterns("checkpoints", "benchmark", "export", "events*")
    return shutil.copytree(distilled.folder, copy, ignore=left_out)


def row(results: dict, **wanted) -> dict:
    found, = (r for r in results["rows"] if all(r[key] == value for key, value in wanted.items()))
    return found


def test_numbers_are_those_by_hand(runs, world, tmp_path):  # noqa: F811
    pairs = read_bin(world.data / "verify.bin")
    # The same pairs in another order, of nobody knows whom; the images are the first set's and embedded with them.
    turned = [(pairs.images[b], pairs.images[a], same) for a, b, same in zip(pairs.left, pairs.right, pairs.same)]
    write_bin(tmp_path / "turned.bin", turned[::-1])
    done = run(
        "benchmark", runs, "precision=fp32", "eval.sizes=[112,14,28]", "eval.protocols=[insightface]",
        f"eval.sets=[verify,{tmp_path / 'turned.bin'}]", cwd=tmp_path,
    )
    assert done.status == 0, done.err
    results = json.loads((runs / "benchmark" / "seed0" / "results.json").read_text())
    assert len(results["rows"]) == 2 * 3 * 3
    for mine in results["rows"]:
        other = row(results, set="turned", model=mine["model"], size=mine["size"])
        assert (mine["auc"], mine["pairs"]) == (pytest.approx(other["auc"], abs=1e-9), other["pairs"])

    images = torch.from_numpy(np.stack([decode_rgb(data, "image") for data in pairs.images])).permute(0, 3, 1, 2)
    for role in ROLES:
        network = load_backbone(runs / role / "seed0")[0].eval()
        for size in (112, 14):
            seen = (degrade(images, size, "bicubic") - 127.5) / 127.5
            with torch.inference_mode():
                embedding = (network(seen) + network(seen.flip(3))).double().numpy()
            embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
            cosine = (embedding[pairs.left] * embedding[pairs.right]).sum(1)
            mine = row(results, set="verify", model=role, size=size)
            assert mine["auc"] == pytest.approx(roc_auc_score(pairs.same, cosine), abs=5e-3)  # one swapped pair: 0.0025
            assert (mine["pairs"], mine["genuine"], mine["impostors"]) == (40, 20, 20)

    every = results["context"]["differences"]
    assert {d["unit"] for d in every if d["set"] == "turned"} == {"pair"}
    differences = {(d["what"].split(":")[0], d["figure"]): d for d in every if d["set"] == "verify"}
    assert set(differences) == {(what, figure) for what in ("headroom", "A-SKD") for figure in ("accuracy", "auc")}
    for figure in ("accuracy", "auc"):
        at = {(r["model"], r["size"]): r[figure] for r in results["rows"] if r["set"] == "verify"}
        headroom, gain = at["teacher", 112] - at["baseline", 14], at["student", 14] - at["baseline", 14]
        assert differences["headroom", figure]["value"] == pytest.approx(headroom, abs=1e-9)
        assert differences["A-SKD", figure]["value"] == pytest.approx(gain, abs=1e-9)
        assert differences["A-SKD", figure]["unit"] == "identity" and differences["A-SKD", figure]["size"] == 14
    for role in ROLES:
        assert results["context"]["models"][role]["sha256"] == weights_hash(load_backbone(runs / role / "seed0")[0])
    assert {path.name for path in (runs / "benchmark" / "seed0").iterdir()} == {
        "results.json", "results.csv", "results.md", "report.html", "accuracy.png", "roc.png", "attention.png", "attention_similarity.png",
        "errors.png", "cache",
    }


@pytest.fixture
def opened(world, monkeypatch):  # noqa: F811
    """Sets made of the rendered verification faces, some 20 people of 2 or 3 images, in place of what `eval.sets` would read from disk."""
    pairs = open_set("verify", load_card(str(world.card)), str(world.data))
    order = np.argsort(pairs.identity, kind="stable")
    order = order[np.bincount(pairs.identity)[pairs.identity[order]] > 1]
    faces = [pairs.images[i] for i in order]
    _, first, identity = np.unique(pairs.identity[order], return_index=True, return_inverse=True)
    people = len(first)
    small = []
    for number, face in enumerate(faces):
        shrunk = cv2.resize(cv2.imdecode(np.frombuffer(face, np.uint8), cv2.IMREAD_COLOR), (24 + number % 5, 30), interpolation=cv2.INTER_AREA)
        small.append(cv2.imencode(".png", shrunk)[1].tobytes())
    gallery, probe = first[:-9], np.setdiff1d(np.arange(len(faces)), first)  # nine people have no image in the gallery
    known = identity.copy()
    known[first[0]] = NOBODY  # and one in it is a distractor, so the probes of that person have no mate
    names = [f"face {i}" for i in range(len(faces))]
    left, right = np.triu_indices(people, 1)
    everybody = np.arange(people)
    pooled = TemplateSet(
        "pooled", Encoded(faces, names), np.where(np.isin(np.arange(len(faces)), first), identity, people + identity),
        np.zeros(len(faces), int), np.tile(everybody, 2), np.append(left, everybody), np.append(right, everybody + people),
        np.append(np.zeros(len(left), bool), np.ones(people, bool)), everybody + people, [everybody[:9], everybody[9:]],
    )
    sets = {
        "verify": pairs, "gallery": IdentificationSet("gallery", Encoded(faces, names), probe, gallery, known),
        "small": IdentificationSet("small", Encoded(small, names), probe, gallery, known), "pooled": pooled,
    }
    monkeypatch.setattr(benchmark_module, "open_set", lambda spec, card, path: sets[spec])
    monkeypatch.setattr(scored, "RESAMPLES", 100)  # for speed
    return sets


def test_searches_and_templates_are_those_by_hand(runs, opened, tmp_path, capsys):
    arguments = [str(runs), "precision=fp32", "eval.sizes=[112,14]", "eval.protocols=[exact]", "eval.batch=16"]
    main([*arguments, "eval.sets=[gallery,small,pooled,verify]"])
    printed = capsys.readouterr().out
    out = runs / "benchmark" / "seed0"
    text = (out / "results.json").read_text()
    results = json.loads(text)
    searched = {(r["set"], r["model"], r["size"]): r for r in results["identification"]}
    assert set(searched) == {
        (name, role, size) for role in ROLES for name, sizes in (("gallery", (112, 14)), ("small", ("native",)), ("pooled", (112, 14)))
        for size in sizes
    }
    assert {(r["set"], r["protocol"]) for r in results["rows"]} == {("verify", "exact"), ("pooled", "templates")}
    assert {path.name for path in out.iterdir()} == {
        "cache", "results.json", "results.csv", "results.md", "report.html", "accuracy.png", "roc.png", "attention.png", "attention_similarity.png",
        "errors.png", "cmc_gallery.png", "cmc_small.png", "cmc_pooled.png",
    }
    for role in ROLES:
        network = load_backbone(runs / role / "seed0")[0].eval()
        for name, size in (("gallery", 112), ("gallery", 14), ("small", "native")):
            one = opened[name]
            images = [torch.from_numpy(decoded(data)).permute(2, 0, 1)[None] for data in one.images.images]
            seen = torch.cat([upsample(image) if size == "native" else degrade(image, size, "bicubic") for image in images])
            with torch.inference_mode():
                seen = (seen - 127.5) / 127.5
                embedding = (network(seen) + network(seen.flip(3))).double().numpy()
            embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
            cosine = embedding[one.probe] @ embedding[one.gallery].T
            mate = one.identity[one.probe][:, None] == one.identity[one.gallery]
            mated = mate.any(1)
            rank_1 = np.mean([hit[best] for hit, best in zip(mate[mated], cosine[mated].argmax(1))])
            mine = searched[name, role, size]
            assert mine["figures"]["rank-1"] == pytest.approx(rank_1, abs=1.01 / mated.sum())  # one probe on an edge
            counts = [len(one.gallery)]
            assert (mine["probes"], mine["mated"], mine["candidates"], mine["gallery"]) == (len(mated), [mated.sum()], counts, counts)
            assert mine["figures"]["TPIR @ FPIR 0.1"] is not None and mine["figures"]["TPIR @ FPIR 0.01"] is None
            assert f"{(~mated).sum()} probes without a mate" in mine["note"] and ("resized to 112x112" in mine["note"]) == (size == "native")
        assert searched["pooled", role, 112]["mated"][0] == 9
    gain, = (d for d in results["context"]["differences"] if (d["set"], d["figure"]) == ("small", "rank-1"))
    assert gain["size"] == "native" and gain["value"] == pytest.approx(
        searched["small", "student", "native"]["figures"]["rank-1"] - searched["small", "baseline", "native"]["figures"]["rank-1"])
    for what in ("small: identification", "rank-1", "FPIR 0.1", "native", "pooled: TAR (%) @ FAR 0.0001"):
        assert what in printed and ("rank-1" in (out / "results.md").read_text())
    page = (out / "report.html").read_bytes()
    assert all(f"{100 * r['figures']['rank-1']:.2f}".encode() in page for r in results["identification"])
    main([*arguments, "eval.sets=[gallery,small,pooled,verify]", "errors=student@14"])  # as by default: the last model, where it was trained
    assert (out / "results.json").read_text() == text and (out / "report.html").read_bytes() == page


def test_whose_errors_are_shown():
    models, lot = {"teacher": None, "student": None}, SimpleNamespace(sizes=(112, 28, 14), sets=[(pair_set(None, [0], [1], 2), np.arange(2))])
    assert errors_named("teacher@28", models, [lot], 14) == ("teacher", 28)
    assert errors_named(None, models, [lot], 28) == ("student", 28) and errors_named(None, models, [lot], 24) == ("student", 14)
    native = SimpleNamespace(sizes=("native",), sets=lot.sets)
    assert errors_named(None, models, [native], 14) == ("student", "native") == errors_named("student@native", models, [native], 14)
    for wrong in ("student", "student@24", "nobody@14", "@"):
        with pytest.raises(RecipeError, match="MODEL@SIZE with MODEL among teacher, student and SIZE among 112, 28, 14"):
            errors_named(wrong, models, [lot], 14)
    searched = SimpleNamespace(sizes=(112,), sets=[(SimpleNamespace(), np.arange(2))])
    assert errors_named(None, models, [searched], 14) is None
    with pytest.raises(RecipeError, match="none of eval.sets has pairs"):
        errors_named("student@112", models, [searched], 14)


def decoded(data: bytes) -> np.ndarray:
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])


@pytest.fixture
def chosen(monkeypatch) -> dict:
    """What `main` hands to `benchmark`, which is not run."""
    calls = {}

    def note(recipe, runs, out, device, cache, shared, errors):
        calls.update(recipe=recipe, runs=runs, out=out)

    monkeypatch.setattr(benchmark_module, "benchmark", note)
    return calls


def test_compares_what_the_folder_holds(runs, chosen):
    main([str(runs), "eval.sizes=[7]"])
    assert chosen["runs"] == {role: runs / role / "seed0" for role in ROLES}
    assert chosen["out"] == runs / "benchmark" / "seed0"
    assert (chosen["recipe"].name, chosen["recipe"].eval.sizes, chosen["recipe"].data.sizes) == ("mini", [7], [14])


def test_teacher_from_elsewhere_is_the_student_s(runs, distilled, chosen, monkeypatch):  # noqa: F811
    shutil.rmtree(runs / "teacher")
    monkeypatch.chdir(distilled.cwd)  # the path in meta.json is as the run was given it
    main([str(runs)])
    assert list(chosen["runs"]) == ["teacher", "baseline", "student"]
    assert chosen["runs"]["teacher"].resolve() == distilled.of("teacher")


def test_seed_chooses_the_runs(runs, chosen):
    (runs / "student" / "seed0").rename(runs / "student" / "seed3")
    (runs / "teacher" / "seed0").rename(runs / "teacher" / "seed3")
    main([str(runs), "seed=3"])
    assert chosen["runs"] == {role: runs / role / "seed3" for role in ("teacher", "student")}
    assert chosen["out"] == runs / "benchmark" / "seed3"
    with pytest.raises(CheckpointError, match=r"no finished run of seed 8 .*{teacher,baseline,student}/seed8/"):
        main([str(runs), "seed=8"])
    with pytest.raises(CheckpointError, match="seed five"):
        main([str(runs), "seed=five"])


def test_what_it_refuses(runs, tmp_path):
    with pytest.raises(RecipeError, match=r"usage: python -m askd.benchmark models=.* RUNS/RECIPE"):
        main([])
    with pytest.raises(CheckpointError, match="nobody holds no finished run"):
        main([str(tmp_path / "nobody")])
    with pytest.raises(RecipeError, match="eval.sizes must be between 1 and 112"):
        main([str(runs), "eval.sizes=[0]"])
    with pytest.raises(RecipeError, match="no eval.sets"):
        main([str(runs), "eval.sets=[]"])


def test_a_network_that_diverged_is_one_line(runs, tmp_path):
    student = runs / "student" / "seed0"
    weights = safetensors.torch.load_file(student / "model.safetensors")
    weights["neck.3.bias"][0] = float("nan")
    save_weights(student, weights, json.loads((student / "meta.json").read_text()))
    done = run("benchmark", runs, "eval.sizes=[14]", cwd=tmp_path)
    assert done.status == 2 and done.err.count("\n") == 1 and "non-finite embeddings at 14 px" in done.err
    assert [path.name for path in (runs / "benchmark" / "seed0").iterdir()] == ["cache"]  # what was embedded before it


def pair_set(identity: list[int] | None, left: list[int], right: list[int], images: int) -> PairSet:
    same = np.array([identity is not None and identity[a] == identity[b] for a, b in zip(left, right)])
    fold = np.full(len(left), NO_FOLD, np.int16)
    left, right, identity = (None if ids is None else np.array(ids, np.int32) for ids in (left, right, identity))
    return PairSet("set", [b""] * images, left, right, same, fold, identity, [""] * images)


def test_faces_to_show_are_of_different_people():
    pairs = pair_set([4, 4, 4, 2, 2, 9, 7, 7], [0], [1], 8)
    chosen = distinct_faces(pairs, 3)
    assert len(chosen) == 3 and len({int(pairs.identity[i]) for i in chosen}) == 3
    assert len(distinct_faces(pairs, 9)) == 4  # there are no more people
    assert distinct_faces(pair_set(None, [0], [1], 9), 3) == [0, 4, 8]


def test_differences_in_words():
    base = {"set": "verify", "what": "A-SKD: student - baseline", "size": 14, "figure": "auc", "protocol": "askd"}
    real, not_real, legend = differences_text([
        base | {"value": 0.0123, "low": 0.001, "high": 0.02}, base | {"value": -0.01, "low": -0.02, "high": 0.03},
    ]).splitlines()
    assert "+1.23 [+0.10, +2.00]" in real and real.endswith("*")
    assert "-1.00 [-2.00, +3.00]" in not_real and not not_real.endswith("*")
    assert "excludes zero" in legend and differences_text([]) == ""
