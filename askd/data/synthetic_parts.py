"""What a demo face is made of: an identity's parameters, its layers that never change, and hairstyles for all.

Geometry is in pixels of the aligned 112x112 frame ("frame pixels": x right, y down, centres at integers). Layers are
drawn frontal and unlit on a larger canvas at twice that resolution: a turned head still fills the crop, edges are soft.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

SUPERSAMPLE = 2
MARGIN = 18
SIDE = 112 + 2 * MARGIN
CENTRE = 56.0
EYE_LINE = 51.6
BROW_GRID = tuple(slice((a + MARGIN) * SUPERSAMPLE, (b + MARGIN) * SUPERSAMPLE) for a, b in ((20, 48), (14, 98)))
HAIRSTYLES = 24

SKINS = np.float32([(245, 209, 186), (232, 187, 158), (214, 164, 132), (184, 135, 104), (146, 102, 76), (108, 75, 57)])
HAIRS = np.float32([(30, 26, 25), (52, 37, 29), (84, 57, 38), (122, 86, 52), (178, 140, 88), (132, 70, 40)])
IRISES = np.float32([(58, 38, 26), (88, 60, 36), (100, 86, 54), (92, 102, 80), (86, 108, 124), (104, 116, 132)])


def frame_grid(rows: slice = slice(None), columns: slice = slice(None), scale: int = SUPERSAMPLE):
    """x (1, W) and y (H, 1): frame pixels of the canvas pixel centres, float32."""
    centres = ((np.arange(SIDE * scale) + 0.5) / scale - 0.5 - MARGIN).astype(np.float32)
    return centres[columns][None, :], centres[rows][:, None]


def canvas_index(frame: np.ndarray, scale: int) -> np.ndarray:
    """Canvas pixel index of a frame coordinate: the inverse of `frame_grid`."""
    return (frame + (0.5 + MARGIN)) * scale - 0.5


def soft_step(distance: np.ndarray, softness: float = 1.0 / SUPERSAMPLE) -> np.ndarray:
    """Coverage of a pixel whose centre lies `distance` frame pixels inside an edge."""
    return np.clip(distance / softness + 0.5, 0.0, 1.0)


def bump(x, y, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    """Gaussian of height 1 and standard deviations (rx, ry)."""
    return np.exp(-0.5 * ((x - cx) / rx) ** 2) * np.exp(-0.5 * ((y - cy) / ry) ** 2)


@dataclass(frozen=True)
class Identity:
    """Coarse parameters of one person: frame pixels, colours as RGB 0..255, the rest unitless."""

    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    iris: tuple[float, float, float]
    cheek: float
    jaw: float
    chin: float
    eye_apart: float
    eye_width: float
    eye_height: float
    eye_tilt: float
    iris_radius: float
    iris_ring: float
    iris_spokes: int
    brow_lift: float
    brow_arch: float
    brow_thickness: float
    brow_length: float
    nose_tip: float
    nose_width: float
    nose_height: float
    mouth_line: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    lip_red: float

    @classmethod
    def draw(cls, identity: int, seed: int) -> Identity:
        rng = np.random.default_rng(np.random.SeedSequence([seed, identity, 1]))

        def around(mean: float, spread: float) -> float:
            return float(mean + spread * np.clip(rng.normal(), -2, 2))

        def along(palette: np.ndarray, mean: float, spread: float) -> tuple[float, float, float]:
            place = float(np.clip(around(mean, spread), 0, len(palette) - 1.001))
            low = int(place)
            colour = palette[low] + (place - low) * (palette[low + 1] - palette[low]) + rng.normal(0, 3, 3)
            return tuple(float(channel) for channel in colour)

        return cls(
            skin=along(SKINS, 1.8, 0.55), hair=along(HAIRS, 1.6, 0.6), iris=along(IRISES, 2.3, 1.5),
            cheek=around(43.0, 0.8), jaw=around(2.5, 0.15), chin=around(114.5, 0.9),
            eye_apart=around(17.6, 0.3), eye_width=around(8.6, 0.4), eye_height=around(4.3, 0.35),
            eye_tilt=around(0.06, 0.04), iris_radius=around(4.2, 0.2),
            iris_ring=float(rng.uniform(0.35, 0.8)), iris_spokes=int(rng.integers(5, 14)),
            brow_lift=around(10.5, 0.5), brow_arch=around(2.6, 0.6), brow_thickness=around(3.0, 0.45),
            brow_length=around(12.5, 0.6),
            nose_tip=around(71.7, 0.5), nose_width=around(7.4, 0.5), nose_height=around(9.0, 0.6),
            mouth_line=around(92.3, 0.5), mouth_width=around(14.8, 0.5), lip_upper=around(3.2, 0.4),
            lip_lower=around(4.4, 0.5), lip_red=around(0.5, 0.08),
        )


@dataclass(frozen=True)
class Layers:
    """Drawn once per identity: a bald, eyeless head on the canvas, and its shape, one value per frame pixel."""

    colours: np.ndarray  # (SIDE*2, SIDE*2, 3) uint8 RGB albedo
    coverage: np.ndarray  # (SIDE*2, SIDE*2) uint8, 255 where the head hides the background
    brows: np.ndarray  # (56, 168) float32 coverage over BROW_GRID
    relief: np.ndarray  # (SIDE, SIDE) float32, depth towards the camera in frame pixels
    normals: np.ndarray  # (SIDE, SIDE, 3) float32 unit vectors, x right, y down, z towards the camera
    gloss: np.ndarray  # (SIDE, SIDE) float32 0..1, where skin shines


def build_layers(face: Identity, identity: int, seed: int, fine: bool) -> Layers:
    """Draw one identity's layers; `fine=False` leaves out all that is smaller than about two pixels."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, identity, 2]))
    x, y = frame_grid()
    relief, normals = _relief(face)
    skin = _skin(face, rng)
    texture = _fine_texture(rng)
    brows = _brows(face, rng)
    if fine:
        skin = skin * (1 + texture)
    else:
        brows = cv2.GaussianBlur(brows, (0, 0), 1.0 * SUPERSAMPLE)

    head = _inside(_head_level(face, x, y))
    neck = soft_step(face.cheek - 12 + np.maximum(y - 118, 0) * 0.8 - np.abs(x - CENTRE), 2) * soft_step(y - 90, 4)
    ears = _inside(((np.abs(x - CENTRE) - face.cheek) / 5.5) ** 2 + ((y - 60) / 12) ** 2)
    colour = np.broadcast_to(np.float32(face.skin) * 0.62, skin.shape)
    colour = _over(colour, np.float32(face.skin) * np.float32([0.88, 0.76, 0.72]), ears)
    colour = _over(colour, skin, head)
    coverage = np.maximum.reduce([neck, ears, head])
    gloss = cv2.resize(head, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return Layers(_as_bytes(colour), _as_bytes(255 * coverage), brows, relief, normals, gloss)


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def _over(under: np.ndarray, colour: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    return under + (colour - under) * coverage[..., None]


def _inside(level: np.ndarray) -> np.ndarray:
    """Antialiased region where level < 1, its distance taken from the gradient."""
    down, right = np.gradient(level)
    return np.clip((1 - level) / np.maximum(np.hypot(down, right), 1e-4) + 0.5, 0, 1)


def _head_level(face: Identity, x, y):
    middle = 56.0
    above = np.clip((middle - y) / 70, 0, None) ** 2
    below = np.clip((y - middle) / (face.chin - middle), 0, None) ** face.jaw
    return (np.abs(x - CENTRE) / face.cheek) ** 2.2 + above + below


def _relief(face: Identity):
    """Depth and normals: an egg with sockets, brow ridge, nose, cheeks, lips and chin on it."""
    x, y = frame_grid(scale=1)
    bridge = bump(x, 0, CENTRE, 0, face.nose_width * 0.5, 1)
    rise = np.clip((y - 44) / (face.nose_tip - 44), 0, 1) ** 1.4
    fall = np.exp(-0.5 * (np.maximum(y - face.nose_tip, 0) / 2.6) ** 2)
    relief = 40 * bump(x, y, CENTRE, 58, face.cheek * 0.86, 58) + face.nose_height * bridge * rise * fall
    for side in (-1, 1):
        relief += 2.6 * bump(x, y, CENTRE + side * face.nose_width * 0.82, face.nose_tip + 1, 2.6, 2.6)
        relief -= 3.4 * bump(x, y, CENTRE + side * face.eye_apart, EYE_LINE - 1, 9, 5)
        relief += 2.0 * bump(x, y, CENTRE + side * face.eye_apart, EYE_LINE - face.brow_lift, 12, 4)
        relief += 3.0 * bump(x, y, CENTRE + side * 25, 68, 10, 9)
    relief += 2.6 * bump(x, y, CENTRE, face.mouth_line, face.mouth_width * 0.8, 6)
    relief += 3.2 * bump(x, y, CENTRE, face.chin - 8, 9, 6)
    relief = relief.astype(np.float32)
    down, right = np.gradient(relief)
    normals = np.dstack([-1.25 * right, -1.25 * down, np.ones_like(relief)])
    return relief, normals / np.linalg.norm(normals, axis=2, keepdims=True)


def _skin(face: Identity, rng: np.random.Generator) -> np.ndarray:
    """Soft colouring of the face: blush, shadows around eyes and nose, nostrils, blotches."""
    x, y = frame_grid(scale=1)
    red, dark = np.zeros((SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), np.float32)
    for side in (-1, 1):
        red += 0.5 * bump(x, y, CENTRE + side * 26, 73, 9, 7)
        dark += 0.16 * bump(x, y, CENTRE + side * face.eye_apart, EYE_LINE + 6, 8, 2.2)
        dark += 0.18 * bump(x, y, CENTRE + side * (face.eye_apart - 4), EYE_LINE - 5, 9, 3)
        dark += 0.22 * bump(x, y, CENTRE + side * (face.nose_width + 1.2), face.nose_tip + 2, 1.2, 3)
        dark += 0.85 * bump(x, y, CENTRE + side * face.nose_width * 0.5, face.nose_tip + 4.2, 1.7, 0.9)
        fold = CENTRE + side * (face.nose_width + 2 + np.clip(y - face.nose_tip, 0, 30) * 0.42)
        dark += 0.1 * np.exp(-0.5 * ((x - fold) / 1.4) ** 2) * bump(0, y, 0, face.nose_tip + 10, 1, 7)
    red += 0.35 * bump(x, y, CENTRE, face.nose_tip, 5, 4)
    dark += 0.2 * bump(x, y, CENTRE, face.nose_tip + 5.5, face.nose_width * 0.8, 1.3)
    dark += 0.14 * bump(x, y, CENTRE, face.mouth_line + face.lip_lower + 3.5, 8, 1.8)
    for _ in range(int(rng.integers(2, 7))):
        spot = bump(x, y, rng.uniform(20, 92), rng.uniform(18, 108), *rng.uniform(1.6, 3.2, 2))
        red += rng.uniform(0.3, 0.8) * spot
        dark += rng.uniform(0.0, 0.1) * spot
    tint = 1 - dark[..., None] - red[..., None] * np.float32([-0.02, 0.11, 0.10])
    tint = cv2.resize(tint, (SIDE * SUPERSAMPLE,) * 2, interpolation=cv2.INTER_LINEAR)
    return np.float32(face.skin) * tint


def _smooth_field(rng: np.random.Generator, nodes: int) -> np.ndarray:
    """Random field 0..1 over the canvas, `nodes` values per axis."""
    coarse = rng.random((nodes, nodes), dtype=np.float32)
    return np.clip(cv2.resize(coarse, (SIDE * SUPERSAMPLE,) * 2, interpolation=cv2.INTER_CUBIC), 0, 1)


def _fine_texture(rng: np.random.Generator) -> np.ndarray:
    """Relative change of albedo (H, W, 3) that tells people apart at 112 pixels and fades below 28.

    Grain of five coarsenesses and directions, strength varying from region to region; freckles, moles, lines, scars.
    """
    size = SIDE * SUPERSAMPLE
    grey = np.zeros((size, size), np.float32)
    for across, along in ((1.1, 1.1), (2.0, 2.0), (3.2, 3.2), (3.8, 1.0), (1.0, 3.8)):
        grain = cv2.GaussianBlur(rng.standard_normal((size, size), dtype=np.float32), (0, 0), across, sigmaY=along)
        grey += 0.052 * np.clip(3 * _smooth_field(rng, 6) - 1.25, 0, 1) * grain / grain.std()

    brown, red, pale = (np.zeros((size, size), np.uint8) for _ in range(3))
    density = _smooth_field(rng, 6) ** 2
    low, high = ([16], [14], [0.5], [40], [0]), ([96], [110], [1.0], [95], [1.2])
    for fx, fy, radius, depth, luck in zip(*rng.uniform(low, high, (5, 240)), strict=True):
        column, row = canvas_index(np.array([fx, fy]), SUPERSAMPLE).astype(int)
        if luck < density[row, column]:
            _spot(brown, fx, fy, radius, depth)
    for marks, most, least_depth in ((brown, 9, 120), (red, 7, 70), (pale, 6, 60)):
        for _ in range(int(rng.integers(1, most))):
            place = rng.uniform(18, 94), rng.uniform(14, 110)
            _spot(marks, *place, rng.uniform(0.8, 2.1), rng.uniform(least_depth, least_depth + 50))
    _wrinkles(brown, rng)
    for _ in range(int(rng.integers(0, 3))):
        _line(pale, rng.uniform((20, 18), (92, 105)), rng.uniform(0, np.pi), rng.uniform(5, 11), 0.1, 70, 2)

    marks = cv2.GaussianBlur(cv2.merge([brown, red, pale]).astype(np.float32), (0, 0), 0.8) / 255
    tints = np.float32([(-0.85, -0.1, 1), (-1, -1, 1), (-1.1, -1, 1)])  # what each mark does to red, green and blue
    texture = cv2.transform(marks, tints) + grey[..., None]
    return texture - cv2.GaussianBlur(texture, (0, 0), 2.5 * SUPERSAMPLE)


def _wrinkles(marks: np.ndarray, rng: np.random.Generator) -> None:
    for height in rng.uniform(20, 36, rng.integers(0, 5)):
        _line(marks, (CENTRE + rng.normal(0, 6), height), rng.normal(0, 0.05), rng.uniform(14, 34), -0.12, 55)
    for side in (-1, 1):
        for turn in rng.uniform(-0.6, 0.6, rng.integers(0, 4)):
            _line(marks, (CENTRE + side * 31, EYE_LINE + 9 * turn), side * turn, rng.uniform(4, 8), 0.15, 60)
        for start in rng.uniform(0, 14, rng.integers(0, 3)):
            _line(marks, (CENTRE + side * (19 + start), 78 + start), side * 1.1, rng.uniform(8, 16), side * 0.2, 55)
    for offset in rng.uniform(-4, 4, rng.integers(0, 3)):
        _line(marks, (CENTRE + offset, 41), 1.5 + rng.normal(0, 0.1), rng.uniform(5, 9), 0.05, 65)


def _spot(marks: np.ndarray, fx: float, fy: float, radius: float, depth: float) -> None:
    centre = np.rint(canvas_index(np.array([fx, fy]), SUPERSAMPLE) * 16).astype(int)
    cv2.circle(marks, centre.tolist(), round(radius * SUPERSAMPLE * 16), int(depth), -1, cv2.LINE_AA, 4)


def _line(marks: np.ndarray, middle, angle: float, length: float, curve: float, depth: int, width: int = 1) -> None:
    """A curved stroke through `middle`; `curve` is its sag relative to its length."""
    along = np.linspace(-0.5, 0.5, 9)
    sag = curve * (1 - 4 * along**2)
    cos, sin = np.cos(angle), np.sin(angle)
    points = np.stack([along * cos - sag * sin, along * sin + sag * cos], axis=1) * length + middle
    points = np.rint(canvas_index(points, SUPERSAMPLE) * 16).astype(np.int32)
    cv2.polylines(marks, [points], False, int(depth), width, cv2.LINE_AA, 4)


def _brows(face: Identity, rng: np.random.Generator) -> np.ndarray:
    """Coverage of both brows over BROW_GRID, drawn hair by hair, with this person's gaps."""
    rows, columns = BROW_GRID
    brows = np.zeros((SIDE * SUPERSAMPLE,) * 2, np.uint8)
    for side in (-1, 1):
        gaps = rng.uniform(0.1, 0.95, rng.integers(0, 3))
        lean = rng.uniform(0.3, 1.1)
        for place in rng.uniform(0, 1, int(rng.integers(60, 130))):
            if np.any(np.abs(gaps - place) < 0.05):
                continue
            taper = min(1.0, 3.2 * (1 - place) + 0.15, 4 * place + 0.6)
            root_x = face.eye_apart - 0.55 * face.brow_length + 1.3 * face.brow_length * place
            arch = face.brow_arch * np.sin(np.pi * min(1.0, 0.15 + place * 0.95))
            root_y = EYE_LINE - face.brow_lift - arch + rng.uniform(-0.5, 0.5) * face.brow_thickness * taper
            turn = lean - 0.9 + 1.1 * place + rng.normal(0, 0.15)
            angle = -turn if place < 0.35 else turn * 0.35
            middle = (CENTRE + side * root_x, root_y)
            _line(brows, middle, angle * side, rng.uniform(2.4, 4.4), 0.05, rng.integers(150, 250))
    return cv2.GaussianBlur(brows[rows, columns].astype(np.float32) / 255, (0, 0), 0.6)


@dataclass(frozen=True)
class Hairstyle:
    """One of HAIRSTYLES that anybody may wear: hair over the face and behind the head, on the canvas."""

    strands: np.ndarray  # (SIDE*2, SIDE*2, 3) uint8, brightness with 128 for the plain hair colour
    front: np.ndarray  # (SIDE*2, SIDE*2) float32 coverage of the head
    silhouette: np.ndarray  # (SIDE*2, SIDE*2) uint8 coverage of the background
    hairline: float


@lru_cache(maxsize=HAIRSTYLES)
def hairstyle(number: int) -> Hairstyle:
    """Style `number` in 0..HAIRSTYLES-1; the same for every seed."""
    rng = np.random.default_rng(number)
    x, y = frame_grid()
    long = bool(rng.random() < 0.5)
    length, bulk = float(rng.uniform(118, 150) if long else rng.uniform(48, 66)), float(rng.uniform(4, 11))
    hairline, parting = float(rng.uniform(0, 17)), float(rng.uniform(-20, 20))
    wave, turns = float(rng.uniform(0, 4)), float(rng.uniform(3, 9))

    outer = _inside(((x - CENTRE) / (43 + bulk + 3 * long)) ** 2 + (np.minimum(y - 44, 0) / (62 + bulk)) ** 2)
    top = hairline + wave * np.cos((x - CENTRE - parting) / 43 * turns)
    opening = (np.abs(x - CENTRE) / 41.5) ** 3 + (np.maximum(58 - y, 0) / (58 - top)) ** 2.6
    front = outer * (1 - _inside(opening)) * soft_step(length - y, 9)
    behind = outer * soft_step(length - y, 9)

    noise = cv2.GaussianBlur(rng.standard_normal((256, 512), dtype=np.float32), (0, 0), 1.3, sigmaY=9)
    across = 256 + 110 * np.arctan2(x - CENTRE, np.maximum(75 - y, 22))
    along = np.broadcast_to((y + MARGIN) * 1.5, across.shape)
    streaks = cv2.remap(noise / noise.std(), across, np.ascontiguousarray(along), cv2.INTER_LINEAR)
    plain = 128 * (0.7 + 0.3 * front) * (1 + np.clip(0.16 * streaks, -0.5, 0.6))
    return Hairstyle(cv2.merge([_as_bytes(plain)] * 3), front, _as_bytes(255 * behind), hairline)
