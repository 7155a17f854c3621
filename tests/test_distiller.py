"""The method's loss is its equation; gradients reach trunk and head and never the teacher."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from askd.distiller import Distiller, Trunk
from askd.heads.classifier import MarginHead
from askd.losses.attention import attention_similarity
from askd.models.features import AttentionMaps, Features
from askd.models.iresnet import IResNet
from askd.teachers import Frozen
from askd.terms import attention_term

BATCH, CLASSES, MARGIN, SCALE, WEIGHT = 4, 5, 0.4, 16.0, 7.0
SMALL = dict(blocks=(1, 1, 1, 1), widths=(4, 4, 8, 8), stem_stride=2, attention="cbam", reduction=2, embedding=6)


def network(seed: int) -> IResNet:
    torch.manual_seed(seed)
    return IResNet(**SMALL)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    hr, lr = (torch.rand(BATCH, 3, 112, 112, generator=generator) * 2 - 1 for _ in range(2))
    return hr, lr, torch.tensor([0, 3, 3, 4])


def arcface_by_hand(embedding: np.ndarray, centres: np.ndarray, label: np.ndarray) -> float:
    """ArcFace eq. 3, image by image; no angle here comes near pi - m, where the fallback begins."""
    losses = []
    for image, true in zip(embedding, label):
        cosine = [image @ c / np.linalg.norm(image) / np.linalg.norm(c) for c in centres]
        angle = math.acos(cosine[true])
        assert angle + MARGIN < math.pi
        logits = [SCALE * (math.cos(angle + MARGIN) if c == true else cosine[c]) for c in range(len(centres))]
        losses.append(math.log(sum(math.exp(z) for z in logits)) - logits[true])
    return sum(losses) / len(losses)


def attention_by_hand(student, teacher) -> float:
    """Mean over blocks and both parts of the batch's mean 1 - cos between maps after the sigmoid."""
    distances = []
    for ours, theirs in zip(student, teacher, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            a, b = (1 / (1 + np.exp(-m.detach().double().numpy().reshape(BATCH, -1))) for m in (a, b))
            distances.append(np.mean([1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b)]))
    return float(np.mean(distances))


def test_loss_is_identity_plus_weighted_attention(batch):
    hr, lr, label = batch
    student, teacher, head = network(0), network(1), MarginHead(6, CLASSES, MARGIN, SCALE)
    reference = network(1).eval()
    parts = Distiller(Trunk(student), head, Frozen(teacher, torch.device("cpu")), {
        "attention": (WEIGHT, attention_term("maps", "mean", 1.0, 1.0)),
    })(hr, lr, label)
    features = student.forward_all(lr)  # batch norms in train mode: the same batch gives the same again
    with torch.no_grad():
        taught = reference.forward_all(hr)
    embedding, centres = (tensor.detach().double().numpy() for tensor in (features.embedding, head.centres))
    identity = arcface_by_hand(embedding, centres, label.numpy())
    attention = attention_by_hand(features.attention, taught.attention)
    assert set(parts) == {"loss", "identity", "attention"}
    assert attention > 1e-4  # two networks do look elsewhere
    assert parts["identity"].item() == pytest.approx(identity, rel=1e-5)
    assert parts["attention"].item() == pytest.approx(attention, rel=1e-3)
    assert parts["loss"].item() == pytest.approx(identity + WEIGHT * attention, rel=1e-5)


def test_several_terms_add_up():
    features = Features(torch.ones(2, 3), (), ())
    terms = {"first": (2.0, lambda s, t, label: torch.tensor(3.0)), "second": (0.5, lambda s, t, label: torch.tensor(4.0))}

    def network(image):
        return features

    parts = Distiller(network, lambda embedding, label: torch.tensor(10.0), network, terms)(*torch.zeros(3, 1))
    values = {name: value.item() for name, value in parts.items()}
    assert values == {"loss": 18.0, "identity": 10.0, "first": 3.0, "second": 4.0}


def test_student_sees_lr_and_teacher_sees_hr():
    hr, lr, label = torch.full((1,), 1.0), torch.full((1,), 2.0), torch.tensor([3])
    seen = {}

    def shown(who):
        def network(image):
            seen[who] = image
            return Features(image, who, ())
        return network

    def head(embedding, given):
        assert embedding is lr and given is label
        return torch.tensor(0.0)

    def term(student, teacher, label):
        assert (student.attention, teacher.attention) == ("student", "teacher")
        return torch.tensor(0.0)

    Distiller(shown("student"), head, shown("teacher"), {"term": (1.0, term)})(hr, lr, label)
    assert seen["student"] is lr and seen["teacher"] is hr


def test_gradient_reaches_trunk_and_head_and_no_teacher(batch):
    trunk, head, teacher = Trunk(network(0)), MarginHead(6, CLASSES, MARGIN, SCALE), network(1)
    teacher.requires_grad_(True)  # even one that nobody froze
    before = {name: value.clone() for name, value in teacher.eval().state_dict().items()}
    distiller = Distiller(trunk, head, teacher.forward_all, {
        "attention": (WEIGHT, attention_term("maps", "mean", 1.0, 1.0)),
    })
    distiller(*batch)["loss"].backward()
    for name, parameter in [*trunk.named_parameters(), *head.named_parameters()]:
        assert not parameter.requires_grad or (parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0), name
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_attention_alone_moves_the_trunk_but_not_the_head(batch):
    trunk, head = Trunk(network(0)), MarginHead(6, CLASSES, MARGIN, SCALE)
    distiller = Distiller(trunk, head, Frozen(network(1), torch.device("cpu")), {
        "attention": (WEIGHT, attention_term("maps", "mean", 1.0, 1.0)),
    })
    distiller(*batch)["attention"].backward()
    assert head.centres.grad is None
    for name, parameter in trunk.backbone.named_parameters():
        if "attention" in name:
            assert parameter.grad.abs().sum() > 0, name
        if name.startswith("neck"):  # maps lie before it
            assert parameter.grad is None, name


def test_teacher_is_in_no_state_dict(batch):
    teacher = Frozen(network(1), torch.device("cpu"))
    trunk, head = Trunk(network(0)), MarginHead(6, CLASSES)
    distiller = Distiller(trunk, head, teacher, {"attention": (1.0, attention_term("maps", "mean", 1.0, 1.0))})
    assert not isinstance(teacher, nn.Module) and not isinstance(distiller, nn.Module)
    assert set(trunk.state_dict()) == {f"backbone.{name}" for name in network(0).state_dict()}
    assert set(head.state_dict()) == {"centres"}
    trunk.train()
    assert not teacher.backbone.training and not any(p.requires_grad for p in teacher.backbone.parameters())


def test_without_terms_nobody_looks_at_hr(batch):
    _, lr, label = batch
    parts = Distiller(Trunk(network(0)), MarginHead(6, CLASSES, MARGIN, SCALE))(None, lr, label)
    assert set(parts) == {"loss", "identity"} and torch.equal(parts["loss"], parts["identity"])


def test_terms_and_teacher_come_together():
    trunk, head = Trunk(network(0)), MarginHead(6, CLASSES)
    with pytest.raises(ValueError, match="terms need a teacher"):
        Distiller(trunk, head, None, {"attention": (1.0, attention_term("maps", "mean", 1.0, 1.0))})
    with pytest.raises(ValueError, match="a teacher needs terms"):
        Distiller(trunk, head, Frozen(network(1), torch.device("cpu")))
    with pytest.raises(ValueError, match="a teacher needs terms"):
        Distiller(trunk, head, Frozen(network(1), torch.device("cpu")), {})


def maps(seed: int, blocks: int = 3) -> Features:
    generator = torch.Generator().manual_seed(seed)

    def random_map(*shape):
        return torch.randn(BATCH, *shape, generator=generator)

    attention = tuple(AttentionMaps(random_map(8, 1, 1), random_map(1, 5, 5)) for _ in range(blocks))
    return Features(torch.zeros(BATCH, 2), attention, ())


def test_options_of_the_term_reach_the_loss():
    student, teacher = maps(0), maps(1)
    values = []
    for space in ("maps", "logits"):
        for reduction in ("mean", "sum"):
            for channel, spatial in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (2.0, 0.5)):
                value = attention_term(space, reduction, channel, spatial)(student, teacher, None)
                expected = attention_similarity(
                    student.attention, teacher.attention, space=space, reduction=reduction,
                    channel=channel, spatial=spatial,
                )
                assert torch.equal(value, expected)
                values.append(value.item())
    assert len(set(values)) == len(values)  # no option is without effect


@pytest.mark.parametrize("options", [
    ("map", "mean", 1.0, 1.0), ("maps", "average", 1.0, 1.0), ("maps", "mean", 0.0, 0.0),
])
def test_term_refuses_what_it_cannot_do(options):
    with pytest.raises(ValueError):
        attention_term(*options)(maps(0), maps(1), None)


def test_term_refuses_networks_that_do_not_match():
    with pytest.raises(ValueError, match="same number of attention blocks, got 3 and 2"):
        attention_term("maps", "mean", 1.0, 1.0)(maps(0), maps(1, blocks=2), None)
    with pytest.raises(ValueError, match="got 3 and 0"):
        attention_term("maps", "mean", 1.0, 1.0)(maps(0), Features(torch.zeros(1), (), ()), None)
