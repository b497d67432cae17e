"""Julia's Random: MersenneTwister and what the original draws from it, bit for bit.

The port of GradientFlossing_ExampleCode.jl (github.com/RainerEngelken/GradientFlossing, commit 324d2a0)
needs the numbers that Julia 1.5/1.6 draws from its global generator: randn(Float32, ...), rand(Float32, n)
and shuffle!. Behind them stand

    dSFMT-19937   M. Saito, M. Matsumoto, A PRNG specialized in double precision floating point numbers
                  using an affine transition, MCQMC 2008 (2009)
    ziggurat      G. Marsaglia, W. W. Tsang, The ziggurat method for generating random variables,
                  J. Stat. Softw. 5(8) (2000); 256 layers, as in randmtzig

Terms: a "word" is one 64-bit output of dSFMT, which read as a Float64 is uniform in [1, 2); its low 52 bits
are random. A "pair" is the 128 bits (two words) that one step of dSFMT makes.
"""

import functools
import math
from decimal import Decimal, localcontext

import numpy as np

from julia_packages.checks import check_integer, shown

# dSFMT-19937, parameter set 19937:117-19
N = 191  # pairs in the state
POS1 = 117
SL1 = 19
SR = 12
MSK = np.array([0x000FFAFFFFFFFB3F, 0x000FFDFFFC90FFFD], np.uint64)
FIX = np.array([0x90014964B32F4329, 0x3B8D12AC548A7C7A], np.uint64)
PCV = np.array([0x3D84E1AC0DC82880, 0x0000000000000001], np.uint64)

CACHE = 1002  # words that Julia's MersenneTwister makes at a time for scalar draws
MIN_ARRAY = 2 * N  # words; array fills from this size on do not go through that cache

MASK32 = 0xFFFFFFFF
MASK52 = (1 << 52) - 1
ONE = 0x3FF << 52  # exponent bits of a Float64 in [1, 2)


def init_by_array(key):
    """State of dSFMT-19937 from the 32-bit limbs `key` of a seed (Saito & Matsumoto, dSFMT 2.2).

    A limb is an int, or a uint32 array (seeds,), which makes the states of all those seeds at once: the loop
    is too slow in Python to be run for each of thousands of seeds. Returns uint64 (384,) or (seeds, 384):
    the 191 pairs and, last, the lung.
    """
    size, lag = 4 * (N + 1), 11
    mid = (size - lag) // 2
    p = [0x8B8B8B8B] * size

    def mix(x, factor):
        return ((x ^ x >> 27) * factor) & MASK32

    count = max(len(key) + 1, size)
    added = [len(key), *key] + [0] * size
    for step in range(count):
        i, j, k = step % size, (step + mid) % size, (step + mid + lag) % size
        r = mix(p[i] ^ p[j] ^ p[i - 1], 1664525)
        p[j] = (p[j] + r) & MASK32
        p[i] = r = (r + added[step] + i) & MASK32
        p[k] = (p[k] + r) & MASK32
    for step in range(count, count + size):
        i, j, k = step % size, (step + mid) % size, (step + mid + lag) % size
        r = mix((p[i] + p[j] + p[i - 1]) & MASK32, 1566083941)
        p[j] = p[j] ^ r
        p[i] = r = (r - i) & MASK32
        p[k] = p[k] ^ r

    words = np.array(p, np.uint64).T
    state = words[..., 0::2] | words[..., 1::2] << 32
    state[..., :-2] = state[..., :-2] & MASK52 | ONE
    # The period is certain only if the lung has odd parity under PCV.
    parity = np.bitwise_count((state[..., -2:] ^ FIX) & PCV).sum(axis=-1) % 2
    state[..., -1] ^= (parity == 0).astype(np.uint64)
    return state


class MersenneTwister:
    """Julia 1.5/1.6 `MersenneTwister(seed)`, the state of the global generator after `Random.seed!(seed)`.

    seed: any integer >= 0; ValueError otherwise.
    """

    def __init__(self, seed):
        seed = check_integer("seed", seed, minimum=0)
        limbs = max(1, (seed.bit_length() + 31) // 32)
        self._start(init_by_array([seed >> 32 * i & MASK32 for i in range(limbs)]))

    def _start(self, state):
        self._pairs = state[:-2].reshape(N, 2)  # oldest first
        self._lung = state[-2:]
        self._ahead = np.empty(0, np.uint64)  # words made, not yet drawn
        self._cached = 0  # how many of the next words lie in Julia's cache

    # ---- dSFMT

    def _generate(self, count):
        """The next `count` pairs of the recursion, as 2*count words.

        In a step the new lung is the old one with its four 32-bit lanes reversed, xor a feedback of pairs at least
        74 back. Reversing twice changes nothing, so with every other lung stored reversed the 74 steps
        are one cumulative xor.
        """
        pairs = np.empty((N + count, 2), np.uint64)
        pairs[:N] = self._pairs
        for first in range(0, count, N - POS1):
            last = min(first + N - POS1, count)
            old = pairs[first:last]
            lungs = np.empty((last - first + 1, 2), np.uint64)
            lungs[0] = self._lung
            lungs[1:] = old << SL1 ^ pairs[first + POS1 : last + POS1]
            lanes = lungs.view(np.uint32)
            lanes[1::2] = lanes[1::2, ::-1]
            np.bitwise_xor.accumulate(lungs, axis=0, out=lungs)
            lanes[1::2] = lanes[1::2, ::-1]
            self._lung = lungs[-1].copy()
            lungs = lungs[1:]
            pairs[N + first : N + last] = lungs >> SR ^ lungs & MSK ^ old
        self._pairs = pairs[count:].copy()
        return pairs[N:].ravel()

    def _peek(self, n):
        """The next n words, which stay to be drawn."""
        missing = n - len(self._ahead)
        if missing > 0:
            count = max(N - POS1, (missing + 1) // 2)  # 74 pairs cost hardly more than one
            self._ahead = np.concatenate([self._ahead, self._generate(count)])
        return self._ahead[:n]

    def words(self, n):
        """n words, uint64 (n,), as n scalar draws give them: from the cache, refilled when it is empty."""
        words = self._peek(n)
        self._ahead = self._ahead[n:]
        self._cached = (self._cached - n) % CACHE
        return words

    def _draw_past_cache(self, n):
        """n words straight from the recursion; the words already in Julia's cache stay there."""
        cached = self._cached
        words = self._peek(cached + n)[cached:]
        self._ahead = np.concatenate([self._ahead[:cached], self._ahead[cached + n :]])
        return words

    def fill_words(self, n):
        """n words, uint64 (n,), as Julia fills a Float64 array: if n >= 384 only the last 2 or 3 are from the cache."""
        n2 = (n - 2) // 2 * 2
        if n2 < MIN_ARRAY:
            return self.words(n)
        return np.concatenate([self._draw_past_cache(n2), self.words(n - n2)])

    # ---- uniform

    def rand_float64(self, n=None):
        """rand(), a float in [0, 1); with n, rand(n): float64 (n,), which for n >= 384 is not n times rand()."""
        if n is None:
            return float(self.words(1).view(np.float64)[0]) - 1.0
        return self.fill_words(check_integer("n", n, minimum=0)).view(np.float64) - 1.0

    def rand_float32(self, n):
        """rand(Float32, n): float32 (n,) in [0, 1). Four numbers share a pair; the n mod 4 last take a word each."""
        n = check_integer("n", n, minimum=0)
        pairs = self.fill_words(n // 4 * 2).reshape(-1, 2)
        mixed = pairs ^ pairs << 26  # as 128-bit numbers: what leaves the low word enters the high one
        mixed[:, 1] ^= pairs[:, 0] >> 38
        lanes = np.concatenate([mixed.astype("<u8").view("<u4").ravel(), self.words(n % 4).astype(np.uint32)])
        return (lanes & 0x007FFFFF | 0x3F800000).view(np.float32) - np.float32(1)

    # ---- normal

    def randn_float64(self, *shape):
        """Standard normals, float64, in column-major order, each as the scalar randn() gives it (an array fill differs)."""
        n = math.prod(check_integer("a dimension", size, minimum=0) for size in shape)
        parts = [np.empty(0)]
        while n > 0:
            parts.append(self._some_normals(min(n, 1 << 16)))
            n -= len(parts[-1])
        return np.concatenate(parts).reshape(shape, order="F")

    def randn_float32(self, *shape):
        """randn(Float32, shape...): standard normals, float32, drawn in column-major order."""
        return self.randn_float64(*shape).astype(np.float32)  # each is a rounded Float64 in Julia too

    def _some_normals(self, n):
        """The normals that start in the next n words, at most n, by the ziggurat method.

        98.8 % of words are a normal by themselves. The others are resolved one by one, in order, since each takes
        further words, which then start no normal.
        """
        ki, wi, _ = ziggurat_tables()
        words = self._peek(n)
        rabs = ((words & MASK52) >> 1).astype(np.int64)
        layer = rabs & 255
        x = np.where(words & 1, -rabs, rabs) * wi[layer]
        inside = rabs < ki[layer]
        starts = np.ones(n, bool)  # whether a normal starts at this word
        next_start = 0
        for i in np.flatnonzero(~inside).tolist():
            if i < next_start:
                continue
            value, next_start = self._resolve_outside(i, float(x[i]), int(rabs[i]))
            starts[i:next_start] = False
            if value is not None:
                x[i], starts[i] = value, True
        self.words(max(n, next_start))
        return x[starts]

    def _resolve_outside(self, i, x, rabs):
        """(normal, or None if rejected; next start), for word i, which fell outside its layer's rectangle."""

        def uniform(i):
            return float(self._peek(i + 1)[i : i + 1].view(np.float64)[0]) - 1.0

        layer = rabs & 255
        if layer > 0:
            fi = ziggurat_tables()[2]
            height = (fi[layer - 1] - fi[layer]) * uniform(i + 1) + fi[layer]
            return (x if height < math.exp(-0.5 * x * x) else None), i + 2
        while True:  # the tail beyond r
            xx = -ZIGGURAT_INV_R * math.log(uniform(i + 1))
            yy = -math.log(uniform(i + 2))
            i += 2
            if yy + yy > xx * xx:
                return (-ZIGGURAT_R - xx if rabs >> 8 & 1 else ZIGGURAT_R + xx), i + 1

    # ---- permutation

    def shuffled_indices(self, n):
        """shuffle!([1:n;]) .- 1: a permutation of 0..n-1, int64 (n,), by Fisher & Yates from the top."""
        n = check_integer("n", n, minimum=0)
        indices = list(range(n))
        mask = (1 << max(n - 1, 0).bit_length()) - 1
        for i in range(n, 1, -1):
            if mask >> 1 == i:  # so i = 8 of n = 16 still takes 4 bits
                mask >>= 1
            j = i
            while j >= i:
                j = int(self.words(1)[0]) & mask
            indices[i - 1], indices[j] = indices[j], indices[i - 1]
        return np.array(indices, np.int64)


def epoch_generator(seed):
    """MersenneTwister(seed), fast for one seed after another: the states of 256 neighbours are made at a time.

    seed: integer in 0..2^32-1; ValueError otherwise.
    """
    seed = check_integer("seed", seed, minimum=0)
    if seed > MASK32:
        raise ValueError(f"seed must be an integer <= {MASK32} here, got {shown(seed)}")
    generator = MersenneTwister.__new__(MersenneTwister)
    generator._start(states_of_block(seed // 256)[seed % 256])
    return generator


@functools.lru_cache(maxsize=1)
def states_of_block(block):
    return init_by_array([np.arange(256 * block, 256 * (block + 1), dtype=np.uint32)])


# The 256 layers of the normal ziggurat have equal area if the tail starts at r.
ZIGGURAT_R_DIGITS = "3.6541528853610087963519472518"
ZIGGURAT_R = float(ZIGGURAT_R_DIGITS)
ZIGGURAT_INV_R = float(1 / Decimal(ZIGGURAT_R_DIGITS))


@functools.cache
def ziggurat_tables():
    """ki int64, wi float64, fi float64, each (256,): acceptance limits, widths and heights of the layers.

    Made with 50 digits from r, since doubles would miss the last bits of Julia's. A layer's x is
    scaled by 2^51, the range of the 51-bit draw.
    """
    with localcontext() as context:
        context.prec = 50
        scale = Decimal(2) ** 51
        r = Decimal(ZIGGURAT_R_DIGITS)
        f = (-r * r / 2).exp()
        mills = r  # continued fraction of f / integral from r to infinity
        for n in range(400, 0, -1):
            mills = r + n / mills
        area = r * f + f / mills

        ki, wi, fi = [0] * 256, [0.0] * 256, [1.0] * 256
        ki[0] = int(r * f / area * scale)
        wi[0] = float(area / f / scale)
        x = r
        for layer in range(255, 0, -1):
            wi[layer] = float(x / scale)
            fi[layer] = float(f)
            if layer > 1:
                f += area / x
                narrower = (-2 * f.ln()).sqrt()
                ki[layer] = int(narrower / x * scale)
                x = narrower
    return np.array(ki), np.array(wi), np.array(fi)
