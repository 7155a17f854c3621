"""Every recipe loads and names only what exists; one is the released code's; misspelt ones lead to the right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from askd.data.cards import Card, load_card
from askd.errors import RecipeError
from askd.models import BACKBONES
from askd.recipe import load, training_view
from askd.resources import list_resources
from askd.schema import (
    Attention, Augment, Degradation, Initialiser, Optimizer, Precision, Protocol, Reduction, Sampler, Schedule, Space,
)

RECIPES = sorted(list_resources("recipes"))


def test_the_promised_recipes_are_there():
    promised = {"demo", "demo_full", "demo_full_x2", "demo_full_x4", "lfw", "lfw_x2", "lfw_x4", "lfw_x8", "casia_x4_released", "tinyface_24"}
    promised |= {"ms1m", "casia"} | {f"{data}_x{scale}" for data in ("ms1m", "casia") for scale in (2, 4, 8)}
    assert promised <= set(RECIPES)


def exists(spec: str, card: Card) -> bool:
    if "/" in spec:
        other, spec = spec.split("/")
        card = load_card(other)
    return spec in card.sets


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_names_what_exists(name):
    recipe = load([f"recipe={name}"])
    assert recipe.name == name
    card = load_card(recipe.data.set)
    assert card.training is not None
    assert recipe.eval.sets and all(exists(spec, card) for spec in recipe.eval.sets)
    assert all(spec == "holdout" or exists(spec, card) for spec in recipe.eval.during)
    assert recipe.network.backbone in BACKBONES
    assert all(1 <= size <= 112 for size in (*recipe.data.sizes, *recipe.eval.sizes))
    if recipe.teacher.recipe is not None:
        teacher = load([f"recipe={recipe.teacher.recipe}"])
        assert (teacher.data.set, teacher.teacher.sizes) == (recipe.data.set, [112])  # the student's images are the teacher's
        if recipe.distill.attention is not None or recipe.network.init == "teacher":  # maps are compared one by one, weights taken over
            assert replace(teacher.network, init="") == replace(recipe.network, init="")
    elif recipe.network.init == "teacher":  # an ONNX recogniser has no weights to start from
        assert not str(recipe.teacher.checkpoint).endswith(".onnx")


@pytest.mark.parametrize("name", RECIPES)
def test_scale_in_the_name_is_the_size(name):
    if "_x" in name:
        scale = int(name.split("_x")[1].split("_")[0])
        assert load([f"recipe={name}"]).data.sizes == [112 // scale]


def test_a_teacher_may_train_for_longer_than_its_students():
    recipe = load(["recipe=demo", "train.epochs=3", "teacher.epochs=9"])
    assert [training_view(recipe, role)["train"]["epochs"] for role in ("teacher", "baseline", "student")] == [9, 3, 3]
    alike = load(["recipe=demo", "train.epochs=3", "teacher.epochs=null"])
    assert training_view(alike, "teacher")["train"]["epochs"] == 3
    with pytest.raises(RecipeError, match="below teacher.epochs=0.5"):
        load(["recipe=demo", "teacher.epochs=0.5"])


@pytest.mark.parametrize("name", RECIPES)
def test_header_says_what_and_how(name):
    header = [line for line in list_resources("recipes")[name].read_text().splitlines() if line.startswith("#")]
    assert f"recipe={name}" in header[1]
    assert header[2].startswith("# Needs")


@pytest.mark.parametrize("name", RECIPES)
def test_baselines_where_they_are_cheap(name):
    recipe = load([f"recipe={name}"])
    learns_labels = recipe.head.weight > 0  # without labels a baseline would have nothing to learn
    assert recipe.baseline.enabled is (recipe.data.set in ("demo", "demo_full", "lfw") and learns_labels)


METHODS = sorted(list_resources("methods"))
OVER_THE_NETWORK = {"se", "cbam", "no_attention", "kernel3", "kernel7", "from_random", "from_teacher"}


def terms(recipe) -> set[str]:
    return {name for name, term in vars(recipe.distill).items() if term is not None}


def test_the_promised_methods_are_there():
    assert {"base", "kd", "fitnet", "at", "rkd", "askd", "fskd", "cross", "embedding", "centres"} <= set(METHODS)


@pytest.mark.parametrize("name", sorted(set(METHODS) - OVER_THE_NETWORK))
@pytest.mark.parametrize("base", ["lfw_x8", "demo_full_x4"])
def test_a_method_takes_the_place_of_the_recipe_s_own(base, name):
    plain, recipe = load([f"recipe={base}"]), load([f"recipe={base}", f"method={name}"])
    ensemble = name.startswith(("abe", "heads"))
    assert recipe.name == f"{base}_{name}" and len(terms(recipe)) == (name != "base" and not ensemble)
    plain.name, plain.distill = recipe.name, recipe.distill
    if ensemble:
        plain.network.ensemble, plain.head.divergence = recipe.network.ensemble, recipe.head.divergence
    assert plain == recipe
    assert list_resources("methods")[name].read_text().startswith("# ")


@pytest.mark.parametrize("name, learners, branch, depth, kind, weight", [
    ("abe1", 1, 3, 1, "abe", None), ("abe2", 2, 3, 1, "abe", 1), ("abe4", 4, 3, 1, "abe", 1), ("abe8", 8, 3, 1, "abe", 1),
    ("abe4_div0", 4, 3, 1, "abe", None), ("abe4_div01", 4, 3, 1, "abe", 0.1), ("abe4_div10", 4, 3, 1, "abe", 10),
    ("abe4_branch1", 4, 1, 1, "abe", 1), ("abe4_branch2", 4, 2, 1, "abe", 1), ("abe4_branch4", 4, 4, 1, "abe", 1),
    ("abe4_depth3", 4, 3, 3, "abe", 1), ("abe4_depth5", 4, 3, 5, "abe", 1),
    ("heads4", 4, 3, 1, "heads", None), ("heads4_div", 4, 3, 1, "heads", 1),
])
def test_the_ablations_of_the_ensemble_are_what_they_are_called(name, learners, branch, depth, kind, weight):
    recipe = load(["recipe=demo_full", f"method={name}"])
    ensemble, divergence = recipe.network.ensemble, recipe.head.divergence
    assert (ensemble.learners, ensemble.branch, ensemble.depth, ensemble.kind.name) == (learners, branch, depth, kind)
    assert (divergence and divergence.weight) == weight
    assert recipe.network.embedding == load(["recipe=demo_full"]).network.embedding  # equal total width


@pytest.mark.parametrize("name", ["abe1", "abe4", "abe4_div0", "abe4_div10", "heads4", "heads4_div"])
@pytest.mark.parametrize("base", ["lfw_abe", "demo_full_abe"])
def test_over_an_ensemble_s_recipe_they_are_the_same(name, base):
    over, plain = (load([f"recipe={recipe}", f"method={name}"]) for recipe in (base, base.removesuffix("_abe")))
    assert over.network.ensemble == plain.network.ensemble and over.head.divergence == plain.head.divergence


def test_an_ensemble_adds_up_with_other_methods():
    recipe = load(["recipe=lfw_x8", "method=abe2+askd+kd"])
    assert recipe.network.ensemble.learners == 2 and terms(recipe) == {"attention", "logit"}


def test_single_networks_are_described_as_before_there_were_ensembles():
    view = training_view(load(["recipe=demo"]), "student")
    assert "ensemble" not in view["network"] and "divergence" not in view["head"]
    view = training_view(load(["recipe=demo", "method=abe4"]), "teacher")
    assert view["network"]["ensemble"]["learners"] == 4 and view["head"]["divergence"]["weight"] == 1


@pytest.mark.parametrize("arguments, message", [
    (["head.kind=contrastive"], "data.sampler must be pairs, or identities .* got shuffle"),
    (["head.kind=triplet", "data.sampler=identities", "data.images_per_identity=1"], "data.sampler must be pairs, or identities"),
    (["head.kind=triplet", "data.sampler=pairs", "head.margin=0"], "head.margin must be a squared distance above 0"),
    (["head.kind=triplet", "data.sampler=pairs", "head.subcentres=2"], "head.subcentres must be 1"),
    (["head.kind=contrastive", "data.sampler=pairs", "head.label_smoothing=0.1"], "head.label_smoothing must be 0"),
    (["head.kind=contrastive", "data.sampler=pairs", "head.warmup_epochs=1"], "head.warmup_epochs must be 0"),
    (["head.kind=triplet", "data.sampler=pairs", "head.sample_rate=0.5"], "head.sample_rate must be 1 with head.kind=triplet"),
    (["head.kind=triplet", "data.sampler=pairs", "head.sharded=true"], "head.sharded must be null with head.kind=triplet"),
    (["head.kind=contrastive", "data.sampler=pairs", "method=kd"], "distill.logit must be null with head.kind=contrastive"),
])
def test_metric_losses_need_pairs_and_have_no_centres(arguments, message):
    with pytest.raises(RecipeError, match=message):
        load(["recipe=demo", *arguments])
@pytest.mark.parametrize("name", sorted(OVER_THE_NETWORK))
def test_what_lies_over_the_network_leaves_the_method(name):
    plain, alone, beside = load(["recipe=lfw_x8"]), load(["recipe=lfw_x8", f"method={name}"]), load(["recipe=lfw_x8", f"method=kd+{name}"])
    assert terms(alone) == terms(plain) == {"attention"} and terms(beside) == {"logit"} and alone.network == beside.network
    changed = [key for key, value in vars(alone.network).items() if value != getattr(plain.network, key)]
    assert changed == {"cbam": [], "kernel7": [], "from_teacher": [], "from_random": ["init"], "kernel3": ["spatial_kernel"]}.get(name, ["attention"])


PROMISED = ["base", "kd", "fitnet", "at", "rkd", "askd", "askd+kd", "fskd", "fskd+cross", "embedding", "centres"]


@pytest.mark.parametrize("data", ["ms1m", "casia", "lfw", "demo_full"])
def test_every_promised_method_composes_at_every_size(data):
    for recipe, sizes in ((f"{data}_x2", [56]), (f"{data}_x4", [28]), (f"{data}_x8" if data != "demo_full" else data, [14]),
                          (f"{data}_multi", [112, 56, 28, 14])):
        assert load([f"recipe={recipe}"]).data.sizes == sizes
        for method in PROMISED:
            load([f"recipe={recipe}", f"method={method}"])


def test_methods_add_up_and_the_command_line_has_the_last_word():
    recipe = load(["recipe=lfw_x8", "method=fskd+cross+kd", "distill.logit.temperature=2"])
    assert recipe.name == "lfw_x8_fskd+cross+kd" and terms(recipe) == {"feature", "relation", "logit"}
    assert (recipe.distill.feature.weight, recipe.distill.relation.weight, recipe.distill.logit.temperature) == (20, 4, 2)
    with pytest.raises(RecipeError, match="no method is called 'asdk'; did you mean askd"):
        load(["recipe=lfw_x8", "method=asdk"])


def test_a_strong_teacher_learns_from_a_recogniser_and_teaches_at_the_same_width():
    for size in (4, 8):
        student = load([f"recipe=lfw_x{size}_strong"])
        teacher = load([f"recipe={student.teacher.recipe}"])
        assert teacher.head.weight == 0 and terms(teacher) == {"embedding"} and teacher.teacher.checkpoint.endswith(".onnx")
        assert (teacher.data.min_images, teacher.data.holdout, teacher.data.sizes) == (1, 0, [112])
        assert student.head.weight == 1 and terms(student) == {"attention"} and student.baseline.enabled


@pytest.mark.parametrize("arguments, message", [
    (["head.kind=combined"], "head.margins must be m1, m2, m3"), (["head.margins=[1,0.5,0]"], "null without it"),
    (["head.h=0.3"], "head.h"), (["head.kind=sphereface"], "arcface"), (["head.subcentres=0"], "head.subcentres"),
    (["head.label_smoothing=1"], "head.label_smoothing"), (["head.weight=-1"], "head.weight"),
    (["method=at", "distill.feature.hint=conv"], "none with distance=at"), (["method=fskd", "distill.feature.stages=[0]"], "stages"),
    (["method=rkd", "distill.relation.distance=0", "distill.relation.angle=0"], "one of them above 0"),
    (["method=kd", "distill.logit.temperature=0"], "temperature"), (["method=kd", "head.weight=0"], "needs class centres"),
    (["method=kd_mean", "head.kind=adaface"], "feature norms"),
    (["distill.attention.spatial=-1.5"], "channel and spatial of 0 or more"), (["distill.attention.spatial=.nan"], "channel and spatial of 0 or more"),
    (["distill.attention.channel=0", "distill.attention.spatial=0"], "channel and spatial of 0 or more"),
    (["method=rkd", "distill.relation.angle=.nan"], "one of them above 0"),
    (["head.warmup_epochs=50"], "head.warmup_epochs must be at most train.epochs=7"),
    (["head.kind=cosface", "head.margin=2.5"], "head.margin must be a difference of cosines"),
    (["method=centres", "distill.centres.source=mean", "head.subcentres=3"], "head.subcentres must be 1 with distill.centres.source=mean"),
    (["method=centres", "teacher.cache=true"], "teacher.cache must be false with distill.centres alone"),
    (["network.cbam_parts=channel", "network.spatial_kernel=3"], "network.spatial_kernel must be left out with network.cbam_parts=channel"),
])
def test_options_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(RecipeError, match=message):
        load(["recipe=lfw_x8", *arguments])


@pytest.mark.parametrize("name", ["casia_x4", "ms1m_x8", "tinyface_24", "lfw_x8", "demo"])
def test_askd_means_one_thing_in_all_recipes(name):
    assert load([f"recipe={name}"]).distill == load([f"recipe={name}", "method=askd"]).distill


def test_casia_x4_released_is_the_released_code():
    recipe = load(["recipe=casia_x4_released"])
    data, network, head, train = recipe.data, recipe.network, recipe.head, recipe.train
    assert data.set == "casia" and data.sizes == [28]
    assert data.degradation is Degradation.released and data.quantise is False
    assert data.augment is Augment.flip and data.sampler is Sampler.shuffle
    assert (network.backbone, network.embedding, network.dropout) == ("iresnet50", 512, 0.4)
    assert network.attention is Attention.cbam
    assert (network.spatial_kernel, network.reduction) == (3, 16)
    assert network.initialiser is Initialiser.xavier and network.init == "random"
    assert (head.margin, head.logit_scale) == (0.5, 32)
    attention = recipe.distill.attention
    assert attention.space is Space.logits and attention.reduction is Reduction.sum and attention.weight == 5
    assert attention.channel == attention.spatial == 1
    assert train.optimizer is Optimizer.sgd and train.nesterov is True
    assert (train.lr, train.momentum, train.weight_decay, train.decay_all) == (0.1, 0.9, 5e-4, True)
    assert (train.batch, train.epochs) == (128, 20)
    assert train.schedule is Schedule.multistep and (train.gamma, train.warmup_epochs) == (0.1, 0)
    # Stepped before training at the 1-based epochs 6, 11, 15, 17: after 5, 10, 14, 16 whole epochs.
    assert train.milestones == [epoch - 1 for epoch in (6, 11, 15, 17)]
    assert train.clip is None and recipe.precision is Precision.fp32
    assert recipe.eval.protocols == [Protocol.askd]
    assert recipe.teacher.recipe is None and recipe.teacher.sizes == [112]  # the teacher was trained by the same code


def test_lfw_never_looks_at_the_devtest_people():
    recipe = load(["recipe=lfw_x8"])
    assert recipe.eval.during == ["holdout"] and recipe.eval.select == "holdout" and recipe.data.holdout == 0.1
    assert "view2" not in recipe.eval.sets  # the training people are in it


@pytest.mark.parametrize(
    ("arguments", "closest"),
    [
        (["recipe=ms1n_x4"], "ms1m_x4"),
        (["recipe=demo", "data.sizs=[8]"], "data.sizes"),
        (["recipe=demo", "trian.lr=1"], "train"),
        (["recipe=demo", "distill.atention.weight=5"], "distill.attention"),
        (["recipe=demo", "data.sizes=five"], "data.sizes.*five"),
        (["recipe=demo", "data.sizes=[113]"], "data.sizes.*112.*113"),
        (["recipe=demo", "data.sizes=[0]"], "data.sizes.*1.*112.*0"),
        (["recipe=demo", "data.degradation=bicubik"], "data.degradation.*bicubic"),
        (["recipe=demo", "train.epochs=many"], "train.epochs.*many"),
        (["recipe=demo", "baseline.enabled=perhaps"], "baseline.enabled.*perhaps"),
    ],
)
def test_misspelt_argument_leads_to_the_right_one(arguments, closest):
    with pytest.raises(RecipeError, match=closest) as refused:
        load(arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_mirrors_and_does_nothing_else(name):
    """What data.flip=true with data.augment=none used to say."""
    assert load([f"recipe={name}"]).data.augment is Augment.flip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data.flip=false"], "data.flip; data.augment=flip mirrors.*data.augment=none does not"),
        (["distill.divergence.weight=1"], "distill.divergence; .*: head.divergence"),
        (["data.augment=surveillance"], "data.quantise must be true with data.augment=surveillance"),
        (["data.sampler=identities"], "data.images_per_identity must be a divisor of train.batch=64.*got None"),
        (["data.sampler=identities", "data.images_per_identity=5"], "a divisor of train.batch=64.*got 5"),
        (["data.images_per_identity=4"], "data.images_per_identity must be left out with data.sampler=shuffle, got 4"),
        (["data.sampler=pairs", "train.batch=6"], "train.batch must be a multiple of 4 with data.sampler=pairs, got 6"),
        (["data.sampler=pairs", "train.batch=8", "data.drop_last=false"], "data.drop_last must be true unless data.sampler=shuffle, got false"),
        (["head.sample_rate=0"], "head.sample_rate must be above 0, and at most 1, got 0"),
        (["head.sample_rate=0.5", "distill.logit.weight=1"], "head.sample_rate must be 1 with distill.logit"),
        (["head.sample_rate=0.5", "head.weight=0"], "head.sample_rate must be 1 with head.weight=0"),
    ],
)
def test_data_options_that_do_not_go_together(arguments, said):
    with pytest.raises(RecipeError, match=said) as refused:
        load(["recipe=demo", *arguments])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train.accumulate=3"], "train.accumulate must be a divisor of train.batch=64 that leaves 2 or more images in each part, got 3"),
        (["train.accumulate=64"], "leaves 2 or more"),
        (["train.accumulate=32", "method=rkd"], "leaves 3 or more"),
        (["train.accumulate=0"], "train.accumulate must be"),
        (["train.ema=1"], "train.ema must be a decay between 0 and 1, or null for no average, got 1.0"),
        (["debug.anomaly=true", "compile=true"], "compile must be null or false with debug.anomaly=true"),
    ],
)
def test_options_of_a_step_that_cannot_be(arguments, said):
    with pytest.raises(RecipeError, match=said) as refused:
        load(["recipe=demo", *arguments])
    assert "\n" not in str(refused.value)


def test_what_the_weights_depend_on():
    def view(*arguments, role="student"):
        return training_view(load(["recipe=demo", *arguments]), role)

    assert view("data.on_bad_image=skip", "data.workers=3") == view()
    assert view("debug.anomaly=true") == view("compile=true") == view()
    assert view("train.ema=0.9") != view() != view("train.accumulate=2")
    assert view("data.sampler=pairs") != view() != view("data.augment=adaface")
    degradations = ("data.degradation=area", "data.degradation=bicubic")
    for preset, differ in (("flip", False), ("adaface", True)):  # at 112 pixels only the latter degrades anything
        ours, theirs = (view(degradation, f"data.augment={preset}", role="teacher") for degradation in degradations)
        assert (ours != theirs) is differ


def test_misspelt_recipe_file_leads_to_the_right_key(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: demo\ntrain: {epoch: 3}\n")
    with pytest.raises(RecipeError, match="train.epochs"):
        load([f"recipe={path}"])
    path.write_text("extends: demoo\n")
    with pytest.raises(RecipeError, match="demo"):
        load([f"recipe={path}"])
    path.write_text("extends: demo\ntrain: {epochs: 3}\n")
    recipe = load([f"recipe={path.with_suffix('')}", "train.batch=7"])  # the suffix may be left out
    assert (recipe.name, recipe.train.epochs, recipe.train.batch, recipe.data.set) == ("mine", 3, 7, "demo")
