"""The faces that a report shows are those that were scored, as the network saw them, with the heat of that network."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import nn

from askd.data.degrade import degrade
from askd.data.loader import to_unit
from askd.data.native import decode_native
from askd.data.pairs import NO_FOLD, PairSet
from askd.evaluation import figures
from askd.evaluation.attribution import GRAD_CAM, MAPS
from askd.evaluation.error_sheet import plot_errors, short_name
from askd.evaluation.exhibits import Views, attention_rows, errors_of, map_distances
from askd.evaluation.gather import gather
from askd.evaluation.gradcam import grad_cam, halves_of, scaled_heat
from askd.evaluation.overlay import gaze
from askd.evaluation.report import NATIVE
from askd.evaluation.scored import score
from askd.models import make_backbone

CPU = torch.device("cpu")
PEOPLE = 6


@dataclass
class Network:
    module: nn.Module

    def look(self, images):
        return self.module.forward_all(images)


def network(attention: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(make_backbone("iresnet10", attention=attention, embedding=16).eval().requires_grad_(False))


def pairs(width: int = 112, height: int = 112) -> tuple[PairSet, np.ndarray]:
    """Two noisy images of each of six people, every pair of people's first and second images; and the pixels."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2 * PEOPLE, height, width, 3)).astype(np.uint8)
    encoded = [cv2.imencode(".png", face[..., ::-1])[1].tobytes() for face in pixels]
    left, right = np.divmod(np.arange(PEOPLE**2), PEOPLE)
    names = [f"/far/away/person{i // 2}/{i % 2}.png" for i in range(2 * PEOPLE)]
    return PairSet("noise", encoded, (2 * left).astype(np.int32), (2 * right + 1).astype(np.int32), left == right,
                   np.full(PEOPLE**2, NO_FOLD, np.int16), np.arange(2 * PEOPLE) // 2, names), pixels


@pytest.mark.parametrize("attention, said", [("cbam", MAPS), ("none", GRAD_CAM.format("the pair's cosine"))])
def test_errors_show_what_was_scored(attention, said, tmp_path):
    one, pixels = pairs()
    net = network(attention)
    lot, = gather([one], [112, 14])
    seen = degrade(torch.from_numpy(pixels).permute(0, 3, 1, 2), 14, "bicubic")
    with torch.inference_mode():
        plain, mirrored = (net.look(to_unit(images)).embedding.numpy() for images in (seen, seen.flip(3)))
    found = score(one, plain, mirrored, ["insightface"])["insightface"]
    errors = errors_of("student $_$", net, Views(lot, "bicubic", CPU), one, lot.sets[0][1], 14, found)
    assert errors.all_accepts + errors.all_rejects > 0 and (errors.heat, errors.set, errors.size) == (said, "noise", 14)
    for error in (*errors.accepts, *errors.rejects):
        images = [2 * int(name[6]) + int(name[8]) for name in error.names]  # personN/M.png
        pair, = np.flatnonzero((one.left == images[0]) & (one.right == images[1]))
        assert error.score == found.result.scores[pair] and (error.score >= error.threshold) != one.same[pair]
        expected = seen[images].round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
        assert all(np.array_equal(face, wanted) for face, wanted in zip(error.faces, expected))
        both = to_unit(seen[images])
        if attention == "cbam":
            heat = gaze(net.look(both).attention)
        else:
            heat = scaled_heat(grad_cam(halves_of(net.module), both, net.look(both).embedding.flip(0)))
        assert all(np.allclose(shown, wanted, atol=1e-4) for shown, wanted in zip(error.heat, heat))
    plot_errors(errors, tmp_path / "errors.png")
    drawn = imread(tmp_path / "errors.png")[..., :3]
    assert drawn.std() > 0.1 and [path.name for path in tmp_path.iterdir()] == ["errors.png"]


def test_the_teacher_looks_at_full_size_and_the_others_at_low_resolution():
    one, pixels = pairs()
    lot, = gather([one], [112, 14])
    rows, note = attention_rows({"teacher": network("cbam"), "student": network("none")}, Views(lot, "bicubic", CPU), 14)
    assert len(rows) == 4 and {tuple(row.on_hr) for row in rows} == {("teacher",)} and {tuple(row.on_lr) for row in rows} == {("student",)}
    assert note == f"teacher: {MAPS}; student: {GRAD_CAM.format('''the embedding's norm''')}"
    shown = [next(i for i, face in enumerate(pixels) if np.array_equal(face, row.hr)) for row in rows]
    assert len({i // 2 for i in shown}) == 4  # of different people
    hr = torch.from_numpy(pixels[shown]).permute(0, 3, 1, 2)
    lr = degrade(hr, 14, "bicubic")
    assert all(np.array_equal(row.lr, face) for row, face in zip(rows, lr.round().clamp(0, 255).permute(0, 2, 3, 1).numpy()))
    heat = gaze(network("cbam").look(to_unit(hr)).attention)
    assert all(np.allclose(row.on_hr["teacher"], wanted, atol=1e-5) for row, wanted in zip(rows, heat))
    _, alone = attention_rows({"student": network("cbam")}, Views(lot, "bicubic", CPU), 14)
    assert alone == "Attention maps, mean over blocks"


def test_distances_are_to_the_teacher_at_full_size(tmp_path):
    one, _ = pairs()
    lot, = gather([one], [112, 14])
    views = Views(lot, "bicubic", CPU)
    networks = {"$student_$": network("cbam", 1), "copy": network("cbam", 0), "blind": network("none"), "teacher": network("cbam", 0)}
    rows = map_distances(networks, views, [112, 14], "maps")
    assert [key for key in dict.fromkeys((row.model, row.size) for row in rows)] == [
        ("$student_$", 112), ("$student_$", 14), ("copy", 112), ("copy", 14), ("teacher", 14),
    ]
    assert {row.teacher for row in rows} == {"teacher"} and {row.faces for row in rows} == {PEOPLE} and len(rows) == 5 * 8
    at = {(row.model, row.size, row.part, row.block): row for row in rows}
    for part, block in {(row.part, row.block) for row in rows}:
        assert abs(at["copy", 112, part, block].same) < 1e-6 < at["$student_$", 112, part, block].same
        assert at["copy", 14, part, block].same == pytest.approx(at["teacher", 14, part, block].same, abs=1e-6)
    assert map_distances({"blind": networks["blind"]}, views, [112], "maps") == []
    figures.plot_distances(rows, tmp_path / "distances.png")
    pixels = np.rint(imread(tmp_path / "distances.png")[..., :3] * 255).astype(int)
    for colour in figures.COLOURS[:3]:
        assert (np.abs(pixels - [int(colour[k:k + 2], 16) for k in (1, 3, 5)]).max(-1) == 0).sum() > 100


def test_faces_of_native_size_are_shown_as_they_were_scored():
    one, _ = pairs(24, 30)
    lot, = gather([one], [112, 14])
    views = Views(lot, "bicubic", CPU)
    assert lot.sizes == (NATIVE,)
    expected = np.stack([decode_native(image, "", "bicubic") for image in one.images[:2]])
    assert np.array_equal(views([0, 1], NATIVE).permute(0, 2, 3, 1).numpy(), expected)
    rows, _ = attention_rows({"student": network("cbam")}, views, 14)
    assert all(np.array_equal(row.hr, row.lr) for row in rows)
    assert map_distances({"student": network("cbam")}, views, [112, 14], "maps") == []


def test_names_are_short():
    assert short_name("/a/b/Aaron/Aaron_0001.jpg") == "Aaron/Aaron_0001.jpg" and short_name("x.jpg") == "x.jpg"
    assert short_name("/a/b/lfw.bin: image 12") == "b/lfw.bin: image 12"
