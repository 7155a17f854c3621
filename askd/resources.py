"""Where recipes, methods, studies and dataset cards lie: a path, then the installed package, then the checkout beside the package."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from askd.errors import AskdError, DataError, RecipeError

Kind = Literal["recipes", "methods", "studies", "datasets"]

_PACKAGE = Path(__file__).resolve().parent
_WORD: dict[str, str] = {"recipes": "recipe", "methods": "method", "studies": "study", "datasets": "dataset card"}
_ERROR: dict[str, type[AskdError]] = {"recipes": RecipeError, "methods": RecipeError, "studies": RecipeError, "datasets": DataError}


def find_resource(kind: Kind, name: str) -> Path:
    """The YAML file that `name` means: an existing path, with or without `.yaml`, or a name from `list_resources`.

    A name that nothing answers to raises RecipeError (recipes, methods, studies) or DataError (datasets) with the closest valid one.
    """
    for path in (Path(name), Path(f"{name}.yaml")):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path.resolve()
    known = list_resources(kind)
    asked = name.removesuffix(".yaml")
    if asked in known:
        return known[asked]
    close = difflib.get_close_matches(asked, known, 1, cutoff=0.5)
    hint = f"did you mean {close[0]}? There are" if close else "there are"
    raise _ERROR[kind](
        f"no {_WORD[kind]} is called {name!r}; {hint} {', '.join(known) or 'none, the installation is broken'}; "
        "a path to a YAML file will do, too"
    )


def list_resources(kind: Kind) -> dict[str, Path]:
    """Name -> YAML file of everything that ships with the package, sorted by name."""
    folder = _shipped(kind)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _shipped(kind: Kind) -> Path:
    # A wheel carries the folders as askd/recipes, askd/methods, askd/studies and askd/datasets; an editable install maps no folders, so they
    # stay where the checkout has them, beside the package.
    inside = _PACKAGE / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind
