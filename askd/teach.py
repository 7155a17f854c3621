"""Train one network by identity alone: a teacher at full resolution, or, at smaller `teacher.sizes`, a baseline.

`train_role` below is the training of every verb: data, network, method, optimiser, loop, model on disk, in that order.
"""
from __future__ import annotations

import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from askd import cli
from askd.backbone import build_backbone
from askd.collectives import Ranks
from askd.data.loader import prepare
from askd.distiller import Distiller, Trunk
from askd.engine import dist
from askd.engine.compiling import choose_compile
from askd.engine.checkpoint import read_state, save_tensors, save_weights
from askd.engine.loop import train
from askd.engine.memory import keep_freed_memory
from askd.engine.optimizer import make_optimizer
from askd.engine.precision import choose_precision
from askd.engine.rows import update_seen_rows
from askd.engine.schedule import make_schedule
from askd.engine.shards import load_whole, whole_state
from askd.errors import RecipeError
from askd.method import (
    check_method, inherit_centres, is_sharded, make_identity, make_own_terms, make_terms, of_whole_batch, teaches,
)
from askd.models.sync_bn import synchronise_batch_norms
from askd.models.onnx_network import OnnxNetwork
from askd.recipe import epochs, load, training_view
from askd.run_folder import begin_folder, class_digest, describe, is_finished, run_folder
from askd.schema import Device, OnBadImage, Recipe, Resume
from askd.teacher_cache import cached_teacher
from askd.teachers import Frozen, load_network, weights_hash
from askd.training_data import make_batches, open_training
from askd.watch import make_evaluate, watched_set

WHAT = "Train a teacher (or, with teacher.sizes below 112, a low-resolution baseline) by identity alone."


def main(argv: list[str]) -> None:
    """`python -m askd.teach recipe=NAME [key=value ...]`"""
    recipe = load(argv)
    role = "teacher" if recipe.teacher.sizes == [112] else "baseline"
    recipe.data.sizes = recipe.teacher.sizes
    with dist.init_from_env(choose_device(recipe)) as device:
        folder = train_role(recipe, role, device)
    if dist.is_main():
        print(f"{role}: {folder}")


def choose_device(recipe: Recipe) -> str:
    """cpu or cuda; asking for CUDA where there is none is an error."""
    if recipe.device is Device.cuda and not torch.cuda.is_available():
        raise RecipeError("device=cuda, but this machine has no CUDA device; use device=auto or device=cpu")
    return "cuda" if recipe.device is not Device.cpu and torch.cuda.is_available() else "cpu"


def train_role(recipe: Recipe, role: str, device: torch.device, teacher_path: Path | None = None, why: str = "") -> Path:
    """Train `role` (teacher, baseline or student) to the end, resuming if it was begun, and return its run folder.

    A finished run of the same recipe is left as it is. teacher_path: the student's teacher; a baseline has use for it only to start
    from its weights (network.init=teacher), a teacher for none.
    why: said first where there is something to train.
    """
    folder = run_folder(recipe, role)
    precision = choose_precision(recipe.precision.name, device)
    compiles, why_compiled = choose_compile(False if recipe.debug.anomaly else recipe.compile, device)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    if device.type == "cpu":
        keep_freed_memory()

    card, faces, held_out = open_training(recipe)
    sizes = recipe.teacher.sizes if role == "teacher" else recipe.data.sizes
    teacher_network, teacher_meta = load_network(teacher_path) if teacher_path else (None, {})
    torch.manual_seed(recipe.seed)  # here, so that baseline and student start from the same weights
    backbone = build_backbone(recipe, role, teacher_network)
    batches = make_batches(recipe, faces, sizes, device)
    ranks = Ranks(batches.even)
    head = make_identity(recipe, len(faces.class_names), ranks)
    distils = role == "student" and teaches(recipe)
    if head is None and not distils:
        raise RecipeError(f"head.weight=0, but a {role} has nothing else to learn from; leave head.weight above 0")
    projections = check_method(recipe, backbone, teacher_network, str(teacher_path)) if distils else None
    identity = {
        "role": role, "recipe": training_view(recipe, role), "classes": len(faces.class_names), "images": len(faces),
        "class_ids": class_digest(faces.class_names),
    }
    if teacher_network is not None and (distils or recipe.network.init == "teacher"):
        identity["teacher"] = weights_hash(teacher_network)
    if is_finished(folder, identity, recipe.resume):
        return folder

    watched = {name: watched_set(name, card, recipe, held_out) for name in recipe.eval.during}

    modules = {"trunk": backbone} | ({"head": head} if head else {}) | ({"projections": projections} if projections else {})
    for module in modules.values():
        module.to(device=device, memory_format=torch.channels_last)
    per_epoch = batches.steps_per_epoch
    if recipe.head.warmup_epochs and head is not None:
        head.warm_up(max(round(recipe.head.warmup_epochs * per_epoch), 1), recipe.train.accumulate)
    teacher = Frozen(teacher_network, device, compiles, precision.dtype, recipe.distill.teacher_parts()) if distils else None
    heads = inherit_centres(recipe, head, teacher, teacher_path, faces, device, ranks) if distils else None
    terms = make_terms(recipe, heads, ranks) if distils else {}
    cache = None
    if terms and recipe.teacher.cache:
        cache = cached_teacher(
            teacher, identity["teacher"], teacher_network.head_hidden_size, faces, Path(recipe.out) / "cache", precision, device,
            batch=max(recipe.train.batch // dist.world_size(), 1), skip_bad=recipe.data.on_bad_image is OnBadImage.skip,
        )
    trunk = Trunk(backbone, projections)
    trunk = parallel(synchronise_batch_norms(trunk, device) if recipe.train.sync_bn else trunk, device)
    unit_head = head if head is None or is_sharded(recipe) else parallel(head, device)
    unit_trunk = torch.compile(trunk) if compiles else trunk
    if compiles:  # but for logit's, whose heads count steps in Python
        terms = {name: (weight, term if name == "logit" else torch.compile(term)) for name, (weight, term) in terms.items()}
    distiller = Distiller(
        unit_trunk, unit_head, (cache or teacher) if terms else None, terms, recipe.head.weight, make_own_terms(recipe), ranks,
        of_whole_batch(recipe),
    )
    learns = recipe.train
    optimizer = make_optimizer(
        modules.values(), learns.optimizer.name, learns.lr, learns.weight_decay, learns.momentum, learns.nesterov, learns.decay_all,
    )
    update_seen_rows(optimizer)
    passes = epochs(recipe, role)
    steps = max(round(passes * per_epoch), 1)
    schedule = make_schedule(
        recipe.train.schedule.name, steps=steps, warmup=round(recipe.train.warmup_epochs * per_epoch),
        milestones=[round(m * per_epoch) for m in recipe.train.milestones], gamma=recipe.train.gamma, power=recipe.train.power,
    )
    degradation, quantise = recipe.data.degradation.name, recipe.data.quantise

    def unit(batch):
        hr, lr, label = prepare(batch, device, degradation, quantise)
        return distiller(batch.row if cache else hr, lr, label)

    evaluate = make_evaluate(watched, backbone, sizes, recipe, precision, device, teacher, folder) if watched else None
    if dist.is_main():
        begin_folder(folder, recipe, identity, faces)
        if isinstance(teacher_network, OnnxNetwork):
            print(f"teacher: {teacher_network.path}, fed {teacher_network.fed()}", file=sys.stderr)
        print(
            f"{why}{role}: {recipe.network.backbone} ({sum(p.numel() for p in backbone.parameters()) / 1e6:.1f} M parameters) at "
            f"{', '.join(map(str, sizes))} px on {device}; {len(faces)} images of {len(faces.class_names)} "
            f"people, {steps} steps of {recipe.train.batch} ({passes:g} epochs)", file=sys.stderr,
        )
        print(f"{role}: {'; '.join([precision.why, why_compiled, 'channels-last; fused ' + learns.optimizer.name, *chosen(recipe)])}", file=sys.stderr)
    dist.barrier()
    summary = train(
        unit=unit, modules=modules, batches=batches, optimizer=optimizer, schedule=schedule, steps=steps,
        precision=precision, clip=recipe.train.clip, folder=folder, checkpoint_every=recipe.train.checkpoint_every,
        log_every=recipe.train.log_every, evaluate=evaluate, evaluate_every=max(round(recipe.eval.every_epochs * per_epoch), 1),
        select=None if recipe.eval.select == "last" else f"{recipe.eval.select}/auc", resume=recipe.resume is Resume.auto,
        accumulate=learns.accumulate, unsynced=lambda: unsynced(trunk, unit_head), ema=learns.ema, anomaly=recipe.debug.anomaly,
        title=f"{recipe.name} {role}",
    )
    if summary.best_path is not None:
        best = read_state(summary.best_path)["modules"]
        for name, module in modules.items():
            load_whole(module, best[name], summary.best_path)
    learnt = whole_state(head) if head is not None else None
    if dist.is_main():
        if learnt:
            save_tensors(folder / "head.safetensors", learnt)
        meta = describe(recipe, role, sizes, summary, identity, teacher_path, teacher_meta)
        save_weights(folder, backbone.state_dict(), meta)
    dist.barrier()
    return folder


def parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """The module under DDP where there are several processes."""
    if dist.world_size() == 1 or not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def unsynced(*modules: nn.Module | None) -> AbstractContextManager:
    """Inside, DDP adds gradients up without averaging them over processes."""
    stack = ExitStack()
    for module in modules:
        if isinstance(module, DistributedDataParallel):
            stack.enter_context(module.no_sync())
    return stack


def chosen(recipe: Recipe) -> list[str]:
    """What the recipe asks of the step beyond the defaults, in words for the line at the start."""
    accumulate, ema, parts = recipe.train.accumulate, recipe.train.ema, []
    if accumulate > 1:
        parts.append(f"{accumulate} micro-batches of {recipe.train.batch // accumulate}, which is what batch norms and relations see")
    if ema is not None:
        parts.append(f"weights averaged with decay {ema:g}")
    if recipe.head.weight and is_sharded(recipe):
        held = f"class centres on {dist.world_size()} processes in parts" if dist.world_size() > 1 else "class centres sampled"
        parts.append(held + (f", {recipe.head.sample_rate:.0%} seen by a step" if recipe.head.sample_rate < 1 else ""))
    if recipe.train.sync_bn and dist.world_size() > 1:
        parts.append("batch norms over all processes")
    if recipe.debug.anomaly:
        parts.append("looking for non-finite numbers in every module, which is slow")
    return parts


if __name__ == "__main__":
    cli.run("teach", WHAT, main)
