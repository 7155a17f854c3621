"""Distances of maps equal a naive transcription; a teacher is at no distance from itself, and another face is farther."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from askd.evaluation.map_similarity import MapDistance, Maps, compare_maps, gather_maps, others
from askd.models import make_backbone
from askd.models.features import AttentionMaps, Features


def attention(seed, faces=5):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return [AttentionMaps(draw(faces, 4, 1, 1), draw(faces, 1, 3, 3)), AttentionMaps(draw(faces, 2, 1, 1), None)]


def network(maps):
    return lambda batch: Features(batch, tuple(AttentionMaps(*(None if part is None else part[batch] for part in one)) for one in maps), ())


@pytest.mark.parametrize("space", ["maps", "logits"])
def test_equals_a_transcription(space):
    ours, theirs = attention(0), attention(1)
    batches = [torch.tensor([0, 1, 2]), torch.tensor([3, 4])]
    found = compare_maps("student", "teacher", 14, *(gather_maps(network(maps), batches, space) for maps in (ours, theirs)), seed=3)
    assert [(row.part, row.block) for row in found] == [("channel", 0), ("channel", 1), ("spatial", 0)]
    of = others(5, 3)
    for row in found:
        same, other = [], []
        for face in range(5):
            a, b, c = (getattr(maps[row.block], row.part)[i].flatten().double() for maps, i in ((ours, face), (theirs, face), (theirs, of[face])))
            if space == "maps":
                a, b, c = (1 / (1 + torch.exp(-x)) for x in (a, b, c))
            same.append(1 - float(a @ b / (a @ a) ** 0.5 / (b @ b) ** 0.5))
            other.append(1 - float(a @ c / (a @ a) ** 0.5 / (c @ c) ** 0.5))
        assert row.same == pytest.approx(np.mean(same), abs=1e-6) and row.other == pytest.approx(np.mean(other), abs=1e-6)
        gap = np.subtract(other, same)
        half = 2.7764451 * gap.std(ddof=1) / 5**0.5  # Student's t with 4 degrees of freedom, 97.5 %
        assert (row.low, row.high) == (pytest.approx(gap.mean() - half, abs=1e-5), pytest.approx(gap.mean() + half, abs=1e-5))
        assert (row.model, row.teacher, row.size, row.space, row.faces) == ("student", "teacher", 14, space, 5)


def test_a_network_is_at_no_distance_from_itself_and_another_face_is_farther():
    torch.manual_seed(0)
    backbone = make_backbone("iresnet10", attention="cbam").eval().requires_grad_(False)
    maps = gather_maps(backbone.forward_all, [torch.rand(6, 3, 112, 112) * 2 - 1])
    found = compare_maps("teacher", "teacher", 112, maps, maps)
    assert len(found) == 8 and all(isinstance(row, MapDistance) for row in found)
    assert all(abs(row.same) < 1e-6 and row.other > 0 for row in found)


def test_the_other_face_is_never_the_same():
    for count in range(2, 30):
        of = others(count, count)
        assert sorted(of.tolist()) == list(range(count)) and (of != np.arange(count)).all()


def test_what_cannot_be_compared():
    none = gather_maps(lambda batch: Features(batch, (), ()), [torch.zeros(2)])
    some = gather_maps(network(attention(0)), [torch.arange(5)])
    assert compare_maps("student", "teacher", 14, none, some) == []
    wide = Maps("maps", {("channel", 0): np.ones((5, 9), np.float32), ("channel", 1): some.of["channel", 1]})
    assert [row.block for row in compare_maps("student", "teacher", 14, wide, some)] == [1]  # another width: other blocks only
    few = lambda count: Maps("maps", {key: maps[:count] for key, maps in some.of.items()})  # noqa: E731
    with pytest.raises(ValueError, match="maps of 4 and of 5 faces"):
        compare_maps("student", "teacher", 14, few(4), some)
    with pytest.raises(ValueError, match="at least two faces"):
        compare_maps("student", "teacher", 14, few(1), few(1))
    with pytest.raises(ValueError, match="logits and maps cannot be compared"):
        compare_maps("student", "teacher", 14, Maps("logits", some.of), some)
    with pytest.raises(ValueError, match="unknown space 'sigmoid'"):
        gather_maps(network(attention(0)), [], "sigmoid")
