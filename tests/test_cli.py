"""The command line: help that names everything, for what is wrong one line, exit status 2 and nothing left behind."""
from __future__ import annotations

import io
import json
import shutil
import signal
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import cv2
import numpy as np
import pytest
import torch
import yaml

from askd import cli
from askd.data.recordio import write_recordio
from askd.engine.checkpoint import save_weights
from askd.engine.loop import Interrupted
from askd.errors import DataError
from askd.models import BACKBONES, make_backbone
from askd.resources import list_resources
from askd.schema import Recipe
from tiny import Finished, distilled, run, world  # noqa: F401, fixtures

VERBS = ("teach", "distill", "benchmark", "export")


def keys(cls: type, prefix: str = "") -> list[str]:
    """Every key of the schema that takes a value."""
    found = []
    for name, kind in get_type_hints(cls).items():
        section = next((a for a in (kind, *get_args(kind)) if is_dataclass(a)), None)
        found += keys(section, f"{prefix}{name}.") if section else [prefix + name]
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_recipe_and_key(verb, tmp_path):
    shown = run(verb, "--help", cwd=tmp_path)
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert sum(line.startswith(f"  python -m askd.{verb} ") for line in lines) == 1
    for recipe in list_resources("recipes"):
        said, = (line for line in lines if line.split()[:1] == [recipe])
        assert len(said.split()) > 3, recipe  # the name, and what it is
    for key in keys(Recipe):
        at, = (number for number, line in enumerate(lines) if line.startswith(f"  {key} ("))
        assert lines[at].endswith(")") and lines[at + 1].startswith("      ") and len(lines[at + 1].split()) >= 2, key
    assert len(keys(Recipe)) > 50


def test_help_says_choices_defaults_and_units(tmp_path):
    out = run("teach", "recipe=demo", "-h", cwd=tmp_path).out
    assert "data.degradation (bicubic, of bicubic|bilinear|area|nearest|random|released)" in out
    assert "data.sizes ([28])\n      Pixels" in out
    assert "head.margin (0.5)\n      arcface: radians" in out
    assert "data.set (required)" in out
    assert all(name in out.split("network.backbone")[1].split("network.attention")[0] for name in BACKBONES)


def fake(error: BaseException, monkeypatch, capsys) -> tuple[int, str]:
    """Exit status and standard error of a verb that ends in `error`."""
    def main(arguments):
        raise error

    monkeypatch.setattr("sys.argv", ["askd.verb", "recipe=demo"])
    with pytest.raises(SystemExit) as left:
        cli.run("verb", "What.", main)
    return left.value.code, capsys.readouterr().err


def test_exit_statuses(monkeypatch, capsys):
    assert fake(DataError("no faces\nanywhere"), monkeypatch, capsys) == (2, "askd.verb: no faces anywhere\n")
    assert fake(Interrupted(signal.SIGTERM, 7), monkeypatch, capsys)[0] == 143
    assert fake(Interrupted(signal.SIGINT, 7), monkeypatch, capsys)[0] == 130
    assert fake(KeyboardInterrupt(), monkeypatch, capsys) == (130, "askd.verb: interrupted\n")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["askd.verb"])
    with pytest.raises(ZeroDivisionError):
        cli.run("verb", "What.", lambda arguments: 1 / 0)


def assert_refused(done: Finished, verb: str, *said: str) -> None:
    assert done.status == 2, done.err
    assert done.err.count("\n") == 1 and done.err.startswith(f"askd.{verb}: "), done.err
    for words in said:
        assert words in done.err


MINI = "the little recipe"
BAD_ARGUMENTS = [
    (["recipe=ms1n_x4"], ["'ms1n_x4'", "did you mean ms1m_x4?"]),
    (["recipe=demo", "data.sizs=[8]"], ["unknown key data.sizs", "did you mean data.sizes?"]),
    (["recipe=demo", "data.sizes=five"], ["data.sizes", "five"]),
    (["recipe=demo", "data.sizes=[0]"], ["data.sizes must be between 1 and 112 pixels, got 0"]),
    (["recipe=demo", "data.sizes=[14,113]"], ["data.sizes must be between 1 and 112 pixels, got 113"]),
    (["recipe=demo", "eval.sizes=113"], ["eval.sizes must be between 1 and 112 pixels, got 113"]),
    (["recipe=demo", "teacher.sizes=[]"], ["teacher.sizes", "at least one"]),
    (["recipe=demo", "data.sizes=[1,"], ["command line"]),
    (["recipe=demo", "train=3"], ["train is a section with keys epochs"]),
    (["recipe=demo", "train.lr=null"], ["train.lr"]),
    (["recipe=demo", "train.epochs=.inf"], ["train.epochs", "inf"]),
    (["recipe=demo", "name=${nobody}"], ["name", "nobody"]),
    (["recipe=demo", "seed=-1"], ["seed", "-1"]),
    (["recipe=demo", "data.set=dem"], ["'dem'", "did you mean demo"]),
    (["demo"], ["arguments are key=value, got 'demo'", "--help"]),
    ([], ["say which recipe", "demo"]),
    ([MINI, "device=cuda"], ["no CUDA device", "device=cpu"]),
    ([MINI, "network.backbone=resnet50"], ["network.backbone", "'resnet50'", "iresnet50"]),
    ([MINI, "network.backbone=mobilfacenet"], ["network.backbone", "did you mean mobilefacenet?"]),
    ([MINI, "network.backbone=timm/resnt18", "network.attention=none", "method=embedding"], ["did you mean timm/resnet18?"]),
    ([MINI, "network.backbone=timm/resnet18"], ["network.backbone=timm/resnet18", "takes no attention modules, got attention=cbam"]),
    ([MINI, "network.backbone=timm/sam2_hiera_tiny", "network.attention=none", "method=embedding"], ["cannot take 112x112 images"]),
    ([MINI, "network.attention=se", "network.cbam_order=parallel"], ["network.cbam_order", "network.attention=se", "parallel"]),
    ([MINI, "network.embedding=0"], ["network.embedding", "0"]),
    ([MINI, "network.attention=none"], ["network.attention", "none"]),
    ([MINI, "distill.attention=null"], ["distils nothing", "askd.teach"]),
    ([MINI, "distill.attention.channel=0", "distill.attention.spatial=0"], ["one of them above 0"]),
    ([MINI, "train.batch=64"], ["48 training images", "train.batch=64"]),
    ([MINI, "train.warmup_epochs=2"], ["train.warmup_epochs must be below train.epochs=1", "2"]),
    ([MINI, "train.schedule=multistep", "train.milestones=[2,1]"], ["milestones"]),
    ([MINI, "train.lr=-1"], ["train.lr", "-1"]),
    ([MINI, "train.optimizer=sgd", "train.momentum=0"], ["train.momentum", "nesterov"]),
    ([MINI, "data.min_images=5"], ["min_images"]),
    ([MINI, "data.path=/etc"], ["/etc"]),
    ([MINI, "data.holdout=0.2", "eval.during=[holdout]"], ["eval.during=holdout", "genuine"]),
    ([MINI, "eval.sets=[verif]"], ["verif", "verify"]),
    ([MINI, "eval.sets=[]"], ["no eval.sets"]),
    ([MINI, "eval.during=[verif]"], ["verif", "verify"]),
    ([MINI, "eval.select=verif"], ["eval.select", "last, verify"]),
    ([MINI, "eval.batch=0"], ["eval.batch", "0"]),
    ([MINI, "teacher.recipe=demmo"], ["'demmo'", "did you mean demo?"]),
    ([MINI, "teacher.checkpoint=nowhere"], ["nowhere: no such run folder or checkpoint"]),
    ([MINI, "out=/dev/null/runs"], ["cannot write /dev/null/runs", "another out="]),
]


@pytest.mark.parametrize(("arguments", "said"), BAD_ARGUMENTS)
def test_bad_argument_is_one_line(arguments, said, world, tmp_path):  # noqa: F811
    if "device=cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    arguments = [f"recipe={world.recipe}" if argument == MINI else argument for argument in arguments]
    assert_refused(run("distill", *arguments, cwd=tmp_path), "distill", *said)
    assert {path.name for path in tmp_path.iterdir()} == {"out.txt", "err.txt"}
    assert (tmp_path / "out.txt").read_text() == ""


def test_teach_cannot_start_from_a_teacher(world, tmp_path):  # noqa: F811
    done = run("teach", f"recipe={world.recipe}", "network.init=teacher", "teacher.sizes=[14]", cwd=tmp_path)
    assert_refused(done, "teach", "network.init=teacher", "knows of no teacher", "path of a run folder")


def test_data_that_is_not_there(tmp_path):
    done = run("distill", "recipe=ms1m_x4", cwd=tmp_path)
    # The files, where they are described, and where to put them.
    said = ("train.rec", "train.idx", "lfw.bin", "https://", "put it at datasets/ms1m", "data.path=FOLDER")
    assert_refused(done, "distill", *said)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "datasets").exists()
    elsewhere = run("teach", "recipe=lfw", "data.path=here", cwd=tmp_path)
    assert_refused(elsewhere, "teach", "here is not there", "data.path=FOLDER")


@pytest.fixture
def spoilt_data(world, tmp_path) -> Path:  # noqa: F811
    """A copy of the world's data that a test may spoil."""
    return shutil.copytree(world.data, tmp_path / "data")


@pytest.mark.parametrize("kept", [0, 100, -100])
@pytest.mark.parametrize("name", ["verify.bin", "train.rec", "train.idx"])
def test_truncated_file_is_named(name, kept, spoilt_data, world, tmp_path):  # noqa: F811
    file = spoilt_data / name
    content = file.read_bytes()
    file.write_bytes(content[:kept])
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    done = run("distill", f"recipe={world.recipe}", f"data.path={spoilt_data}", cwd=cwd)
    assert_refused(done, "distill", str(spoilt_data / name.split(".")[0]))
    assert not (cwd / "runs").exists()


def test_truncated_bin_given_by_path(spoilt_data, world, tmp_path):  # noqa: F811
    file = tmp_path / "lfw.bin"
    file.write_bytes((spoilt_data / "verify.bin").read_bytes()[:5000])
    for verb, key in (("distill", "eval.sets"), ("teach", "eval.during")):
        done = run(verb, f"recipe={world.recipe}", f"{key}=[{file}]", cwd=tmp_path)
        assert_refused(done, verb, str(file), "5000")
    assert not (tmp_path / "runs").exists()


def damaged_data(world, folder: Path, broken: int) -> tuple[str, str]:  # noqa: F811
    """Six people with four images each in a .rec, image number `broken` damaged: what to say to a verb."""
    (folder / "faces").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    jpegs = [cv2.imencode(".jpg", rng.integers(0, 256, (112, 112, 3), np.uint8))[1].tobytes() for _ in range(24)]
    write_recordio(folder / "faces", ((i // 4, jpegs[i] if i != broken else b"\xff\xd8 torn") for i in range(24)), classes=6)
    card = yaml.safe_load(world.card.read_text())
    del card["render"], card["sets"], card["identities"], card["images"]  # there are others here
    (folder / "card.yaml").write_text(yaml.safe_dump(card | {"expects": ["train.rec"]}))
    return f"data.set={folder / 'card.yaml'}", f"data.path={folder / 'faces'}"


@pytest.mark.parametrize("workers", [0, 2])
def test_image_that_cannot_be_read_is_one_line(workers, world, tmp_path):  # noqa: F811
    """Found only once training has begun, so there is a run folder; still no traceback, from a worker neither."""
    done = run(
        "teach", f"recipe={world.recipe}", *damaged_data(world, tmp_path, broken=9), "eval.during=[]", f"data.workers={workers}",
        "train.batch=24", cwd=tmp_path,
    )
    announced, chosen, error = done.err.splitlines()
    assert done.status == 2 and announced.startswith("teacher: iresnet10") and chosen.startswith("teacher: ") and error.startswith("askd.teach: ")
    assert "train.rec: record 10" in error  # keys count from 1


def test_image_that_cannot_be_read_is_skipped_and_counted(world, tmp_path):  # noqa: F811
    """Whatever the number of workers; and what failed goes on with on_bad_image=skip, without the image that stopped it."""
    data = damaged_data(world, tmp_path, broken=9)
    lines = {}
    for workers in (0, 2):
        (tmp_path / str(workers)).mkdir()
        arguments = (f"recipe={world.recipe}", *data, "eval.during=[]", f"data.workers={workers}", "train.batch=8", "train.epochs=2")
        assert run("teach", *arguments, cwd=tmp_path / str(workers)).status == 2
        done = run("teach", *arguments, "data.on_bad_image=skip", cwd=tmp_path / str(workers))
        assert done.status == 0, done.err
        folder = tmp_path / str(workers) / "runs" / "mini" / "teacher" / "seed0"
        assert json.loads((folder / "meta.json").read_text())["training"]["skipped_images"] == 2  # once an epoch
        said = [line for line in done.err.splitlines() if "skipped so far" in line]
        assert said and "2 images skipped so far, the last: " in said[-1] and "train.rec: record 10" in said[-1]
        lines[workers] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert lines[workers][-1]["skipped_images"] == 2
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[2]]


def test_other_class_ids_are_not_resumed(world, tmp_path):  # noqa: F811
    """As many people and images, but numbered otherwise: every class centre would be another person's."""
    for person in range(6):
        (tmp_path / "faces" / f"person {person}").mkdir(parents=True)
        for image in range(2):
            pixels = np.full((112, 112, 3), 20 * person + image, np.uint8)
            cv2.imwrite(str(tmp_path / "faces" / f"person {person}" / f"{image}.png"), pixels)
    card = yaml.safe_load(world.card.read_text())
    del card["render"], card["sets"], card["identities"], card["images"]  # there are others here
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card | {"expects": []}))
    arguments = (
        f"recipe={world.recipe}", f"data.set={tmp_path / 'card.yaml'}", f"data.path={tmp_path / 'faces'}", "eval.during=[]",
        "train.batch=4", "train.epochs=0.5",
    )
    begun = run("teach", *arguments, cwd=tmp_path)
    assert begun.status == 0, begun.err
    (tmp_path / "faces" / "person 5").rename(tmp_path / "faces" / "another")  # sorts first
    refused = run("teach", *arguments, cwd=tmp_path)
    assert_refused(refused, "teach", "runs/mini/teacher/seed0 began with other people, or with the same in another order")


@pytest.mark.parametrize("workers", [0, 2])
def test_loss_that_is_not_finite_is_one_line(workers, world, tmp_path):  # noqa: F811
    done = run(
        "teach", f"recipe={world.recipe}", "train.lr=1e30", "train.clip=null", "train.checkpoint_every=1",
        "train.epochs=3", f"data.workers={workers}", cwd=tmp_path,
    )
    error = done.err.splitlines()[-1]
    assert done.status == 2 and error.startswith("askd.teach: non-finite loss at step 2: loss nan, identity nan")
    assert "step_00000001.pt" in error and "Traceback" not in done.err


@pytest.fixture
def spoilt_teacher(distilled, tmp_path) -> Path:  # noqa: F811
    """A copy of a finished teacher that a test may spoil."""
    left_out = shutil.ignore_patterns("checkpoints", "events*")
    return shutil.copytree(distilled.of("teacher"), tmp_path / "teacher", ignore=left_out)


def distil_from(teacher: Path, world, cwd: Path, *said: str, arguments: tuple[str, ...] = ()) -> None:  # noqa: F811
    done = run("distill", f"recipe={world.recipe}", f"teacher.checkpoint={teacher}", *arguments, cwd=cwd)
    assert_refused(done, "distill", *said)
    assert not (cwd / "runs").exists()


def test_corrupt_teacher(spoilt_teacher, world, tmp_path):  # noqa: F811
    weights = spoilt_teacher / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-1], whole[:1000], b""):
        weights.write_bytes(content)
        distil_from(spoilt_teacher, world, tmp_path, str(spoilt_teacher), "corrupt")
    weights.unlink()
    distil_from(spoilt_teacher, world, tmp_path, "no model.safetensors")
    weights.write_bytes(whole)
    (spoilt_teacher / "meta.json").write_text("{")
    distil_from(spoilt_teacher, world, tmp_path, str(spoilt_teacher), "corrupt")


def test_foreign_checkpoint_that_is_none(distilled, world, tmp_path):  # noqa: F811
    file = tmp_path / "backbone.pth"
    file.write_bytes(b"not a checkpoint")
    distil_from(file, world, tmp_path, str(file), "cannot be read")
    torch.save({"weight": torch.zeros(3)}, file)
    distil_from(file, world, tmp_path, str(file), "no network known here")
    buffer = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, buffer)
    file.write_bytes(buffer.getvalue()[:-200])
    distil_from(file, world, tmp_path, str(file))
    step = distilled.of("teacher") / "checkpoints" / "step_00000003.pt"  # ours, but a training's state, not a network
    distil_from(step, world, tmp_path, str(step))


def test_teacher_of_another_architecture(spoilt_teacher, world, tmp_path):  # noqa: F811
    name = str(spoilt_teacher)
    deeper = ("network.backbone=iresnet18",)
    distil_from(spoilt_teacher, world, tmp_path, "iresnet18", name, "8 and 4", "network.*", arguments=deeper)
    narrower = (f"network.init={spoilt_teacher}", "network.embedding=16")
    distil_from(spoilt_teacher, world, tmp_path, name, "do not fit", arguments=narrower)
    meta = json.loads((spoilt_teacher / "meta.json").read_text())
    for attention, said in (("none", "4 and 0"), ("se", "spatial attention")):
        network = meta["network"] | {"attention": attention}
        save_weights(spoilt_teacher, make_backbone("iresnet10", **network).state_dict(), meta | {"network": network})
        distil_from(spoilt_teacher, world, tmp_path, "distill.attention does not fit", said, name)


def test_teacher_recipe_of_another_architecture(world, tmp_path):  # noqa: F811
    """Known before that teacher is trained."""
    other = tmp_path / "other.yaml"
    changes = {"network": {"attention": "se"}, "distill": {"attention": None}}
    other.write_text(yaml.safe_dump({"extends": str(world.recipe), **changes}))
    done = run("distill", f"recipe={world.recipe}", f"teacher.recipe={other}", cwd=tmp_path)
    assert_refused(done, "distill", "distill.attention does not fit", "spatial attention")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content", ["{", "[]", "null", "3", '"text"', '[["role", 1]]'])
def test_corrupt_run_json_is_named(content, spoilt_teacher, world, tmp_path):  # noqa: F811
    place = tmp_path / "runs" / "mini" / "teacher" / "seed0"
    place.parent.mkdir(parents=True)
    spoilt_teacher.rename(place)
    (place / "run.json").write_text(content)
    assert_refused(run("teach", f"recipe={world.recipe}", cwd=tmp_path), "teach", "runs/mini/teacher/seed0")
