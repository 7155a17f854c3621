"""One command, to the end: what it leaves on disk, what it refuses to do twice, and being killed changes no bit."""
from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from askd.engine.step import Stepper
from askd.models import make_backbone
from askd.recipe import load
from askd.teachers import load_backbone, weights_hash
from tiny import PATIENCE, REPOSITORY, distilled, run, world  # noqa: F401, fixtures

ROLES = ("teacher", "baseline", "student")
STEPS = 3


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[int, dict]:
    """The loss and its parts by step."""
    return {line["step"]: line for line in metrics(folder) if "loss" in line}


def bits(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_one_command_does_it_all(distilled):  # noqa: F811
    assert distilled.finished.status == 0, distilled.finished.err
    assert "Traceback" not in distilled.finished.err and "Warning" not in distilled.finished.err
    for role in ROLES:
        assert {path.name.split(".tfevents")[0] for path in distilled.of(role).iterdir()} == {
            "recipe.yaml", "run.json", "classes.txt", "metrics.jsonl", "events.out", "checkpoints", "model.safetensors",
            "head.safetensors", "meta.json",
        }
        kept = sorted(path.name for path in (distilled.of(role) / "checkpoints").iterdir())
        assert kept == ["step_00000002.pt", "step_00000003.pt"]
    assert {path.name for path in (distilled.folder / "benchmark" / "seed0").iterdir()} == {
        "results.json", "results.csv", "results.md", "report.html", "accuracy.png", "roc.png", "attention.png",
        "attention_similarity.png", "errors.png",
    }
    exported = {"student.onnx", "student.pt2", "model.safetensors", "meta.json", "README.md"}
    assert {path.name for path in (distilled.folder / "export" / "seed0").iterdir()} == exported
    assert {path.name for path in distilled.folder.iterdir()} == {*ROLES, "benchmark", "export"}
    assert not list(distilled.cwd.rglob("*.tmp"))


def test_it_says_what_it_does_and_where_everything_lies(distilled):  # noqa: F811
    out, err = distilled.finished.out, distilled.finished.err
    first, second, *_ = err.splitlines()
    assert first == "no teacher yet (teacher.checkpoint is not set): training it by recipe mini"
    assert second.startswith("teacher: iresnet10")
    assert [line.split(":")[0] for line in err.splitlines() if " parameters) at " in line] == list(ROLES)
    assert "at 112 px" in err and err.count("at 14 px") == 2
    for role in ROLES:
        assert f"runs/mini/{role}/seed0" in out
    assert "runs/mini/benchmark/seed0" in out and "runs/mini/export/seed0/student.onnx" in out
    assert "headroom: teacher at 112 px - baseline" in out and "A-SKD: student - baseline" in out


def test_what_to_try_next_can_be_tried(distilled, monkeypatch):  # noqa: F811
    monkeypatch.chdir(distilled.cwd)
    command, = (shlex.split(line) for line in distilled.finished.out.splitlines() if "python -m askd.distill" in line)
    recipe = load(command[3:])
    assert (recipe.name, recipe.distill.attention.weight, recipe.data.sizes) == ("mini_w20", 20, [14])
    assert load_backbone(recipe.teacher.checkpoint)[1]["role"] == "teacher"


def test_loss_parts_are_logged_and_add_up(distilled):  # noqa: F811
    for role in ROLES:
        logged = losses(distilled.of(role))
        assert list(logged) == [1, 2, 3]
        for line in logged.values():
            attention = 5 * line["attention"] if role == "student" else 0
            assert line["loss"] == pytest.approx(line["identity"] + attention, rel=1e-5)
            assert ("attention" in line) == (role == "student") and line["grad_norm"] > 0 and line["lr"] > 0
        scored = [line for line in metrics(distilled.of(role)) if "verify/auc" in line]
        size = 112 if role == "teacher" else 14
        assert [line["step"] for line in scored] == [3]  # after each epoch, of which there is one
        assert 0 <= scored[0]["verify/auc"] == scored[0][f"verify/{size}px/auc"] <= 1


def test_tensorboard_has_it_too(distilled):  # noqa: F811
    for role in ROLES:
        board = EventAccumulator(str(distilled.of(role))).Reload()
        tags = board.Tags()
        parts = {"loss", "identity", "grad_norm", "lr", "images_per_second", "verify/auc"}
        assert parts | ({"attention"} if role == "student" else set()) <= set(tags["scalars"])
        assert "attention" in tags["images"]
        for logged, line in zip(board.Scalars("loss"), losses(distilled.of(role)).values(), strict=True):
            assert logged.step == line["step"] and logged.value == pytest.approx(line["loss"], rel=1e-6)
        png = np.frombuffer(board.Images("attention")[0].encoded_image_string, np.uint8)
        rows = 2 if role == "student" else 1  # its teacher's below
        assert cv2.imdecode(png, cv2.IMREAD_COLOR).shape == (rows * 112, 4 * 112, 3)


def test_run_folder_says_how_it_came_about(distilled, monkeypatch):  # noqa: F811
    monkeypatch.chdir(distilled.cwd)
    for role in ROLES:
        folder = distilled.of(role)
        meta = json.loads((folder / "meta.json").read_text())
        names = (folder / "classes.txt").read_text().splitlines()
        assert names == [str(person) for person in range(12)] and meta["classes"] == 12 and meta["images"] == 48
        assert meta["class_ids"] == hashlib.sha256((folder / "classes.txt").read_bytes()).hexdigest()
        assert meta["training"]["skipped_images"] == 0
        assert meta["sizes"] == ([112] if role == "teacher" else [14])
        assert meta["training"]["step"] == STEPS and meta["degradation"] == "bicubic"
        recipe = load([f"recipe={folder / 'recipe.yaml'}"])
        assert recipe == load([f"recipe={distilled.world.recipe}"])
    assert meta["teacher"]["path"] == "runs/mini/teacher/seed0"
    assert meta["teacher"]["sha256"] == weights_hash(load_backbone(distilled.of("teacher"))[0])
    rows = json.loads((distilled.folder / "benchmark" / "seed0" / "results.json").read_text())["rows"]
    assert {(row["model"], row["size"], row["protocol"]) for row in rows} == {
        (role, size, protocol) for role in ROLES for size in (112, 14) for protocol in ("insightface", "askd")
    }


def test_called_again_it_trains_nothing(distilled):  # noqa: F811
    files = [path for role in ROLES for path in sorted(distilled.of(role).rglob("*")) if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    done = run("distill", f"recipe={distilled.world.recipe}", "after=[]", cwd=distilled.cwd)
    assert done.status == 0
    assert done.err.splitlines() == [f"{role}: runs/mini/{role}/seed0 is done already" for role in ROLES]
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files} == before
    assert [path for role in ROLES for path in sorted(distilled.of(role).rglob("*")) if path.is_file()] == files


@pytest.mark.parametrize(("change", "role", "difference"), [
    ("train.lr=0.003", "teacher", "recipe.train.lr: 0.002 -> 0.003"),
    ("data.degradation=area", "baseline", "recipe.data.degradation: bicubic -> area"),
    ("distill.attention.weight=20", "student", "recipe.distill.attention.weight: 5.0 -> 20.0"),
])
def test_another_training_under_the_same_name_is_refused(change, role, difference, distilled):  # noqa: F811
    before = {role: bits(distilled.of(role)) for role in ROLES}
    done = run("distill", f"recipe={distilled.world.recipe}", change, cwd=distilled.cwd)
    assert done.status == 2
    *_, refusal = done.err.splitlines()
    assert refusal.startswith(f"askd.distill: runs/mini/{role}/seed0 was trained otherwise ({difference}); ")
    assert "name=" in refusal
    assert len(done.err.splitlines()) == 1 + ROLES.index(role)  # those before it are done already
    assert {role: bits(distilled.of(role)) for role in ROLES} == before


def test_what_weights_do_not_depend_on_may_change(distilled):  # noqa: F811
    done = run(
        "distill", f"recipe={distilled.world.recipe}", "after=[]", "data.workers=1", "train.log_every=7",
        "train.checkpoint_every=9", "eval.sizes=[7]", "eval.batch=3", cwd=distilled.cwd,
    )
    assert done.status == 0 and done.err.count("is done already") == 3


def test_never_resuming_refuses_to_overwrite(distilled):  # noqa: F811
    done = run("distill", f"recipe={distilled.world.recipe}", "resume=never", cwd=distilled.cwd)
    assert done.status == 2 and done.err.count("\n") == 1
    assert "runs/mini/teacher/seed0 holds a run and resume=never" in done.err


def test_baseline_and_student_start_from_the_same_weights(distilled, tmp_path):  # noqa: F811
    """With a learning rate of zero they end where they began, but for what batch norms saw, and that is the same."""
    folders = {}
    for seed in (0, 1):
        done = run(
            "distill", f"recipe={distilled.world.recipe}", f"teacher.checkpoint={distilled.of('teacher')}",
            "train.lr=0", "after=[]", "eval.during=[]", "precision=fp32", f"seed={seed}", cwd=tmp_path,
        )
        assert done.status == 0, done.err
        folders[seed] = {role: tmp_path / "runs" / "mini" / role / f"seed{seed}" for role in ("baseline", "student")}
        assert bits(folders[seed]["baseline"]) == bits(folders[seed]["student"])
        torch.manual_seed(seed)
        fresh = make_backbone("iresnet10", attention="cbam", embedding=32)
        ended = safetensors.torch.load_file(folders[seed]["student"] / "model.safetensors")
        assert all(torch.equal(parameter, ended[name]) for name, parameter in fresh.named_parameters())
        same_batches = [losses(folders[seed][role])[1]["identity"] for role in ("baseline", "student")]
        assert same_batches[0] == same_batches[1]
    assert bits(folders[0]["student"]) != bits(folders[1]["student"])


def test_baseline_and_student_start_from_the_teacher(distilled, tmp_path):  # noqa: F811
    done = run(
        "distill", f"recipe={distilled.world.recipe}", f"teacher.checkpoint={distilled.of('teacher')}", "network.init=teacher",
        "train.lr=0", "after=[]", "eval.during=[]", "precision=fp32", cwd=tmp_path,
    )
    assert done.status == 0, done.err
    taught, meta = load_backbone(distilled.of("teacher"))
    for role in ("baseline", "student"):
        folder = tmp_path / "runs" / "mini" / role / "seed0"
        ended = safetensors.torch.load_file(folder / "model.safetensors")
        assert all(torch.equal(parameter, ended[name]) for name, parameter in taught.named_parameters())
        assert json.loads((folder / "meta.json").read_text())["teacher"]["sha256"] == weights_hash(taught)


# All that draws at random: dropout, order, flips, sizes, kernels per image, augmentation; and it is scored in between.
RANDOM = {
    "data": {"sizes": [14, 28, 56, 112], "degradation": "random", "augment": "surveillance", "quantise": True},
    "network": {"dropout": 0.3},
    "train": {"epochs": 3, "checkpoint_every": 2}, "eval": {"every_epochs": 2, "select": "verify"},
    "baseline": {"enabled": False}, "after": [],
}
RANDOM_STEPS = 3 * STEPS


@pytest.fixture(scope="module")
def random_recipe(distilled, tmp_path_factory) -> Path:  # noqa: F811
    path = tmp_path_factory.mktemp("random") / "random.yaml"
    teacher = {"checkpoint": str(distilled.of("teacher"))}
    path.write_text(yaml.safe_dump({"extends": str(distilled.world.recipe), "teacher": teacher, **RANDOM}))
    return path


@pytest.fixture(scope="module")
def uninterrupted(random_recipe, tmp_path_factory) -> Path:
    cwd = tmp_path_factory.mktemp("uninterrupted")
    done = run("distill", f"recipe={random_recipe}", cwd=cwd)
    assert done.status == 0, done.err
    return cwd / "runs" / "random" / "student" / "seed0"


def checkpoints(folder: Path) -> Iterator[int]:
    return (int(path.stem.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*.pt"))


def stop_in_step(number: int, how: signal.Signals) -> None:
    """Have this process send itself a signal in the middle of a training step, counted from 1."""
    take = Stepper.take

    def stopping(self: Stepper, step: int, batch: object) -> bool:
        if step == number - 1:
            os.kill(os.getpid(), how)
        return take(self, step, batch)

    Stepper.take = stopping


@pytest.mark.parametrize(
    ("how", "workers", "least"), [(signal.SIGKILL, 0, 2), (signal.SIGKILL, 2, 6), (signal.SIGTERM, 2, 4)],
)
def test_stopped_and_resumed_ends_with_the_same_bits(how, workers, least, random_recipe, uninterrupted, tmp_path):
    folder = tmp_path / "runs" / "random" / "student" / "seed0"
    arguments = ("distill", f"recipe={random_recipe}", f"data.workers={workers}")
    stopped = run(*arguments, cwd=tmp_path, before=partial(stop_in_step, least + 1, how))
    assert stopped.status == (-signal.SIGKILL if how == signal.SIGKILL else 128 + signal.SIGTERM), stopped.err
    stopped_at = max(checkpoints(folder))
    assert least <= stopped_at < RANDOM_STEPS and not (folder / "meta.json").exists()

    done = run(*arguments, cwd=tmp_path)
    assert done.status == 0, done.err
    assert bits(folder) == bits(uninterrupted)
    ours, theirs = losses(folder), losses(uninterrupted)
    assert list(ours) == list(theirs) == list(range(1, RANDOM_STEPS + 1))  # no step twice, none missing
    for part in ("loss", "identity", "attention", "grad_norm", "lr"):
        assert [line[part] for line in ours.values()] == [line[part] for line in theirs.values()]
    meta, expected = (json.loads((run_folder / "meta.json").read_text()) for run_folder in (folder, uninterrupted))
    assert meta["training"] == expected["training"] and meta["training"]["best_step"] is not None
    assert not list(tmp_path.rglob("*.tmp"))


def test_each_random_source_did_take_part(uninterrupted, random_recipe, tmp_path):
    """Without it, the weights would be others: the test above would not see a source that is silently off."""
    first = losses(uninterrupted)[1]["loss"]
    for off in (
        "network.dropout=0", "data.augment=none", "data.augment=flip", "data.sizes=[14]", "data.degradation=bicubic",
        "seed=1",
    ):
        name = off.translate(str.maketrans(".=[]", "____"))
        done = run(
            "distill", f"recipe={random_recipe}", off, f"name={name}", "train.epochs=0.1", "eval.during=[]",
            "eval.select=last", cwd=tmp_path,
        )
        assert done.status == 0, done.err
        folder, = (tmp_path / "runs" / name / "student").iterdir()
        assert losses(folder)[1]["loss"] != first, off


def test_the_whole_job_on_two_processes_ends_well(distilled, tmp_path):  # noqa: F811
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "askd.distill"]
    done = subprocess.run(
        [*launch, f"recipe={distilled.world.recipe}", f"teacher.checkpoint={distilled.of('teacher')}"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}, timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr  # what rank 0 does alone at the end, export above all, must wait for nobody
    assert (tmp_path / "runs" / "mini" / "benchmark" / "seed0" / "results.json").is_file()
    assert (tmp_path / "runs" / "mini" / "export" / "seed0" / "student.onnx").is_file()
