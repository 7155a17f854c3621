"""Every term of the schema has a loss that takes its keys, and every loss is a term of the schema."""
from __future__ import annotations

import inspect
import json
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

from askd.recipe import fill_defaults, load, training_view
from askd.schema import Distill
from askd.teach import make_terms
from askd.terms import TERMS
from tiny import distilled, run, world  # noqa: F401, fixtures


def schema_of(name: str) -> set[str]:
    """The keys of one term, weight aside."""
    kind = get_args(get_type_hints(Distill)[name])[0]
    return {key.name for key in fields(kind)} - {"weight"}


@pytest.mark.parametrize("name", TERMS)
def test_factories_take_the_keys_of_their_field(name):
    assert set(inspect.signature(TERMS[name]).parameters) - {"heads"} == schema_of(name)


def test_a_recipe_names_its_terms_and_may_drop_inherited_ones():
    terms = make_terms(load(["recipe=demo", "distill.embedding.weight=3"]))
    assert {name: weight for name, (weight, _) in terms.items()} == {"attention": 5, "embedding": 3}
    assert list(make_terms(load(["recipe=demo", "distill.attention=null", "distill.embedding.distance=l2"]))) == ["embedding"]


def test_a_run_from_before_a_key_existed_is_still_itself():
    recipe = load(["recipe=demo", "distill.embedding.weight=3"])
    ours = json.loads(json.dumps({"recipe": training_view(recipe, "student"), "role": "student"}))
    older = json.loads(json.dumps(ours))
    del older["recipe"]["distill"]["embedding"]["distance"], older["recipe"]["head"]["margin"]
    assert fill_defaults(ours, older)["recipe"]["distill"] == ours["recipe"]["distill"]
    assert fill_defaults(ours, older)["recipe"]["head"]["margin"] == 0.5 != ours["recipe"]["head"]["margin"]  # the default, no more
    assert fill_defaults(ours, {"role": "student"}) == {"role": "student", "recipe": {}}


def test_embedding_alone_distils(distilled, tmp_path):  # noqa: F811
    done = run(
        "distill", f"recipe={distilled.world.recipe}", f"teacher.checkpoint={distilled.of('teacher')}", "distill.attention=null",
        "distill.embedding.weight=2", "baseline.enabled=false", "after=[]", cwd=tmp_path,
    )
    assert done.status == 0, done.err
    lines = (tmp_path / "runs" / "mini" / "student" / "seed0" / "metrics.jsonl").read_text().splitlines()
    logged = [line for line in map(json.loads, lines) if "loss" in line]
    assert len(logged) == 3
    for line in logged:
        assert line["loss"] == pytest.approx(line["identity"] + 2 * line["embedding"], rel=1e-5) and "attention" not in line
    assert "distill.embedding.weight=8" in done.out


def test_nothing_to_distil_is_refused(distilled, tmp_path):  # noqa: F811
    done = run("distill", f"recipe={distilled.world.recipe}", "distill.attention=null", cwd=tmp_path)
    assert done.status == 2 and "distils nothing" in done.err


def test_a_teacher_of_another_width_is_refused_before_training(distilled, tmp_path):  # noqa: F811
    done = run(
        "distill", f"recipe={distilled.world.recipe}", f"teacher.checkpoint={distilled.of('teacher')}", "network.embedding=16",
        "distill.embedding.weight=2", cwd=tmp_path,
    )
    assert done.status == 2 and "distill.embedding does not fit student iresnet10" in done.err and "(4, 16)" in done.err
    assert not (tmp_path / "runs").exists()
