"""Every term of the schema has a loss that takes its keys, and every loss is a term of the schema."""
from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields
from types import SimpleNamespace
from typing import get_args, get_type_hints

import onnx
import pytest
import safetensors.torch
import torch
import yaml

from askd.engine.checkpoint import read_state
from askd.errors import RecipeError
from askd.method import check_method, inherit_centres, make_head, make_taught_head, make_terms, needs_norms
from askd.models.features import Features
from askd.models.iresnet import IResNet
from askd.models.onnx_network import OnnxNetwork
from askd.recipe import fill_defaults, load, training_view
from askd.schema import AttentionTerm, Distill, EmbeddingTerm, RelationTerm
from askd.terms import REMEDIES, TERMS
from tiny import distilled, run, world  # noqa: F401, fixtures


SMALL = dict(blocks=(1, 1, 1, 1), widths=(4, 4, 8, 8), stem_stride=2, attention="cbam", reduction=2)


def schema_of(name: str) -> set[str]:
    """The keys of one term, weight aside."""
    kind = get_args(get_type_hints(Distill)[name])[0]
    return {key.name for key in fields(kind)} - {"weight"}


@pytest.mark.parametrize("name", TERMS)
def test_factories_take_the_keys_of_their_field(name):
    assert set(inspect.signature(TERMS[name]).parameters) - {"heads", "ranks"} == schema_of(name)


@pytest.mark.parametrize("name, options", [
    ("attention", dict(space="maps", reduction="mean", channel=1.0, spatial=1.0)),
    ("feature", dict(distance="cosine", hint="none", stages=[1, 4])),
    ("relation", dict(distance=1.0, angle=2.0, cross=1.0)),
    ("embedding", dict(distance="cosine", projection="none")),
])
def test_a_term_is_one_graph_where_it_is_compiled(name, options):
    torch.manual_seed(0)
    ours, theirs = (IResNet(**SMALL, embedding=8).eval().forward_all(torch.randn(3, 3, 112, 112)) for _ in range(2))
    term, label = TERMS[name](**options), torch.zeros(3, dtype=torch.long)
    compiled = torch.compile(term, backend="eager", fullgraph=True)
    assert torch.equal(compiled(ours, theirs, label), term(ours, theirs, label))


def test_every_term_says_what_would_fit():
    assert set(REMEDIES) == set(TERMS)


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


ALL = {
    "attention": 5, "feature": 20, "relation": 4, "logit": 1, "embedding": 10,
}


@pytest.fixture(scope="module")
def everything(distilled, tmp_path_factory):  # noqa: F811
    """A student of every term at once, on the classes' centres that its teacher learnt, and where it ran."""
    cwd = tmp_path_factory.mktemp("everything")
    done = run(
        "distill", f"recipe={distilled.world.recipe}", "method=askd+fskd+cross+kd+embedding+centres", "name=mini", "precision=fp32",
        f"teacher.checkpoint={distilled.of('teacher')}", "distill.embedding.projection=linear", "baseline.enabled=false", "after=[]",
        cwd=cwd,
    )
    assert done.status == 0, done.err
    return cwd / "runs" / "mini" / "student" / "seed0"


def test_all_terms_go_together_and_add_up(everything):
    lines = [line for line in map(json.loads, (everything / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    assert len(lines) == 3
    for line in lines:
        assert line["loss"] == pytest.approx(line["identity"] + sum(weight * line[name] for name, weight in ALL.items()), rel=1e-5)


def test_projections_are_checkpointed_and_not_exported(everything):
    modules = read_state(everything / "checkpoints" / "step_00000003.pt")["modules"]
    assert set(modules) == {"trunk", "head", "projections"}
    assert {key.split(".")[0] for key in modules["projections"]} == {"hints", "embedding"}
    model = safetensors.torch.load_file(everything / "model.safetensors")
    assert model.keys() == modules["trunk"].keys() and all(torch.equal(model[key], modules["trunk"][key]) for key in model)
    assert modules["projections"]["hints.0.1.num_batches_tracked"].item() == 3  # trained along


def test_inherited_centres_stay_the_teacher_s(everything, distilled):  # noqa: F811
    ours, theirs = (safetensors.torch.load_file(folder / "head.safetensors") for folder in (everything, distilled.of("teacher")))
    assert ours.keys() == theirs.keys() == {"centres"} and torch.equal(ours["centres"], theirs["centres"])


@pytest.fixture
def means(tmp_path) -> OnnxNetwork:
    """A foreign recogniser: the mean of each channel."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image"], ["embedding"], axes=[2, 3], keepdims=0)], "means",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "means.onnx")
    return OnnxNetwork(tmp_path / "means.onnx")


def refused(*arguments, student, teacher) -> str:
    with pytest.raises(RecipeError) as error:
        check_method(load(["recipe=demo", *arguments]), student, teacher, "their.onnx")
    message = str(error.value)
    assert "\n" not in message and "student iresnet10" in message and "teacher their.onnx" in message
    return message


@pytest.mark.parametrize("method, said", [
    ("askd", "distill.attention does not fit .* got 4 and 0; use a teacher of the student's attention"),
    ("fskd", "distill.feature does not fit .*the teacher has 0; use a teacher that is a run of ours with such stages"),
    ("at", "the teacher has 0"), ("cross", "distill.relation does not fit .*the teacher 0; .*distill.relation.cross=0"),
    ("embedding", r"embeddings of student \(4, 6\) and teacher \(4, 3\) cannot be compared; set network.embedding"),
    ("centres", "distill.centres does not fit .*embeddings of 6 and 3; set network.embedding=3"),
])
def test_what_an_onnx_teacher_lacks_is_said_before_training(method, said, means):
    assert re.search(said, refused(f"method={method}", student=IResNet(**SMALL, embedding=6), teacher=means))


def test_what_an_onnx_teacher_can_give(means):
    student = IResNet(**SMALL, embedding=6)
    for arguments in (["method=embedding", "distill.embedding.projection=linear"], ["method=rkd"], ["method=kd_mean"]):
        projections = check_method(load(["recipe=demo", *arguments]), student, means, "their.onnx")
        assert (projections is None) == (arguments[0] != "method=embedding")
    assert check_method(load(["recipe=demo", "method=embedding"]), IResNet(**SMALL, embedding=3), means, "their.onnx") is None


def test_hints_fit_stages_of_other_widths_and_none_does_not():
    student, teacher = IResNet(**SMALL, embedding=6), IResNet(**SMALL | {"widths": (4, 6, 8, 10)}, embedding=6)
    projections = check_method(load(["recipe=demo", "method=fskd"]), student, teacher, "theirs")
    assert [hint[0].weight.shape[:2] for hint in projections.hints] == [(4, 4), (6, 4), (8, 8), (10, 8)]
    assert check_method(load(["recipe=demo", "method=fitnet"]), student, teacher, "theirs").hints[0].weight.shape[:2] == (6, 4)
    message = refused("method=fskd", "distill.feature.hint=none", student=student, teacher=teacher).replace("theirs", "")
    assert "stage 2: features of student (4, 4, 28, 28) and teacher (4, 6, 28, 28)" in message
    assert "cross" in refused("method=cross", student=student, teacher=teacher)
    assert "stages 5" in refused("method=fskd", "distill.feature.stages=[5]", student=student, teacher=teacher)


def test_projections_draw_from_nobody_else_s_random_numbers():
    student, teacher, recipe = IResNet(**SMALL, embedding=6), IResNet(**SMALL, embedding=6), load(["recipe=demo", "method=fskd"])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = check_method(recipe, student, teacher, "theirs")
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(5)
    again = check_method(recipe, student, teacher, "theirs")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))


@pytest.mark.parametrize("logits", ["margin", "cosine"])
def test_kd_softens_the_logits_of_both_heads(logits):
    recipe = load(["recipe=demo", "method=kd", f"distill.logit.logits={logits}", "distill.logit.temperature=3"])
    torch.manual_seed(0)
    heads = make_head(recipe, 6, 5), make_head(recipe, 4, 5, subcentres=2)
    (weight, term), = make_terms(recipe, heads).values()
    from askd.losses.logit import softened_divergence

    embeddings, label = (torch.randn(3, 6), torch.randn(3, 4)), torch.tensor([0, 4, 2])
    ours, theirs = (
        head.logits(e, label) if logits == "margin" else recipe.head.logit_scale * head.cosine(e) for head, e in zip(heads, embeddings)
    )
    assert weight == 1 and torch.equal(term(*(Features(e, (), ()) for e in embeddings), label), softened_divergence(ours, theirs, 3))


@pytest.mark.parametrize("parts", [1, 2])
def test_student_and_teacher_have_one_margin_while_it_grows(parts, tmp_path):
    """Equal heads and embeddings: KD is 0 at every step, in every part of a batch."""
    recipe = load(["recipe=demo", "method=kd", "head.warmup_epochs=1"])
    torch.manual_seed(0)
    head, names = make_head(recipe, 6, 5), [f"person {i}" for i in range(5)]
    head.warm_up(4, parts)
    (tmp_path / "head.safetensors").write_bytes(safetensors.torch.save({"centres": head.centres.detach()}))
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    heads = inherit_centres(recipe, head, None, tmp_path, SimpleNamespace(class_names=names), torch.device("cpu"))
    (_, term), = make_terms(recipe, heads).values()
    features, label = Features(torch.randn(4, 6), (), ()), torch.tensor([0, 4, 2, 1])
    grown = []
    for _ in range(6 * parts):
        head.train()(features.embedding, label)
        grown.append(head.logits(features.embedding, label).gather(1, label[:, None]).sum().item())
        assert term(features, features, label).item() == pytest.approx(0, abs=1e-6)
    assert len(set(grown)) == 5 and grown[:parts] == grown[:1] * parts  # none, a quarter, half, three, all: a step's parts alike


@pytest.mark.parametrize("arguments", [["distill.logit.logits=cosine"], ["distill.logit.logits=cosine", "distill.logit.source=mean"]])
def test_cosines_need_no_norms_of_the_teacher(arguments):
    """AdaFace's student and a teacher of any head."""
    recipe = load(["recipe=demo", "method=kd", "head.kind=adaface", "head.margin=0.4", *arguments])
    theirs = make_taught_head(recipe, 6, 5)
    assert set(theirs.state_dict()) == {"centres"} and not needs_norms(recipe)
    assert "norms.mean" in make_head(recipe, 6, 5).state_dict()


@pytest.mark.parametrize("teaching, student, said", [
    ("", ["recipe=adaface.yaml", "method=kd"], "feature norms of a teacher.*and world trains its own with arcface"),
    ("head: {kind: contrastive, margin: 1}\ndata: {sampler: pairs}", ["method=kd"], "distill.logit takes class centres.*kind=contrastive, which has none"),
    ("head: {subcentres: 2}\nnetwork: {ensemble: {learners: 2}}", ["method=kd"], "ensemble with several centres per class"),
    ("head: {kind: adaface}\nnetwork: {ensemble: {learners: 2}}", ["method=centres"], "ensemble with AdaFace"),
])
def test_heads_that_do_not_fit_are_found_before_the_teacher_is_trained(distilled, tmp_path, teaching, student, said):  # noqa: F811
    (tmp_path / "adaface.yaml").write_text(f"extends: {distilled.world.recipe}\nhead: {{kind: adaface, margin: 0.4}}\n")
    (tmp_path / "world.yaml").write_text(f"extends: {distilled.world.recipe}\nname: world\ndistill: {{attention: null}}\n{teaching}\n")
    recipe = [] if student[0].startswith("recipe=") else [f"recipe={distilled.world.recipe}"]
    done = run("distill", *recipe, f"teacher.recipe={tmp_path / 'world.yaml'}", *student, "out=here", cwd=tmp_path)
    assert done.status == 2 and re.search(said, done.err) and not (tmp_path / "here").exists(), done.err


def test_a_term_that_says_nothing_of_the_teacher_gets_all_of_it():
    class Unheard:
        weight = 1.0

    distill = Distill(embedding=EmbeddingTerm())
    assert distill.teacher_parts() == set()
    distill.centres = Unheard()  # as a new section without `teacher_parts` would be
    assert distill.teacher_parts() == {"attention", "stages"}
    assert Distill(attention=AttentionTerm()).teacher_parts() == {"attention"} and Distill(relation=RelationTerm(cross=1)).teacher_parts() == {"stages"}


def test_a_student_learns_from_a_recogniser_without_labels(distilled, means, tmp_path):  # noqa: F811
    done = run(
        "distill", f"recipe={distilled.world.recipe}", "method=embedding", "name=mini", f"teacher.checkpoint={means.path}", "head.weight=0",
        "network.embedding=3", "baseline.enabled=false", "after=[benchmark]", "eval.sizes=[14]", cwd=tmp_path,
    )
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / "mini" / "student" / "seed0"
    lines = [line for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    assert all(line["loss"] == pytest.approx(10 * line["embedding"]) and "identity" not in line for line in lines)
    assert not (folder / "head.safetensors").exists()
    assert json.loads((folder / "meta.json").read_text())["teacher"]["sha256"] == means.sha256
    for arguments, said in (
        (["method=kd_mean"], "needs class centres of the student"), (["method=base", "baseline.enabled=false"], "distils nothing"),
        (["method=embedding", "baseline.enabled=true"], "baseline.enabled must be false with head.weight=0"),
    ):
        refusal = run(
            "distill", f"recipe={distilled.world.recipe}", f"teacher.checkpoint={means.path}", "head.weight=0", "network.embedding=3",
            *arguments, cwd=tmp_path,
        )
        assert refusal.status == 2 and said in refusal.err


def test_a_teacher_that_was_taught_itself_is_its_recipe_s_student(distilled, means, tmp_path):  # noqa: F811
    common = {"extends": str(distilled.world.recipe), "network": {"embedding": 3}, "baseline": {"enabled": False}, "after": []}
    above = common | {
        "head": {"weight": 0}, "data": {"sizes": [112]}, "teacher": {"checkpoint": str(means.path)},
        "distill": {"attention": None, "embedding": {"weight": 1}}, "eval": {"during": []},
    }
    (tmp_path / "above.yaml").write_text(yaml.safe_dump(above))
    (tmp_path / "below.yaml").write_text(yaml.safe_dump(common | {"teacher": {"recipe": str(tmp_path / "above.yaml")}}))
    done = run("distill", "recipe=below.yaml", "method=askd+kd_mean+rkd", "name=below", cwd=tmp_path)  # it has no centres to give
    assert done.status == 0, done.err
    runs = tmp_path / "runs"
    assert {path.name for path in runs.iterdir()} == {"above", "below"}
    assert [path.name for path in (runs / "above").iterdir()] == ["student"]
    meta = {name: json.loads((runs / name / "student" / "seed0" / "meta.json").read_text()) for name in ("above", "below")}
    assert meta["above"]["sizes"] == [112] and meta["above"]["teacher"]["path"] == str(means.path)
    assert meta["below"]["sizes"] == [14] and meta["below"]["teacher"]["path"] == "runs/above/student/seed0"
    assert "fed RGB as (x - [127.5]) / [127.5] by InsightFace's convention" in done.err

    refusal = run("distill", "recipe=below.yaml", "method=kd", "name=other", cwd=tmp_path)
    assert refusal.status == 2 and "distill.logit takes class centres from a teacher that above trains without any" in refusal.err
    (tmp_path / "above.yaml").write_text(yaml.safe_dump(common | {"teacher": {"recipe": str(tmp_path / "below.yaml")}}))
    refusal = run("distill", "recipe=below.yaml", "name=other", cwd=tmp_path)
    assert refusal.status == 2 and "teacher.recipe goes in a circle" in refusal.err
