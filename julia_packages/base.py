"""What the original takes from Julia's Base and applies to arrays: here to NumPy arrays and to torch tensors alike.

For the port of GradientFlossing_ExampleCode.jl (github.com/RainerEngelken/GradientFlossing, commit 324d2a0).
"""

import math
import sys


def library(x):
    """numpy for an array, torch for a tensor. Imports nothing: whoever has a tensor has imported torch."""
    return sys.modules[type(x).__module__.partition(".")[0]]


def like(x, array):
    """A copy of the NumPy array, of the library and dtype of x."""
    return array.astype(x.dtype) if library(x).__name__ == "numpy" else x.new_tensor(array)


def log(x):
    return library(x).log(x)


def tanh(x):
    return library(x).tanh(x)


# D8
def sech(x):
    """1 / cosh(x), x clamped to where cosh does not overflow (88 in Float32)."""
    limit = math.log(library(x).finfo(x.dtype).max)
    return 1 / library(x).cosh(x.clip(-limit, limit))
