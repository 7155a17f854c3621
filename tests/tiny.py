"""A world small enough to train on in seconds, and the verbs run on it as users run them: each in a process of its own.

Processes are forked from one that has imported the verbs already: importing them takes longer than most of these runs.
"""
from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest
import yaml

from askd.data.cards import load_card

REPOSITORY = Path(__file__).resolve().parents[1]
PATIENCE = 600  # seconds; a run here takes a few
PEOPLE, IMAGES = 12, 4
RENDER = {
    "identities": PEOPLE, "images": IMAGES,
    "verification_identities": 20, "verification_images": 3, "pairs": 40, "seed": 0,
}
RECIPE = {
    "extends": "demo", "device": "cpu",
    "network": {"backbone": "iresnet10", "embedding": 32, "init": "random"},
    "distill": {"attention": {"weight": 5}},
    "train": {
        "epochs": 1, "batch": 16, "optimizer": "adamw", "lr": 0.002, "warmup_epochs": 0,
        "checkpoint_every": 2, "log_every": 1,
    },
    "teacher": {"epochs": None},
    "eval": {"sizes": [112, 14], "during": ["verify"]},
}


@dataclass(frozen=True)
class World:
    """recipe: extends demo, one epoch of three steps on twelve rendered people; data: their folder; card: its card."""

    recipe: Path
    card: Path
    data: Path


@dataclass(frozen=True)
class Finished:
    """How a verb ended and what it said."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Run:
    """What `python -m askd.distill` left in `cwd`; read it, change nothing."""

    world: World
    cwd: Path
    finished: Finished

    @property
    def folder(self) -> Path:
        """runs/mini."""
        return self.cwd / "runs" / "mini"

    def of(self, role: str) -> Path:
        """The run folder of teacher, baseline or student."""
        return self.folder / role / "seed0"


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """The rendered world, drawn once however many test files import this fixture."""
    return _world(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def distilled(world, tmp_path_factory) -> Run:
    """The whole job on it, done once, with the very command a user gives."""
    return _distilled(world, tmp_path_factory.getbasetemp())


@cache
def _distilled(world: World, folder: Path) -> Run:
    cwd = folder / "distilled"
    cwd.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "askd.distill", f"recipe={world.recipe}"], cwd=cwd, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}, timeout=PATIENCE,
    )
    return Run(world, cwd, Finished(done.returncode, done.stdout, done.stderr))


@cache
def _world(folder: Path) -> World:
    made = World(folder / "mini.yaml", folder / "mini_card.yaml", folder / "mini_data")
    card = yaml.safe_load((REPOSITORY / "datasets" / "demo.yaml").read_text())
    card |= {"name": "mini", "identities": PEOPLE, "images": PEOPLE * IMAGES, "render": RENDER}
    made.card.write_text(yaml.safe_dump(card))
    data = {"set": str(made.card), "path": str(made.data), "sizes": [14]}
    made.recipe.write_text(yaml.safe_dump(RECIPE | {"data": data}))
    load_card(str(made.card)).prepare(str(made.data), workers=1)
    return made


def run(verb: str, *arguments: object, cwd: Path, before: Callable[[], None] | None = None) -> Finished:
    """`python -m askd.<verb> <arguments>` in `cwd`, to its end; one that hangs is killed, and its status is then -9.

    before: called first in that process, to have something happen there at a certain point (a function that can be pickled).
    """
    process = _server().Process(target=_verb, args=(verb, [str(argument) for argument in arguments], cwd, before))
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
    return Finished(process.exitcode, (cwd / "out.txt").read_text(), (cwd / "err.txt").read_text())


@cache
def _server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["askd.distill", "albumentations"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
        forkserver.ensure_running()
    return context


def _verb(verb: str, arguments: list[str], cwd: Path, before: Callable[[], None] | None) -> None:
    import torch

    os.chdir(cwd)
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # loader workers start as they do for users
    sys.argv = [f"askd.{verb}", *arguments]
    sys.modules.pop(f"askd.{verb}", None)  # imported by the preload; runpy warns about running it a second time
    if before is not None:
        before()
    runpy.run_module(f"askd.{verb}", run_name="__main__", alter_sys=True)
