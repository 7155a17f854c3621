"""What training says of its data before it starts."""
from __future__ import annotations

import pytest
import yaml

from askd.errors import DataError
from askd.recipe import load
from askd.training_data import open_training
from askd.watch import watched_set
from tiny import world  # noqa: F401, fixtures


def test_a_set_that_is_not_what_its_card_says_is_one_warning(world, tmp_path, capsys):  # noqa: F811
    card = yaml.safe_load(world.card.read_text())
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(card | {"identities": 13}))
    _, faces, _ = open_training(load([f"recipe={world.recipe}"]))
    assert capsys.readouterr().err == "" and len(faces) == 48
    _, faces, _ = open_training(load([f"recipe={world.recipe}", f"data.set={tmp_path / 'other.yaml'}"]))
    warning = f"warning: mini: {world.data} holds 12 identities, {card['title']} has 13; a part of it, or another release?\n"
    assert capsys.readouterr().err == warning and len(faces) == 48


def test_only_pairs_can_be_watched(world, tmp_path):  # noqa: F811
    for name in ("gallery/Ann_1.jpg", "probe/Ann_2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    recipe = load([f"recipe={world.recipe}"])
    card, _, _ = open_training(recipe)
    with pytest.raises(DataError, match="eval.during=.*: is no set of pairs; name a verification set"):
        watched_set(str(tmp_path), card, recipe, None)
