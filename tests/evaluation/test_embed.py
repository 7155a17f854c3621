"""What is embedded is the image that training would have shown: degraded, scaled, and its mirror image after that."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from askd.data.degrade import degrade, upsample
from askd.errors import DataError, TrainingError
from askd.evaluation.embed import decode_all, embed, embed_stored
from askd.evaluation.report import NATIVE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Linear:
    """A network for which every pixel counts, and which notes what it was shown."""

    def __init__(self):
        self.weight = torch.randn(3 * 112 * 112, 7, generator=torch.Generator().manual_seed(1)) / 100
        self.seen = []

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(image)
        return image.flatten(1) @ self.weight


@pytest.mark.parametrize("quantise", [False, True])
@pytest.mark.parametrize(
    ("degradation", "evaluated_as"), [("bicubic", "bicubic"), ("released", "released"), ("random", "bilinear_cv2")],
)
@pytest.mark.parametrize("size", [14, 28])
def test_embeds_degraded_images_and_their_mirror_images(images, size, degradation, evaluated_as, quantise):
    model = Linear()
    plain, mirrored = embed(model, images, size, degradation, device=CPU, quantise=quantise)
    seen = (degrade(images, size, evaluated_as, quantise=quantise) - 127.5) / 127.5
    assert plain.dtype == mirrored.dtype == np.float32 and plain.shape == mirrored.shape == (5, 7)
    np.testing.assert_allclose(plain, model(seen).numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mirrored, model(torch.flip(seen, dims=[-1])).numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(plain - mirrored).max() > 0.1


def test_full_resolution_is_the_image_itself(images):
    model = Linear()
    plain, _ = embed(model, images, 112, "bicubic", device=CPU)
    np.testing.assert_allclose(plain, model((images.float() - 127.5) / 127.5).numpy(), rtol=1e-4, atol=1e-4)
    assert all(image.dtype == torch.float32 and image.abs().max() <= 1 for image in model.seen)


def test_mirroring_comes_after_the_degradation(images):
    """It matters for `nearest`, which takes the pixel left of the middle."""
    model = Linear()
    _, mirrored = embed(model, images, 28, "nearest", device=CPU)
    before = (degrade(images.flip(3), 28, "nearest") - 127.5) / 127.5
    assert np.abs(mirrored - model(before).numpy()).max() > 0.1


@pytest.mark.parametrize("batch", [1, 2, 5, 128])
def test_batches_do_not_matter(images, batch):
    plain, mirrored = embed(Linear(), images, 14, "bicubic", device=CPU, batch=batch)
    whole = embed(Linear(), images, 14, "bicubic", device=CPU)
    np.testing.assert_allclose(plain, whole[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mirrored, whole[1], rtol=1e-4, atol=1e-4)


class Reads:
    """Stored images that note which were read, and when."""

    def __init__(self, faces):
        self.files = [cv2.imencode(".png", rgb[..., ::-1])[1].tobytes() for rgb in faces]
        self.read = []

    def __len__(self):
        return len(self.files)

    def encoded(self, index):
        self.read.append(index)
        return self.files[index]

    def name(self, index):
        return f"set: image {index}"


@pytest.mark.parametrize("degradation", ["bicubic", "random"])
def test_stored_images_are_decoded_once_for_all_sizes(images, degradation):
    stored = Reads(images.permute(0, 2, 3, 1).numpy())
    found = {112: [], 14: []}
    for size, part, plain, mirrored in embed_stored(Linear(), stored, [112, 14], degradation, device=CPU, batch=2):
        assert max(stored.read) < part.stop + 2  # a batch ahead, no more
        found[size].append((part, plain, mirrored))
    assert sorted(stored.read) == [0, 1, 2, 3, 4]
    for size, batches in found.items():
        assert [part for part, _, _ in batches] == [slice(0, 2), slice(2, 4), slice(4, 5)]
        for side, whole in enumerate(embed(Linear(), images, size, degradation, device=CPU), 1):
            np.testing.assert_allclose(np.concatenate([batch[side] for batch in batches]), whole, rtol=1e-4, atol=1e-4)


def test_native_images_are_enlarged_and_not_degraded():
    rng = np.random.default_rng(0)
    faces = [rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8) for height, width in ((14, 14), (20, 16), (112, 112))]
    model = Linear()
    (size, part, plain, _), = embed_stored(model, Reads(faces), [NATIVE], "bicubic", device=CPU)
    assert (size, part) == (NATIVE, slice(0, 3))
    for index, face in enumerate(faces):
        seen = (upsample(torch.from_numpy(face).permute(2, 0, 1)[None], "bicubic") - 127.5) / 127.5
        np.testing.assert_allclose(plain[index], model(seen)[0].numpy(), rtol=1e-4, atol=1e-4)


def test_names_the_stored_image_that_cannot_be_read(images):
    stored = Reads(images.permute(0, 2, 3, 1).numpy())
    stored.files[3] = stored.files[3][:50]
    for sizes in ([14], [NATIVE]):
        with pytest.raises(DataError, match="set: image 3"):
            list(embed_stored(Linear(), stored, sizes, "bicubic", device=CPU, batch=2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_that_diverged_is_refused(images, bad):
    def model(image):
        embedding = image.mean((2, 3))
        embedding[-1, 0] = bad  # the mirror image of the last of the batch
        return embedding

    with pytest.raises(TrainingError, match=r"non-finite embeddings at 14 px \(images 0 to 1\).*diverged") as error:
        embed(model, images, 14, "bicubic", device=CPU, batch=2)
    assert "\n" not in str(error.value)


def test_decodes_every_image_in_order(images):
    faces = images.permute(0, 2, 3, 1).numpy()
    encoded = [cv2.imencode(".png", rgb[..., ::-1])[1].tobytes() for rgb in faces]
    decoded = decode_all(encoded, [f"image {i}" for i in range(5)])
    assert decoded.dtype == torch.uint8 and torch.equal(decoded, images)
    assert decoded.is_contiguous(memory_format=torch.channels_last)


def test_names_the_first_image_that_cannot_be_read(images):
    sound = cv2.imencode(".png", images[0].permute(1, 2, 0).numpy())[1].tobytes()
    with pytest.raises(DataError, match="set: image 1"):
        decode_all([sound, sound[:40], b""], ["set: image 0", "set: image 1", "set: image 2"])
