"""Train one network by identity alone: a teacher at full resolution, or, at smaller `teacher.sizes`, a baseline.

`train_role` below is the training of every verb: data, network, method, optimiser, loop, model on disk, in that order.
"""
from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from askd import __version__, cli
from askd.data.cards import Card, load_card, open_set
from askd.data.faces import FaceSet, Subset, split_by_hash
from askd.data.loader import TrainingBatches, prepare
from askd.data.pairs import PairSet, all_pairs
from askd.distiller import Distiller, Trunk
from askd.engine import dist
from askd.engine.checkpoint import load_module, read_state, save_tensors, save_weights
from askd.engine.loop import Summary, train
from askd.engine.precision import Precision, choose_precision
from askd.engine.schedule import make_schedule
from askd.errors import CheckpointError, DataError, RecipeError
from askd.evaluation.embed import decode_all, embed
from askd.evaluation.overlay import attention_figure
from askd.evaluation.verification import score_pairs
from askd.method import check_method, inherit_centres, make_head, make_terms, teaches
from askd.models import make_backbone
from askd.models.iresnet import IResNet
from askd.models.onnx_network import OnnxNetwork
from askd.recipe import differences, epochs, fill_defaults, load, save, training_view
from askd.schema import Device, OnBadImage, Recipe, Resume
from askd.teachers import Frozen, load_backbone, load_network, weights_hash

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
    """cpu or cuda; asking for CUDA where there is none, or for compilation without a compiler, is an error."""
    if recipe.device is Device.cuda and not torch.cuda.is_available():
        raise RecipeError("device=cuda, but this machine has no CUDA device; use device=auto or device=cpu")
    device = "cuda" if recipe.device is not Device.cpu and torch.cuda.is_available() else "cpu"
    if recipe.compile and device == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise RecipeError("compile=true on a CPU needs a C++ compiler (g++, or the one that CXX names); install it, or use compile=false")
    return device


def run_folder(recipe: Recipe, role: str) -> Path:
    """runs/<recipe>/<role>/seed<k>."""
    return Path(recipe.out) / recipe.name / role / f"seed{recipe.seed}"


def train_role(recipe: Recipe, role: str, device: torch.device, teacher_path: Path | None = None, why: str = "") -> Path:
    """Train `role` (teacher, baseline or student) to the end, resuming if it was begun, and return its run folder.

    A finished run of the same recipe is left as it is. teacher_path: the student's teacher; a baseline has use for it only to start
    from its weights (network.init=teacher), a teacher for none.
    why: said first where there is something to train.
    """
    folder = run_folder(recipe, role)
    precision = choose_precision(recipe.precision.name, device)

    card, faces, held_out = open_training(recipe)
    sizes = recipe.teacher.sizes if role == "teacher" else recipe.data.sizes
    teacher_network, teacher_meta = load_network(teacher_path) if teacher_path else (None, {})
    torch.manual_seed(recipe.seed)  # here, so that baseline and student start from the same weights
    backbone = build_backbone(recipe, role, teacher_network)
    head = make_head(recipe, recipe.network.embedding, len(faces.class_names)) if recipe.head.weight else None
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
    batches = make_batches(recipe, faces, sizes)

    modules = {"trunk": backbone} | ({"head": head} if head else {}) | ({"projections": projections} if projections else {})
    for module in modules.values():
        module.to(device=device, memory_format=torch.channels_last)
    per_epoch = batches.steps_per_epoch
    if recipe.head.warmup_epochs and head is not None:
        head.warm_up(max(round(recipe.head.warmup_epochs * per_epoch), 1))
    teacher = Frozen(teacher_network, device, recipe.compile) if distils else None
    heads = inherit_centres(recipe, head, teacher, teacher_path, faces, device) if distils else None
    terms = make_terms(recipe, heads) if distils else {}
    trunk = parallel(Trunk(backbone, projections), device)
    unit_trunk = torch.compile(trunk) if recipe.compile else trunk
    distiller = Distiller(unit_trunk, head and parallel(head, device), teacher if terms else None, terms, recipe.head.weight)
    optimizer = make_optimizer(recipe, list(modules.values()))
    passes = epochs(recipe, role)
    steps = max(round(passes * per_epoch), 1)
    schedule = make_schedule(
        recipe.train.schedule.name, steps=steps, warmup=round(recipe.train.warmup_epochs * per_epoch),
        milestones=[round(m * per_epoch) for m in recipe.train.milestones], gamma=recipe.train.gamma, power=recipe.train.power,
    )
    degradation, quantise = recipe.data.degradation.name, recipe.data.quantise

    def unit(batch):
        return distiller(*prepare(batch, device, degradation, quantise))

    evaluate = make_evaluate(watched, backbone, sizes, recipe, precision, device, teacher) if watched else None
    if dist.is_main():
        begin_folder(folder, recipe, identity, faces)
        if isinstance(teacher_network, OnnxNetwork):
            print(f"teacher: {teacher_network.path}, fed {teacher_network.fed()}", file=sys.stderr)
        print(
            f"{why}{role}: {recipe.network.backbone} ({sum(p.numel() for p in backbone.parameters()) / 1e6:.1f} M parameters) at "
            f"{', '.join(map(str, sizes))} px on {device}, {precision.why}; {len(faces)} images of {len(faces.class_names)} "
            f"people, {steps} steps of {recipe.train.batch} ({passes:g} epochs)", file=sys.stderr,
        )
    dist.barrier()
    summary = train(
        unit=unit, modules=modules, batches=batches, optimizer=optimizer, schedule=schedule, steps=steps,
        precision=precision, clip=recipe.train.clip, folder=folder, checkpoint_every=recipe.train.checkpoint_every,
        log_every=recipe.train.log_every, evaluate=evaluate, evaluate_every=max(round(recipe.eval.every_epochs * per_epoch), 1),
        select=None if recipe.eval.select == "last" else f"{recipe.eval.select}/auc", resume=recipe.resume is Resume.auto,
        title=f"{recipe.name} {role}",
    )
    if summary.best_path is not None:
        best = read_state(summary.best_path)["modules"]
        for name, module in modules.items():
            load_module(module, best[name], summary.best_path)
    if dist.is_main():
        if head is not None:
            save_tensors(folder / "head.safetensors", head.state_dict())
        meta = describe(recipe, role, sizes, summary, identity, teacher_path, teacher_meta)
        save_weights(folder, backbone.state_dict(), meta)
    dist.barrier()
    return folder


def open_training(recipe: Recipe) -> tuple[Card, FaceSet, FaceSet | None]:
    """The card, the training faces, and the held-out identities (None without data.holdout); renders a demo set that is not there."""
    card = load_card(recipe.data.set)
    if dist.is_main():
        card.prepare(recipe.data.path, workers=max(recipe.data.workers, os.cpu_count() or 1), progress=show_rendering)
    dist.barrier()
    faces = card.training_faces(recipe.data.path, min_images=recipe.data.min_images)
    if dist.is_main():
        for finding in card.check(recipe.data.path):
            print(f"warning: {finding}", file=sys.stderr)
    held_out = None
    if recipe.data.holdout > 0:
        kept, out = split_by_hash(faces.class_names, recipe.data.holdout)
        faces, held_out = Subset(faces, kept), Subset(faces, out)
    if len(faces) < recipe.train.batch:
        raise DataError(f"{recipe.data.set}: {len(faces)} training images are fewer than train.batch={recipe.train.batch}; lower it")
    if recipe.train.batch % dist.world_size():
        raise RecipeError(f"train.batch must be a multiple of the {dist.world_size()} processes, got {recipe.train.batch}")
    return card, faces, held_out


def make_batches(recipe: Recipe, faces: FaceSet, sizes: list[int]) -> TrainingBatches:
    """This rank's batches of the training faces; RecipeError where the sampler cannot make any."""
    try:
        return TrainingBatches(
            faces, batch=recipe.train.batch, sizes=sizes, augment=recipe.data.augment.name, degradation=recipe.data.degradation.name,
            sampler=recipe.data.sampler.name, images_per_identity=recipe.data.images_per_identity,
            skip_bad=recipe.data.on_bad_image is OnBadImage.skip, seed=recipe.seed, workers=recipe.data.workers, rank=dist.rank(),
            world=dist.world_size(),
        )
    except ValueError as error:
        raise RecipeError(f"data.sampler={recipe.data.sampler.name} of {recipe.data.set}: {error}") from None


def class_digest(class_names: list[str]) -> str:
    """SHA-256 of the identities' names in the order of their class ids: the same on every machine that numbers them alike."""
    return hashlib.sha256("".join(f"{name}\n" for name in class_names).encode()).hexdigest()


def show_rendering(done: int, total: int) -> None:
    """One line that is overwritten while demo faces are drawn."""
    end = "\n" if done == total else ""
    if sys.stderr.isatty() or done == total:
        print(f"\rrendering the demo's faces: {done}/{total}", end=end, file=sys.stderr, flush=True)


def build_backbone(recipe: Recipe, role: str, teacher: IResNet | OnnxNetwork | None) -> IResNet:
    """A new network of the recipe's architecture, at random or, unless it is a teacher, from `network.init`."""
    try:
        backbone = make_backbone(recipe.network.backbone, **network_options(recipe))
    except ValueError as error:
        raise RecipeError(f"network.backbone: {error}") from None
    if recipe.network.initialiser.name == "xavier":
        for module in backbone.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
    init = recipe.network.init
    if role == "teacher" or init == "random":
        return backbone
    if init == "teacher" and teacher is None:
        raise RecipeError("network.init=teacher, but askd.teach knows of no teacher; give the path of a run folder instead")
    if init == "teacher" and isinstance(teacher, OnnxNetwork):
        raise RecipeError(f"network.init=teacher, but {teacher.path} is an ONNX recogniser, no network of ours; use network.init=random")
    source, name = (teacher, "the teacher") if init == "teacher" else (load_backbone(init)[0], init)
    load_module(backbone, source.state_dict(), name)
    return backbone


def network_options(recipe: Recipe) -> dict:
    """The recipe's `network` as make_backbone's options."""
    network = recipe.network
    return {
        "attention": network.attention.name, "spatial_kernel": network.spatial_kernel, "reduction": network.reduction,
        "embedding": network.embedding, "dropout": network.dropout,
    }


def is_finished(folder: Path, identity: dict, resume: Resume) -> bool:
    """Whether this very training is done already; CheckpointError, with the differences, where the folder holds another one."""
    stored = folder / "run.json"
    if not stored.is_file():
        return False
    if resume is Resume.never:
        raise CheckpointError(f"{folder} holds a run and resume=never; remove it, or give this one another name=")
    try:
        theirs = fill_defaults(identity, dict(json.loads(stored.read_text())))
        changes = differences(identity, theirs)
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{stored} is corrupt ({error}); remove {folder} to train again") from None
    if theirs.get("class_ids", identity["class_ids"]) != identity["class_ids"]:
        raise CheckpointError(
            f"{folder} began with other people, or with the same in another order (its classes.txt: {theirs.get('classes')} class ids, the "
            f"data gives {identity['classes']}); train it on the data it began with, or give the new run another name="
        )
    if changes:
        raise CheckpointError(
            f"{folder} was trained otherwise ({'; '.join(changes)}); give this run another name=, or remove that folder"
        )
    finished = (folder / "meta.json").is_file()
    if finished and dist.is_main():
        print(f"{identity['role']}: {folder} is done already", file=sys.stderr)
    return finished


def begin_folder(folder: Path, recipe: Recipe, identity: dict, faces: FaceSet) -> None:
    """Make the run folder: the resolved recipe, what the weights depend on, and the identity behind each class id."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save(recipe, folder / "recipe.yaml")
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in faces.class_names))
        (folder / "run.json.tmp").write_text(json.dumps(identity, indent=1, sort_keys=True))
        os.replace(folder / "run.json.tmp", folder / "run.json")  # whole or not at all: without it nothing resumes
    except OSError as error:
        raise CheckpointError(f"cannot write {folder} ({error.strerror}); choose another out=") from None


def parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """The module under DDP where there are several processes."""
    if dist.world_size() == 1 or not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def make_optimizer(recipe: Recipe, modules: list[nn.Module]) -> torch.optim.Optimizer:
    """SGD or AdamW; vectors (norms, PReLU slopes, biases) are spared weight decay unless train.decay_all."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if recipe.train.decay_all or p.ndim > 1]
    spared = [p for p in parameters if not (recipe.train.decay_all or p.ndim > 1)]
    groups = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}] if spared else [{"params": decayed}]
    options = {"lr": recipe.train.lr, "weight_decay": recipe.train.weight_decay, "fused": True}
    if recipe.train.optimizer.name == "adamw":
        return torch.optim.AdamW(groups, **options)
    return torch.optim.SGD(groups, momentum=recipe.train.momentum, nesterov=recipe.train.nesterov, **options)


def watched_set(name: str, card: Card, recipe: Recipe, held_out: FaceSet | None) -> tuple[PairSet, torch.Tensor]:
    """A verification set to score during training, and its decoded images."""
    pairs = all_pairs(held_out, "holdout") if name == "holdout" else open_set(name, card, recipe.data.path)
    if not isinstance(pairs, PairSet):
        raise DataError(f"eval.during={name}: is no set of pairs; name a verification set, and leave this one to eval.sets")
    if pairs.same.all() or not pairs.same.any():
        kind = "genuine" if pairs.same.all() else "impostors"
        raise DataError(f"eval.during={name}: all {len(pairs)} pairs are {kind}, so there is no AUC to watch; name another set")
    return pairs, decode_all(pairs.images, pairs.image_names)


def make_evaluate(
    watched: dict[str, tuple[PairSet, torch.Tensor]], backbone: IResNet, sizes: list[int], recipe: Recipe, precision: Precision,
    device: torch.device, teacher: Frozen | None,
) -> Callable[[int], dict[str, float | np.ndarray]]:
    """A function that scores the sets at the training sizes: SET/auc (mean over sizes), SET/<size>px/{auc,accuracy}, and the attention figure."""
    first_pairs, first_images = next(iter(watched.values()))

    def score() -> dict[str, float | np.ndarray]:
        backbone.eval()
        results = {}
        for name, (pairs, images) in watched.items():
            areas = []
            for size in sizes:
                with precision.autocast():
                    plain, flipped = embed(
                        backbone, images, size, recipe.data.degradation.name, device=device, batch=recipe.eval.batch,
                        quantise=recipe.data.quantise,
                    )
                scored = score_pairs(plain, flipped, pairs.left, pairs.right, pairs.same, pairs.fold, recipe.eval.protocols[0].name)
                results[f"{name}/{size}px/auc"] = scored.auc
                if scored.accuracy is not None:
                    results[f"{name}/{size}px/accuracy"] = scored.accuracy
                areas.append(scored.auc)
            results[f"{name}/auc"] = math.fsum(areas) / len(areas)
        networks = {"student": (backbone.forward_all, min(sizes))} | ({"teacher": (teacher, 112)} if teacher else {})
        figure = attention_figure(networks, first_images[:4], recipe.data.degradation.name, device)
        return results | ({"attention": figure} if figure is not None else {})

    def evaluate(step: int) -> dict[str, float | np.ndarray]:
        return dist.all_gather(score() if dist.is_main() else None)[0]

    return evaluate


def describe(
    recipe: Recipe, role: str, sizes: list[int], summary: Summary, identity: dict, teacher_path: Path | None, teacher_meta: dict,
) -> dict:
    """meta.json: all that a consumer needs to rebuild and feed the network, and how it came about."""
    return {
        "role": role, "recipe": recipe.name, "seed": recipe.seed, "backbone": recipe.network.backbone,
        "network": network_options(recipe), "embedding": recipe.network.embedding,
        "input": {"size": 112, "colour": "RGB", "mean": 127.5, "std": 127.5, "layout": "NCHW"},
        "sizes": sizes, "degradation": recipe.data.degradation.name, "quantise": recipe.data.quantise,
        "data": recipe.data.set, "classes": identity["classes"], "class_ids": identity["class_ids"], "images": identity["images"],
        "teacher": None if "teacher" not in identity else {
            "path": str(teacher_path), "sha256": identity["teacher"], "recipe": teacher_meta.get("recipe"),
        },
        "training": {key: value for key, value in asdict(summary).items() if key not in ("best_path", "seconds", "images_per_second")},
        "versions": {"askd": __version__, "torch": torch.__version__},
    }


if __name__ == "__main__":
    cli.run("teach", WHAT, main)
