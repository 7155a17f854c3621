"""Ensembles through the verbs: teacher and student of one, metric losses, and what `askd.diagnose` finds in a run."""
from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from askd.data.cards import load_card, open_set
from askd.engine.checkpoint import read_state
from askd.evaluation.embed import decode_all, embed
from askd.evaluation.learners import similarities
from askd.evaluation.retrieval import retrieve
from askd.models.ensemble import Ensemble
from askd.teachers import load_backbone
from tiny import distilled, run, world  # noqa: F401, fixtures

ABE = ("network.ensemble.learners=2", "head.divergence.weight=3")


def lines(folder, key):
    return [line for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if key in line]


@pytest.fixture(scope="module")
def ensembles(world, tmp_path_factory):  # noqa: F811
    """ABE-2 taught by ABE-2, started from its weights: A-SKD and KD."""
    cwd = tmp_path_factory.mktemp("ensembles")
    done = run("distill", f"recipe={world.recipe}", "method=askd+kd", "name=mini", *ABE, "network.init=teacher", "precision=fp32",
               "baseline.enabled=false", "after=[]", cwd=cwd)
    assert done.status == 0, done.err
    return cwd / "runs" / "mini"


def test_the_loss_is_the_sum_of_its_parts_for_teacher_and_student(ensembles):
    for role, terms in (("teacher", {"divergence": 3}), ("student", {"divergence": 3, "attention": 5, "logit": 1})):
        logged = lines(ensembles / role / "seed0", "loss")
        assert len(logged) == 3
        for line in logged:
            expected = line["identity"] + sum(weight * line[name] for name, weight in terms.items())
            assert line["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_run_says_that_it_is_an_ensemble_and_each_learner_has_its_own_centres(ensembles):
    network, meta = load_backbone(ensembles / "student" / "seed0")
    assert isinstance(network, Ensemble) and network.learners == 2
    assert meta["network"]["ensemble"] == {"learners": 2, "branch": 3, "depth": 1, "kind": "abe"} and meta["embedding"] == 32
    head = safetensors.torch.load_file(ensembles / "student" / "seed0" / "head.safetensors")
    assert {name: tuple(value.shape) for name, value in head.items()} == {f"heads.{m}.centres": (12, 16) for m in (0, 1)}
    assert not torch.equal(head["heads.0.centres"], head["heads.1.centres"])


def test_similarities_are_noted_while_it_trains(ensembles):
    run_folder = ensembles / "student" / "seed0"
    noted = [json.loads(line) for line in (run_folder / "learners.jsonl").read_text().splitlines()]
    logged = lines(run_folder, "learners/self")
    assert [line["step"] for line in noted] == [line["step"] for line in logged]
    for line, values in zip(noted, logged):
        assert [pair["learners"] for pair in line["pairs"]] == [[1, 1], [1, 2], [2, 2]]
        assert values["learners/self"] == pytest.approx(line["pairs"][1]["self"]["mean"])


def test_diagnose_finds_what_its_parts_find(ensembles, world, tmp_path):  # noqa: F811
    run_folder = ensembles / "student" / "seed0"
    done = run("diagnose", run_folder, f"out={tmp_path / 'found'}", "device=cpu", cwd=tmp_path)
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "found" / "learners.json").read_text())
    pairs = open_set("verify", load_card(str(world.card)), str(world.data))
    network = load_backbone(run_folder)[0].eval()
    plain, mirrored = embed(network, decode_all(pairs.images, pairs.image_names), 14, "bicubic", device=torch.device("cpu"))
    entries = similarities(plain, 2, pairs.left, pairs.right, pairs.same)
    for ours, theirs in zip(entries, found["pairs"], strict=True):
        assert ours["learners"] == theirs["learners"]
        assert theirs["positive"]["mean"] == pytest.approx(ours["positive"]["mean"], abs=1e-3)
    assert found["ensemble"]["map@r"] == pytest.approx(retrieve(plain + mirrored, pairs.identity).map_at_r, abs=0.02)
    assert found["ensemble"]["recall@1"] == pytest.approx(retrieve(plain + mirrored, pairs.identity, [1]).recall[1], abs=0.02)
    assert list(found["learners"]) == ["learner 1", "learner 2"] and len(found["over_training"]) == 1
    assert np.sum(found["pairs"][1]["self"]["counts"]) == len(pairs.images)
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"learners.json", "similarities.png", "pairs.png", "masks.png", "accuracy.png"}
    assert "| ensemble " in done.out and "mean cosines: self" in done.out
    for arguments, said in ((["eval.sizes=[112]"], "eval.sizes= says nothing here"), (["size=0"], "size= must be a number of pixels")):
        refused = run("diagnose", run_folder, *arguments, cwd=tmp_path)
        assert refused.status == 2 and said in refused.err


def test_diagnose_gives_a_single_network_the_figures_of_its_control(distilled, tmp_path):  # noqa: F811
    done = run("diagnose", distilled.of("student"), "out=found", cwd=tmp_path)
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "found" / "figures.json").read_text())
    rows = json.loads((distilled.folder / "benchmark" / "seed0" / "results.json").read_text())["rows"]
    scored, = (row for row in rows if (row["model"], row["size"], row["protocol"]) == ("student", 14, found["protocol"]))
    assert found["network"]["auc"] == pytest.approx(scored["auc"], abs=1e-6) and found["network"]["accuracy"] == pytest.approx(scored["accuracy"])
    assert 0 <= found["network"]["recall@1"] <= found["network"]["recall@2"] <= 1 and "| network " in done.out and "cosines" not in done.out


def test_an_ensemble_teaches_a_single_network_its_maps_and_its_centres(ensembles, world, tmp_path):  # noqa: F811
    teacher = ensembles / "teacher" / "seed0"
    given = (f"recipe={world.recipe}", "method=askd+kd+centres", "name=mini", f"teacher.checkpoint={teacher}", "baseline.enabled=false",
             "after=[]", "eval.during=[]")
    done = run("distill", *given, cwd=tmp_path)
    assert done.status == 0, done.err
    head = safetensors.torch.load_file(tmp_path / "runs" / "mini" / "student" / "seed0" / "head.safetensors")
    theirs = safetensors.torch.load_file(teacher / "head.safetensors")
    expected = torch.cat([torch.nn.functional.normalize(theirs[f"heads.{m}.centres"]) for m in (0, 1)], 1)
    torch.testing.assert_close(head["centres"], expected)


def test_a_branch_that_is_not_there_ends_before_training(world, tmp_path):  # noqa: F811
    done = run("distill", f"recipe={world.recipe}", "network.ensemble.branch=9", cwd=tmp_path)
    assert done.status == 2 and "network.ensemble.branch must be a stage after which to branch, 1 to 4, got 9" in done.err
    assert "Traceback" not in done.err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [
    ("head.kind=contrastive", "head.margin=1", "data.sampler=pairs"),
    ("head.kind=triplet", "head.margin=0.2", "data.sampler=identities", "data.images_per_identity=4"),
])
def test_metric_losses_train_without_class_centres(world, arguments, tmp_path):  # noqa: F811
    done = run("teach", f"recipe={world.recipe}", *arguments, *ABE, "eval.during=[]", cwd=tmp_path)
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / "mini" / "teacher" / "seed0"
    assert not (folder / "head.safetensors").exists() and (folder / "model.safetensors").exists()
    assert read_state(folder / "checkpoints" / "step_00000003.pt")["modules"]["head"] == {}
    for line in lines(folder, "loss"):
        assert line["loss"] == pytest.approx(line["identity"] + 3 * line["divergence"], rel=1e-5) and line["identity"] > 0
