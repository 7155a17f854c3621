"""PyTorch -> one self-contained graph: torch.export's program, its ONNX model, half precision, and crops of any size in front."""
from __future__ import annotations

import onnx
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import nn
from torch.export import Dim, ExportedProgram

from askd.deploy.native import NativeInput, NativeStudent

CROP_SIDES = (7, 112)  # pixels: the least side of a crop a native graph is traced for, and the largest


def trace(backbone: nn.Module, kernel: str | None) -> ExportedProgram:
    """The backbone with a free batch, (N, 3, 112, 112) float32 [-1, 1] -> (N, E); with `kernel` a NativeStudent of that up kernel."""
    if kernel is None:
        return torch.export.export(backbone, (torch.zeros(2, 3, 112, 112),), dynamic_shapes=({0: Dim("batch", min=1)},))
    return torch.export.export(NativeStudent(backbone, kernel), (torch.zeros(2, 3, 28, 24, dtype=torch.uint8),), dynamic_shapes=(_crop(),))


def to_onnx(program: ExportedProgram) -> onnx.ModelProto:
    """ONNX with weights inside, input `image` and output `embedding`, batch norms folded into the convolutions before them."""
    model = torch.onnx.export(program, input_names=["image"], output_names=["embedding"], dynamo=True, verbose=False).model_proto
    onnx.checker.check_model(model, full_check=True)
    return model


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same in fp16, with float32 at both ends, as InsightFace feeds it."""
    return convert_float_to_float16(model, keep_io_types=True)


def with_native_input(trunk: onnx.ModelProto, kernel: str) -> onnx.ModelProto:
    """The model behind a NativeInput: `crop` (N, 3, H, W) uint8 -> `embedding`; whatever the trunk computes in stays as it is."""
    program = torch.export.export(NativeInput(kernel), (torch.zeros(2, 3, 28, 24, dtype=torch.uint8),), dynamic_shapes=(_crop(),))
    front = torch.onnx.export(program, input_names=["crop"], output_names=["image"], dynamo=True, verbose=False).model_proto
    for dimension, name in zip(front.graph.input[0].type.tensor_type.shape.dim, ("batch", None, "height", "width")):
        if name:
            dimension.dim_param = name
    front.ir_version = trunk.ir_version
    front = onnx.compose.add_prefix(front, "crop/", rename_inputs=False, rename_outputs=False)
    joined = onnx.compose.merge_models(front, trunk, [("image", "image")])
    onnx.checker.check_model(joined, full_check=True)
    return joined


def _crop() -> dict:
    low, high = CROP_SIDES
    return {0: Dim("batch", min=1), 2: Dim("height", min=low, max=high), 3: Dim("width", min=low, max=high)}
