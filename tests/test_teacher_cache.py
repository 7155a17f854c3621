"""A cached teacher says what the teacher says, of these very images, and nothing is left of a cache that was not finished."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from askd.data.folder import FolderSet
from askd.data.loader import TrainingBatches, prepare
from askd.engine.checkpoint import load_weights
from askd.engine.precision import choose_precision
from askd.errors import CheckpointError, DataError, RecipeError
from askd.models.features import Features
from askd.recipe import load
from askd.teacher_cache import cached_teacher, images_hash
from tiny import distilled, run, world  # noqa: F401, fixtures

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
PRECISION = choose_precision("fp32", CPU)


def teacher(image: torch.Tensor) -> Features:
    """Sees left from right and has one number per quarter and colour."""
    return Features(torch.nn.functional.adaptive_avg_pool2d(image, 2).flatten(1), (), ())


@pytest.fixture
def faces(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(7):
        (tmp_path / "faces" / f"p{number % 3}").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "faces" / f"p{number % 3}" / f"{number}.png"), rng.integers(0, 256, (112, 112, 3), np.uint8))
    return FolderSet(tmp_path / "faces")


def cached(faces, folder: Path, answers=teacher, **options):
    return cached_teacher(answers, "t", 12, faces, folder, PRECISION, CPU, batch=4, **options)


def test_every_batch_gets_what_the_teacher_would_say(faces, tmp_path):
    cache, mirrored = cached(faces, tmp_path / "cache"), set()
    batches = TrainingBatches(faces, batch=3, sizes=[14], seed=5)
    stream = batches.iterate(0)
    for _ in range(8):
        batch = next(stream)
        hr, _, label = prepare(batch, CPU, "bicubic")
        answer = cache(batch.row)
        torch.testing.assert_close(answer.embedding, teacher(hr).embedding, rtol=0, atol=0)
        assert answer.attention == answer.stages == () and faces.labels[batch.row // 2].tolist() == label.tolist()
        mirrored |= set((batch.row % 2).tolist())
    assert mirrored == {0, 1}


def test_made_once_for_the_same_teacher_and_images(faces, tmp_path):
    def never(image):
        raise AssertionError("asked again")

    cached(faces, tmp_path / "cache")
    assert cached(faces, tmp_path / "cache", never).table.shape == (14, 12)
    with pytest.raises(AssertionError, match="asked again"):
        cached_teacher(never, "another teacher", 12, faces, tmp_path / "cache", PRECISION, CPU, batch=4)
    before = images_hash(faces)
    path = tmp_path / "faces" / "p1" / "4.png"
    cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    changed = FolderSet(tmp_path / "faces")
    assert images_hash(changed) != before
    index = next(i for i in range(7) if changed.name(i).endswith("4.png"))
    fresh = cached(changed, tmp_path / "cache")
    seen = torch.from_numpy(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)).permute(2, 0, 1)[None]
    np.testing.assert_array_equal(fresh.table[2 * index], teacher((seen - 127.5) / 127.5).embedding[0])
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_whole_or_not_at_all(faces, tmp_path):
    calls = []

    def dies(image):
        calls.append(len(image))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return teacher(image)

    with pytest.raises(KeyboardInterrupt):
        cached(faces, tmp_path / "cache", dies)
    assert calls == [4, 4, 4] and list((tmp_path / "cache").iterdir()) == []
    cached(faces, tmp_path / "cache")
    path, = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="has 668 bytes, expected 672 for 7 images; remove it"):
        cached(faces, tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write .*leave teacher.cache out"):
        cached(faces, tmp_path / "file" / "cache")


def test_an_image_that_cannot_be_read(faces, tmp_path):
    (tmp_path / "faces" / "p0" / "0.png").write_bytes(b"no image")
    broken = FolderSet(tmp_path / "faces")
    with pytest.raises(DataError, match="0.png"):
        cached(broken, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert np.isfinite(cached(broken, tmp_path / "cache", skip_bad=True).table).all()


RANKS = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from askd.data.folder import FolderSet
from askd.engine import dist
from test_teacher_cache import cached
with dist.init_from_env("cpu"):
    table = cached(FolderSet(Path(sys.argv[1])), Path(sys.argv[2])).table
    assert table.shape == (14, 12) and dist.world_size() == 2
"""


def test_two_processes_make_the_same_file(faces, tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "ranks.py"),
         str(tmp_path / "faces"), str(tmp_path / "two"), str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    cached(faces, tmp_path / "one")
    one, two = (next((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert one.name == two.name and one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("arguments, said", [
    (["method=embedding", "data.augment=adaface"], "false with data.augment=adaface, which changes the image that the teacher sees"),
    (["method=embedding", "data.augment=surveillance", "data.quantise=true"], "false with data.augment=surveillance"),
    (["method=askd+embedding"], "false with distill.attention, which looks at more than the teacher's embedding"),
    (["method=fskd"], "false with distill.feature"), (["method=cross"], "false with distill.relation.cross"),
])
def test_what_a_cache_cannot_hold_is_refused(arguments, said):
    with pytest.raises(RecipeError, match=f"teacher.cache must be {said}"):
        load(["recipe=lfw_x8", "teacher.cache=true", *arguments])
    load(["recipe=lfw_x8", *arguments])


@pytest.mark.parametrize("method", ["base", "kd", "kd_mean", "rkd", "embedding", "rkd+embedding+kd"])
def test_what_a_cache_can_hold_is_not(method):
    for augment in ("none", "flip"):
        assert load(["recipe=lfw_x8", "teacher.cache=true", f"method={method}", f"data.augment={augment}"]).teacher.cache


def test_a_training_is_the_same_with_it(distilled, tmp_path):  # noqa: F811
    losses, weights = {}, {}
    for cache in ("false", "true"):
        done = run(
            "distill", f"recipe={distilled.world.recipe}", "method=rkd+embedding+kd", f"teacher.checkpoint={distilled.of('teacher')}",
            f"teacher.cache={cache}", "baseline.enabled=false", "after=[]", f"out=cache_{cache}", "name=mini", cwd=tmp_path,
        )
        assert done.status == 0, done.err
        said = re.findall(r"teacher: its embeddings of 48 images, both ways round, are kept in cache_true/cache/\w{32}.f32", done.err)
        assert len(said) == (cache == "true")
        folder = tmp_path / f"cache_{cache}" / "mini" / "student" / "seed0"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses[cache] = [[line[part] for part in ("identity", "relation", "embedding", "logit")] for line in lines if "logit" in line]
        weights[cache] = load_weights(folder)[0]
    assert len(losses["true"]) == 3
    np.testing.assert_allclose(losses["true"], losses["false"], rtol=1e-5)
    for name, tensor in weights["true"].items():
        torch.testing.assert_close(tensor, weights["false"][name], rtol=1e-3, atol=1e-5)
