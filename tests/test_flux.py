"""julia_packages/flux.py against steps computed by hand, and against the recorded ADAM steps of the original."""

import numpy as np
import pytest
import torch

from julia_packages.flux import (
    ADAM, ADAMW, ClipNorm, DataLoader, Optimiser, WeightDecay, logitbinarycrossentropy, sigmoid, update,
)  # fmt: skip
from julia_packages.random import MersenneTwister


def test_clip_norm_clips_each_array_by_its_own_norm_in_place():
    long, short = np.array([3.0, 4.0]), np.array([0.003, 0.004])
    clip = ClipNorm(0.03)
    assert clip.apply(None, long) is long
    clip.apply(None, short)
    thresh = float(np.float32(0.03))  # the original writes 0.03f0
    np.testing.assert_allclose(long, [3 * thresh / 5, 4 * thresh / 5], rtol=1e-15)
    np.testing.assert_array_equal(short, [0.003, 0.004])


def test_clip_norm_leaves_a_gradient_of_exactly_the_threshold():
    d = np.array([0.5, 0.0])
    ClipNorm(0.5).apply(None, d)
    assert d[0] == 0.5


def test_adam_three_steps_by_hand():
    x, opt = np.array([1.0, -2.0]), ADAM(0.1, (0.8, 0.9))
    m = v = np.zeros(2)
    for t, gradient in enumerate(([1.0, -3.0], [0.5, 2.0], [-1.0, 0.0]), start=1):
        gradient = np.array(gradient)
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        expected = x - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
        update(opt, {"x": x}, {"x": gradient.copy()})
        np.testing.assert_allclose(x, expected, rtol=1e-14)


def test_adam_epsilon_stands_outside_the_root():
    x = np.zeros(1)
    update(ADAM(1.0), {"x": x}, {"x": np.array([1e-8])})
    np.testing.assert_allclose(x, [-0.5], rtol=1e-6)


def test_adam_state_is_per_array_and_float32():
    opt, a, b = ADAM(), np.ones(3, np.float32), np.ones((2, 2), np.float32)
    update(opt, {"a": a}, {"a": np.ones(3)})
    update(opt, {"a": a, "b": b}, {"a": np.ones(3), "b": np.ones((2, 2), np.float32)})
    assert opt.state[id(a)][2] == (0.9**2 * 0.9, 0.999**2 * 0.999)  # b^(t+1), ready for the next step
    assert opt.state[id(b)][2] == (0.9 * 0.9, 0.999 * 0.999)
    assert opt.state[id(a)][0].dtype == np.float32


def test_update_leaves_the_step_in_the_gradient():
    """The original's singular values after the update are of the step, because of this."""
    x, gs = np.zeros(2, np.float32), {"x": np.array([4.0, -0.01])}
    update(ADAM(0.001), {"x": x}, gs)
    np.testing.assert_allclose(gs["x"], [0.001, -0.001], rtol=1e-5)
    np.testing.assert_array_equal(x, -gs["x"].astype(np.float32))


def test_weight_decay_is_added_after_adam_and_not_scaled_by_it():
    x = np.array([2.0])
    update(ADAMW(0.001, (0.9, 0.999), 0.1), {"x": x}, {"x": np.array([1.0])})
    np.testing.assert_allclose(x, 2.0 - 0.001 - 0.1 * 2.0, rtol=1e-7)
    d = np.array([1.0])
    WeightDecay(0).apply(x, d)
    assert d[0] == 1.0


@pytest.mark.parametrize("case", ["copy_small", "no_flossing", "orthogonal_parity4", "preflossing", "readme_seed1"])
def test_first_update_has_the_recorded_singular_values(case, reference, arguments):
    """Clip and ADAM on the recorded gradient: svdJ and svdxInit of the original's first step (1e-6: Float32 svd)."""
    recording, call = reference(f"run_{case}"), arguments(case)
    names = ("ws", "J", "wr", "b", "offset", "xInit")
    ps = {name: recording[f"train1_param_{name}"].copy() for name in names}
    gs = {name: recording[f"train1_grad_{name}"].copy() for name in names}
    opt = Optimiser(ClipNorm(0.03), ADAMW(np.float32(call["lr"]), (call["b1"], call["b2"]), 0))
    update(opt, ps, gs)
    for name in ("J", "xInit"):
        singular_values = np.linalg.svd(gs[name], compute_uv=False)
        recorded = recording[f"svd{name}"][:, 0]
        assert np.abs(singular_values - recorded).max() <= 1e-6 * recorded.max()


def test_data_loader_shuffles_trials_with_the_given_generator():
    s = np.arange(12, dtype=np.float32).reshape(2, 1, 6)
    (first, second), = [batch for batch in DataLoader((s, -s), 6, shuffle=True, rng=MersenneTwister(5))]
    order = MersenneTwister(5).shuffled_indices(6)
    np.testing.assert_array_equal(first, s[..., order])
    np.testing.assert_array_equal(second, -first)


def test_data_loader_in_order_with_a_smaller_last_batch():
    batches = [batch[0].tolist() for batch in DataLoader((np.arange(5),), batchsize=2)]
    assert batches == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("of", [np.asarray, torch.from_numpy])
def test_logit_binary_cross_entropy_is_stable_and_right(of):
    r, y = of(np.array([-500.0, -1.0, 0.0, 2.0, 500.0])), of(np.array([1.0, 0.0, 1.0, 1.0, 0.0]))
    expected = [500.0, np.log1p(np.exp(-1.0)), np.log(2.0), np.log1p(np.exp(-2.0)), 500.0]
    np.testing.assert_allclose(np.asarray(logitbinarycrossentropy(r, y, agg=lambda losses: losses)), expected, rtol=1e-12)
    assert logitbinarycrossentropy(r, y, agg=lambda losses: losses.sum()).item() == pytest.approx(sum(expected))
    np.testing.assert_allclose(np.asarray(sigmoid(r)), 1 / (1 + np.exp([500.0, 1.0, 0.0, -2.0, -500.0])), rtol=1e-12)
