"""Faces of people who do not exist, drawn from (seed, identity, sample): the demo's images.

Who somebody is decides the coarse geometry and colours, which are modest, and a fine texture (freckles, moles, lines,
skin grain, brow hairs, iris), which identifies at 112 pixels and fades below 28. Each sample then draws its own pose,
expression, hairstyle, light, background, occlusion and sensor. The head is turned as a relief in depth, and the crop is
fitted to the ArcFace template by the five landmarks, as a face aligner does.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from askd.data.synthetic_parts import (
    BROW_GRID,
    CENTRE,
    EYE_LINE,
    HAIRSTYLES,
    MARGIN,
    SUPERSAMPLE,
    Hairstyle,
    Identity,
    Layers,
    build_layers,
    bump,
    canvas_index,
    frame_grid,
    hairstyle,
    soft_step,
)

TEMPLATE = np.array([  # ArcFace's eyes, nose tip and mouth corners in a 112x112 crop
    (38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041),
])  # fmt: skip
PIVOT = np.array([CENTRE, 62.0])
IN_FLIGHT_PER_WORKER = 4


def render_face(identity: int, sample: int, seed: int = 0, *, fine: bool = True) -> np.ndarray:
    """Draw one image of one person: uint8 (112, 112, 3) RGB, aligned to the ArcFace template up to a small jitter.

    The person depends on (seed, identity) alone, pose, light and the like on (seed, identity, sample); all three >= 0.
    The same arguments give the same bytes in every process with the same numpy and OpenCV. `fine=False` draws the same
    picture without the fine texture. Raises ValueError for a negative number.
    """
    if min(identity, sample, seed) < 0:
        raise ValueError(f"identity, sample and seed must be >= 0, got {identity}, {sample}, {seed}")
    face, layers = _person(identity, seed, fine)
    nuisance = Nuisance.draw(identity, sample, seed)
    colours = _draw_expression(face, layers, nuisance, fine)
    style = hairstyle(nuisance.hairstyle)
    colours = _dress(colours, face, style, nuisance)
    _draw_occluders(colours, face, style, nuisance)
    return _photograph(colours, cv2.max(layers.coverage, style.silhouette), face, layers, nuisance)


def render_identities(
    identities: Sequence[int], samples: int, seed: int = 0, workers: int = 2
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield (identity, sample, image) for samples 0..samples-1 of each identity, in the order given.

    `workers` processes draw one identity each at a time (1 draws in this process). They are spawned, so a program that
    calls this keeps its entry point under `if __name__ == "__main__"`. Raises ValueError for `workers` < 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be >= 1, got {workers}; 1 draws in this process")
    if workers == 1:
        for identity in identities:
            for sample in range(samples):
                yield identity, sample, render_face(identity, sample, seed)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        waiting: deque[tuple[int, Future]] = deque()
        for identity in identities:
            waiting.append((identity, pool.submit(_render_samples, identity, samples, seed)))
            if len(waiting) >= workers * IN_FLIGHT_PER_WORKER:
                yield from _finished(*waiting.popleft())
        while waiting:
            yield from _finished(*waiting.popleft())


def _finished(identity: int, images: Future) -> Iterator[tuple[int, int, np.ndarray]]:
    for sample, image in enumerate(images.result()):
        yield identity, sample, image


def _render_samples(identity: int, samples: int, seed: int) -> list[np.ndarray]:
    return [render_face(identity, sample, seed) for sample in range(samples)]


@lru_cache(maxsize=4)
def _person(identity: int, seed: int, fine: bool) -> tuple[Identity, Layers]:
    face = Identity.draw(identity, seed)
    return face, build_layers(face, identity, seed, fine)


@dataclass(frozen=True)
class Nuisance:
    """What changes from image to image. Angles in radians, lengths in frame pixels, the rest unitless."""

    yaw: float
    pitch: float
    misalignment: complex  # scale and rotation left over by the aligner
    shift: np.ndarray  # (2,)
    smile: float
    mouth_open: float
    brow_raise: float
    lids: tuple[float, float]  # 1 open, 0 closed
    gaze: tuple[float, float]
    light: np.ndarray  # (3,) unit vector towards the light
    key: np.ndarray  # (3,) RGB
    ambient: np.ndarray  # (3,) RGB
    shine: float
    gamma: float
    blur: float
    noise: float
    hairstyle: int
    hair_tint: np.ndarray  # (3,) RGB factor
    glasses: bool
    strands: int
    rng: np.random.Generator  # for the parts that need many numbers: background, strands, sensor noise

    @classmethod
    def draw(cls, identity: int, sample: int, seed: int) -> Nuisance:
        rng = np.random.default_rng(np.random.SeedSequence([seed, identity, 3, sample]))

        def around(spread: float, limit: float) -> float:
            return float(np.clip(rng.normal(0, spread), -limit, limit))

        azimuth, elevation = rng.uniform(-1.2, 1.2), rng.uniform(-0.2, 1.1)
        light = np.array([np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
        warmth, tint = around(0.11, 0.25), around(0.04, 0.1)
        cast = np.array([1 + warmth, 1 + tint, 1 - warmth])
        exposure, contrast = rng.uniform(0.7, 1.25), rng.uniform(0.35, 0.85)
        blink = 0.05 if rng.random() < 0.08 else rng.uniform(0.65, 1.1)
        return cls(
            yaw=around(0.24, 0.6), pitch=around(0.13, 0.32),
            misalignment=complex((1 + around(0.025, 0.06)) * np.exp(1j * around(0.04, 0.1))),
            shift=np.clip(rng.normal(0, 0.9, 2), -2, 2),
            smile=rng.uniform(-0.3, 1.0), mouth_open=max(0.0, rng.uniform(-0.9, 0.9)),
            brow_raise=rng.uniform(-1.2, 2.6), lids=(blink + around(0.03, 0.1), blink + around(0.03, 0.1)),
            gaze=(around(1.3, 2.6), around(0.5, 1.0)),
            light=light, key=cast * exposure * contrast, ambient=cast[::-1] ** 0.5 * exposure * (1.08 - contrast),
            shine=rng.uniform(0.02, 0.22), gamma=rng.uniform(0.85, 1.2),
            blur=max(0.0, rng.uniform(-0.5, 0.65)), noise=rng.uniform(1.0, 4.0),
            hairstyle=int(rng.integers(HAIRSTYLES)), hair_tint=np.exp(around(0.22, 0.5) + rng.normal(0, 0.05, 3)),
            glasses=rng.random() < 0.1, strands=int(rng.integers(2, 6)) if rng.random() < 0.15 else 0, rng=rng,
        )


def _window(cx: float, cy: float, half_width: float, half_height: float) -> tuple[slice, slice]:
    left, right = np.rint(canvas_index(np.array([cx - half_width, cx + half_width]), SUPERSAMPLE)).astype(int)
    top, bottom = np.rint(canvas_index(np.array([cy - half_height, cy + half_height]), SUPERSAMPLE)).astype(int)
    return slice(top, bottom), slice(left, right)


def _paint(region: np.ndarray, colour, coverage: np.ndarray) -> None:
    step = np.asarray(colour, np.float32) - region
    step *= coverage[..., None]
    region += step


def _draw_expression(face: Identity, layers: Layers, nuisance: Nuisance, fine: bool) -> np.ndarray:
    """The identity's colours with brows, eyes and mouth as this sample holds them."""
    colours = layers.colours.copy()
    rows, columns = BROW_GRID
    lift = round(nuisance.brow_raise * SUPERSAMPLE)
    brow_region = colours[rows.start - lift : rows.stop - lift, columns]
    brow_colour = 0.75 * np.float32(face.hair) + 0.1 * np.float32(face.skin)
    _blend(brow_region, lambda region: _paint(region, brow_colour, layers.brows * 0.85))
    for side, lid in zip((-1, 1), nuisance.lids, strict=True):
        window = _window(CENTRE + side * face.eye_apart, EYE_LINE, 13, 9.5)
        _blend(colours[*window], lambda r, w=window, s=side, o=lid: _eye(r, w, face, nuisance, s, o, fine))
    window = _window(CENTRE, face.mouth_line + 3, 20, 15)
    _blend(colours[*window], lambda region: _mouth(region, window, face, nuisance))
    return colours


def _blend(region: np.ndarray, paint) -> None:
    drawn = region.astype(np.float32)
    paint(drawn)
    region[:] = np.clip(drawn + 0.5, 0, 255)


def _eye(region, window, face: Identity, nuisance: Nuisance, side: int, lid: float, fine: bool) -> None:
    x, y = frame_grid(*window)
    u = (x - CENTRE - side * face.eye_apart) * side
    v = y - EYE_LINE + face.eye_tilt * u
    across = u / face.eye_width
    arch = 1 - across**2
    lower = 0.62 * face.eye_height * arch * (1 - 0.2 * max(0.0, nuisance.smile))
    upper = lower - (face.eye_height * (1 - 0.25 * across) * arch + lower) * max(0.04, lid)
    near = soft_step(1.12 - np.abs(across), 0.25)
    skin = np.float32(face.skin)

    _paint(region, skin * 0.78, soft_step(v - upper + 2.4, 2) * soft_step(upper - v, 1) * near * 0.5)
    crease = upper - 2.2 - 0.8 * (1 - min(1.0, lid))
    _paint(region, skin * 0.45, np.exp(-(((v - crease) / 0.6) ** 2)) * near * 0.55)
    opening = soft_step(v - upper) * soft_step(lower - v)
    shade = 0.62 + 0.38 * np.clip((v - upper) / 3.2, 0, 1)
    _paint(region, np.float32([232, 226, 220]) * shade[..., None], opening)

    iris_x, iris_y = u - nuisance.gaze[0] * side, v - nuisance.gaze[1] + 0.3
    radius = np.hypot(iris_x, iris_y) / face.iris_radius
    pattern = np.ones_like(radius)
    if fine:
        spokes = 0.22 * np.cos(face.iris_spokes * np.arctan2(iris_y, iris_x))
        pattern += spokes + 0.5 * np.exp(-(((radius - face.iris_ring) / 0.1) ** 2)) - 0.09
    iris = np.float32(face.iris) * (pattern * shade * (1.15 - 0.55 * soft_step(radius - 0.86, 0.2)))[..., None]
    _paint(region, iris, opening * soft_step((1 - radius) * face.iris_radius))
    _paint(region, (14, 11, 10), opening * soft_step((0.4 - radius) * face.iris_radius))
    glint_x, glint_y = 1.6 * float(nuisance.light[0]) * side, 1.6 * float(nuisance.light[1])
    glint = np.hypot(iris_x - glint_x, iris_y - glint_y)
    _paint(region, (250, 250, 250), opening * soft_step(0.95 - glint) * 0.9)

    _paint(region, (34, 24, 20), np.exp(-(((v - upper) / 0.75) ** 2)) * near * 0.85)
    _paint(region, skin * 0.5, np.exp(-(((v - lower) / 0.5) ** 2)) * near * 0.45)


def _mouth(region, window, face: Identity, nuisance: Nuisance) -> None:
    x, y = frame_grid(*window)
    u = (x - CENTRE) / _mouth_width(face, nuisance)
    v = y - face.mouth_line
    arch = np.clip(1 - u**2, 0, 1)
    gap = 9.0 * nuisance.mouth_open * arch
    line = nuisance.smile * (1.6 - 4.2 * u**2) - 0.5 * np.cos(4 * u)
    bow = 1 - 0.3 * np.exp(-((u / 0.14) ** 2))
    inner_top, inner_bottom = line - 0.15 * gap, line + 0.85 * gap
    top = inner_top - face.lip_upper * bow * arch**0.8
    bottom = inner_bottom + face.lip_lower * arch**0.6
    within = soft_step(1 - np.abs(u), 0.05)

    skin = np.float32(face.skin)
    lips = skin * (1 - face.lip_red * np.float32([0.26, 0.6, 0.52]))
    _paint(region, skin * 0.8, np.exp(-(((v - bottom - 1.2) / 1.2) ** 2)) * within * 0.5)
    _paint(region, lips * 0.86, soft_step(v - top, 0.9) * soft_step(inner_top - v + 0.3) * within)
    roundness = 0.92 + 0.22 * np.exp(-(((v - inner_bottom - 0.45 * face.lip_lower) / 1.3) ** 2))
    _paint(region, lips * roundness[..., None], soft_step(v - inner_bottom + 0.3) * soft_step(bottom - v, 0.9) * within)
    cavity = soft_step(v - inner_top) * soft_step(inner_bottom - v) * within
    _paint(region, (52, 20, 20), cavity)
    teeth = soft_step(inner_top + 0.45 * gap - v, 0.8) * soft_step(0.8 - np.abs(u), 0.2)
    _paint(region, (226, 220, 208), cavity * teeth)
    seam = np.exp(-(((v - inner_top) / 0.55) ** 2)) * soft_step(1.05 - np.abs(u), 0.1)
    _paint(region, lips * 0.35, seam * 0.8)


def _mouth_width(face: Identity, nuisance: Nuisance) -> float:
    return face.mouth_width * (1 + 0.1 * nuisance.smile - 0.08 * nuisance.mouth_open)


def _dress(colours: np.ndarray, face: Identity, style: Hairstyle, nuisance: Nuisance) -> np.ndarray:
    """Put this sample's hairstyle on the head, in this person's hair colour as dyed or lit here."""
    shades = np.arange(256)[:, None] * (face.hair * nuisance.hair_tint / 128)
    hair = cv2.LUT(style.strands, np.clip(shades, 0, 255).astype(np.uint8)[:, None])
    return cv2.blendLinear(colours, hair, 1 - style.front, style.front)


def _draw_occluders(colours: np.ndarray, face: Identity, style: Hairstyle, nuisance: Nuisance) -> None:
    """Glasses and loose strands of hair, drawn where they sit on the head."""
    rng = nuisance.rng
    if nuisance.glasses:
        shade = rng.uniform(15, 90, 3).tolist()
        thickness = int(rng.integers(2, 4))
        half_width, half_height = rng.uniform(12.0, 14.5), rng.uniform(8.5, 11.0)
        for side in (-1, 1):
            rim = _points([(CENTRE + side * (face.eye_apart + 0.5), EYE_LINE + 1)])[0].tolist()
            axes = [round(half_width * SUPERSAMPLE * 16), round(half_height * SUPERSAMPLE * 16)]
            cv2.ellipse(colours, rim, axes, 0, 0, 360, shade, thickness, cv2.LINE_AA, 4)
            inner = face.eye_apart + 0.5 - half_width
            outer = face.eye_apart + 0.5 + half_width
            temple = [(CENTRE + side * outer, EYE_LINE - 1), (CENTRE + side * 52, EYE_LINE - 2)]
            bridge = [(CENTRE, EYE_LINE - 1.5), (CENTRE + side * inner, EYE_LINE)]
            cv2.polylines(colours, [_points(temple), _points(bridge)], False, shade, thickness, cv2.LINE_AA, 4)
    for _ in range(nuisance.strands):
        start = np.array([rng.uniform(20, 92), style.hairline])
        drift = rng.uniform(-18, 18)
        along = np.linspace(0, 1, 12)[:, None]
        path = start + along * (drift, rng.uniform(20, 70)) + (along**2) * (rng.uniform(-14, 14), 0)
        shade = (face.hair * nuisance.hair_tint * rng.uniform(0.7, 1.2)).tolist()
        cv2.polylines(colours, [_points(path)], False, shade, int(rng.integers(1, 4)), cv2.LINE_AA, 4)


def _points(frame) -> np.ndarray:
    return np.rint(canvas_index(np.asarray(frame), SUPERSAMPLE) * 16).astype(np.int32)


def _photograph(
    colours: np.ndarray, coverage: np.ndarray, face: Identity, layers: Layers, nuisance: Nuisance
) -> np.ndarray:
    """Turn the head, align the crop, light it, put it before a background, and read out the sensor."""
    rotation = _rotation(nuisance.yaw, nuisance.pitch)
    u, v = _crop_to_canvas(face, layers.relief, rotation, nuisance)
    maps = [cv2.resize(canvas_index(m, SUPERSAMPLE), (112 * SUPERSAMPLE,) * 2) for m in (u, v)]
    maps = cv2.convertMaps(*maps, cv2.CV_16SC2)
    head, mask = (_downsample(_warp(layer, *maps)) for layer in (colours, coverage))
    shading = _shading(layers, rotation, nuisance, u + MARGIN, v + MARGIN)

    key, ambient, dark = nuisance.key, nuisance.ambient, np.zeros(3)
    lit = cv2.transform(shading, np.stack([key, dark, ambient], axis=1)) * head
    lit += cv2.transform(shading, np.stack([dark, 255 * nuisance.shine * key, dark], axis=1))
    mask = mask.astype(np.float32) / 255
    image = cv2.blendLinear(lit, _background(nuisance.rng), mask, 1 - mask)
    image = 255 * cv2.pow(np.clip(image, 0, 255) / 255, nuisance.gamma)
    if nuisance.blur > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), nuisance.blur)
    image += nuisance.noise * nuisance.rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _warp(layer: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return cv2.remap(layer, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _downsample(layer: np.ndarray) -> np.ndarray:
    return cv2.resize(layer, (112, 112), interpolation=cv2.INTER_AREA)


def _rotation(yaw: float, pitch: float) -> np.ndarray:
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    nod = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    return nod @ turn


def _crop_to_canvas(face: Identity, relief: np.ndarray, rotation: np.ndarray, nuisance: Nuisance):
    """Frame coordinates (two float32 (112, 112)) that each crop pixel sees, for a head seen from afar."""
    smile_width = _mouth_width(face, nuisance)
    corner = face.mouth_line - 2.6 * nuisance.smile
    landmarks = np.array([
        (CENTRE - face.eye_apart, EYE_LINE), (CENTRE + face.eye_apart, EYE_LINE), (CENTRE, face.nose_tip),
        (CENTRE - smile_width, corner), (CENTRE + smile_width, corner),
    ])  # fmt: skip
    columns, rows = np.rint(landmarks.T + MARGIN).astype(int)
    flat, towards = rotation[:2, :2], rotation[:2, 2]
    seen = (landmarks - PIVOT) @ flat.T + relief[rows, columns, None] * towards
    seen, wanted = seen @ (1, 1j), TEMPLATE @ (1, 1j)
    zoom = np.vdot(seen - seen.mean(), wanted - wanted.mean()) / np.vdot(seen - seen.mean(), seen - seen.mean())
    zoom *= nuisance.misalignment
    offset = wanted.mean() - zoom * seen.mean() + nuisance.shift @ (1, 1j)

    pixel_x = np.arange(112)[None, :]
    crop = (pixel_x + 1j * np.arange(112)[:, None] - offset) / zoom
    back = np.linalg.inv(flat)
    slide = (back @ towards).astype(np.float32)
    flat_u = (back[0, 0] * crop.real + back[0, 1] * crop.imag + PIVOT[0]).astype(np.float32)
    flat_v = (back[1, 0] * crop.real + back[1, 1] * crop.imag + PIVOT[1]).astype(np.float32)
    depth = _warp(relief, flat_u + MARGIN, flat_v + MARGIN)
    for _ in range(4):  # fixed point: the depth met along the line of sight decides where the line meets the face
        u, v = flat_u - slide[0] * depth, flat_v - slide[1] * depth
        depth = _warp(relief, u + MARGIN, v + MARGIN)
    return u, v


def _shading(layers: Layers, rotation: np.ndarray, nuisance: Nuisance, columns: np.ndarray, rows: np.ndarray):
    """Wrapped Lambert and Blinn highlight at each crop pixel, (112, 112, 2)."""
    light = rotation.T @ nuisance.light
    half = rotation.T @ (nuisance.light + (0, 0, 1))
    half /= np.linalg.norm(half)
    towards = cv2.transform(layers.normals, np.float32([light, half]))
    diffuse = np.clip((towards[..., 0] + 0.25) / 1.25, 0, 1)
    gloss = np.clip(towards[..., 1], 0, 1) ** 16 * layers.gloss
    return _warp(cv2.merge([diffuse, gloss]), columns, rows)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Gradient, soft blobs and a shoulder line, float32 (112, 112, 3)."""

    def muted() -> np.ndarray:
        return (rng.uniform(15, 235) + rng.normal(0, 22, 3)).astype(np.float32)

    corners = muted() + rng.normal(0, 18, (2, 2, 3)).astype(np.float32)
    backdrop = cv2.resize(corners, (28, 28), interpolation=cv2.INTER_LINEAR)
    x, y = np.arange(28, dtype=np.float32)[None, :], np.arange(28, dtype=np.float32)[:, None]
    for _ in range(int(rng.integers(0, 5))):
        blob = bump(x, y, rng.uniform(0, 28), rng.uniform(0, 28), rng.uniform(1.5, 7), rng.uniform(1.5, 7))
        backdrop += (muted() - backdrop) * blob[..., None]
    shoulders = soft_step(y - rng.uniform(23, 27) - 0.02 * (np.abs(x - 13.5) - 9) ** 2, 1.5)
    backdrop += (muted() - backdrop) * shoulders[..., None]
    return cv2.resize(np.clip(backdrop, 0, 255), (112, 112), interpolation=cv2.INTER_CUBIC)
