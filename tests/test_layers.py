"""Imports point down only, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "askd"
VERBS = {"teach", "distill", "benchmark", "export", "prepare", "match", "study", "diagnose", "correspondence"}
# the verbs' own: argument parsing, the recipe, what it means
COMMAND_LINE = {"cli", "recipe", "recipe_checks", "schema", "method", "backbone", "training_data", "run_folder", "watch", "step_time", "study_plan"}
EVERYBODY = {"errors", "resources", "photo"}
TRAINING = EVERYBODY | {"collectives"}
MAY_IMPORT = {
    "errors": set(),
    "resources": {"errors"},
    "photo": {"errors"},
    "collectives": set(),
    "data": EVERYBODY,
    "models": TRAINING,
    "heads": TRAINING,
    "losses": EVERYBODY,
    "engine": TRAINING,
    "runtime": EVERYBODY,
    "evaluation": EVERYBODY | {"data", "runtime"},
    "deploy": EVERYBODY | {"data", "models", "runtime", "evaluation"},
    "teachers": EVERYBODY | {"models", "runtime", "engine"},
    "centres": EVERYBODY | {"data", "models"},
    "teacher_cache": EVERYBODY | {"data", "models", "engine"},
    "terms": TRAINING | {"models", "heads", "losses"},
    "embedders": EVERYBODY | {"data", "models", "teachers"},
    "embedding": EVERYBODY | {"data", "engine", "embedders", "evaluation"},
    "distiller": TRAINING | {"teachers", "models", "heads", "losses"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """askd/data/cards.py -> data; askd/teach.py -> teach; askd/__init__.py -> askd."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "askd" if first == "__init__" else first


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports; names taken from the package itself count as modules."""
    module = ["askd", *path.relative_to(PACKAGE).with_suffix("").parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module[: len(module) - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"askd.{alias.name}" for alias in node.names} if source == "askd" else {source}
    return found


def parts_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("askd.")} - {"__version__"}


def outside(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)} - {"askd"}


def test_every_part_has_its_place():
    parts = {part(path) for path in FILES} - {"askd"}
    assert parts <= set(MAY_IMPORT) | VERBS | COMMAND_LINE
    assert {"teach", "distill", "data", "models", "heads", "losses", "engine", "runtime", "evaluation"} <= parts


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = part(path)
    if own in VERBS | COMMAND_LINE:
        return
    allowed = MAY_IMPORT.get(own, set()) | {own}
    assert parts_imported(path) <= allowed


def test_only_verbs_know_recipes():
    users = {part(path) for path in FILES if parts_imported(path) & COMMAND_LINE}
    assert users <= VERBS | COMMAND_LINE


def test_verbs_can_be_run():
    for path in FILES:
        if part(path) in VERBS:
            assert 'if __name__ == "__main__":' in path.read_text(), path


@pytest.mark.parametrize("name", ["cosine", "roc", "verification", "identification", "templates", "intervals", "retrieval", "learners", "mcnemar", "store"])
def test_scoring_is_numpy_only(name):
    assert outside(PACKAGE / "evaluation" / f"{name}.py") <= {"numpy", *sys.stdlib_module_names}


@pytest.mark.parametrize("folder", ["runtime", "data/cards.py"])
def test_no_torch_without_need(folder):
    """The runtime serves where torch is not installed; opening data need not load it."""
    paths = [path for path in FILES if path.is_relative_to(PACKAGE / folder)]
    modules = [path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".") for path in paths]
    names = [module.removesuffix(".__init__") for module in modules]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert names and subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
