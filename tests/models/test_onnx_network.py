"""Recognisers of another make: what they are fed, to the last number, and what is refused."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from askd.errors import CheckpointError
from askd.models.onnx_network import OnnxNetwork
from askd.teachers import Frozen, load_backbone, load_network, weights_hash
from means import IMAGE, write


@pytest.fixture
def pixels():
    """Means per channel of four images in 0..255, and those images as askd has them."""
    image = torch.randint(0, 256, (4, 3, 112, 112), generator=torch.Generator().manual_seed(0)).float()
    return image.mean((2, 3)), (image - 127.5) / 127.5


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_insightface_is_the_convention_where_nothing_says_otherwise(tmp_path, pixels):
    network = OnnxNetwork(write(tmp_path / "a.onnx"))
    features = network.forward_all(pixels[1])
    assert features.attention == () == features.stages == network.feature_info and network.head_hidden_size == 3
    close(features.embedding, (pixels[0] - 127.5) / 127.5)
    assert network.input["colour"] == "RGB" and features.embedding.dtype == torch.float32


def test_a_graph_that_normalises_by_itself_gets_pixels(tmp_path, pixels):
    constants = [helper.make_node("Constant", [], [name], value=helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
                 for name, value in (("shift", 127.5), ("factor", 1 / 127.5))]
    steps = (("Sub", ["image", "shift"], "a"), ("Mul", ["a", "factor"], "b"))
    nodes = [*constants, *(helper.make_node(kind, taken, [given], name=f"{kind}_0") for kind, taken, given in steps)]
    close(OnnxNetwork(write(tmp_path / "a.onnx", nodes, pooled="b"))(pixels[1]), (pixels[0] - 127.5) / 127.5)


def test_a_file_beside_it_says_what_it_takes(tmp_path, pixels):
    path = write(tmp_path / "a.onnx")
    plain = OnnxNetwork(path)
    (tmp_path / "a.yaml").write_text("mean: [123.675, 116.28, 103.53]\nstd: [58.395, 57.12, 57.375]\ncolour: BGR\n")
    network = OnnxNetwork(path)
    expected = (pixels[0].flip(1) - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor([58.395, 57.12, 57.375])
    close(network(pixels[1]), expected)
    assert network.sha256 != plain.sha256 == OnnxNetwork(write(tmp_path / "b.onnx")).sha256


@pytest.mark.parametrize("content", ["", "[]", "mean: 3", "mean: 1\nstd: 0", "mean: 1\nstd: [1, 2]", "mean: .nan\nstd: 1",
                                     "mean: 1\nstd: x",
                                     "mean: 1\nstd: 1\ncolour: grey", "mean: 1\nstd: 1\nsize: 3", "a: [", "mean: [[1]]\nstd: 1"])
def test_a_convention_that_cannot_be_is_refused(content, tmp_path):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(CheckpointError, match="a.yaml.*expected `mean` and `std`"):
        OnnxNetwork(write(tmp_path / "a.onnx"))


def test_a_fixed_batch_of_one_is_fed_one_by_one(tmp_path, pixels):
    close(OnnxNetwork(write(tmp_path / "a.onnx", image=[1, 3, 112, 112]))(pixels[1]), (pixels[0] - 127.5) / 127.5)


def test_a_pack_has_one_recogniser(tmp_path, pixels):
    write(tmp_path / "genderage.onnx", image=["N", 3, 96, 96])
    with pytest.raises(CheckpointError, match="expected one recogniser .* found none"):
        load_network(tmp_path)
    write(tmp_path / "w600k.onnx")
    network, meta = load_network(tmp_path)
    assert network.path.name == meta["backbone"] == "w600k.onnx" and meta["input"]["mean"] == [127.5]
    write(tmp_path / "another.onnx")
    with pytest.raises(CheckpointError, match="found another.onnx, w600k.onnx; name the file"):
        load_network(tmp_path)


@pytest.mark.parametrize("image", [["N", 1, 112, 112], ["N", 3, 112, 96], ["N", 4, 112, 112]])
def test_other_networks_are_refused(image, tmp_path):
    with pytest.raises(CheckpointError, match=r"expected one image input, \(N, 3, S, S\)"):
        OnnxNetwork(write(tmp_path / "a.onnx", image=image, out=["N", 5]))


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_fixed_batch_is_filled_up(batch, tmp_path, pixels):
    close(OnnxNetwork(write(tmp_path / "a.onnx", image=[batch, 3, 112, 112]))(pixels[1]), (pixels[0] - 127.5) / 127.5)


def corner(path, shape, layout="NCHW", type=TensorProto.FLOAT, out=None):
    """An ONNX file whose embedding is the 3 x 2 x 2 pixels in the upper left corner of what it is fed."""
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    constants = [helper.make_tensor(name, TensorProto.INT64, [2], values) for name, values in (("from", [0, 0]), ("to", [2, 2]), ("axes", axes))]
    nodes = [helper.make_node("Slice", ["image", "from", "to", "axes"], ["some"]), helper.make_node("Cast", ["some"], ["number"], to=TensorProto.FLOAT),
             helper.make_node("Flatten", ["number"], ["flat"]), helper.make_node("Identity", ["flat"], ["embedding"])]
    graph = helper.make_graph(nodes, "corner", [helper.make_tensor_value_info("image", type, shape)],
                              [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, out or ["N", 12])], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize("side", [96, 112, 160])
def test_faces_are_resized_to_the_size_that_it_takes(side, tmp_path, pixels):
    expected = torch.nn.functional.interpolate(pixels[1], (side, side), mode="bicubic", antialias=True).clamp(-1, 1) if side != 112 else pixels[1]
    close(OnnxNetwork(corner(tmp_path / "a.onnx", ["N", 3, side, side]))(pixels[1]), expected[..., :2, :2].flatten(1))
    free = corner(tmp_path / "b.onnx", ["N", 3, "H", "W"])
    close(OnnxNetwork(free)(pixels[1]), pixels[1][..., :2, :2].flatten(1))
    (tmp_path / "b.yaml").write_text(f"mean: 127.5\nstd: 127.5\nsize: {side}\n")
    close(OnnxNetwork(free)(pixels[1]), expected[..., :2, :2].flatten(1))
    assert OnnxNetwork(free).fed().endswith("by b.yaml" + (f", at {side}x{side}" if side != 112 else ""))


def test_channels_last_and_bytes(tmp_path, pixels):
    close(OnnxNetwork(corner(tmp_path / "a.onnx", ["N", 112, 112, 3], "NHWC"))(pixels[1]), pixels[1].permute(0, 2, 3, 1)[:, :2, :2].flatten(1))
    takes_bytes = OnnxNetwork(corner(tmp_path / "b.onnx", ["N", 3, "H", "W"], type=TensorProto.UINT8, out=["N", "D"]))
    assert takes_bytes.head_hidden_size == 12 and takes_bytes.input["mean"] == [0.0]  # the width is known from a run
    close(takes_bytes(pixels[1]), (pixels[1][..., :2, :2] * 127.5 + 127.5).round().flatten(1))
    (tmp_path / "b.yaml").write_text("mean: 127.5\nstd: 127.5\n")
    with pytest.raises(CheckpointError, match="takes uint8, which has no mean and std"):
        OnnxNetwork(tmp_path / "b.onnx")


def test_of_several_outputs_the_file_beside_it_names_one(tmp_path, pixels):
    nodes = [helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0), helper.make_node("Neg", ["means"], ["other"]),
             helper.make_node("ReduceMean", ["means"], ["norm"], axes=[1], keepdims=1)]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name, width in (("means", 3), ("norm", 1), ("other", 3))]
    path = tmp_path / "a.onnx"

    def save(count):
        graph = helper.make_graph(nodes, "several", [helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGE)], outputs[:count])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)

    save(2)  # a norm beside the embedding, as AdaFace exports have it
    close(OnnxNetwork(path)(pixels[1]), (pixels[0] - 127.5) / 127.5)
    save(3)
    with pytest.raises(CheckpointError, match="several outputs that could be the embedding, means, other; say `output: NAME` in a.yaml"):
        OnnxNetwork(path)
    (tmp_path / "a.yaml").write_text("mean: 127.5\nstd: 127.5\noutput: other\n")
    close(OnnxNetwork(path)(pixels[1]), -(pixels[0] - 127.5) / 127.5)
    (tmp_path / "a.yaml").write_text("mean: 127.5\nstd: 127.5\noutput: nobody\n")
    with pytest.raises(CheckpointError, match="has no output 'nobody'; its outputs are means, norm, other"):
        OnnxNetwork(path)


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = write(tmp_path / "a.onnx")
    for content in (b"", b"not a model", path.read_bytes()[:40]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="no ONNX model that runs here"):
            OnnxNetwork(path)
    with pytest.raises(CheckpointError, match="no such ONNX file"):
        load_network(tmp_path / "nobody.onnx")


def test_it_teaches_as_it_is_and_is_no_backbone(tmp_path, pixels):
    network, _ = load_network(write(tmp_path / "a.onnx"))
    assert weights_hash(network) == network.sha256
    teacher = Frozen(network, torch.device("cpu"))
    embedding = teacher(pixels[1].requires_grad_()).embedding
    assert torch.equal(embedding, network(pixels[1])) and not embedding.requires_grad
    with pytest.raises(CheckpointError, match="can teach by its embedding, and no more"):
        load_backbone(tmp_path / "a.onnx")


def test_the_real_one_recognises(shared, tmp_path):
    """Two photographs of a person are closer than those of two people, on real faces: mirrored ones, too."""
    from askd.data.decode import decode_rgb
    from askd.data.loader import to_unit

    (tmp_path / "m.onnx").symlink_to(shared / "models" / "mobilefacenet_ms1m_128d.onnx")
    (tmp_path / "m.yaml").write_text("mean: [123.675, 116.28, 103.53]\nstd: [58.395, 57.12, 57.375]\n")
    people = [folder for folder in sorted((shared / "data" / "lfw" / "aligned_112").iterdir()) if len(list(folder.iterdir())) > 1][:12]
    faces = [decode_rgb(path.read_bytes(), path.name) for folder in people for path in sorted(folder.iterdir())[:2]]
    embedding = OnnxNetwork(tmp_path / "m.onnx")(to_unit(torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2)))
    cosine = torch.nn.functional.normalize(embedding) @ torch.nn.functional.normalize(embedding).T
    same = torch.tensor([cosine[2 * i, 2 * i + 1] for i in range(12)])
    other = cosine[0::2, 1::2][~torch.eye(12, dtype=torch.bool)]
    assert embedding.shape == (24, 128) and same.mean() > 0.45 and other.mean().abs() < 0.1
