"""Small faces are enlarged as degraded ones are, large ones shrink without aliasing, and none too large is decoded."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from askd.data import native
from askd.data.degrade import CHAINS, upsample
from askd.data.native import decode_native, native_size
from askd.errors import DataError


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


@pytest.fixture
def face():
    rng = np.random.default_rng(0)
    return lambda height, width: rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("degradation", CHAINS)
@pytest.mark.parametrize("shape", [(14, 14), (20, 16), (1, 1), (111, 7)])
def test_smaller_is_what_upsample_makes_of_it(face, degradation, shape):
    pixels = face(*shape)
    ours = decode_native(png(pixels), "face", degradation)
    theirs = upsample(torch.from_numpy(pixels).permute(2, 0, 1)[None], CHAINS[degradation].up)[0].permute(1, 2, 0).numpy()
    assert ours.dtype == np.float32 and ours.shape == (112, 112, 3)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_larger_is_torch_s_antialiased_cubic(face):
    pixels = face(250, 190)
    wanted = F.interpolate(torch.from_numpy(pixels).permute(2, 0, 1)[None].double(), (112, 112), mode="bicubic", antialias=True)
    np.testing.assert_allclose(decode_native(png(pixels), "face", "released"), wanted[0].permute(1, 2, 0).clamp(0, 255), atol=1e-3)


def test_one_axis_larger_the_other_smaller(face):
    pixels = face(224, 28)
    tall = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    shrunk = F.interpolate(tall, (112, 28), mode="bicubic", antialias=True)
    wanted = F.interpolate(shrunk, (112, 112), mode="bicubic", align_corners=False)
    np.testing.assert_allclose(decode_native(png(pixels), "face", "bicubic"), wanted[0].permute(1, 2, 0).clamp(0, 255), atol=1e-3)


@pytest.mark.parametrize("degradation", [*CHAINS, "random"])
def test_a_face_of_112_is_itself(face, degradation):
    pixels = face(112, 112)
    np.testing.assert_array_equal(decode_native(png(pixels), "face", degradation), pixels)


def test_bad_images_are_named(face, monkeypatch):
    sound = png(face(20, 30))
    assert native_size(sound, "a.png") == (30, 20)
    with pytest.raises(DataError, match="a.png: its .* bytes do not decode"):
        decode_native(sound[:-30], "a.png", "bicubic")
    with pytest.raises(DataError, match="b.png: is empty"):
        decode_native(b"", "b.png", "bicubic")
    huge = bytearray(sound)
    huge[16:24] = (5000).to_bytes(4, "big") * 2
    monkeypatch.setattr(native, "decode_sized", None)  # is not reached
    with pytest.raises(DataError, match=r"c.png: is 5000x5000 pixels .* 1 to 4096 on either side"):
        decode_native(bytes(huge), "c.png", "bicubic")
