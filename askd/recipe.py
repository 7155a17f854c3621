"""A recipe: everything an experiment depends on, typed, from one YAML and the command line.

`load(argv)` merges, in this order, the schema's defaults, the recipe it `extends`, the recipe's own YAML, the methods that `method=A+B`
names, whose `distill` takes the place of the recipe's, and `key=value` arguments.
"""
from __future__ import annotations

import ast
import difflib
import inspect
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from askd.errors import RecipeError
from askd.recipe_checks import check_values
from askd.resources import find_resource, list_resources
from askd.schema import Augment, Distill, Recipe

GONE = {  # keys that are looked for where they are not
    "data.flip": "data.augment=flip mirrors and does nothing else (the default), data.augment=none does not mirror",
    "distill.divergence": "an ensemble learns it with or without a teacher: head.divergence",
}


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
    check_values(recipe)
    return recipe


def method_keys(method: str) -> set[str]:
    """The dotted keys that the parts of a method, A+B, set; RecipeError for a part that is none."""
    def leaves(layer: dict, prefix: str) -> set[str]:
        return set().union(*(
            leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}"} for key, value in layer.items()
        ))
    return set().union(*(leaves(layer, "") for part in method.split("+") for _, layer in _read(find_resource("methods", part))))


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
