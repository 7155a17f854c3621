"""The training loop: it steps a unit that turns a batch into named losses, and survives being stopped at any moment."""
from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from askd.engine import dist
from askd.engine.anomaly import named_anomalies
from askd.engine.average import Average
from askd.engine.best import Best
from askd.engine.checkpoint import Checkpoints, remove_stale_files
from askd.engine.interface import Batches, Summary
from askd.engine.log import RunLog, Throughput
from askd.engine.precision import Precision
from askd.engine.randomness import kept_random_state, random_state, restore_random_state
from askd.engine.shards import (
    cut_rows, cuts_of_all, gather_rows, load_whole, load_whole_optimizer_state, sharded_parameters, whole_optimizer_state, whole_state,
)
from askd.engine.step import Stepper
from askd.engine.stop import Interrupted, StopSignal
from askd.engine.trace import LossTrace
from askd.errors import CheckpointError


def train(
    *,
    unit: Callable[[Any], dict[str, Tensor]],
    modules: dict[str, nn.Module],
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    steps: int,
    precision: Precision,
    clip: float | None,
    folder: Path,
    checkpoint_every: int,
    log_every: int,
    evaluate: Callable[[int], dict[str, float | np.ndarray]] | None = None,
    evaluate_every: int = 0,
    select: str | None = None,
    resume: bool = True,
    accumulate: int = 1,
    unsynced: Callable[[], AbstractContextManager] = nullcontext,
    ema: float | None = None,
    anomaly: bool = False,
    title: str = "train",
) -> Summary:
    """Trains for `steps` optimiser steps in all, continuing from the newest sound checkpoint in `folder`/checkpoints.

    unit: a batch to {"loss": scalar, part: scalar, ...}; "loss" is differentiated, all are logged as means over steps.
    modules: what is checkpointed, under these names; in train mode whenever the unit is called.
    schedule: the factor on each parameter group's `initial_lr` (its `lr` if it has none), by step from 0.
    clip: the largest L2 norm of the gradient over all parameters, None for no limit.
    checkpoint_every, log_every, evaluate_every: steps; each also happens at the end, and 0 means only there.
    evaluate: called on every rank with the number of steps done; its numbers are logged and kept as metrics, its uint8
    (H, W, 3) arrays become TensorBoard images. A checkpoint follows; the training's random numbers are not disturbed.
    select: the metric to maximise; checkpoints/best.pt keeps {"modules": {name: state dict}, "step", "metric"} there.
    resume: False starts over and removes the checkpoints and metrics that `folder` holds.
    accumulate: micro-batches that a batch is cut into; the step takes the mean of their gradients. unsynced: the context of all but the
    last, in which DDP need not talk.
    ema: decay of the weights' moving average, which is what is evaluated, kept as best, and left in `modules` at the end; None for none.
    anomaly: name the module that makes a number non-finite (engine.anomaly).

    SIGTERM and SIGINT finish the step, write a checkpoint and raise Interrupted. A non-finite loss raises TrainingError
    (so does a gradient norm, where `clip` asks for it and no scaler deals with it): on the CPU before the optimiser
    steps, on a device at the next log line and before any checkpoint. On the CPU a resumed run ends with the very bits
    of an uninterrupted one.
    """
    if select is not None and evaluate is None:
        raise ValueError(f"select={select!r} needs an evaluation to select by")
    checkpoints = Checkpoints(Path(folder) / "checkpoints")
    if dist.is_main():
        remove_stale_files(folder)
        remove_stale_files(checkpoints.folder)
        if not resume:
            checkpoints.clear()
    dist.barrier()

    trace = LossTrace(checkpoints)
    cut = (lambda batch: batches.cut(batch, accumulate)) if accumulate > 1 else None
    stepper = Stepper(unit, optimizer, schedule, precision, clip, trace, cut, unsynced, sharded_parameters(modules.values()))
    average = Average(modules, ema) if ema is not None else None
    averaged = average.swapped_in if average else nullcontext
    progress = _restore(checkpoints, modules, stepper, average)
    best = Best(select, checkpoints.best)
    dist.barrier()
    start = progress.step
    skipped: list[str] = []  # by this rank since the ranks last counted

    began, throughput = time.monotonic(), Throughput(batches.batch_size)
    with _torch_generator_kept():
        iterator = batches.iterate(start)
    _set_train_mode(modules)
    with ExitStack() as stack:
        stack.enter_context(closing(iterator))
        log = stack.enter_context(RunLog(folder, steps, title, start=start))
        stop = stack.enter_context(StopSignal())
        if anomaly:
            stack.enter_context(named_anomalies(modules, gradients=not precision.scaler))
        while True:
            step = progress.step
            stopping = dist.any_rank(stop.received is not None)
            evaluating = evaluate and not stopping and _due(step, evaluate_every, steps) and step > progress.evaluated
            if evaluating or stopping or (_due(step, checkpoint_every, steps) and step > start):
                trace.check()
                if evaluating:
                    with throughput.paused(), averaged():
                        with kept_random_state():
                            results = evaluate(step)
                        progress.evaluated, progress.metrics = step, log.evaluation(step, results)
                        best.offer(step, progress.metrics, modules)
                    _set_train_mode(modules)
                _count_skipped(log, progress, skipped)
                progress.skipped = stepper.skipped()
                _save(checkpoints, progress, modules, stepper, average)
            if stopping:
                raise Interrupted(stop.received or signal.SIGTERM, step)
            if step >= steps:
                break

            with _torch_generator_kept():
                batch = next(iterator)
            skipped += batches.skipped(batch)
            stepper.take(step, batch)
            progress.step = step = step + 1
            if average:
                average.update(step)
            throughput.step_done()

            def numbers() -> dict[str, float]:
                return {"lr": optimizer.param_groups[0]["lr"], "images_per_second": throughput.recent()}

            log.tick(step, lambda: trace.latest() | numbers())
            if _due(step, log_every, steps):
                _count_skipped(log, progress, skipped)
                counts = {"skipped_steps": stepper.skipped()} if precision.scaler else {}
                counts |= {"skipped_images": progress.skipped_images} if progress.skipped_images else {}
                log.scalars(step, dist.all_reduce_mean(trace.drain()) | numbers() | counts)

    if average:
        average.swap()
    return Summary(
        step=progress.step,
        seconds=time.monotonic() - began,
        images_per_second=throughput.overall(),
        best_step=best.step,
        best_metric=best.metric,
        best_path=checkpoints.best if best.step is not None else None,
        metrics=progress.metrics,
        skipped_images=progress.skipped_images,
    )


@dataclass
class Progress:
    """What a checkpoint holds of the loop: steps done, the last evaluated and its metrics, steps the scaler skipped, images not read."""

    step: int = 0
    evaluated: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    skipped_images: int = 0


def _due(step: int, every: int, steps: int) -> bool:
    return step >= steps or (every > 0 and step % every == 0)


def _torch_generator_kept() -> AbstractContextManager:
    """Building a DataLoader draws from torch's global generator; fetching must not, or a resumed run would differ."""
    return torch.random.fork_rng(devices=())


def _set_train_mode(modules: dict[str, nn.Module]) -> None:
    for module in modules.values():
        module.train()


def _count_skipped(log: RunLog, progress: Progress, skipped: list[str]) -> None:
    """Adds what all ranks skipped since the last call, says so, and empties `skipped`."""
    everywhere = dist.all_gather((len(skipped), skipped[-1:]))
    new = sum(number for number, _ in everywhere)
    if new:
        progress.skipped_images += new
        last = next(lines[0] for _, lines in everywhere if lines)
        log.say(f"step {progress.step}  {progress.skipped_images} images skipped so far, the last: {last}")
    skipped.clear()


def _save(
    checkpoints: Checkpoints, progress: Progress, modules: dict[str, nn.Module], stepper: Stepper, average: Average | None,
) -> None:
    random_states = dist.all_gather(random_state())
    whole = {name: whole_state(module) for name, module in modules.items()}
    optimizer = whole_optimizer_state(stepper.optimizer, stepper.shards)
    averages = gather_rows(average.state_dict(), cuts_of_all(modules)) if average else None
    if dist.is_main():
        state = {
            "progress": asdict(progress),
            "modules": whole,
            "optimizer": optimizer,
            "scaler": stepper.scaler.state_dict(),
            "random": random_states,
        } | ({"average": averages} if average else {})
        checkpoints.save(progress.step, state)


def _restore(checkpoints: Checkpoints, modules: dict[str, nn.Module], stepper: Stepper, average: Average | None) -> Progress:
    """Puts all back as the newest sound checkpoint has it; a job of another size keeps its fresh random states."""
    path = checkpoints.latest()
    if path is None:
        return Progress()
    state = checkpoints.load(path)
    try:
        if set(state["modules"]) != set(modules):
            raise ValueError(f"it holds the modules {sorted(state['modules'])}, this run has {sorted(modules)}")
        for name, module in modules.items():
            load_whole(module, state["modules"][name], f"{path} ({name})")
        load_whole_optimizer_state(stepper.optimizer, stepper.shards, state["optimizer"])
        stepper.resume(state["scaler"], state["progress"]["skipped"])
        if average:
            cuts = cuts_of_all(modules)
            average.load_state_dict(cut_rows(state["average"], cuts, {name: len(average.state_dict()[name]) for name in cuts}))
        if len(state["random"]) == dist.world_size():
            restore_random_state(state["random"][dist.rank()])
        return Progress(**state["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"checkpoint {path} is of another run ({str(error).splitlines()[0]}); "
            "use the recipe it was made with, or start over"
        ) from error
