"""Puts the repository root on the import path, reads recordings of the original, and gives a call that takes a second."""

import os
import signal
import sys
from pathlib import Path

# torch's threads only wait for each other at these sizes; read when torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests with & has it ignored
sys.path.insert(0, str(ROOT))

from extras.check_parameters import Parameters
from gradient_flossing_example import README_CALL


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, default=500, help="random argument lists to try in test_fuzz.py")
    parser.addoption("--long", action="store_true", help="only the tests marked long: minutes each, not in the default run")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes long; run by pytest --long")


def pytest_collection_modifyitems(config, items):
    """The default run leaves out what is marked long, --long runs nothing else."""
    wanted = config.getoption("--long")
    left_out = [item for item in items if ("long" in item.keywords) != wanted]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def long(*values):
    """Values of a parameter, or tuples of several, with which a test is run by --long only."""
    return [pytest.param(*v if isinstance(v, tuple) else [v], marks=pytest.mark.long) for v in values]


def short_call(**changes):
    """A call of a second, as a dict of the 33: 16 neurons, 6 epochs, flossing before and at epoch 4."""
    small = README_CALL._replace(N=16, E=6, Ef=4, Ei=2, Ep=3, Ni=1, B=4, T=40, Tp=30, Ti=40, delay=5, nLE=10)
    return small._asdict() | changes


@pytest.fixture
def usual_signals():
    """SIGTERM and SIGHUP do what they do by default, whatever nohup or a test before has made of them."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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

    def call(case):
        text = str(reference(f"run_{case}")["julia_arguments"]).strip("()").replace("f0", "")
        values = [float(v) if "." in v else int(v) for v in text.split(",")]
        return Parameters(*values)._asdict()

    return call
