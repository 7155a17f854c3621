"""Faults, the long form: a tiny network on rendered faces through every kind of interruption, at moments left to chance.

    nice -n 10 python benchmarks/faults.py [kills=50] [steps=24] [only=kill,sigterm,...]

Trains `askd.teach` without interruption, then again and again with: kill -9 at random moments, kill -9 in the middle of a checkpoint's writing,
SIGTERM, a full disk (a small tmpfs; skipped where mounting is not allowed), a corrupted newest checkpoint, a lost rank under
torchrun --max-restarts, and resumed on another number of ranks. Writes benchmarks/results/faults.md: what each cost, and whether the weights
came out as those of the uninterrupted run, by their SHA-256. tests/engine/test_faults.py holds the short form, at chosen moments.
"""
from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import yaml

from askd.data.cards import load_card
from askd.engine.checkpoint import Checkpoints, find_damage, load_weights

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "faults.md"
PATIENCE = 3600  # seconds
EVERY = 2  # steps between checkpoints
# where the number of ranks changes nothing but rounding, and a step does not enlarge that
ALIKE = ("train.sync_bn=true", "network.dropout=0", "train.optimizer=sgd", "train.lr=0.0005")
DEFAULTS = {"kills": "50", "steps": "24", "only": "kill,write,sigterm,disk,corrupt,rank,ranks"}
TITLES = {
    "kill": "kill -9 at random moments", "write": "kill -9 in the middle of writing a checkpoint", "sigterm": "SIGTERM",
    "disk": "full disk", "corrupt": "newest checkpoint corrupted", "rank": "one of two ranks killed, `torchrun --max-restarts=1`",
    "ranks": "two ranks killed, resumed by one process",
}


class Harness:
    """Trainings of one recipe in folders below `work`, each by a process that can be hurt."""

    def __init__(self, work: Path, steps: int):
        self.work, self.steps = work, steps
        self.recipe = write_world(work, steps)
        self.server = multiprocessing.get_context("forkserver")
        self.server.set_forkserver_preload(["askd.teach", "albumentations"])
        self.hash = self.finish(work / "whole")
        began = time.monotonic()
        if self.finish(work / "again") != self.hash:
            raise SystemExit("two uninterrupted trainings end with different weights")
        self.seconds = time.monotonic() - began  # of a training, from its start to its end

    def start(self, out: Path, half: int = 0, keys: tuple[str, ...] = ()) -> BaseProcess:
        """askd.teach into `out`, under way; with half=n it kills itself in the middle of writing its n-th checkpoint."""
        out.mkdir(parents=True, exist_ok=True)
        process = self.server.Process(target=teach, args=([f"recipe={self.recipe}", f"out={out}", *keys], out, half))
        process.start()
        return process

    def finish(self, out: Path, keys: tuple[str, ...] = ()) -> str:
        """Trains to the end; the hash of the weights."""
        process = self.start(out, keys=keys)
        process.join(PATIENCE)
        if process.exitcode != 0:
            raise SystemExit(f"{out}: exit status {process.exitcode}: {said(out)}")
        return weights_hash(out)


def teach(arguments: list[str], out: Path, half: int) -> None:
    """`python -m askd.teach` in this process; what it says is appended to `out`/said.txt."""
    said = os.open(out / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1), os.dup2(said, 2)
    import torch

    torch.set_num_threads(1)
    if half:
        torch.save = half_written(torch.save, half)
    sys.argv = ["askd.teach", *arguments]
    sys.modules.pop("askd.teach", None)
    runpy.run_module("askd.teach", run_name="__main__", alter_sys=True)


def half_written(save, number: int):
    """torch.save that, called for the n-th time, writes half of the file and is killed."""
    import io

    calls = 0

    def saving(state, file):
        nonlocal calls
        calls += 1
        if calls < number:
            return save(state, file)
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    return saving


def write_world(work: Path, steps: int) -> Path:
    """Twelve rendered people and a recipe of `steps` steps of iresnet10 on them."""
    card = yaml.safe_load((REPOSITORY / "datasets" / "demo.yaml").read_text())
    render = {"identities": 12, "images": 4, "verification_identities": 20, "verification_images": 3, "pairs": 40, "seed": 0}
    card |= {"name": "faults", "identities": 12, "images": 48, "render": render}
    (work / "card.yaml").write_text(yaml.safe_dump(card))
    load_card(str(work / "card.yaml")).prepare(str(work / "data"), workers=1)
    recipe = {
        "extends": "demo", "name": "faults", "device": "cpu", "network": {"backbone": "iresnet10", "embedding": 32, "dropout": 0.2},
        "data": {"set": str(work / "card.yaml"), "path": str(work / "data")},
        "train": {
            "epochs": steps / 6, "batch": 8, "optimizer": "adamw", "lr": 0.002, "warmup_epochs": 0, "ema": 0.9,
            "checkpoint_every": EVERY, "log_every": 1,
        },
        "teacher": {"epochs": None}, "eval": {"during": ["verify"], "every_epochs": 2}, "after": [],
    }
    (work / "faults.yaml").write_text(yaml.safe_dump(recipe))
    return work / "faults.yaml"


def folder_of(out: Path) -> Path:
    return out / "faults" / "teacher" / "seed0"


def weights_hash(out: Path) -> str:
    return hashlib.sha256((folder_of(out) / "model.safetensors").read_bytes()).hexdigest()


def said(out: Path) -> str:
    return (out / "said.txt").read_text().strip().splitlines()[-1]


def lost_steps(out: Path) -> int | None:
    """Steps that were logged and lie past the newest sound checkpoint: what a kill has cost. None before the first step."""
    try:
        lines = (folder_of(out) / "metrics.jsonl").read_text().splitlines()
        done = max(json.loads(line)["step"] for line in lines)
    except (OSError, ValueError):
        return None
    sound = [step for step, path in Checkpoints(folder_of(out) / "checkpoints").steps().items() if find_damage(path) is None]
    return done - max(sound, default=0)


def kill(harness: Harness, kills: int) -> str:
    """Killed until there were `kills` kills; whatever is finished on the way must have the right weights."""
    chance, lost, writing, runs, wrong, done = random.Random(0), [], 0, 0, 0, 0
    out = harness.work / "kill0"
    while done < kills:
        process = harness.start(out)
        process.join(chance.uniform(0, harness.seconds))
        if process.exitcode is None:
            process.kill()
            process.join()
            done += 1
            writing += bool(list(out.rglob("*.tmp")))
            if (cost := lost_steps(out)) is not None:
                lost.append(cost)
            continue
        runs += 1
        wrong += process.exitcode != 0 or weights_hash(out) != harness.hash
        out = harness.work / f"kill{runs}"
    wrong += harness.finish(out) != harness.hash
    most = max(lost, default=0)
    return (f"{done} kills over {runs + 1} trainings, {writing} of them while a file was being written; at most {most} steps lost "
            f"({EVERY} promised); {runs + 1 - wrong} of {runs + 1} trainings end with the same weights")


def write(harness: Harness, kills: int) -> str:
    out, lost = harness.work / "write", []
    for number in range(1, 6):
        process = harness.start(out, half=number)
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL, said(out)
        lost.append(lost_steps(out))
    return f"{len(lost)} kills, each in the middle of a file; at most {max(lost)} steps lost; {compared(harness, out)}"


def sigterm(harness: Harness, kills: int) -> str:
    out, statuses = harness.work / "sigterm", []
    for _ in range(3):
        process = harness.start(out)
        wait_for_steps(out, process, 1 + len(statuses) * 4)
        process.terminate()
        process.join(PATIENCE)
        statuses.append((process.exitcode, lost_steps(out)))
    return f"exit status and steps lost {', '.join(map(str, statuses))}; {compared(harness, out)}"


def disk(harness: Harness, kills: int) -> str:
    out = harness.work / "disk"
    out.mkdir()
    size = max(path.stat().st_size for path in (folder_of(harness.work / "whole") / "checkpoints").iterdir())
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(2.5 * size)}", "tmpfs", out], capture_output=True).returncode:
        return "skipped: no tmpfs can be mounted here (tests/engine/test_faults.py limits the size of files instead)"
    try:
        process = harness.start(out)
        process.join(PATIENCE)
        words, kept = said(out).replace(str(out), "OUT"), [path.name for path in (folder_of(out) / "checkpoints").iterdir()]
        subprocess.run(["mount", "-o", "remount,size=1g", out], check=True)
        return f"exit status {process.exitcode}, \"{words}\", {', '.join(sorted(kept))} kept; with room again {compared(harness, out)}"
    finally:
        subprocess.run(["umount", "-l", out], check=True)


def corrupt(harness: Harness, kills: int) -> str:
    out = harness.work / "corrupt"
    process = harness.start(out)
    wait_for_steps(out, process, 9)
    process.kill()
    process.join()
    newest = max(Checkpoints(folder_of(out) / "checkpoints").steps().values())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 255
    newest.write_bytes(content)
    result = compared(harness, out)
    warned = [line for line in (out / "said.txt").read_text().splitlines() if "is corrupt" in line]
    return f"\"{warned[0].replace(str(folder_of(out)), '...')}\"; {result}"


def torchrun(harness: Harness, out: Path, processes: int, restarts: int = 0, keys: tuple[str, ...] = ()) -> subprocess.Popen:
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    with open(out / "said.txt", "a") as words:
        return subprocess.Popen(
            [*command, "-m", "askd.teach", f"recipe={harness.recipe}", f"out={out}", *keys], stdout=words, stderr=words,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        )


def rank_process(launcher: int, rank: int) -> int:
    """The process id of a rank that a torchrun started."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"PPid:\t{launcher}\n" in status.read_text() and f"\0RANK={rank}\0".encode() in (status.parent / "environ").read_bytes():
                return int(status.parent.name)
        except OSError:
            continue
    raise SystemExit(f"no rank {rank} below process {launcher}")


def rank(harness: Harness, kills: int) -> str:
    whole, out, alone = (harness.work / name for name in ("two", "rank", "alone"))
    torchrun(harness, whole, 2).wait(PATIENCE)
    job = torchrun(harness, out, 2, restarts=1)
    wait_for_steps(out, job, 7)
    os.kill(rank_process(job.pid, 1), signal.SIGKILL)
    status = job.wait(PATIENCE)
    job = torchrun(harness, alone, 2)
    wait_for_steps(alone, job, 7)
    os.kill(rank_process(job.pid, 1), signal.SIGKILL)
    began = time.monotonic()
    ended = job.wait(PATIENCE)
    root = (alone / "said.txt").read_text().split("Root Cause")[1]
    named = "rank      : 1" in root and "SIGKILL" in root
    same = "the same weights as two uninterrupted ranks" if weights_hash(out) == weights_hash(whole) else "OTHER weights than two ranks"
    return (f"exit status {status}, {same} ({weights_hash(out)[:12]}); without restarts the job ended {time.monotonic() - began:.0f} s after the "
            f"kill with status {ended}{', rank 1 and SIGKILL named' if named else ', rank 1 NOT named'}")


def ranks(harness: Harness, kills: int) -> str:
    """Under the conditions in which the number of ranks changes nothing but the order of sums."""
    alone, out = harness.work / "one", harness.work / "ranks"
    harness.finish(alone, ALIKE)
    job = torchrun(harness, out, 2, keys=ALIKE)
    wait_for_steps(out, job, 9)
    os.kill(rank_process(job.pid, 0), signal.SIGKILL)
    job.wait(PATIENCE)
    at = max(Checkpoints(folder_of(out) / "checkpoints").steps())
    harness.finish(out, ALIKE)
    losses, whole = ({line["step"]: line["loss"] for line in map(json.loads, (folder_of(place) / "metrics.jsonl").read_text().splitlines())
                      if "loss" in line} for place in (out, alone))
    weights, other = (load_weights(folder_of(place))[0] for place in (out, alone))
    # as one vector: a bias that batch norm takes away again has a gradient of rounding alone
    ours, theirs = (torch.cat([each[name].double().flatten() for name in sorted(weights)]) for each in (weights, other))
    apart = float((ours - theirs).norm() / theirs.norm())
    curve = max(abs(losses[step] - whole[step]) / whole[step] for step in whole)
    return (f"`{' '.join(ALIKE)}`: went on from step {at}; every step logged once: {sorted(losses) == list(range(1, harness.steps + 1))}; losses of all "
            f"steps within {curve:.1e}, weights within {apart:.1e} of one uninterrupted process's (float32, relative)")


def wait_for_steps(out: Path, process: BaseProcess | subprocess.Popen, steps: int) -> None:
    """Returns once `steps` steps are logged."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        log = folder_of(out) / "metrics.jsonl"
        if log.exists() and len(log.read_text().splitlines()) >= steps:
            return
        ended = process.exitcode if isinstance(process, BaseProcess) else process.poll()
        if ended is not None:
            raise SystemExit(f"{out}: ended before step {steps} with status {ended}: {said(out)}")
        time.sleep(0.02)
    raise SystemExit(f"{out}: no step {steps} after {PATIENCE} s")


def compared(harness: Harness, out: Path) -> str:
    """Trained to its end: whether the weights are those of the uninterrupted run."""
    found = harness.finish(out)
    return f"the same weights ({found[:12]})" if found == harness.hash else f"OTHER weights ({found[:12]})"


def main() -> None:
    options = DEFAULTS | dict(argument.split("=", 1) for argument in sys.argv[1:])
    work = Path(tempfile.mkdtemp(prefix="faults"))
    try:
        harness = Harness(work, int(options["steps"]))
        lines = [
            f"`python benchmarks/faults.py kills={options['kills']} steps={options['steps']}`: iresnet10 + CBAM, batch 8, "
            f"{options['steps']} steps, a checkpoint every {EVERY}, dropout and averaged weights, one thread of a CPU that also did other work.",
            f"Weights of the uninterrupted run: SHA-256 `{harness.hash}`.", "", "| fault | what came of it |", "|---|---|",
        ]
        for name in options["only"].split(","):
            lines.append(f"| {TITLES[name]} | {FAULTS[name](harness, int(options['kills']))} |")
            print(lines[-1], flush=True)
            RESULTS.write_text("\n".join(lines) + "\n")
    finally:
        shutil.rmtree(work)


FAULTS = {"kill": kill, "write": write, "sigterm": sigterm, "disk": disk, "corrupt": corrupt, "rank": rank, "ranks": ranks}

if __name__ == "__main__":
    main()
