"""Puts the repository root on the import path, and reads the recordings of the original."""

import inspect
import os
import sys
from pathlib import Path

# torch's threads only wait for each other at these sizes; read when torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def reference():
    """Function name -> dict of the arrays in tests/reference/<name>.npz."""

    def read(name):
        with np.load(ROOT / "tests" / "reference" / f"{name}.npz") as arrays:
            return {key: arrays[key] for key in arrays}

    return read


@pytest.fixture(scope="session")
def arguments(reference):
    """Function case -> dict of the 33 arguments with which the original was recorded, in its order."""
    from gradient_flossing_example import train_rnn_flossing

    names = list(inspect.signature(train_rnn_flossing).parameters)[:33]

    def call(case):
        text = str(reference(f"run_{case}")["julia_arguments"]).strip("()").replace("f0", "")
        values = [float(v) if "." in v else int(v) for v in text.split(",")]
        return dict(zip(names, values, strict=True))

    return call
