"""The recogniser of an export: right for any batch and thread, and plain about what it cannot serve."""
from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import onnx
import pytest
import torch

from askd.data.degrade import upsample
from askd.data.loader import to_unit
from askd.deploy.graph import with_native_input
from askd.errors import CheckpointError, DataError
from askd.runtime.recognizer import META, MODEL, Recognizer, cosines
from exported import Exported, edited, exported, some_faces, with_model  # noqa: F401, a fixture

FACES = some_faces(5)


@pytest.fixture(scope="module")
def native(exported: Exported, tmp_path_factory):  # noqa: F811
    model = with_native_input(onnx.load(exported.folder / MODEL), "bicubic").SerializeToString()
    return with_model(exported.folder, tmp_path_factory.mktemp("native") / "export", model, input="native")


def torch_embeddings(exported, unit: torch.Tensor) -> np.ndarray:  # noqa: F811
    with torch.inference_mode():
        return exported.backbone(unit).numpy()


def test_aligned_faces_give_pytorch_s_embeddings(exported):  # noqa: F811
    expected = torch_embeddings(exported, to_unit(torch.from_numpy(FACES).permute(0, 3, 1, 2)))
    for batch in (1, 2, 32):
        found = Recognizer(exported.folder, batch=batch).embed(FACES)
        assert found.dtype == np.float32 and found.shape == (5, 32)
        np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(Recognizer(exported.folder / MODEL).embed(list(FACES)), found)
    assert Recognizer(exported.folder).embed([]).shape == (0, 32)


def test_crops_of_all_sizes_keep_their_places(exported, native):  # noqa: F811
    crops = [cv2.resize(face, size, interpolation=cv2.INTER_AREA) for face, size in zip(FACES, [(28, 28), (7, 9), (112, 112), (28, 28), (50, 40)])]
    found = Recognizer(native, batch=1).embed(crops)
    for crop, embedding in zip(crops, found):
        expected = torch_embeddings(exported, to_unit(upsample(torch.from_numpy(crop).permute(2, 0, 1)[None], "bicubic")))
        np.testing.assert_allclose(embedding, expected[0], atol=2e-4 * np.abs(expected).max())
    np.testing.assert_allclose(Recognizer(native).embed(crops), found, atol=1e-4 * np.abs(found).max())


def test_large_crops_are_shrunk(native):
    recognizer = Recognizer(native)
    twice = cv2.resize(FACES[0], (224, 224), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(recognizer.embed([twice]), recognizer.embed(FACES[:1]))


def test_many_threads_get_their_own_answers(exported):  # noqa: F811
    recognizer = Recognizer(exported.folder, threads=1, batch=2)
    expected = recognizer.embed(FACES)
    with ThreadPoolExecutor(8) as pool:
        orders = [np.random.default_rng(i).permutation(5) for i in range(24)]
        for order, found in zip(orders, pool.map(lambda order: recognizer.embed(FACES[order]), orders)):
            np.testing.assert_allclose(found, expected[order], atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("image, message", [
    (FACES[0].astype(np.float32), "float32, expected uint8"), (FACES[0][..., 0], r"\(112, 112\) uint8"), ("a.jpg", "str, expected"),
    (FACES[0][:100], "112x100 pixels.*input=native"), (np.zeros((112, 112, 4), np.uint8), r"\(112, 112, 4\)"),
])
def test_what_is_no_aligned_face(exported, image, message):  # noqa: F811
    with pytest.raises(DataError, match=f"image 1 is .{{0,20}}{message}"):
        Recognizer(exported.folder).embed([FACES[0], image])


def test_three_pixels_are_no_face(native):
    with pytest.raises(DataError, match="image 0 is 3x3 pixels, too small to hold a face; 7"):
        Recognizer(native).embed([np.zeros((3, 3, 3), np.uint8)])


def test_thresholds_are_the_nearest_measured(exported, tmp_path):  # noqa: F811
    rows = [{"size": size, "far": far, "threshold": value} for size, far, value in (
        (14, 0.01, 0.5), (14, 0.001, None), (56, 0.01, 0.3), (56, 0.001, 0.4))]
    folder = with_model(exported.folder, tmp_path / "x", (exported.folder / MODEL).read_bytes(), thresholds=rows)
    recognizer = Recognizer(folder)
    assert [recognizer.threshold(0.01, size) for size in (3, 14, 27, 29, 112)] == [0.5, 0.5, 0.5, 0.3, 0.3]  # 28 is the ratio's middle
    with pytest.raises(DataError, match="no threshold was measured for FAR 0.001 at 14 pixels; measured there: 0.01"):
        recognizer.threshold(0.001, 14)
    with pytest.raises(DataError, match="FAR 0.5 at 56 pixels; measured there: 0.01, 0.001"):
        recognizer.threshold(0.5, 60)


def test_corrupt_exports_do_not_load(exported, tmp_path):  # noqa: F811
    def copy(name: str):
        return shutil.copytree(exported.folder, tmp_path / name)

    cut = copy("cut")
    (cut / MODEL).write_bytes((cut / MODEL).read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="is not the file that meta.json beside it describes"):
        Recognizer(cut)
    for name, model in (("garbage", b"no model"), ("empty", b""), ("half", (exported.folder / MODEL).read_bytes()[:200_000])):
        with pytest.raises(CheckpointError, match="no model ONNX Runtime can load"):
            Recognizer(with_model(exported.folder, tmp_path / name, model))
    for name, text in (("array", "[]"), ("run", json.dumps({"sizes": [28]})), ("deep", "[" * 100_000), ("text", "{")):
        (copy(name) / META).write_text(text)
        with pytest.raises(CheckpointError, match="meta.json"):
            Recognizer(tmp_path / name)
    for name, changed in (("other", {"input": "native"}), ("wide", {"width": 64})):
        with pytest.raises(CheckpointError, match="not what meta.json beside it says"):
            Recognizer(with_model(exported.folder, tmp_path / name, (exported.folder / MODEL).read_bytes(), **changed))
    with pytest.raises(CheckpointError, match="no student.onnx in"):
        Recognizer(exported.run)


def test_files_of_any_size_cost_nothing(exported, tmp_path):  # noqa: F811
    for name in (MODEL, META):
        folder = shutil.copytree(exported.folder, tmp_path / f"with {name}")
        with open(folder / name, "r+b") as file:
            file.truncate(1 << 40)  # a hole, no bytes
        with pytest.raises(CheckpointError, match=f"{name} has more than .* bytes, which no export has"):
            Recognizer(folder)


@pytest.mark.parametrize("shape, said", [([-1, 7], "fails at 5 faces"), ([32, -1], r"gives \(32, 5\) for 5 faces of 32 numbers")])
def test_a_graph_that_loads_and_then_fails(exported, tmp_path, shape, said):  # noqa: F811
    """Its embeddings go through a reshape that does not fit, or that fits and is wrong."""
    def spoil(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), "wrong_shape"))
        last = next(node for node in model.graph.node if "embedding" in node.output)
        last.output[list(last.output).index("embedding")] = "right"
        model.graph.node.append(onnx.helper.make_node("Reshape", ["right", "wrong_shape"], ["embedding"]))
        del model.graph.value_info[:]

    try:
        recognizer = Recognizer(with_model(exported.folder, tmp_path / "fails", edited(exported.folder, spoil)))
    except CheckpointError as refused:  # a runtime that infers more may see it when it loads
        assert "export it again" in str(refused)
        return
    with pytest.raises(CheckpointError, match=said):
        recognizer.embed(FACES)


def test_weights_that_are_not_finite(exported, tmp_path):  # noqa: F811
    def spoil(model: onnx.ModelProto) -> None:
        weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        weight.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(weight.dims), np.nan, np.float32), weight.name))

    with pytest.raises(CheckpointError, match="not finite for image 0"):
        Recognizer(with_model(exported.folder, tmp_path / "nan", edited(exported.folder, spoil))).embed(FACES)


def test_cosines_by_hand():
    np.testing.assert_allclose(cosines(np.array([[3, 4], [1, 0]]), np.array([[6, 8], [0, 2]])), [1, 0], atol=1e-12)
