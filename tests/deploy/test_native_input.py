"""The upsampling inside the graph is training's, at every size."""
from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from askd.data.degrade import CHAINS, degrade, downsample, round_to_8bit, upsample
from askd.data.loader import to_unit
from askd.deploy.graph import with_native_input
from askd.deploy.native import NativeInput, up_kernel

KERNELS_UP = sorted({chain.up for chain in CHAINS.values()})


@pytest.mark.parametrize("kernel", KERNELS_UP)
def test_enlarges_as_upsample_does(kernel):
    generator = torch.Generator().manual_seed(0)
    for height in range(1, 113):
        width = 113 - height
        crop = torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
        torch.testing.assert_close(NativeInput(kernel)(crop), to_unit(upsample(crop, kernel)), atol=3e-5, rtol=0)


@pytest.mark.parametrize("degradation", sorted(CHAINS))
def test_sees_what_training_saw(degradation):
    hr = torch.randint(0, 256, (2, 3, 112, 112), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    crop = round_to_8bit(downsample(hr, 20, CHAINS[degradation].down), (0.0, 255.0)).to(torch.uint8)
    seen = NativeInput(up_kernel(degradation))(crop)
    torch.testing.assert_close(seen, to_unit(degrade(hr, 20, degradation, quantise=True)), atol=3e-5, rtol=0)


def test_random_is_served_as_it_is_evaluated():
    assert up_kernel("random") == "bilinear"


@pytest.mark.parametrize("kernel", ["bicubic", "nearest_blurred"])
def test_one_graph_serves_all_sizes(kernel):
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    program = torch.onnx.export(Mean().eval(), (torch.zeros(2, 3, 112, 112),), input_names=["image"], output_names=["embedding"],
                                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), dynamo=True, verbose=False)
    model = with_native_input(program.model_proto, kernel)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    crop, = session.get_inputs()
    assert (crop.type, crop.shape) == ("tensor(uint8)", ["batch", 3, "height", "width"])
    generator = np.random.default_rng(0)
    for count, height, width in ((1, 7, 7), (3, 112, 112), (2, 28, 28), (1, 14, 61), (5, 96, 48)):
        pixels = generator.integers(0, 256, (count, 3, height, width), dtype=np.uint8)
        expected = to_unit(upsample(torch.from_numpy(pixels), kernel)).mean((2, 3)).numpy()
        np.testing.assert_allclose(session.run(None, {crop.name: pixels})[0], expected, atol=3e-5)
