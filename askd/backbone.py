"""From a recipe to its backbone: the architecture, and the weights it starts from."""
from __future__ import annotations

from torch import nn

from askd.engine.checkpoint import load_module
from askd.errors import RecipeError
from askd.models import make_backbone
from askd.models.attention import DEFAULTS
from askd.models.ensemble import Ensemble, Masks
from askd.models.features import Backbone
from askd.models.onnx_network import OnnxNetwork
from askd.schema import Recipe
from askd.teachers import load_backbone


def build_backbone(recipe: Recipe, role: str, teacher: Backbone | OnnxNetwork | None) -> Backbone:
    """A new network of the recipe's architecture, at random or, unless it is a teacher, from `network.init`.

    An ensemble that starts from a single network takes all its stages, and has its own embedding layers and attention modules at random.
    """
    try:
        backbone = make_backbone(recipe.network.backbone, **network_options(recipe))
    except ValueError as error:
        raise RecipeError(f"network.backbone={recipe.network.backbone}: {error}") from None
    if recipe.network.initialiser.name == "xavier":
        own = {module for part in backbone.modules() if isinstance(part, Masks) for module in part.modules()}  # Xavier already, learner by learner
        for module in backbone.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module not in own:
                for group in module.weight.detach().chunk(getattr(module, "groups", 1)):  # what one group sees and feeds: torch counts all
                    nn.init.xavier_uniform_(group)
    init = recipe.network.init
    if role == "teacher" or init == "random":
        return backbone
    if init == "teacher" and teacher is None:
        raise RecipeError("network.init=teacher, but askd.teach knows of no teacher; give the path of a run folder instead")
    if init == "teacher" and isinstance(teacher, OnnxNetwork):
        raise RecipeError(f"network.init=teacher, but {teacher.path} is an ONNX recogniser, no network of ours; use network.init=random")
    source, name = (teacher, "the teacher") if init == "teacher" else (load_backbone(init)[0], init)
    if isinstance(backbone, Ensemble) and not isinstance(source, Ensemble):
        for learner in (backbone.trunk, *backbone.heads):
            start_stages(learner, source, name)
    else:
        load_module(backbone, source.state_dict(), name)
    return backbone


def start_stages(network: nn.Module, source: nn.Module, name: str) -> None:
    """Load what `network` has of the source's stages, strictly; its neck, of another width, stays as it is, and what it keeps empty.

    Statistics that learners have each begin as the source's.
    """
    own = network.state_dict()
    kept = {key: value for key, value in own.items() if key.startswith("neck.") or not value.numel()}
    given = {key: value for key, value in source.state_dict().items() if not key.startswith("neck.") and key not in kept}
    if isinstance(network.stem, nn.Identity):  # a learner of plain heads has only what lies after the branch
        given = {key: value for key, value in given.items() if key in own}
    given = {key: value.expand_as(own[key]) if key in own and value.ndim + 1 == own[key].ndim else value for key, value in given.items()}
    load_module(network, given | kept, name)


def network_options(recipe: Recipe) -> dict:
    """The recipe's `network` as make_backbone's options; CBAM's arrangement where it is not the paper's."""
    network, ensemble = recipe.network, recipe.network.ensemble
    shared = {} if ensemble is None else {"ensemble": {**vars(ensemble), "kind": ensemble.kind.name}}
    arranged = {key: getattr(network, key).name for key in ("cbam_order", "cbam_parts", "cbam_pool")}
    return {
        "attention": network.attention.name, "spatial_kernel": network.spatial_kernel, "reduction": network.reduction,
        "embedding": network.embedding, "dropout": network.dropout,
        **{key: value for key, value in arranged.items() if value != DEFAULTS[key]}, **shared,
    }
