"""The random streams equal those recorded from Julia 1.5.3 (tests/reference/), every number exactly."""

from pathlib import Path

import numpy as np
import pytest

from julia_packages.random import (
    ZIGGURAT_INV_R, ZIGGURAT_R, MersenneTwister, epoch_generator, init_by_array, ziggurat_tables,
)  # fmt: skip
from julia_packages.xorshifts import Xoroshiro128Star

REFERENCE = Path(__file__).parent / "reference"
STREAMS = dict(np.load(REFERENCE / "random_streams.npz"))
TABLES = dict(np.load(REFERENCE / "ziggurat_tables.npz"))
INITIAL_QR = dict(np.load(REFERENCE / "initial_qr.npz"))


def rand_uint64_array(generator, n):
    """rand(UInt64, n), n even: 5 pairs are condensed to 4, as the upper 12 bits of a word are fixed."""

    def pairs(count):
        words = generator.fill_words(2 * count).tolist()
        return [low | high << 64 for low, high in zip(words[0::2], words[1::2])]

    result = pairs(n // 2)
    left = len(result)
    while left >= 5:
        used = 0
        while left - used >= 5:
            for shift in (48, 36, 24, 12):
                left -= 1
                result[left] ^= result[used] << shift
            used += 1
        result[:used] = pairs(used)
    high, low = generator.words(2).tolist()
    for i in range(left):
        result[i] ^= (high << 64 | low) << 12 * (i + 1)
    return np.array([word >> shift & (1 << 64) - 1 for word in result for shift in (0, 64)], np.uint64)


def trainer_sequence(generator, N, columns=None):
    """The four draws of the trainer in its order; of J the first `columns` columns, or all."""
    return {
        "ws": generator.randn_float32(N, 1),
        "wr": generator.randn_float32(1, N),
        "b": generator.rand_float32(N),
        "J": generator.randn_float32(N, columns or N),
    }


def draw(key):
    """What the recording `key` of random_streams.npz holds, drawn here."""
    kind, seed, name = key.split("_", 2)
    if kind == "xo":
        generator = Xoroshiro128Star(int(seed))
        if name == "u64":
            return np.array(generator.words(50), np.uint64)
        if name == "bits":
            return generator.bitrand(31, 1, 7)
    generator = MersenneTwister(int(seed))
    what, _, last = name.rpartition("_")
    if name == "u64":
        return rand_uint64_array(generator, 700)
    if name == "f64":
        return np.array([generator.rand_float64() for _ in range(500)])
    if name == "f64array":
        return generator.rand_float64(500)
    if name == "randn_f64":
        return np.concatenate([generator.randn_float64(1) for _ in range(2000)])
    if name == "randn_f32":
        return generator.randn_float32(5000)
    if what == "rand_f32":
        return generator.rand_float32(int(last))
    if what == "shuffle":
        return generator.shuffled_indices(int(last)) + 1
    if what == "seq":
        return trainer_sequence(generator, 80)[last]
    if what.startswith("seqN"):
        drawn = trainer_sequence(generator, int(what.removeprefix("seqN")), columns=3)
        return drawn["J" if last == "J3" else last]
    raise AssertionError(f"no test draws {key}")


def test_no_recording_is_missing():
    assert len(STREAMS) == 160
    assert sorted(TABLES) == ["fi", "ki", "wi", "ziggurat_nor_inv_r", "ziggurat_nor_r"]


@pytest.mark.parametrize("key", STREAMS)
def test_stream(key):
    drawn = draw(key)
    assert drawn.shape == STREAMS[key].shape
    assert drawn.dtype == (bool if key.endswith("bits") else STREAMS[key].dtype)
    np.testing.assert_array_equal(drawn, STREAMS[key], strict=not key.endswith("bits"))


def test_ziggurat_tables():
    ki, wi, fi = ziggurat_tables()
    np.testing.assert_array_equal(ki, TABLES["ki"])
    np.testing.assert_array_equal(wi, TABLES["wi"], strict=True)
    np.testing.assert_array_equal(fi, TABLES["fi"], strict=True)
    assert [ZIGGURAT_R] == TABLES["ziggurat_nor_r"]
    assert [ZIGGURAT_INV_R] == TABLES["ziggurat_nor_inv_r"]


@pytest.mark.parametrize("key", [key for key in INITIAL_QR if key.endswith("A")])
def test_matrix_of_the_initial_orthonormal_system(key):
    seed = int(key.split("_")[0].removeprefix("seed"))
    drawn = MersenneTwister(seed).randn_float32(*INITIAL_QR[key].shape)
    np.testing.assert_array_equal(drawn, INITIAL_QR[key], strict=True)


def test_mersenne_twister_words_of_dsfmt_itself():
    # The recurrence as published, step by step, against the cumulative xor of the module.
    generator = MersenneTwister(5)
    state = [tuple(pair) for pair in generator._pairs.tolist()]
    lung = tuple(generator._lung.tolist())
    mask64 = (1 << 64) - 1

    def swap(word):
        return (word << 32 | word >> 32) & mask64

    expected = []
    for _ in range(1000):
        old = state.pop(0)
        middle = state[116]
        lung = (
            (old[0] << 19 & mask64) ^ swap(lung[1]) ^ middle[0],
            (old[1] << 19 & mask64) ^ swap(lung[0]) ^ middle[1],
        )
        new = (
            lung[0] >> 12 ^ lung[0] & 0x000FFAFFFFFFFB3F ^ old[0],
            lung[1] >> 12 ^ lung[1] & 0x000FFDFFFC90FFFD ^ old[1],
        )
        state.append(new)
        expected += new
    assert generator.words(2000).tolist() == expected


# ---- the stream is one, however it is drawn


def test_portions_of_words_make_one_stream():
    whole = MersenneTwister(3).words(5000)
    generator = MersenneTwister(3)
    portions = [generator.words(n) for n in (0, 1, 2, 147, 148, 149, 1001, 1002, 1003, 1547)]
    np.testing.assert_array_equal(np.concatenate(portions), whole)


def test_portions_of_normals_make_one_stream():
    # 70,000 normals span more than one of the blocks in which they are made; some tails and many wedges among them.
    whole = MersenneTwister(4).randn_float64(70_000)
    assert np.abs(whole).max() > ZIGGURAT_R
    generator = MersenneTwister(4)
    sizes = [1] * 3000 + [0, 7, 66_000, 993]
    np.testing.assert_array_equal(np.concatenate([generator.randn_float64(n) for n in sizes]), whole)


@pytest.mark.parametrize("n", [1, 383, 384, 385, 500, 5000])
def test_a_large_fill_leaves_the_cache_behind(n):
    stream = MersenneTwister(9).words(1002 + 6000).view(np.float64) - 1.0
    generator = MersenneTwister(9)
    first = generator.rand_float64()
    filled = generator.rand_float64(n)
    after = generator.rand_float64()
    bypassing = (n - 2) // 2 * 2 if n >= 384 else 0
    assert first == stream[0]
    np.testing.assert_array_equal(
        filled, np.concatenate([stream[1002 : 1002 + bypassing], stream[1 : 1 + n - bypassing]])
    )
    assert after == stream[1 + n - bypassing]


def test_end_state_after_a_mixed_sequence():
    # The trainer's draws at N = 1000: rand_float32 takes 498 words past the cache and 2 from it, the normals the rest.
    generator = MersenneTwister(1)
    trainer_sequence(generator, 1000, columns=3)
    shuffled = generator.shuffled_indices(100)
    end = generator.words(2000)

    other = MersenneTwister(1)
    other.randn_float32(2000)
    other.fill_words(500)
    other.randn_float32(3000)
    np.testing.assert_array_equal(other.shuffled_indices(100), shuffled)
    np.testing.assert_array_equal(other.words(2000), end)

    stream = MersenneTwister(1).words(20_000).tolist()
    at = stream.index(int(end[0]))
    assert stream[at : at + 2000] == end.tolist()


def test_column_major():
    np.testing.assert_array_equal(
        MersenneTwister(1).randn_float32(3, 4, 5).ravel(order="F"), MersenneTwister(1).randn_float32(60)
    )
    np.testing.assert_array_equal(
        Xoroshiro128Star(1).bitrand(3, 4, 5).ravel(order="F"), Xoroshiro128Star(1).bitrand(60)
    )


# ---- many seeds at once


@pytest.mark.parametrize("first", [0, 1, 2700, 2**32 - 300])
def test_generators_of_epochs_equal_single_ones(first):
    seeds = range(first, first + 300)  # more than one block
    for seed in (*seeds[:3], *seeds[254:258], seeds[-1], seeds[0]):
        np.testing.assert_array_equal(epoch_generator(seed).words(1500), MersenneTwister(seed).words(1500))


def test_generators_of_epochs_give_the_recorded_shuffles():
    for seed in (0, 1, 2, 42, 1234):
        np.testing.assert_array_equal(epoch_generator(seed).shuffled_indices(16) + 1, STREAMS[f"mt_{seed}_shuffle_16"])


# ---- distribution and range


def test_moments():
    normals = MersenneTwister(6).randn_float64(400_000)
    assert abs(normals.mean()) < 0.008  # five standard errors
    assert abs(normals.var() - 1) < 0.012
    uniforms = MersenneTwister(6).rand_float32(400_000)
    assert uniforms.min() >= 0 and uniforms.max() < 1
    assert abs(uniforms.mean() - 0.5) < 0.0025


@pytest.mark.parametrize("n", [0, 1, 2, 3, 8, 64, 65, 1000])
def test_shuffle_is_a_permutation(n):
    assert sorted(MersenneTwister(7).shuffled_indices(n)) == list(range(n))


# ---- seeds


HUGE = pytest.param(1 << 32 * 800, id="801 limbs")


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**64, 2**521 - 1, HUGE, np.int64(3), np.uint8(3)])
def test_any_natural_number_seeds_the_mersenne_twister(seed):
    words = MersenneTwister(seed).words(400)
    assert np.all(words >> np.uint64(52) == 0x3FF)
    assert not np.array_equal(words, MersenneTwister(int(seed) + 1).words(400))


@pytest.mark.parametrize("seed", [-1, -(2**70), 1.0, 1.5, True, False, np.bool_(True), None, "1", [1]])
def test_mersenne_twister_rejects(seed):
    for seeding in (MersenneTwister, epoch_generator):
        with pytest.raises(ValueError, match="seed must be an integer >= 0, got ") as error:
            seeding(seed)
        assert repr(seed) in str(error.value)


def test_generators_of_epochs_reject_long_seeds():
    with pytest.raises(ValueError, match="seed must be an integer <= 4294967295 here, got 4294967296"):
        epoch_generator(2**32)


@pytest.mark.parametrize("seed", [1, -1, -5, 2**64, 2**127, 2**128 - 1, np.int64(-3)])
def test_xoroshiro_takes_any_seed_mod_2_to_128(seed):
    words = Xoroshiro128Star(seed).words(100)
    assert words == Xoroshiro128Star(int(seed) + 2**128).words(100)
    assert words == Xoroshiro128Star(int(seed) % 2**128).words(100)


@pytest.mark.parametrize("seed", [0, 2**128, -(2**130)])
def test_xoroshiro_rejects_zero(seed):
    with pytest.raises(ValueError, match=f"seed must be an integer that is not 0 mod 2\\^128, got {seed}"):
        Xoroshiro128Star(seed)


@pytest.mark.parametrize("seed", [1.0, True, None, "1"])
def test_xoroshiro_rejects_what_is_no_integer(seed):
    with pytest.raises(ValueError, match="seed must be an integer, got "):
        Xoroshiro128Star(seed)


def test_xoroshiro_portions_make_one_stream():
    generator = Xoroshiro128Star(8)
    assert generator.words(3) + generator.words(0) + generator.words(70) == Xoroshiro128Star(8).words(73)
    for bits, taken in ((1, 1), (64, 1), (65, 2), (128, 2)):  # bitrand drops the rest of its last word
        generator = Xoroshiro128Star(8)
        generator.bitrand(bits)
        assert generator.words(1) == Xoroshiro128Star(8).words(3)[taken : taken + 1]


@pytest.mark.parametrize("n", [-1, 2.0, True])
def test_sizes_are_checked(n):
    for method in ("rand_float32", "rand_float64", "randn_float32", "randn_float64", "shuffled_indices"):
        with pytest.raises(ValueError, match="must be an integer >= 0, got "):
            getattr(MersenneTwister(1), method)(n)
    with pytest.raises(ValueError, match="must be an integer >= 0, got "):
        Xoroshiro128Star(1).bitrand(n)


def test_a_normal_of_the_tail():
    """Julia 1.5.3: Random.seed!(6); [randn() for _ in 1:2000]. A draw whose first pair of uniforms just fits the tail."""
    normals = MersenneTwister(6).randn_float64(2000)
    assert (normals[1983], normals[1999]) == (-4.067621291742388, -2.1756864093938173)


@pytest.mark.parametrize("seed, limbs", [
    (0, [0]), (1, [1]), (2**32 - 1, [2**32 - 1]), (2**32, [0, 1]), (5 + 2**63, [5, 2**31]), (2**64 - 1, [2**32 - 1] * 2),
    (2**64, [0, 0, 1]), (2**96 + 7 * 2**32, [0, 7, 0, 1]),
])  # fmt: skip
def test_a_seed_is_cut_into_limbs_of_32_bits_the_least_first(seed, limbs):
    expected = MersenneTwister(0)
    expected._start(init_by_array(limbs))
    np.testing.assert_array_equal(MersenneTwister(seed).words(8), expected.words(8))


def init_by_array_as_published(key):
    """p of dSFMT_init_by_array (dSFMT 2.2), step by step as in its C code, before the exponents and the period are set."""
    size, mid, lag, mask = 768, 378, 11, 0xFFFFFFFF
    p, i = [0x8B8B8B8B] * size, 0

    def first(added):
        nonlocal i
        x = p[i] ^ p[(i + mid) % size] ^ p[(i + size - 1) % size]
        r = (x ^ x >> 27) * 1664525 & mask
        p[(i + mid) % size] = p[(i + mid) % size] + r & mask
        r = r + added & mask
        p[(i + mid + lag) % size] = p[(i + mid + lag) % size] + r & mask
        p[i], i = r, (i + 1) % size

    count = len(key) + 1 if len(key) + 1 > size else size
    first(len(key))
    for j in range(count - 1):
        first(key[j] + i if j < len(key) else i)
    for _ in range(size):
        x = p[i] + p[(i + mid) % size] + p[(i + size - 1) % size] & mask
        r = (x ^ x >> 27) * 1566083941 & mask
        p[(i + mid) % size] ^= r
        r = r - i & mask
        p[(i + mid + lag) % size] ^= r
        p[i], i = r, (i + 1) % size
    return p


@pytest.mark.parametrize("limbs", [1, 3, 766, 767, 768, 801])
def test_the_state_of_a_key_of_any_length_is_as_published(limbs):
    """No seed that was recorded has more limbs than the state."""
    key = list(range(5, 5 + limbs))
    low, high = np.array(init_by_array_as_published(key), np.uint64).reshape(-1, 2).T
    fraction = np.uint64((1 << 52) - 1)
    np.testing.assert_array_equal(init_by_array(key)[:-2] & fraction, (low | high << np.uint64(32))[:-2] & fraction)
