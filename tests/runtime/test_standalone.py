"""The runtime where nothing but numpy, OpenCV and ONNX Runtime can be imported."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from askd.runtime.recognizer import Recognizer
from exported import exported, some_faces  # noqa: F401, a fixture

REPOSITORY = Path(__file__).resolve().parents[2]
ALONE = """
import sys
INSTALLED = {"askd", "numpy", "cv2", "onnxruntime", "flatbuffers", "google", "packaging"}  # the last three: ONNX Runtime's own needs
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in INSTALLED | set(sys.stdlib_module_names):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
"""
PROGRAM = """
import numpy as np
from askd.runtime.gallery import Gallery, build_gallery
from askd.photo import read_photo
from askd.runtime.recognizer import Recognizer, cosines
recognizer = Recognizer(sys.argv[1])
embeddings = recognizer.embed(np.stack([read_photo(name) for name in sys.argv[2:]]))
build_gallery("g", [(["a", "b"], embeddings)], recognizer.sha256)
assert Gallery("g", recognizer.sha256).search(embeddings[1:], 1)[0].tolist() == [[1]]
np.save("embeddings.npy", embeddings)
"""


def test_recognizer_alone(exported, tmp_path):  # noqa: F811
    faces = some_faces(2)
    for name, face in zip("ab", faces):
        cv2.imwrite(str(tmp_path / f"{name}.png"), face[..., ::-1])
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", ALONE + PROGRAM, str(exported.folder), "a.png", "b.png"], cwd=tmp_path, capture_output=True,
                          text=True, env=environment)
    assert done.returncode == 0, done.stderr
    here = Recognizer(exported.folder).embed(faces)
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), here, atol=1e-5 * np.abs(here).max())
    torch = subprocess.run([sys.executable, "-c", ALONE + "import torch"], capture_output=True, text=True, env=environment)
    assert "No module named 'torch'" in torch.stderr  # so that the above proves something
