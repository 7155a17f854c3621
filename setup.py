"""askd: attention similarity knowledge distillation for low-resolution face recognition."""

import re
from pathlib import Path

from setuptools import find_packages, setup

version = re.search(r'__version__ = "(.+)"', (Path(__file__).parent / "askd" / "__init__.py").read_text()).group(1)

setup(
    name="askd",
    version=version,
    description=__doc__.strip(),
    python_requires=">=3.11",
    packages=[*find_packages(include=["askd", "askd.*"]), "askd.recipes", "askd.methods", "askd.studies", "askd.datasets"],
    package_dir={"askd": "askd", "askd.recipes": "recipes", "askd.methods": "methods", "askd.studies": "studies", "askd.datasets": "datasets"},
    package_data={"askd.recipes": ["*.yaml"], "askd.methods": ["*.yaml"], "askd.studies": ["*.yaml"], "askd.datasets": ["*.yaml"]},
    install_requires=[
        "torch>=2.15.0",
        "torchvision>=0.29.2",
        "timm>=1.0.31",
        "numpy>=2.4.6",
        "omegaconf>=2.4.0",
        "safetensors>=0.8.0",
        "onnx>=1.23.2",
        "onnxruntime>=1.31.1",
        "onnxscript>=0.7.2",
        "insightface>=2.1",
        "albumentations>=2.0.8",
        # Headless, because it works without libGL. insightface pulls in opencv-python, whose files overwrite these:
        # after installing, `pip install --force-reinstall --no-deps opencv-python-headless`.
        "opencv-python-headless>=5.0.0.93",
        "tensorboard>=2.21.0",
        "rich>=15.0.0",
        "matplotlib>=3.11.2",
        "scipy>=1.17.1",
    ],
    extras_require={
        "test": ["pytest>=9.2.0", "pytest-xdist>=3.8.0", "hypothesis>=6.170.15", "scikit-learn>=1.9.1", "setuptools>=68", "wheel>=0.41",
                 "pytorch-metric-learning>=2.9.0", "pillow>=13.0.0", "webdataset>=1.0.2"],
        "metric": ["pytorch-metric-learning>=2.9.0"],  # only head.kind=contrastive and triplet need it
        "webdataset": ["webdataset>=1.0.2"],  # only patterns such as train-{000..099}.tar need it
    },
)
