"""Packaging of keras_prm."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (ROOT / "keras_prm" / "version.py").read_text(),
    re.MULTILINE,
).group(1)

# The lowest Keras that passes the tests; nothing else states it.
KERAS = "keras>=3.15"
TENSORFLOW = ["tensorflow", "ai-edge-litert"]
TENSORBOARD = ["tensorboard"]
# TensorFlow Datasets needs importlib_resources and does not say so.
EXAMPLES = [
    *TENSORFLOW,
    "tensorflow-datasets",
    "importlib_resources",
    "matplotlib",
    "pillow",
    "scikit-learn",
]

setuptools.setup(
    name="keras-prm",
    version=VERSION,
    description=(
        "Structured sparsity for Keras 3 by ADMM, network purification and "
        "unused path removal"
    ),
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["keras_prm", "keras_prm.*"]),
    package_data={"keras_prm": ["py.typed"]},
    python_requires=">=3.11",
    install_requires=[KERAS, "numpy", "absl-py"],
    extras_require={
        "tensorflow": TENSORFLOW,
        "jax": ["jax"],
        "torch": ["torch"],
        "tensorboard": TENSORBOARD,
        "examples": EXAMPLES,
        "test": [
            *EXAMPLES,
            *TENSORBOARD,
            "hypothesis",
            "import-linter",
            "jax",
            "pyright[nodejs]",
            "pytest",
            "pytest-xdist",
            "ruff",
        ],
    },
)
