"""How long one training step of a recipe takes on this machine, told from images of noise."""
from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from askd.backbone import build_backbone
from askd.distiller import Distiller, Trunk
from askd.engine.precision import choose_precision
from askd.engine.rows import update_seen_rows
from askd.method import make_identity, make_own_terms, make_projections, make_taught_head, make_terms
from askd.models.features import Features
from askd.schema import Recipe
from askd.teachers import Frozen, load_network

TIMED_STEPS = 3


def seconds_per_step(
    recipe: Recipe, distils: bool, classes: int, device: torch.device, clock: Callable[[], float] = time.perf_counter,
    build: Callable = build_backbone,
) -> float:
    """Median time of one training step (forward, backward, optimiser), the first left out; without `distils` of labels alone.

    Nothing is compiled, and no data is read. With teacher.cache the teacher's embeddings are there already.
    build: what makes the network, with build_backbone's arguments.
    """
    precision = choose_precision(recipe.precision.name, device)
    backbone = build(recipe, "teacher", None).to(device=device, memory_format=torch.channels_last)
    head = make_identity(recipe, classes)
    teacher, projections, terms = None, None, {}
    if distils:
        checkpoint = recipe.teacher.checkpoint
        network = load_network(checkpoint)[0] if checkpoint else build_backbone(recipe, "teacher", None)
        projections = make_projections(recipe, backbone, network)
        heads = None
        if recipe.distill.logit is not None:
            heads = head, make_taught_head(recipe, network.head_hidden_size, classes).to(device).requires_grad_(False).eval()
        terms = make_terms(recipe, heads)
        known = Features(torch.rand(recipe.train.batch, network.head_hidden_size, device=device), (), ())
        if terms:
            teacher = (lambda image: known) if recipe.teacher.cache else Frozen(network, device)
    modules = [module.to(device) for module in (backbone, head, projections) if module is not None]
    distiller = Distiller(Trunk(backbone, projections), head, teacher, terms, recipe.head.weight, make_own_terms(recipe))
    parameters = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, fused=True)
    update_seen_rows(optimizer)
    images = torch.rand(2, recipe.train.batch, 3, 112, 112, device=device) * 2 - 1
    hr, lr = (image.contiguous(memory_format=torch.channels_last) for image in images)
    label = torch.randint(classes, (recipe.train.batch,), device=device)
    times = []
    for _ in range(TIMED_STEPS + 1):
        began = clock()
        optimizer.zero_grad()
        with precision.autocast():
            loss = distiller(hr, lr, label)["loss"]
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        times.append(clock() - began)
    return statistics.median(times[1:])
