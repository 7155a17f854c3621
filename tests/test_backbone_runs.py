"""Students of other architectures than their teacher's, trained by the verb as users do, and read back."""
from __future__ import annotations

import json

import pytest
import torch

from askd.data.loader import to_unit
from askd.evaluation.overlay import gaze
from askd.models import make_backbone
from askd.teachers import Frozen, load_backbone
from tiny import distilled, run, world  # noqa: F401, fixtures


@pytest.mark.parametrize(("backbone", "options", "method", "looks"), [
    ("timm/resnet10t", ("network.attention=none",), "embedding+rkd", False),
    ("mobilefacenet", ("network.cbam_parts=spatial", "network.cbam_pool=max"), "fskd", True),
])
def test_a_student_of_another_architecture(backbone, options, method, looks, distilled, tmp_path):  # noqa: F811
    done = run(
        "distill", f"recipe={distilled.world.recipe}", f"teacher.checkpoint={distilled.of('teacher')}", f"network.backbone={backbone}", *options,
        f"method={method}", "name=other", "baseline.enabled=false", "after=[]", "eval.during=[]", "train.epochs=0.34", cwd=tmp_path,
    )
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / "other" / "student" / "seed0"
    student, meta = load_backbone(folder)
    assert meta["backbone"] == backbone
    assert {option.removeprefix("network.") for option in options} <= {f"{key}={value}" for key, value in meta["network"].items()}
    image = torch.randint(0, 256, (2, 3, 112, 112), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        expected = student.eval()(to_unit(image))
        heat = gaze(student.forward_all(to_unit(image)).attention)  # what askd.match draws
    assert (heat is not None and heat.shape == (2, 112, 112)) is looks
    rebuilt = make_backbone(meta["backbone"], **json.loads((folder / "meta.json").read_text())["network"])
    rebuilt.load_state_dict(student.state_dict(), strict=True)
    torch.testing.assert_close(Frozen(rebuilt, torch.device("cpu"))(to_unit(image)).embedding, expected, rtol=1e-4, atol=1e-4)


def test_weights_of_another_architecture_are_no_start(distilled, tmp_path):  # noqa: F811
    done = run(
        "distill", f"recipe={distilled.world.recipe}", f"teacher.checkpoint={distilled.of('teacher')}", "network.backbone=mobilefacenet",
        "network.init=teacher", "method=embedding", "name=other", cwd=tmp_path,
    )
    assert (done.status, done.err.count("\n")) == (2, 1) and "the teacher" in done.err and "choose the architecture" in done.err
