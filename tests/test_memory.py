"""What a state knows of its past: delay lines, linear networks, states that hold XORs, and products with known gradients."""

import numpy as np
import pytest

from example_code.experiments import what_it_knows
from example_code.experiments.what_it_knows import gradient_norm, memory, xor_memory

RNG = np.random.default_rng(1)
BITS = RNG.integers(0, 2, (1200, 3)).astype(float)


def delayed(inputs, lags):
    """States (T, B, len(lags)) that are the inputs of these lags, zero before the first."""
    return np.stack([np.concatenate([np.zeros_like(inputs[:lag]), inputs])[: len(inputs)] for lag in lags], axis=-1)


def test_a_delay_line_knows_its_length_and_nothing_beyond(monkeypatch):
    line = delayed(BITS, range(7))
    of_noise = what_it_knows.NOISE**2 / (what_it_knows.NOISE**2 + 0.25)  # of a bit's variance of 1/4: what the noise hides
    known = memory(line, BITS, range(10))
    np.testing.assert_allclose(known[:7], 1, atol=10 * of_noise)
    assert known[7:].max() < 0.02 and known.shape == (10,)
    np.testing.assert_array_equal(memory(line, BITS, [8, 2]) > 0.5, [False, True])
    np.testing.assert_allclose(memory(3 * line @ RNG.standard_normal((7, 7)) + 5, BITS, range(7)), 1, atol=1e-3)
    monkeypatch.setattr(what_it_knows, "NOISE", 0)
    np.testing.assert_allclose(memory(line, BITS, range(7)), 1, rtol=1e-12)


def test_a_fading_sum_of_bits_against_theory():
    """h_t = a h_(t-1) + s_t, one unit: R^2 of lag d is the squared correlation a^2d (1 - a^2)."""
    a, inputs = 0.8, RNG.integers(0, 2, (20_000, 2))
    h = np.zeros((len(inputs), 2, 1))
    for t in range(len(h)):
        h[t] = a * h[t - 1] + inputs[t][:, None]
    lags = np.arange(5)
    np.testing.assert_allclose(memory(h, inputs, lags), a ** (2 * lags) * (1 - a**2), atol=0.01)


def test_the_noise_is_that_of_a_unit_whatever_the_number_of_steps():
    """A unit that shows the bit c times as strongly: R^2 = 1 - share^2, of which the noise has share = v / (v + c^2 / 4)."""
    for c in (1e-3, 3e-3):
        share = 1e-6 / (1e-6 + c**2 / 4)
        for trials in (1, 3):
            known = memory(c * BITS[:, :trials, None], BITS[:, :trials], [0])
            np.testing.assert_allclose(known, 1 - share**2, atol=0.01)


def test_a_state_with_xors_knows_them_and_a_delay_line_does_not():
    recent, earlier = (delayed(BITS, [steps])[..., 0] for steps in (4, 8))
    xor = (recent != earlier).astype(float)[..., None]
    assert [xor_memory(xor, BITS, delay) > 0.5 for delay in range(1, 6)] == [False] * 3 + [True, False]
    assert xor_memory(xor, BITS, 4) == pytest.approx(1, abs=1e-4)
    assert max(xor_memory(delayed(BITS, range(12)), BITS, delay) for delay in range(1, 6)) < 0.02
    products = np.stack([recent, earlier, recent * earlier], axis=-1)
    assert xor_memory(products, BITS, 4) == pytest.approx(1, abs=1e-4)  # a + b - 2 a b


def test_states_that_know_nothing():
    for constant in (np.zeros((1200, 3, 4)), np.full((1200, 3, 2), 0.7)):
        assert memory(constant, BITS, range(4)).tolist() == [0] * 4 and xor_memory(constant, BITS, 3) == 0
    assert 0 <= memory(RNG.standard_normal((1200, 3, 2)), BITS, range(4)).max() < 0.02


def test_weights_are_judged_by_steps_that_they_were_not_fitted_to():
    """40 units of noise fit 50 values well, and read none of the others."""
    states, inputs = RNG.standard_normal((101, 1, 40)), BITS[:101, :1]
    assert memory(states, inputs, [1])[0] == 0
    line = delayed(BITS, [0])
    line[600:] = 0.5  # known in the first half only
    assert memory(line, BITS, [0])[0] == 0
    line = delayed(BITS, [0])
    line[:600] = 0.5
    assert memory(line, BITS, [0])[0] == 0


def test_gradient_norm_of_known_products():
    rotations = np.linalg.qr(RNG.standard_normal((9, 5, 5)))[0]
    assert gradient_norm(rotations, 4) == pytest.approx(1)
    assert gradient_norm(0.5 * rotations, 3) == pytest.approx(1 / 8)
    jacobians = RNG.standard_normal((4, 3, 3))
    products = [jacobians[2] @ jacobians[1] @ jacobians[0], jacobians[3] @ jacobians[2] @ jacobians[1]]
    assert gradient_norm(jacobians, 3) == pytest.approx(np.sqrt(np.mean(np.linalg.svd(products, compute_uv=False) ** 2)))
    assert gradient_norm(jacobians, 4) == pytest.approx(np.linalg.norm(jacobians[3] @ products[0]) / np.sqrt(3))
    assert gradient_norm(jacobians, 1) == pytest.approx(np.sqrt((jacobians**2).mean() * 3))


@pytest.mark.parametrize("call, says", [
    (lambda: memory(delayed(BITS[:7], range(9)), BITS[:7], [1]), "states: 7 steps of 3 trials are too few for a lag of 1 and 9"),
    (lambda: xor_memory(BITS[..., None], BITS, 600), "too few for a lag of 1200"),
    (lambda: memory(np.full((99, 1, 2), np.nan), BITS[:99, :1], [1]), "states must be finite"),
    (lambda: memory(BITS[..., None], np.ones_like(BITS), [1]), "what is to be read must vary"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_the_fewest_steps_that_will_do():
    assert memory(delayed(BITS[:9], range(9)), BITS[:9], [1]).shape == (1,)  # half of 8 steps, times 3: more than 9
