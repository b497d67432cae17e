"""Task data: equal to the recordings of the original, and to the definition of the tasks."""

import re
from pathlib import Path

import numpy as np
import pytest

from gf_task05spatialXORShort import generate_input_output, recabs

TASK_DATA = dict(np.load(Path(__file__).parent / "reference" / "task_data.npz"))
KEY = re.compile(r"task_B(\d+)_T(\d+)_seed(\d+)_sigma([\d.]+)_delay(\d+)_task(-?\d+)_(s|target)")


def test_no_recording_is_missing():
    assert len(TASK_DATA) == 12
    assert all(KEY.fullmatch(key) for key in TASK_DATA)


@pytest.mark.parametrize("key", TASK_DATA)
def test_recording(key):
    B, T, seed, sigma, delay, task, which = KEY.fullmatch(key).groups()
    s, target = generate_input_output(int(B), int(T), int(seed), 1, float(sigma), int(delay), int(task))
    np.testing.assert_array_equal({"s": s, "target": target}[which], TASK_DATA[key], strict=True)


@pytest.mark.parametrize("delay", [1, 3, 40])
@pytest.mark.parametrize("task", [-3, -2, -1, 0, 1, 2, 3])
def test_definition(task, delay):
    # The loop over trials and steps, as the original is written, on the bits of a copy task that hides none of them.
    B, T = 3, 60
    bits = generate_input_output(B, T + delay, 11, 1, 1.0, 0, 0)[0]
    s, target = generate_input_output(B, T, 11, 1, 1.0, delay, task)
    np.testing.assert_array_equal(s, bits[delay:])
    taps = 2 ** abs(task)
    expected = np.zeros_like(target)
    for bi in range(B):
        for i in range(delay, T + delay):
            if i >= delay * taps:
                expected[i - delay, 0, bi] = sum(bits[i - k * delay, 0, bi] for k in range(1, taps + 1)) % 2
    np.testing.assert_array_equal(target, expected)


def test_copy_task_without_delay():
    s, target = generate_input_output(4, 20, 1, 1, 0.5, 0, 0)
    np.testing.assert_array_equal(s, 0.5 * target)


def test_sign_of_task_and_amplitude_change_nothing_else():
    s, target = generate_input_output(4, 50, 3, 1, 1.0, 5, -2)
    s_positive, target_positive = generate_input_output(4, 50, 3, 1, -2.5, 5, 2)
    np.testing.assert_array_equal(target_positive, target)
    np.testing.assert_array_equal(s_positive, np.float32(-2.5) * s)


def test_many_taps():
    _, target = generate_input_output(1, 3000, 3, 1, 1.0, 1, -11)  # 2048 taps: more than Python may recurse
    assert target.any() and not target[:2047].any()


def test_taps_beyond_the_trial():
    for task in (-10, -50):
        assert not generate_input_output(2, 30, 3, 1, 1.0, 5, task)[1].any()


def test_negative_seed_and_single_step():
    s, target = generate_input_output(1, 1, -7, 1, 1, 1, 0)
    assert s.shape == target.shape == (1, 1, 1) and s.dtype == target.dtype == np.float32


def test_recabs():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 8):
        bits = list(rng.integers(0, 2, (n, 20)))
        np.testing.assert_array_equal(recabs(bits), sum(bits) % 2)
    assert recabs([5, 3, 4]) == 2


@pytest.mark.parametrize(
    "name, value",
    [
        *[("B", value) for value in (0, -1, 1.0, True, None)],
        *[("T", value) for value in (0, -1, 10.0, "9")],
        *[("seedInput", value) for value in (0, 2**128, 1.0, True)],
        *[("S", value) for value in (0, 2, 1.0, True)],
        *[("sigma", value) for value in (np.inf, np.nan, 1e39, "1", None, 1j)],
        *[("delay", value) for value in (0, -1, 1.5, True)],
        *[("task", value) for value in (1.0, 63, -62, 10**9, None, True)],
    ],
)
def test_rejects(name, value):
    arguments = dict(B=2, T=30, seedInput=1, S=1, sigma=1.0, delay=5, task=-1) | {name: value}
    with pytest.raises(ValueError, match=f"^{name} must be ") as error:
        generate_input_output(**arguments)
    assert str(error.value).endswith(f"got {value!r}")


def test_rejects_negative_delay_of_copy_task():
    with pytest.raises(ValueError, match="delay must be an integer >= 0, got -1"):
        generate_input_output(2, 30, 1, 1, 1.0, -1, 0)
