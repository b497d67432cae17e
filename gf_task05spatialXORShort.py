"""The copy task and the hierarchical temporal XOR task.

Port of GradientFlossing_XOR.jl (`xor.jl` below; formerly gf_task05spatialXORShort.jl),
github.com/RainerEngelken/GradientFlossing, commit 324d2a0.
"""

from functools import reduce
from numbers import Real

import numpy as np

from julia_packages.checks import check_integer
from julia_packages.xorshifts import Xoroshiro128Star


# xor.jl:1-3
def recabs(x):
    """Nested absolute difference |...||x[0] - x[1]| - x[2]|...: of bits, their parity. x: sequence of arrays."""
    return reduce(lambda nested, last: abs(nested - last), x)


# xor.jl:5
def generate_input_output(B, T, seedInput, S, sigma, delay, task):
    """One batch of random bits and what the network should answer to them.

    B trials, T time steps, S input channels; input amplitude sigma; delay in time steps; task 0: copy the bit of
    `delay` steps ago, else with h = |task|: parity of the 2^h bits of delay, 2*delay, ..., delay*2^h steps
    ago (h = 1: delayed XOR). The target is 0 until all those bits exist.

    Returns s (T, S, B), of values 0 and sigma, and target (T, 1, B), of 0 and 1; both float32.
    ValueError for what the original cannot do: S != 1, delay 0 in an XOR task, seedInput 0.
    """
    check_arguments(B, T, seedInput, S, sigma, delay, task)
    # xor.jl:6
    target = np.zeros((T + delay, 1, B), np.float32)  # target output
    # xor.jl:7-8
    rng = Xoroshiro128Star(seedInput)
    # xor.jl:9
    s = rng.bitrand(T + delay, S, B).astype(np.float32, order="C")
    # xor.jl:10, 19-20, all i, si, bi at once: target[first:] lines up with s[first-back:last-back], `back` steps ago
    last = T + delay
    if task == 0:  # copy task:
        # xor.jl:11-12
        target[delay:] = s[: last - delay]  # rows up to delay go to the else below there, and stay 0, too
    else:  # hierarchical temporal XOR:
        # xor.jl:13-18
        h = abs(task)
        l = 2**h
        first = delay * l
        if first < last:
            target[first:] = recabs([s[first - back : last - back] for back in range(first, 0, -delay)])
    # xor.jl:21-22  # D21
    return s[delay:] * np.float32(sigma), target[delay:]


# D20
def check_arguments(B, T, seedInput, S, sigma, delay, task):
    check_integer("B", B, minimum=1)
    check_integer("T", T, minimum=1)
    if check_integer("seedInput", seedInput) % 2**128 == 0:
        raise ValueError(f"seedInput must be an integer that is not 0 mod 2^128, got {seedInput!r}")
    if check_integer("S", S) != 1:
        raise ValueError(f"S must be 1 (the original's target has one channel), got {S!r}")
    if not isinstance(sigma, Real) or not abs(float(sigma)) <= float(np.finfo(np.float32).max):
        raise ValueError(f"sigma must be a finite number within float32, got {sigma!r}")
    check_integer("delay", delay, minimum=0 if task == 0 else 1)
    if abs(check_integer("task", task)) > 62 or delay * 2 ** abs(task) >= 2**63:
        raise ValueError(f"task must be an integer with delay * 2^|task| < 2^63, got {task!r}")
