"""ABE's batched learners against a loop over learners, written from the paper's equation; what an ensemble shows to everybody else."""
from __future__ import annotations

import os
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from askd.errors import RecipeError
from askd.backbone import build_backbone
from askd.models import make_backbone
from askd.models.cbam import CBAM
from askd.models.ensemble import Ensemble, LearnerNorm
from askd.models.iresnet import IResNet
from askd.recipe import load
from askd.teachers import Frozen

SMALL = dict(blocks=(1, 2, 1, 1), widths=(4, 6, 8, 10), stem_stride=2, attention="cbam", reduction=2)


def network(learners=3, branch=2, depth=2, kind="abe", seed=0, **options) -> Ensemble:
    """In double precision, with batch norms, PReLU slopes and biases that are not what they start as."""
    torch.manual_seed(seed)
    made = Ensemble(lambda: IResNet(**SMALL, embedding=5, **options), learners, branch, depth, kind).double()
    for module in made.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, LearnerNorm)):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0, 0.5)
    return made


def images(count=4):
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


def share(whole: torch.Tensor, learner: int, learners: int) -> torch.Tensor:
    """A learner's part of a grouped module's parameter or buffer."""
    return whole.unflatten(0, (learners, -1))[learner].clone() if whole.ndim else whole.clone()


def attention_module(net: Ensemble, learner: int) -> nn.Module:
    """A_m by itself, from plain convolutions: x -> sigmoid(conv1x1(residual blocks(x)))."""
    class Residual(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return x + self.inner(x)

    def alone(module, shared=False):
        parts = 1 if shared else net.learners
        if isinstance(module, nn.Conv2d):
            made = nn.Conv2d(module.in_channels // module.groups, module.out_channels // net.learners, module.kernel_size, 1, module.padding,
                             bias=module.bias is not None)
        elif isinstance(module, nn.BatchNorm2d):
            made = nn.BatchNorm2d(module.num_features // parts, eps=module.eps)
        else:
            made = nn.PReLU(module.num_parameters // net.learners)
        made.load_state_dict({name: share(value, 0 if shared else learner, parts) for name, value in module.state_dict().items()})
        return made

    def block_alone(index, block):  # the norm of the first sees S's output, which is all learners' own
        return Residual(nn.Sequential(*(alone(layer, index == 0 == place) for place, layer in enumerate(block.residual))))

    blocks = [block_alone(index, block) for index, block in enumerate(net.masks.blocks)]
    return nn.Sequential(*blocks, alone(net.masks.last), nn.Sigmoid()).double()


def backbone_of(net: Ensemble, learner: int) -> IResNet:
    """S and G as this learner sees them, a plain backbone: all weights are shared, G's batch norms have its own statistics."""
    plain = IResNet(**SMALL, embedding=5).double()
    plain.load_state_dict({
        key: (value[learner] if value.ndim > own.ndim else value).clone()
        for (key, own), value in zip(plain.state_dict().items(), net.trunk.state_dict().values(), strict=True)
    })
    return plain


def by_equation(net: Ensemble, plain: list[IResNet], modules: list[nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    """B_m(x) = G(S(x) * A_m(S(x))), learner by learner (Kim et al., section 3.3)."""
    found = []
    for backbone, attention in zip(plain, modules, strict=True):
        shared = backbone.stem(x)
        for stage in backbone.stages[: net.branch]:
            for block in stage:
                shared, _ = block(shared)
        out = shared * attention(shared)
        for stage in backbone.stages[net.branch :]:
            for block in stage:
                out, _ = block(out)
        found.append(backbone.neck(out))
    return found


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("learners, branch, depth", [(1, 2, 1), (2, 1, 1), (3, 2, 2), (4, 4, 1)])
def test_batched_learners_equal_a_loop_over_the_equation(learners, branch, depth, training):
    net = network(learners, branch, depth).train(training)
    plain = [backbone_of(net, m).train(training) for m in range(learners)]
    modules = [attention_module(net, m).train(training) for m in range(learners)]
    features = net.forward_all(images())
    loop = by_equation(net, plain, modules, images())
    for m, embedding in enumerate(loop):
        torch.testing.assert_close(features.learners[:, m], embedding, rtol=0, atol=1e-6)
    whole = torch.cat([F.normalize(embedding.float()) for embedding in loop], 1)
    torch.testing.assert_close(features.embedding, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(features.embedding.norm(dim=1), torch.full((4,), learners**0.5), rtol=0, atol=1e-5)
    for m, backbone in enumerate(plain):  # the running statistics moved as in the loop
        theirs = backbone.state_dict()
        for key, value in net.trunk.state_dict().items():
            torch.testing.assert_close(value[m] if value.ndim > theirs[key].ndim else value, theirs[key], rtol=0, atol=1e-6, msg=key)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_equal_the_loop_s(training):
    net = network().train(training)
    plain = [backbone_of(net, m).train(training) for m in range(3)]
    modules = [attention_module(net, m).train(training) for m in range(3)]
    weights = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (net.forward_all(images()).learners * weights).sum().backward()
    (torch.stack(by_equation(net, plain, modules, images()), 1) * weights).sum().backward()
    for (name, ours), *theirs in zip(net.trunk.named_parameters(), *(backbone.parameters() for backbone in plain)):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, sum(one.grad for one in theirs), rtol=1e-6, atol=1e-6)
    for place, (name, ours) in enumerate(net.masks.named_parameters()):
        theirs = [list(module.parameters())[place].grad for module in modules]
        expected = sum(theirs) if name.startswith("blocks.0.residual.0") else torch.cat(theirs)
        torch.testing.assert_close(ours.grad, expected, rtol=0, atol=1e-6, msg=name)


def test_a_constant_offset_of_a_learner_is_taken_away():
    """What a learner adds to every image alike must not count as diversity."""
    net = network(branch=4).train()
    shared = net.trunk.through(images(), 0, 4)[0]
    moved = torch.cat([shared, shared + 3, shared - 2])
    neck = net.trunk.neck(moved).unflatten(0, (3, 4))
    torch.testing.assert_close(neck[1], neck[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(neck[2], neck[0], rtol=0, atol=1e-4)


def test_heads_are_networks_of_their_own_after_the_branch():
    net = network(kind="heads").eval()
    features = net.forward_all(images())
    shared = net.trunk.through(images(), 0, 2)[0]
    for m, own in enumerate((net.trunk, *net.heads)):
        torch.testing.assert_close(features.learners[:, m], own.neck(own.through(shared, 2)[0]), rtol=0, atol=1e-6)
        assert m == 0 or sum(p.numel() for p in own.stem.parameters()) + sum(p.numel() for p in own.stages[:2].parameters()) == 0
    assert net.masks is None and net.masks_of(images()) is None


@pytest.mark.parametrize("kind", ["abe", "heads"])
def test_maps_and_stages_are_the_single_network_s_in_number_and_shape_and_means_over_learners(kind):
    net, single = network(kind=kind, depth=1).eval(), IResNet(**SMALL, embedding=15).double().eval()
    ours, theirs = net.forward_all(images()), single.forward_all(images())
    assert len(ours.attention) == len(theirs.attention) == 5 and len(ours.stages) == 4
    for mine, other in zip(ours.attention, theirs.attention):
        assert mine.channel.shape == other.channel.shape and mine.spatial.shape == other.spatial.shape
    assert [stage.shape for stage in ours.stages] == [stage.shape for stage in theirs.stages]
    shared, early, _ = net.trunk.through(images(), 0, 2)
    inputs = [shared * net.masks(shared)[:, m] for m in range(3)] if kind == "abe" else [shared] * 3
    owns = [backbone_of(net, m).eval() for m in range(3)] if kind == "abe" else [net.trunk, *net.heads]
    runs = [own.through(x, 2) for own, x in zip(owns, inputs)]
    assert all(torch.equal(mine.spatial, block.spatial) for mine, block in zip(ours.attention, early))
    for place in range(2):
        for part in ("channel", "spatial"):
            mean = sum(getattr(run[1][place], part) for run in runs) / 3
            torch.testing.assert_close(getattr(ours.attention[3 + place], part), mean, rtol=0, atol=1e-9)
        torch.testing.assert_close(ours.stages[2 + place], sum(run[2][place] for run in runs) / 3, rtol=0, atol=1e-9)


def test_masks_are_between_0_and_1_and_differ_between_learners():
    masks = network().eval().masks_of(images())
    assert masks.shape == (4, 3, 6, 28, 28) and 0 < masks.min() and masks.max() < 1
    assert (masks[:, 0] - masks[:, 1]).abs().mean() > 1e-3


@pytest.mark.parametrize("kind", ["abe", "heads"])
def test_frozen_it_is_the_same_function(kind):
    net = network(kind=kind, depth=1).float().eval()
    with torch.no_grad():
        expected = net(images().float())
        torch.testing.assert_close(Frozen(net, torch.device("cpu"))(images().float()).embedding, expected, rtol=0, atol=1e-5)
    assert not any(isinstance(block.bn2, nn.BatchNorm2d) for stage in net.trunk.stages[:2] for block in stage)


def test_an_ensemble_may_start_from_a_single_network(tmp_path):
    single = make_backbone("iresnet10", attention="cbam", embedding=32)
    for kind in ("abe", "heads"):
        recipe = load(["recipe=demo", "network.init=teacher", f"network.ensemble.kind={kind}", "network.ensemble.learners=2"])
        net = build_backbone(recipe, "student", single)
        own = net.state_dict()
        for key, value in single.state_dict().items():
            assert key.startswith("neck.") or torch.equal(own[f"trunk.{key}"], value.expand_as(own[f"trunk.{key}"])), key
            if kind == "heads" and key.startswith("stages.3"):
                assert torch.equal(own[f"heads.0.{key}"], value)
        assert own["trunk.neck.3.weight"].shape == (128, 128 * 49)


@pytest.mark.parametrize("kind", ["abe", "heads"])
def test_so_may_one_whose_learners_keep_part_of_the_stages_empty(kind):
    single = make_backbone("cmt_ti", attention="cbam", embedding=16)
    recipe = load([
        "recipe=demo", "network.init=teacher", "network.backbone=cmt_ti", f"network.ensemble.kind={kind}", "network.ensemble.learners=2", "network.embedding=16",
    ])
    own, given = build_backbone(recipe, "student", single).state_dict(), single.state_dict()
    late = "heads.0." if kind == "heads" else "trunk."
    assert all(torch.equal(own[f"trunk.{key}"], value.expand_as(own[f"trunk.{key}"])) for key, value in given.items() if not key.startswith("neck."))
    assert all(torch.equal(own[late + key], value.expand_as(own[late + key])) for key, value in given.items() if key.startswith(("stages.3", "embeds.3", "positions.3")))


def test_xavier_counts_what_one_learner_s_mask_sees():
    torch.manual_seed(0)
    recipe = load(["recipe=demo", "network.init=random", "network.initialiser=xavier", "network.ensemble.learners=4"])
    masks = build_backbone(recipe, "teacher", None).masks
    weight = masks.last.weight
    inputs = weight.shape[1]
    outputs = weight.shape[0] // masks.last.groups
    bound = (6 / (inputs + outputs)) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound and masks.last.groups == 4
    first = masks.blocks[0].residual[1].weight  # one convolution for all learners, who stand side by side in its outputs
    bound = (6 / (9 * (first.shape[1] + first.shape[0] // 4))) ** 0.5
    assert 0.99 * bound < first.abs().max() <= bound


@pytest.mark.parametrize("arguments, said", [
    (["network.ensemble.learners=2", "method=embedding", "distill.embedding.distance=l2"], "distill.embedding.projection must be linear.*length 1.41"),
    (["network.ensemble.learners=3"], "network.embedding must be a multiple of network.ensemble.learners=3, got 256"),
    (["network.ensemble.branch=0"], "network.ensemble.branch must be a stage of the backbone, from 1 on, got 0"),
    (["network.ensemble.learners=0"], "network.ensemble.learners must be at least 1, got 0"),
    (["network.ensemble.depth=0"], "network.ensemble.depth must be at least 1, got 0"),
    (["network.ensemble.kind=heads", "network.ensemble.depth=2"], "network.ensemble.depth must be left out"),
    (["network.ensemble.learners=1", "head.divergence.weight=1"], "network.ensemble.learners must be 2 or more with head.divergence.*got 1"),
    (["head.divergence.weight=1"], "network.ensemble.learners must be 2 or more with head.divergence.*got 1"),
    (["network.ensemble.learners=2", "head.divergence.margin=5"], "head.divergence.margin must be a squared distance"),
    (["network.ensemble.learners=2", "method=centres"], "distill.centres must be null with network.ensemble"),
    (["network.ensemble.kind=abbe"], "network.ensemble.kind.*abe"),
])
def test_what_cannot_be_is_refused_before_training(arguments, said):
    with pytest.raises(RecipeError, match=said) as refused:
        load(["recipe=demo", *arguments])
    assert "\n" not in str(refused.value)


def test_a_branch_beyond_the_backbone_is_refused():
    recipe = load(["recipe=demo", "network.init=random", "network.ensemble.branch=5"])
    with pytest.raises(RecipeError, match="network.ensemble.branch must be a stage after which to branch, 1 to 4, got 5"):
        build_backbone(recipe, "teacher", None)


@pytest.mark.parametrize("name", ["mobilefacenet", "cmt_ti"])
@pytest.mark.parametrize("kind", ["abe", "heads"])
def test_on_the_other_backbones(name, kind):
    torch.manual_seed(0)
    net = make_backbone(name, dict(learners=2, branch=3, kind=kind), embedding=16, attention="cbam").eval()
    with torch.no_grad():
        features, x = net.forward_all(images(1).float()), images(1).float()
        shared, early, _ = net.trunk.through(x, 0, 3)
        if kind == "abe":
            masked = torch.cat([shared * net.masks(shared)[:, m] for m in range(2)])
            expected = net.trunk.neck(net.trunk.through(masked, 3)[0])[:, None].transpose(0, 1)
        else:
            expected = torch.stack([own.neck(own.through(shared, 3)[0]) for own in (net.trunk, *net.heads)], 1)
        torch.testing.assert_close(features.learners, expected, rtol=0, atol=1e-5)
    assert features.embedding.shape == (1, 16) and len(features.attention) == sum(info["blocks"] for info in net.feature_info)
    trained = [parameter for head in net.heads for parameter in head.parameters() if parameter.requires_grad]
    late = [value for key, value in net.trunk.named_parameters() if value.requires_grad and key.startswith(("neck", "stages.3", "embeds.3", "positions.3"))]
    assert not net.heads or sum(p.numel() for p in trained) == sum(p.numel() for p in late)  # nothing that no learner uses


class Masked(nn.Module):
    """What CBAM meets in an ensemble: the concatenated batch norms of learners."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.attention = nn.Conv2d(16, 16, 3, padding=1, bias=False), LearnerNorm(nn.BatchNorm2d(16), 2), CBAM(16, 4)

    def forward(self, x):
        return self.attention(self.norm(self.conv(x)))[0]


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="compiling needs a C++ compiler")
def test_compiled_in_half_precision_an_ensemble_learns_as_it_does_eagerly():
    """By amax's gradient, compiled, every parameter below CBAM got 0 / 0 in bfloat16 (pytorch/pytorch#186799)."""
    torch.manual_seed(0)
    module = Masked().to(memory_format=torch.channels_last)
    x = torch.randn(4, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    weight, gradients = torch.randn(4, 16, 8, 8), []
    for forward in (module, torch.compile(module)):
        module.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = forward(x)
        (out.float() * weight).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in module.named_parameters()})
    eager, compiled = gradients
    for name, expected in eager.items():
        assert (compiled[name] - expected).norm() < 0.05 * expected.norm(), name
