"""Recipes and cards are found whichever way the package was installed, and from whatever folder it is run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
REPORT = """
import json, askd
from askd.data.cards import load_card
from askd.recipe import load
from askd.resources import list_resources
found = {kind: {name: str(path) for name, path in list_resources(kind).items()} for kind in ("recipes", "methods", "studies", "datasets")}
opened = {"teacher": load(["recipe=ms1m_x4"]).teacher.recipe, "card": load_card("lfw").name}
print(json.dumps({"package": askd.__file__, **opened, **found}))
"""


def run(*command: str | Path, **options) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: str | Path, python: str | Path = sys.executable) -> None:
    run(sys.executable, "-m", "pip", "--python", python, *arguments, "--no-deps", "--no-index", "-q")


def report(cwd: Path, package_root: Path | None = None, python: str | Path = sys.executable) -> dict:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    if package_root is not None:
        environment["PYTHONPATH"] = str(package_root)
    return json.loads(run(python, "-c", REPORT, cwd=cwd, env=environment))


def names(kind: str) -> set[str]:
    return {path.stem for path in (REPOSITORY / kind).glob("*.yaml")}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy, so that building leaves nothing in the working tree."""
    copy = tmp_path_factory.mktemp("checkout") / "askd"
    copy.mkdir()
    for folder in ("askd", "recipes", "methods", "studies"):
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "datasets").mkdir()
    for card in (REPOSITORY / "datasets").glob("*.yaml"):
        shutil.copy(card, copy / "datasets")
    (copy / "datasets" / "demo").mkdir()
    (copy / "datasets" / "demo" / "train.rec").write_bytes(b"bytes that no wheel should hold")
    shutil.copy(REPOSITORY / "setup.py", copy)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", checkout, "--no-build-isolation", "--wheel-dir", folder)
    (built,) = folder.glob("askd-*.whl")
    return built


def test_wheel_holds_code_recipes_and_cards_only(wheel):
    files = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    expected = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "askd").rglob("*.py")}
    expected |= {f"askd/{kind}/{name}.yaml" for kind in ("recipes", "methods", "studies", "datasets") for name in names(kind)}
    assert set(files) == expected


def test_wheel_finds_its_recipes(wheel, tmp_path):
    target = tmp_path / "site"
    pip("install", wheel, "--target", target)
    found = report(tmp_path, target)
    assert found["package"] == str(target / "askd" / "__init__.py")
    assert (found["teacher"], found["card"]) == ("ms1m", "lfw")
    for kind in ("recipes", "methods", "studies", "datasets"):
        assert set(found[kind]) == names(kind)
        assert all(Path(path).parent == target / "askd" / kind for path in found[kind].values())


def test_editable_install_finds_the_checkouts_recipes(checkout, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    # Dependencies come from this environment, as plain paths: its own .pth files, an editable askd's say, are not read.
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies))
    pip("install", "--editable", checkout, "--no-build-isolation", python=python)
    found = report(tmp_path, python=python)
    assert found["package"] == str(checkout / "askd" / "__init__.py")
    for kind in ("recipes", "methods", "studies", "datasets"):
        assert set(found[kind]) == names(kind)
        assert all(Path(path).parent == checkout / kind for path in found[kind].values())


def test_checkout_without_installing_finds_its_recipes(checkout, tmp_path):
    found = report(tmp_path, checkout)
    assert set(found["recipes"]) == names("recipes") and set(found["datasets"]) == names("datasets")
