"""A recipe: everything an experiment depends on, typed, from one YAML and the command line.

`load(argv)` merges, in this order, the schema's defaults, the recipe it `extends`, the recipe's own YAML, the methods that `method=A+B`
names, whose `distill` takes the place of the recipe's, and `key=value` arguments.
"""
from __future__ import annotations

import ast
import difflib
import inspect
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from askd.errors import RecipeError
from askd.resources import find_resource, list_resources
from askd.schema import (
    Attention, Augment, CbamOrder, CbamParts, CentreSource, Distill, FeatureDistance, Hint, Learners, Logits, Margin, Network, Optimizer, Recipe, Sampler,
)

GONE = {"data.flip": "data.augment=flip mirrors and does nothing else (the default), data.augment=none does not mirror"}


def load(argv: list[str], start: dict | None = None) -> Recipe:
    """The recipe that `recipe=NAME key=value ...` describes; RecipeError names the key or name at fault and the closest valid one.

    start: keys to begin with in place of a recipe, where none is named.
    """
    overrides = dict(_split(argument) for argument in argv)
    name = overrides.pop("recipe", None)
    if name is None and start is not None:
        return _merged([("defaults", start), _dotlist(overrides)], Path("command line"))
    if name is None:
        raise RecipeError(f"say which recipe: recipe=NAME, one of {', '.join(list_resources('recipes'))}, or a path to a YAML file")
    path, method = find_resource("recipes", name), overrides.pop("method", None)
    layers = _read(path)
    if method is not None:
        laid_over = [layer for part in method.split("+") for layer in _read(find_resource("methods", part))]
        if any("distill" in layer for _, layer in laid_over):
            layers = [(where, {key: value for key, value in layer.items() if key != "distill"}) for where, layer in layers]
        layers += laid_over
    layers.append(_dotlist(overrides))
    return _merged(layers, path, method)


def _merged(layers: list[tuple[str, dict]], path: Path, method: str | None = None) -> Recipe:
    config = OmegaConf.structured(Recipe)
    for where, layer in layers:
        _check_keys(Recipe, layer, where)
        try:
            config = OmegaConf.merge(config, _wrap_scalars(Recipe, layer))
        except OmegaConfBaseException as error:
            raise RecipeError(f"{where}: {error.full_key or 'recipe'}: {str(error.msg or error).splitlines()[0]}") from None
    if OmegaConf.is_missing(config, "name"):
        config.name = path.stem + (f"_{'+'.join(Path(part).stem for part in method.split('+'))}" if method else "")
    if OmegaConf.is_missing(config.data, "set"):
        raise RecipeError(f"{path}: data.set is missing; name a dataset card, one of {', '.join(list_resources('datasets'))}")
    try:
        recipe = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:  # a ${reference} to nothing
        raise RecipeError(f"{path}: {error.full_key or 'recipe'}: {str(error.msg or error).splitlines()[0]}") from None
    _check_values(recipe)
    return recipe


def save(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML; `load([f"recipe={path}"])` gives it back."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(recipe)))


def training_view(recipe: Recipe, role: str) -> dict:
    """What the weights of one role (teacher, baseline, student) depend on: equal views train to equal weights."""
    plain = OmegaConf.to_container(OmegaConf.structured(recipe), enum_to_str=True)
    view = {key: plain[key] for key in ("seed", "precision", "data", "network", "head", "train")}
    view["data"] = {key: value for key, value in view["data"].items() if key not in ("path", "workers", "sizes", "on_bad_image")}
    del view["head"]["sharded"]  # how the centres lie on the processes changes nothing
    view["train"] = {key: value for key, value in view["train"].items() if key not in ("checkpoint_every", "log_every")}
    view["sizes"] = plain["teacher"]["sizes"] if role == "teacher" else plain["data"]["sizes"]
    view["train"]["epochs"] = epochs(recipe, role)
    view["select"] = {key: plain["eval"][key] for key in ("select", "during", "every_epochs")}
    if view["sizes"] == [112] and recipe.data.augment is not Augment.adaface:  # which degrades some images all the same
        del view["data"]["degradation"], view["data"]["quantise"]
    if role == "teacher":
        del view["network"]["init"]
    for section, key in (("network", "ensemble"), ("head", "divergence")):
        if view[section][key] is None:  # as before there were ensembles
            del view[section][key]
    if role == "student":
        view["distill"] = {name: term for name, term in plain["distill"].items() if term is not None}
    return view


def epochs(recipe: Recipe, role: str) -> float:
    """How long a role trains: a teacher may go on for longer than its students."""
    return recipe.teacher.epochs if role == "teacher" and recipe.teacher.epochs is not None else recipe.train.epochs


def fill_defaults(ours: dict, theirs: dict) -> dict:
    """A stored identity with the schema's defaults for keys it does not know: a run from before a key existed had its default."""
    ours, theirs = ours.get("recipe", {}), theirs | {"recipe": dict(theirs.get("recipe", {}))}
    plain = OmegaConf.to_container(OmegaConf.structured(Recipe), enum_to_str=True)
    stored = theirs["recipe"]
    for section in ours.keys() & stored.keys() & plain.keys():
        if isinstance(plain[section], dict):
            known = {key: default for key, default in plain[section].items() if key in ours[section]}
            stored[section] = {**known, **stored[section]} if section != "distill" else {
                name: {**_term_defaults(name), **term} for name, term in stored[section].items()
            }
    return theirs


def _term_defaults(name: str) -> dict:
    """The default options of one distillation term, none for a name that no term has."""
    kind = _inner(_schema(Distill).get(name))
    return OmegaConf.to_container(OmegaConf.structured(kind), enum_to_str=True) if is_dataclass(kind) else {}


def differences(ours: dict, theirs: dict, prefix: str = "") -> list[str]:
    """Lines `key: theirs -> ours` for every leaf at which two nested dicts differ."""
    lines = []
    for key in sorted({*ours, *theirs}):
        a, b = theirs.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(b, a, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def help_text(verb: str, what: str, usage: str) -> str:
    """What `python -m askd.VERB --help` prints: usage, recipes with their first comment line, keys with type, default and meaning."""
    lines = [what, "", f"  python -m askd.{verb} {usage}", "", "recipes"]
    for name, path in list_resources("recipes").items():
        lines.append(f"  {name:<20} {path.read_text().splitlines()[0].lstrip('# ')}")
    lines += ["", "methods (method=NAME or NAME+NAME, in place of the recipe's own distill)"]
    for name, path in list_resources("methods").items():
        lines.append(f"  {name:<20} {path.read_text().splitlines()[0].lstrip('# ')}")
    lines += ["", "keys (default)"]
    for key, default, doc in documented(Recipe, ""):
        lines += [f"  {key} ({default})", f"      {doc}"]
    return "\n".join(lines)


def _split(argument: str) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if not equals or not key or key.startswith("-"):
        raise RecipeError(f"arguments are key=value, got {argument!r}; see --help")
    return key, value


def _read(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[str, dict]]:
    if path in seen:
        raise RecipeError(f"{path}: `extends` goes in a circle through {', '.join(p.name for p in seen)}")
    try:
        layer = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # the YAML parser raises many kinds; all mean that this file is not YAML
        raise RecipeError(f"{path}: not a YAML mapping: {' '.join(str(error).split())}") from None
    if not isinstance(layer, dict):
        raise RecipeError(f"{path}: a recipe is a YAML mapping of keys, got {type(layer).__name__}")
    base = layer.pop("extends", None)
    below = [] if base is None else _read(find_resource("recipes", str(base)), (*seen, path))
    for _, inherited in below:
        inherited.pop("name", None)
    return [*below, (str(path.name), layer)]


def _dotlist(overrides: dict[str, str]) -> tuple[str, dict]:
    try:
        return "command line", OmegaConf.to_container(OmegaConf.from_dotlist([f"{k}={v}" for k, v in overrides.items()]))
    except Exception as error:  # a value that is no YAML, `[1,` say
        raise RecipeError(f"command line: cannot read {overrides}: {' '.join(str(error).split())}") from None


def _schema(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _inner(kind: Any) -> Any:
    """The dataclass inside Optional[X], or the type itself."""
    return next((a for a in get_args(kind) if is_dataclass(a)), kind)


def _check_keys(cls: type, layer: dict, where: str, prefix: str = "") -> None:
    schema = _schema(cls)
    for key, value in layer.items():
        if key not in schema:
            close = difflib.get_close_matches(str(key), schema, 1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"choose from {', '.join(prefix + k for k in schema)}"
            hint = GONE.get(f"{prefix}{key}", hint)
            raise RecipeError(f"{where}: unknown key {prefix}{key}; {hint}")
        kind = _inner(schema[key])
        if is_dataclass(kind) and value is not None:
            if not isinstance(value, dict):
                raise RecipeError(f"{where}: {prefix}{key} is a section with keys {', '.join(_schema(kind))}, got {value!r}")
            _check_keys(kind, value, where, f"{prefix}{key}.")


def _wrap_scalars(cls: type, layer: dict) -> dict:
    """Let `data.sizes=14` stand for `data.sizes=[14]`."""
    wrapped = {}
    for key, value in layer.items():
        kind = _inner(_schema(cls)[key])
        if is_dataclass(kind) and value is not None:
            value = _wrap_scalars(kind, value)
        elif getattr(kind, "__origin__", None) is list and value is not None and not isinstance(value, list):
            value = [value]
        wrapped[key] = value
    return wrapped


def _check_values(recipe: Recipe) -> None:
    def need(good: bool, key: str, value: object, expected: str) -> None:
        if not good:
            raise RecipeError(f"{key} must be {expected}, got {value}")

    for key, sizes in (("data.sizes", recipe.data.sizes), ("eval.sizes", recipe.eval.sizes), ("teacher.sizes", recipe.teacher.sizes)):
        need(bool(sizes), key, sizes, "at least one size in pixels")
        for size in sizes:
            need(1 <= size <= 112, key, size, "between 1 and 112 pixels")
    if recipe.data.augment is Augment.surveillance:
        need(recipe.data.quantise, "data.quantise", "false", "true with data.augment=surveillance, whose cameras store 8 bits")
    images, batch = recipe.data.images_per_identity, recipe.train.batch
    if recipe.data.sampler is Sampler.identities:
        divides = images is not None and images >= 1 and batch % images == 0
        need(divides, "data.images_per_identity", images, f"a divisor of train.batch={batch} with data.sampler=identities")
    else:
        need(images is None, "data.images_per_identity", images, f"left out with data.sampler={recipe.data.sampler.name}")
    need(recipe.data.sampler is not Sampler.pairs or batch % 4 == 0, "train.batch", batch, "a multiple of 4 with data.sampler=pairs")
    need(recipe.data.drop_last or recipe.data.sampler is Sampler.shuffle, "data.drop_last", "false", "true unless data.sampler=shuffle")
    need(0 <= recipe.data.holdout < 1, "data.holdout", recipe.data.holdout, "a fraction, 0 <= holdout < 1")
    for key, value, least in (
        ("data.min_images", recipe.data.min_images, 1), ("data.workers", recipe.data.workers, 0),
        ("network.reduction", recipe.network.reduction, 1), ("network.embedding", recipe.network.embedding, 1),
        ("train.lr", recipe.train.lr, 0), ("train.momentum", recipe.train.momentum, 0), ("train.weight_decay", recipe.train.weight_decay, 0),
        ("train.warmup_epochs", recipe.train.warmup_epochs, 0), ("train.batch", recipe.train.batch, 2),
        ("train.checkpoint_every", recipe.train.checkpoint_every, 1), ("train.log_every", recipe.train.log_every, 1),
        ("eval.batch", recipe.eval.batch, 1),
    ):
        need(least <= value < math.inf, key, value, f"at least {least}")
    for key, value in (
        ("head.logit_scale", recipe.head.logit_scale), ("train.gamma", recipe.train.gamma),
        ("train.power", recipe.train.power), ("eval.every_epochs", recipe.eval.every_epochs),
    ):
        need(0 < value < math.inf, key, value, "above 0")
    for key, length in (("train.epochs", recipe.train.epochs), ("teacher.epochs", recipe.teacher.epochs)):
        if length is not None:
            need(0 < length < math.inf, key, length, "above 0")
            warmup = recipe.train.warmup_epochs
            need(warmup < length, "train.warmup_epochs", warmup, f"below {key}={length:g}; set it to 0 for such a short run")
    need(0 <= recipe.seed < 2**63, "seed", recipe.seed, "from 0 to 2^63 - 1")
    need(recipe.train.clip is None or recipe.train.clip > 0, "train.clip", recipe.train.clip, "above 0, or null for no limit")
    accumulate, ema = recipe.train.accumulate, recipe.train.ema
    least = 3 if recipe.distill.relation is not None else 2
    fits = accumulate >= 1 and batch % accumulate == 0 and batch // accumulate >= least
    need(fits, "train.accumulate", accumulate, f"a divisor of train.batch={batch} that leaves {least} or more images in each part")
    need(ema is None or 0 < ema < 1, "train.ema", ema, "a decay between 0 and 1, or null for no average")
    both = recipe.debug.anomaly and recipe.compile
    need(not both, "compile", "true", "null or false with debug.anomaly=true, which looks into modules")
    if recipe.train.optimizer is Optimizer.sgd and recipe.train.nesterov:
        need(recipe.train.momentum > 0, "train.momentum", recipe.train.momentum, "above 0 with train.nesterov")
    need(recipe.network.spatial_kernel in (3, 7), "network.spatial_kernel", recipe.network.spatial_kernel, "3 or 7")
    for key in ("cbam_order", "cbam_parts", "cbam_pool"):
        value, default = getattr(recipe.network, key), getattr(Network, key)
        need(value is default or recipe.network.attention is Attention.cbam, f"network.{key}", value.name,
             f"{default.name} with network.attention={recipe.network.attention.name}, of which it is no option")
    one_part = recipe.network.cbam_parts is not CbamParts.both
    need(not one_part or recipe.network.cbam_order is CbamOrder.channel_first, "network.cbam_order", recipe.network.cbam_order.name,
         f"channel_first with network.cbam_parts={recipe.network.cbam_parts.name}, which leaves nothing to order")
    need(0 <= recipe.network.dropout < 1, "network.dropout", recipe.network.dropout, "a probability below 1")
    _check_method(recipe, need)
    if recipe.teacher.cache:
        _check_cache(recipe, need)
    need(bool(recipe.eval.protocols), "eval.protocols", recipe.eval.protocols, "at least one of insightface, askd")
    choices = ["last", *recipe.eval.during]
    need(recipe.eval.select in choices, "eval.select", recipe.eval.select, f"one of {', '.join(choices)} (last, or a set of eval.during)")
    if "holdout" in recipe.eval.during:
        need(recipe.data.holdout > 0, "data.holdout", recipe.data.holdout, "above 0 when eval.during has holdout")


def _check_cache(recipe: Recipe, need: Callable[[bool, str, object, str], None]) -> None:
    """A cached teacher is its embedding, of two images per file."""
    augment, distill = recipe.data.augment, recipe.distill
    alone = augment in (Augment.none, Augment.flip)
    need(alone, "teacher.cache", "true", f"false with data.augment={augment.name}, which changes the image that the teacher sees")
    crossed = distill.relation is not None and distill.relation.cross
    for key, looks in (("attention", distill.attention is not None), ("feature", distill.feature is not None), ("relation.cross", crossed)):
        need(not looks, "teacher.cache", "true", f"false with distill.{key}, which looks at more than the teacher's embedding")


def _check_method(recipe: Recipe, need: Callable[[bool, str, object, str], None]) -> None:
    head, distill = recipe.head, recipe.distill
    if head.kind not in (Margin.contrastive, Margin.triplet):
        need(0 <= head.margin < 3.15, "head.margin", head.margin, "in radians, between 0 and pi")
    is_combined = head.kind is Margin.combined
    need((head.margins is not None) == is_combined, "head.margins", head.margins, "m1, m2, m3 with head.kind=combined, and null without it")
    if is_combined:
        fits = len(head.margins) == 3 and head.margins[0] >= 1 and 0 <= head.margins[1] < 3.15 and 0 <= head.margins[2] < 2
        need(fits, "head.margins", head.margins, "m1 >= 1, m2 in radians between 0 and pi, m3 between 0 and 2")
    need(head.h is None or head.kind is Margin.adaface and head.h > 0, "head.h", head.h, "above 0 with head.kind=adaface, null without it")
    need(head.subcentres >= 1, "head.subcentres", head.subcentres, "at least 1")
    need(0 <= head.label_smoothing < 1, "head.label_smoothing", head.label_smoothing, "a probability below 1")
    need(0 <= head.warmup_epochs < math.inf, "head.warmup_epochs", head.warmup_epochs, "at least 0")
    need(0 < head.sample_rate <= 1, "head.sample_rate", head.sample_rate, "above 0, and at most 1")
    need(head.sample_rate == 1 or head.weight > 0, "head.sample_rate", head.sample_rate, "1 with head.weight=0, which sees no classes")
    need(0 <= head.weight < math.inf, "head.weight", head.weight, "at least 0")
    _check_ensemble(recipe, need)
    for name in ("attention", "feature", "relation", "logit", "embedding"):
        term = getattr(distill, name)
        need(term is None or 0 <= term.weight < math.inf, f"distill.{name}.weight", term and term.weight, "at least 0")
    if distill.feature is not None:
        stages = distill.feature.stages
        distinct = bool(stages) and min(stages) >= 1 and len(set(stages)) == len(stages)
        need(distinct, "distill.feature.stages", stages, "distinct stages, from 1 on")
        if distill.feature.distance is FeatureDistance.at:
            hint = distill.feature.hint
            need(hint is Hint.none, "distill.feature.hint", hint.name, "none with distance=at, which sums over channels")
    if distill.relation is not None:
        factors = [distill.relation.distance, distill.relation.angle, distill.relation.cross]
        need(min(factors) >= 0 < max(factors), "distill.relation", factors, "distance, angle and cross of 0 or more, one of them above 0")
        need(recipe.train.batch >= 3, "train.batch", recipe.train.batch, "3 or more with distill.relation")
    if distill.logit is not None:
        need(distill.logit.temperature > 0, "distill.logit.temperature", distill.logit.temperature, "above 0")
        need(head.sample_rate == 1, "head.sample_rate", head.sample_rate, "1 with distill.logit, which compares all classes")
        means = distill.logit.source is CentreSource.mean and distill.logit.logits is Logits.margin and head.kind is Margin.adaface
        need(not means, "distill.logit.source", "mean", "learnt with AdaFace's margin logits, which need feature norms (or logits=cosine)")
    for name in ("logit", "centres"):
        if getattr(distill, name) is not None:
            need(head.weight > 0, "head.weight", head.weight, f"above 0 when distill.{name} is on: it needs class centres of the student")
    learns = head.weight > 0 or not recipe.baseline.enabled
    need(learns, "baseline.enabled", "true", "false with head.weight=0, which leaves it nothing to learn from")


def _check_ensemble(recipe: Recipe, need: Callable[[bool, str, object, str], None]) -> None:
    """Ensembles and what they learn from; metric losses. Whether a backbone has the branch is seen when it is built."""
    ensemble, head, divergence = recipe.network.ensemble, recipe.head, recipe.head.divergence
    learners = 1 if ensemble is None else ensemble.learners
    if ensemble is not None:
        need(learners >= 1, "network.ensemble.learners", learners, "at least 1")
        width = recipe.network.embedding
        need(width % learners == 0, "network.embedding", width, f"a multiple of network.ensemble.learners={learners}")
        need(ensemble.branch >= 1, "network.ensemble.branch", ensemble.branch, "a stage of the backbone, from 1 on")
        need(ensemble.depth >= 1, "network.ensemble.depth", ensemble.depth, "at least 1")
        masks = ensemble.kind is Learners.abe or ensemble.depth == 1
        need(masks, "network.ensemble.depth", ensemble.depth, "left out with network.ensemble.kind=heads, which has no attention modules")
        centres = recipe.distill.centres is None
        need(centres, "distill.centres", "a section", "null with network.ensemble, whose learners have class centres each (distill.logit takes them)")
    if divergence is not None:
        need(learners >= 2, "network.ensemble.learners", learners, "2 or more with head.divergence, which keeps learners apart (or drop that)")
        need(0 <= divergence.weight < math.inf, "head.divergence.weight", divergence.weight, "at least 0")
        need(0 < divergence.margin <= 4, "head.divergence.margin", divergence.margin, "a squared distance above 0, at most 4")
    if head.kind in (Margin.contrastive, Margin.triplet):
        kind = head.kind.name
        need(0 < head.margin <= 4, "head.margin", head.margin, f"a squared distance above 0, at most 4, with head.kind={kind}")
        sampler, images = recipe.data.sampler, recipe.data.images_per_identity
        together = sampler is Sampler.pairs or sampler is Sampler.identities and images is not None and images >= 2
        need(together, "data.sampler", sampler.name, f"pairs, or identities with 2 or more images each, with head.kind={kind}")
        for key, value, none in (
            ("subcentres", head.subcentres, 1), ("label_smoothing", head.label_smoothing, 0), ("warmup_epochs", head.warmup_epochs, 0),
            ("sample_rate", head.sample_rate, 1), ("sharded", head.sharded, None),
        ):
            need(value == none, f"head.{key}", value, f"{'null' if none is None else none} with head.kind={kind}, which has no class centres")
        for name in ("logit", "centres"):
            need(getattr(recipe.distill, name) is None, f"distill.{name}", "a section", f"null with head.kind={kind}: no class centres")


def field_docs(cls: type) -> dict[str, str]:
    """The string literal that follows each field of a dataclass in its source."""
    body = ast.parse(inspect.getsource(cls)).body[0].body
    docs = {}
    for before, after in zip(body, body[1:]):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[before.target.id] = " ".join(str(after.value.value).split())
    return docs


def documented(cls: type, prefix: str):
    docs, schema, defaults = field_docs(cls), _schema(cls), cls()
    for entry in fields(cls):
        kind, default = _inner(schema[entry.name]), getattr(defaults, entry.name)
        if isinstance(kind, type) and issubclass(kind, Enum):
            default = f"{default.name}, of {'|'.join(kind.__members__)}"
        elif default == MISSING:
            default = "required"
        elif isinstance(default, list):
            default = [item.name if isinstance(item, Enum) else item for item in default]
        if is_dataclass(kind):
            if entry.name in docs:
                yield prefix + entry.name, default, docs[entry.name]
            yield from documented(kind, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, default, docs[entry.name]
