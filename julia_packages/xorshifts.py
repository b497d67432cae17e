"""RandomNumbers.Xorshifts: Xoroshiro128Star, the generator of the task data.

For the port of GradientFlossing_XOR.jl (github.com/RainerEngelken/GradientFlossing, commit 324d2a0). The step is
xoroshiro128 of D. Blackman and S. Vigna, Scrambled linear pseudorandom number generators (2021), with
rotations 24, 16, 37 and the multiplier that RandomNumbers.jl 1.5.3 takes for its "star" variant.
"""

import math

import numpy as np

from julia_packages.checks import check_integer

MASK64 = (1 << 64) - 1
MULTIPLIER = 2685821657736338717


class Xoroshiro128Star:
    """RandomNumbers.jl `Xoroshiro128Star(seed)`.

    seed: any integer, also negative, of which the low 128 bits are used; ValueError if these are all 0.
    """

    def __init__(self, seed):
        number = check_integer("seed", seed)
        self._x = number & MASK64
        self._y = number >> 64 & MASK64
        if self._x == 0 and self._y == 0:
            raise ValueError(f"seed must be an integer that is not 0 mod 2^128, got {seed!r}")
        self.words(2)  # discarded, as in the original

    def words(self, n):
        """The next n words, a list of ints below 2^64."""
        x, y = self._x, self._y
        words = []
        for _ in range(n):
            a = x ^ y
            x = (x << 24 | x >> 40) & MASK64 ^ a ^ a << 16 & MASK64
            y = (a << 37 | a >> 27) & MASK64
            words.append(y * MULTIPLIER & MASK64)
        self._x, self._y = x, y
        return words

    def bitrand(self, *shape):
        """bitrand(rng, shape...): bool, filled in column-major order from the lowest bit of each word on."""
        n = math.prod(check_integer("a dimension", size, minimum=0) for size in shape)
        words = np.array(self.words((n + 63) // 64), "<u8")
        bits = np.unpackbits(words.view(np.uint8), count=n, bitorder="little")
        return bits.astype(bool).reshape(shape, order="F")
