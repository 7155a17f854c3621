"""What training says of its data before it starts."""
from __future__ import annotations

import pytest
import torch
import yaml

from askd.engine.checkpoint import load_weights, read_state
from askd.data.cards import load_card
from askd.errors import DataError, RecipeError
from askd.method import is_sharded, make_head
from askd.recipe import load
from askd.training_data import make_batches, open_training
from askd.watch import watched_set
from tiny import run, world  # noqa: F401, fixtures


def test_a_set_that_is_not_what_its_card_says_is_one_warning(world, tmp_path, capsys):  # noqa: F811
    card = yaml.safe_load(world.card.read_text())
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(card | {"identities": 13}))
    _, faces, _ = open_training(load([f"recipe={world.recipe}"]))
    assert capsys.readouterr().err == "" and len(faces) == 48
    _, faces, _ = open_training(load([f"recipe={world.recipe}", f"data.set={tmp_path / 'other.yaml'}"]))
    warning = f"warning: mini: {world.data} holds 12 identities, {card['title']} has 13; a part of it, or another release?\n"
    assert capsys.readouterr().err == warning and len(faces) == 48


def test_the_step_is_what_the_recipe_says_and_says_so(world, tmp_path):  # noqa: F811
    options = ["train.ema=0.5", "train.accumulate=2", "head.warmup_epochs=1"]
    done = run("teach", f"recipe={world.recipe}", *options, "precision=bf16", cwd=tmp_path)
    assert done.status == 0, done.err
    assert (
        "teacher: bf16, as asked for; eager: compile=true pays in runs of hours; channels-last; fused adamw; "
        "2 micro-batches of 8, which is what batch norms and relations see; weights averaged with decay 0.5\n"
    ) in done.err
    folder = tmp_path / "runs/mini/teacher/seed0"
    state, (weights, _) = read_state(folder / "checkpoints/step_00000003.pt"), load_weights(folder)
    assert state["modules"]["head"]["warmup._extra_state"] == 6  # two calls in each of three steps
    for name, averaged in weights.items():
        if averaged.is_floating_point():
            assert torch.equal(averaged, state["average"][f"trunk.{name}"])
    assert not torch.equal(weights["stem.0.weight"], state["modules"]["trunk"]["stem.0.weight"])


def test_only_pairs_can_be_watched(world, tmp_path):  # noqa: F811
    for name in ("gallery/Ann_1.jpg", "probe/Ann_2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    recipe = load([f"recipe={world.recipe}"])
    card, _, _ = open_training(recipe)
    with pytest.raises(DataError, match="eval.during=.*: is no set of pairs; name a verification set"):
        watched_set(str(tmp_path), card, recipe, None)


def test_sampling_on_several_processes_needs_sharded_centres(monkeypatch):
    monkeypatch.setattr("askd.method.world_size", lambda: 2)
    assert is_sharded(load(["recipe=demo"])) and not is_sharded(load(["recipe=demo", "head.sharded=false"]))
    with pytest.raises(RecipeError, match=r"head.sample_rate=0.5 on 2 processes needs head.sharded=true \(or null\)"):
        is_sharded(load(["recipe=demo", "head.sharded=false", "head.sample_rate=0.5"]))


def test_more_processes_than_people_is_one_line(monkeypatch):
    monkeypatch.setattr("askd.method.world_size", lambda: 4)
    monkeypatch.setattr("askd.heads.sharded.world_size", lambda: 4)
    with pytest.raises(RecipeError, match="head.sharded: 3 classes cannot be split over 4 processes; set head.sharded=false"):
        make_head(load(["recipe=demo"]), 8, 3)


def test_a_batch_too_small_for_batch_norms_is_one_line(world, monkeypatch):  # noqa: F811
    monkeypatch.setattr("askd.engine.dist.world_size", lambda: 3)
    recipe = load([f"recipe={world.recipe}", "train.batch=5"])
    faces = load_card(recipe.data.set).training_faces(recipe.data.path)
    with pytest.raises(RecipeError, match="train.batch=5 leaves a process with one image at times"):
        make_batches(recipe, faces, [14], torch.device("cpu"))
    recipe.train.sync_bn = True
    assert make_batches(recipe, faces, [14], torch.device("cpu")).least == 1
