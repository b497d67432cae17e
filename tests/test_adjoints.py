"""extras/adjoints.py against finite differences, torch's differentiation, the original's recordings and known answers."""

import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from extras import adjoints
from extras.adjoints import BLOCK_BYTES, CONDITION_LIMIT, FlossingAdjoint, TrainingAdjoint, next_length
from julia_packages.base import sech_squared
from julia_packages.linear_algebra import SHARED_FLOPS, blas_threads
from gradient_flossing_example import (
    README_CALL, flossing_gradient, initial_orthonormal_system, train_rnn_flossing, training_gradient,
)  # fmt: skip
from tests.conftest import ROOT

sONS = 1


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread():
    with threadpool_limits(1, user_api="blas"):
        yield


def network(N, B, T, seed, g=1.0, input_scale=1.0, bias_scale=0.1, dtype=np.float64):
    """Random parameters of an RNN, an input (T, 1, B) and a target, as dtype."""
    rng = np.random.default_rng(seed)
    ps = dict(
        ws=input_scale * rng.normal(size=(N, 1)),
        J=g * rng.normal(size=(N, N)) / np.sqrt(N),
        wr=rng.normal(size=(1, N)),
        b=bias_scale * rng.normal(size=N),
        offset=rng.normal(size=1),
        xInit=rng.normal(size=(N, B)),
    )
    s, y = rng.integers(0, 2, (2, T, 1, B))
    # through Float32, so that both precisions start from the same numbers
    return {name: p.astype(np.float32).astype(dtype) for name, p in ps.items()}, s.astype(dtype), y.astype(dtype)


def flossed(ps):
    return {name: ps[name] for name in ("ws", "J", "b")}


def as_dtype(ps, dtype):
    return {name: p.astype(dtype) for name, p in ps.items()}


def largest_error(gradients, expected):
    """Largest deviation over all arrays, in units of the largest entry of the expected ones; inf if not finite."""
    error = max(np.abs(gradients[name] - g).max() for name, g in expected.items())
    return np.nan_to_num(error / max(np.abs(g).max() for g in expected.values()), nan=np.inf, posinf=np.inf)


def finite_differences(loss, ps, step=1e-6):
    """Central differences of loss(ps) with respect to every entry."""
    gradients = {}
    for name, p in ps.items():
        gradients[name] = np.empty_like(p)
        for index in np.ndindex(p.shape):
            moved = {sign: dict(ps, **{name: p.copy()}) for sign in (1, -1)}
            for sign in moved:
                moved[sign][name][index] += sign * step
            gradients[name][index] = (loss(moved[1]) - loss(moved[-1])) / (2 * step)
    return gradients


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("firstlossidx", [0, 1, 5, 11])
def test_training_gradient_is_the_finite_difference(firstlossidx):
    ps, s, y = network(N=5, B=3, T=12, seed=1)
    adjoint = TrainingAdjoint(5, 12, 3, firstlossidx, np.float64)
    expected = finite_differences(lambda ps: adjoint(s, y, ps)[0], ps)
    gradients = adjoint(s, y, ps)[2]
    for name in ps:
        np.testing.assert_allclose(gradients[name], expected[name], atol=1e-8)


@pytest.mark.parametrize("N, B, T, firstlossidx", [(1, 1, 2, 1), (1, 4, 9, 3), (7, 1, 30, 20), (20, 6, 60, 1), (80, 16, 300, 20), (80, 16, 300, 290)])
@pytest.mark.parametrize("scales", [dict(), dict(g=0.5), dict(g=1.3, input_scale=3.0), dict(g=1e-3, input_scale=1e-3)])
def test_training_agrees_with_autograd(N, B, T, firstlossidx, scales):
    """Measured: 2e-14 in Float64, 2e-5 in Float32."""
    ps, s, y = network(N, B, T, seed=N, **scales)
    loss, accuracy, expected = training_gradient(s, y, ps, firstlossidx, "autograd")
    for dtype, tolerance in ((np.float64, 1e-5), (np.float32, 1e-4)):
        result = TrainingAdjoint(N, T, B, firstlossidx, dtype)(s.astype(dtype), y.astype(dtype), as_dtype(ps, dtype))
        assert result[0] == pytest.approx(loss, rel=tolerance)
        assert result[1] == pytest.approx(accuracy, abs=1e-12 if dtype is np.float64 else 1 / y.size)
        for name in ps:
            assert result[2][name].dtype == dtype and result[2][name].shape == ps[name].shape
            if np.abs(expected[name]).max() > 1e-30:  # below, Float32 products of 300 small slopes vanish
                assert largest_error({name: result[2][name]}, {name: expected[name]}) < tolerance, name


@pytest.mark.parametrize("steps", [1, 7, 12, 60])
@pytest.mark.parametrize("firstlossidx", [1, 8, 13, 60])
def test_the_length_of_the_blocks_changes_only_the_rounding(monkeypatch, steps, firstlossidx):
    """Blocks of 1, of a length that divides nothing, of one that divides T, and the whole; scored from anywhere."""
    ps, s, y = network(20, 6, 60, seed=3)
    expected = TrainingAdjoint(20, 60, 6, firstlossidx, np.float64)(s, y, ps)
    monkeypatch.setattr(adjoints, "BLOCK_BYTES", steps * 8 * 20 * 6)
    adjoint = TrainingAdjoint(20, 60, 6, firstlossidx, np.float64)
    result = adjoint(s, y, ps)
    assert len(adjoint.blocks) == -(-(firstlossidx - 1) // steps) + -(-(61 - firstlossidx) // steps)
    assert result[:2] == pytest.approx(expected[:2], rel=1e-14)
    assert largest_error(result[2], expected[2]) < 1e-13


def test_training_in_float32_is_no_less_exact_than_autograd():
    """Errors against Float64 in units of each array's largest entry, median of six networks and all arrays."""
    errors, autograd_errors = [], []
    for seed in range(6):
        ps, s, y = network(80, 16, 300, seed)
        exact = training_gradient(s, y, ps, 20, "autograd")[2]
        arguments = s.astype(np.float32), y.astype(np.float32), as_dtype(ps, np.float32)
        result, autograd = TrainingAdjoint(80, 300, 16, 20)(*arguments), training_gradient(*arguments, 20, "autograd")
        for result, to in ((result, errors), (autograd, autograd_errors)):
            to += [largest_error({name: result[2][name]}, {name: exact[name]}) for name in ps]
    assert np.median(errors) <= 1.5 * np.median(autograd_errors)  # measured: 2.5e-7, without AVX512 1.5e-7; 3.8e-7


def test_training_agrees_with_the_recorded_first_step(reference):
    run = reference("run_readme_seed1")
    ps = {name: run[f"train1_param_{name}"] for name in ("ws", "J", "wr", "b", "offset", "xInit")}
    loss, accuracy, gradients = TrainingAdjoint(80, 300, 16, 20)(run["train1_s"], run["train1_r"], ps)
    assert loss == pytest.approx(run["loss"][0], rel=1e-6)
    assert accuracy == pytest.approx(run["accuracy"][0], abs=1e-12)
    for name in ps:  # measured: at most 1.2e-6
        assert largest_error({name: gradients[name]}, {name: run[f"train1_grad_{name}"]}) < 1e-5, name


@pytest.mark.parametrize("r, hit", [(-1e-9, True), (-1e-6, False), (0.0, True), (1e-9, True), (-100.0, False), (100.0, True)])
def test_accuracy_counts_a_sigmoid_that_rounds_to_one_half(r, hit):
    """As sigmoid.(r) .>= 0.5 in Float32: a sigmoid of 0.5 - 2.5e-10 is 0.5."""
    ps, s, y = network(N=3, B=2, T=6, seed=0, dtype=np.float32)
    ps["wr"][:], ps["offset"][:] = 0, r
    adjoint = TrainingAdjoint(3, 6, 2, 2)
    assert adjoint(s, np.ones_like(y), ps)[1] == hit
    assert training_gradient(s, np.ones_like(y), ps, 2, "autograd")[1] == hit


@pytest.mark.parametrize("r, y, loss, slope", [(500.0, 1, 0, 0), (-500.0, 0, 0, 0), (500.0, 0, 500, 1), (-500.0, 1, 500, -1)])
def test_loss_of_a_saturated_readout_does_not_overflow(r, y, loss, slope):
    ps, s, target = network(N=3, B=2, T=6, seed=0, dtype=np.float32)
    ps["wr"][:], ps["offset"][:] = 0, r
    result = TrainingAdjoint(3, 6, 2, 2)(s, np.full_like(target, y), ps)
    assert result[0] == pytest.approx(loss) and result[2]["offset"][0] == pytest.approx(slope)


def test_training_buffers_carry_nothing_over():
    (ps, s, y), (other, other_s, other_y) = (network(N=9, B=4, T=20, seed=seed, dtype=np.float32) for seed in (1, 2))
    adjoint = TrainingAdjoint(9, 20, 4, 6)
    first = adjoint(s, y, ps)
    kept = {name: g.copy() for name, g in first[2].items()}
    before = {name: p.copy() for name, p in ps.items()}
    other["J"][:] = np.nan
    adjoint(other_s, other_y, other)
    again = adjoint(s, y, ps)
    assert again[:2] == first[:2]
    for name in ps:
        np.testing.assert_array_equal(again[2][name], kept[name])
        np.testing.assert_array_equal(ps[name], before[name])
        assert not np.shares_memory(again[2][name], first[2][name])


def test_non_finite_weights_give_non_finite_training_gradients():
    ps, s, y = network(N=4, B=2, T=8, seed=0, dtype=np.float32)
    ps["J"][1, 2] = np.nan
    loss, accuracy, gradients = TrainingAdjoint(4, 8, 2, 3)(s, y, ps)
    assert np.isnan(loss) and not np.isfinite(gradients["J"]).all()


# --------------------------------------------------------------------------------------------------------- flossing


def flossing_adjoint(N, Tp, nLE, Lwnt=0.0, dtype=np.float32):
    return FlossingAdjoint(N, Tp, nLE, initial_orthonormal_system(sONS, N, nLE), Lwnt, dtype)


def flossing_reference(s, ps, Tp, nLE, Lwnt=0.0, dtype=np.float64):
    """Loss, spectrum and gradients by torch, with all arrays as dtype."""
    arguments = s.astype(dtype), as_dtype(flossed(ps), dtype), ps["xInit"].astype(dtype)
    return flossing_gradient(*arguments, Tp, nLE, sONS, Lwnt, "autograd")


@pytest.mark.parametrize("N, nLE, Tp, Lwnt", [(4, 4, 15, 0.0), (5, 3, 25, -0.7), (4, 1, 13, 0.0), (1, 1, 20, 0.0)])
def test_flossing_gradient_is_the_finite_difference(N, nLE, Tp, Lwnt):
    ps, s, _ = network(N, 1, Tp, seed=3)
    adjoint = flossing_adjoint(N, Tp, nLE, Lwnt, np.float64)
    expected = finite_differences(lambda p: adjoint(s, p, ps["xInit"])[0], flossed(ps))
    gradients = adjoint(s, flossed(ps), ps["xInit"])[2]
    for name in expected:
        np.testing.assert_allclose(gradients[name], expected[name], rtol=1e-6, atol=1e-7)


def random_flossing_case(seed):
    """All regimes in turn: N = 2..30 and sometimes 80, every size of nLE, Tp from one averaged step on."""
    rng = np.random.default_rng(seed)
    N = 80 if seed % 20 == 0 else int(rng.integers(2, 31))
    nLE = (1, N, int(rng.integers(1, N + 1)), max(1, N - 2))[seed % 4]
    Tp = int(rng.choice([13, 14, 20, 40, 55, 80]))
    regime = ("plain", "saturated", "tiny", "orthogonal", "strongly driven")[seed % 5]
    scales = dict(
        plain=dict(),
        saturated=dict(input_scale=rng.uniform(2, 5), bias_scale=rng.uniform(0.5, 2)),
        tiny=dict(input_scale=0.01),
        orthogonal=dict(),
    ).get(regime, dict(input_scale=2.0))
    ps, s, _ = network(N, 2, Tp + 3, seed, g=rng.uniform(0.5, 2), **scales)
    if regime == "tiny":
        ps["J"] *= rng.choice([1e-3, 1e-2, 0.1])
    if regime == "orthogonal":
        ps["J"] = np.linalg.qr(ps["J"])[0]
    ps = as_dtype(as_dtype(ps, np.float32), np.float64)
    return ps, s[:, :, :1], Tp, nLE, float(rng.choice([0.0, -0.5]))


def test_flossing_in_float32_is_nearer_to_float64_than_autograd():
    """30 random cases; measured: median 3e-8 against 3e-6 of torch in Float32, largest ratio 0.3."""
    errors, autograd_errors = [], []
    for seed in range(30):
        ps, s, Tp, nLE, Lwnt = random_flossing_case(seed)
        loss, spectrum, expected = flossing_reference(s, ps, Tp, nLE, Lwnt)
        adjoint = flossing_adjoint(len(ps["b"]), Tp, nLE, Lwnt)
        result = adjoint(s.astype(np.float32), as_dtype(flossed(ps), np.float32), ps["xInit"].astype(np.float32))
        errors.append(largest_error(result[2], expected))
        autograd_errors.append(largest_error(flossing_reference(s, ps, Tp, nLE, Lwnt, np.float32)[2], expected))
    assert np.median(errors) <= np.median(autograd_errors)
    assert np.median(errors) < 1e-7
    for seed, (error, autograd_error) in enumerate(zip(errors, autograd_errors)):
        assert error <= 3 * autograd_error, seed


@pytest.mark.parametrize("N, Tp, nLE", [(1, 13, 1), (6, 13, 6), (12, 40, 1), (12, 40, 12), (30, 80, 20), (80, 55, 75)])
def test_flossing_in_float64_agrees_with_autograd(N, Tp, nLE):
    ps, s, _ = network(N, 2, Tp, seed=N)
    loss, spectrum, expected = flossing_reference(s[:, :, :1], ps, Tp, nLE, -0.2)
    result = flossing_adjoint(N, Tp, nLE, -0.2, np.float64)(s[:, :, :1], flossed(ps), ps["xInit"])
    assert result[0] == pytest.approx(loss, rel=1e-11)
    np.testing.assert_allclose(result[1], spectrum, atol=1e-10)
    assert largest_error(result[2], expected) < 1e-8  # measured at most 3e-12


def test_flossing_at_the_recorded_first_step(reference):
    """The original's Float32 gradient is 3.5e-3 off its Float64 value, this one 5e-8 (both of the largest entry)."""
    run, systems = reference("run_readme_seed1"), reference("initial_qr")
    ps = {name: run[f"init_{name}"] for name in ("ws", "J", "b", "xInit")}
    adjoint = FlossingAdjoint(80, 55, 75, systems["seed1_80x75_Q"], 0.0)
    loss, spectrum, gradients = adjoint(run["floss1_s"], flossed(ps), ps["xInit"])
    assert loss == pytest.approx(run["floss_loss"][0], rel=1e-6)
    np.testing.assert_allclose(spectrum, run["floss_spectrum"][:, 0], atol=3e-4)
    assert largest_error(gradients, {name: run[f"floss1_grad_{name}"] for name in gradients}) < 6e-3
    s = run["floss1_s"].astype(np.float64)
    exact = FlossingAdjoint(80, 55, 75, systems["seed1_80x75_Q"], 0.0, np.float64)(s, flossed(ps), ps["xInit"])
    assert largest_error(gradients, exact[2]) < 1e-6
    assert all(length in (5, 6) for length in segment_lengths(adjoint))


def test_exponents_of_a_scaled_rotation_are_the_logarithm_of_its_gain():
    """With x = 0 throughout, D = J; J = 0.8 * orthogonal has all exponents log(0.8), and dL/dJ = 2 log(0.8)/n J^-T."""
    N = 6
    J = (0.8 * np.linalg.qr(np.random.default_rng(0).normal(size=(N, N)))[0]).astype(np.float32)
    zero = dict(ws=np.zeros((N, 1), np.float32), b=np.zeros(N, np.float32), J=J)
    loss, spectrum, gradients = flossing_adjoint(N, 40, N)(np.ones((40, 1, 1), np.float32), zero, np.zeros((N, 1)))
    np.testing.assert_allclose(spectrum, np.log(0.8), rtol=1e-6)
    assert loss == pytest.approx(np.log(0.8) ** 2, rel=1e-6)
    np.testing.assert_allclose(gradients["J"], 2 * np.log(0.8) / N * np.linalg.inv(J).T, rtol=1e-5, atol=1e-6)
    assert not gradients["b"].any() or np.abs(gradients["b"]).max() < 1e-12


def test_flossing_buffers_carry_nothing_over():
    (ps, s, _), (other, other_s, _) = (network(9, 1, 30, seed, dtype=np.float32) for seed in (1, 2))
    adjoint = flossing_adjoint(9, 30, 7)
    first = adjoint(s, flossed(ps), ps["xInit"])
    kept = {name: g.copy() for name, g in first[2].items()}
    other["J"][:] = np.nan
    adjoint(other_s, flossed(other), other["xInit"])
    again = adjoint(s, flossed(ps), ps["xInit"])
    assert again[0] == first[0]
    np.testing.assert_array_equal(again[1], first[1])
    for name in kept:
        np.testing.assert_array_equal(again[2][name], kept[name])
        assert not np.shares_memory(again[2][name], first[2][name])


# ------------------------------------------------------------------------------------- how often it orthonormalises


def segment_lengths(adjoint):
    return [end - start for start, end, _ in adjoint.segments]


@pytest.mark.parametrize("N, nLE, Tp, g", [(80, 75, 55, 1.0), (20, 20, 55, 0.5), (12, 1, 55, 1.0), (12, 4, 200, 2.0)])
def test_segments_cover_all_steps_and_end_with_the_transient(N, nLE, Tp, g):
    ps, s, _ = network(N, 1, Tp, seed=5, g=g, dtype=np.float32)
    adjoint = flossing_adjoint(N, Tp, nLE)
    adjoint(s, flossed(ps), ps["xInit"])
    starts, ends, _ = zip(*adjoint.segments)
    assert starts == (0,) + ends[:-1] and ends[-1] == Tp
    assert 10 + -(-Tp // 10) in ends
    for start, end, R in adjoint.segments:
        assert end - start == 1 or np.linalg.cond(np.triu(R), 1) < 10 * CONDITION_LIMIT  # LAPACK estimates from below
    if nLE == 1:  # nothing to lose: a 1 x 1 R has condition number 1
        assert max(segment_lengths(adjoint)) > 10


@pytest.mark.parametrize("first_length", [1, 2, 3, 20, 1000])
def test_the_first_length_does_not_matter(monkeypatch, first_length):
    ps, s, _ = network(20, 1, 55, seed=6, dtype=np.float32)
    loss, spectrum, expected = flossing_reference(s, as_dtype(ps, np.float64), 55, 19)
    monkeypatch.setattr(adjoints, "FIRST_LENGTH", first_length)
    adjoint = flossing_adjoint(20, 55, 19)
    result = adjoint(s, flossed(ps), ps["xInit"])
    np.testing.assert_allclose(result[1], spectrum, atol=1e-6)
    assert largest_error(result[2], expected) < 1e-6
    assert (max(segment_lengths(adjoint)) > 2) == (first_length > 1)


def test_ill_conditioned_single_steps_are_orthonormalised_one_by_one():
    ps, s, _ = network(20, 1, 40, seed=0, g=2.0, input_scale=6.0, bias_scale=6.0)
    ps = as_dtype(ps, np.float32)
    adjoint = flossing_adjoint(20, 40, 20)
    result = adjoint(s.astype(np.float32), flossed(ps), ps["xInit"])
    assert segment_lengths(adjoint) == [1] * 40
    every_step = flossing_adjoint(20, 40, 20, dtype=np.float64)(s, flossed(ps), ps["xInit"])
    for name in result[2]:  # the same arithmetic, rounded at the end
        np.testing.assert_array_equal(result[2][name], every_step[2][name].astype(np.float32))


def test_float64_orthonormalises_every_step():
    ps, s, _ = network(8, 1, 40, seed=0)
    adjoint = flossing_adjoint(8, 40, 8, dtype=np.float64)
    adjoint(s, flossed(ps), ps["xInit"])
    assert segment_lengths(adjoint) == [1] * 40


@pytest.mark.parametrize("length, condition, expected", [(1, 1.0, 2), (4, 1e8, 5), (4, 1e4, 8), (6, 1e20, 3), (2, np.inf, 1), (1, 1e30, 1)])
def test_next_length_extrapolates_the_growth(length, condition, expected):
    assert next_length(length, condition) == expected


# -------------------------------------------------------------------------------------------------- degenerate cases


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vanishing_R_gives_non_finite_numbers_and_no_exception(rank, dtype):
    ps, s, _ = network(6, 1, 20, seed=0, dtype=dtype)
    ps["J"][:, rank:] = 0  # exact zeros: R_ii = 0 for i > rank
    ps["J"][rank:, :] = 0
    loss, spectrum, gradients = flossing_adjoint(6, 20, 6, dtype=dtype)(s, flossed(ps), ps["xInit"])
    if rank == 0:
        assert (spectrum == -np.inf).all() and loss == np.inf
    assert not np.isfinite(gradients["J"]).all() or np.isfinite(loss)


def test_leading_exponents_of_a_rank_deficient_network_are_finite():
    ps, s, _ = network(6, 1, 20, seed=0)
    ps["J"][:, 3:] = 0
    ps["J"][3:, :] = 0
    loss, spectrum, expected = flossing_reference(s, ps, 20, 3)
    result = flossing_adjoint(6, 20, 3)(s, flossed(ps), ps["xInit"])
    np.testing.assert_allclose(result[1], spectrum, atol=1e-6)
    assert largest_error(result[2], expected) < 1e-6


@pytest.mark.parametrize("name, value", [("J", np.nan), ("J", np.inf), ("b", np.nan), ("ws", np.inf)])
def test_non_finite_weights_give_non_finite_flossing_gradients(name, value):
    ps, s, _ = network(5, 1, 20, seed=0, dtype=np.float32)
    ps[name].flat[1] = value
    loss, spectrum, gradients = flossing_adjoint(5, 20, 4)(s, flossed(ps), ps["xInit"])
    assert not np.isfinite(loss) and not np.isfinite(spectrum).all() and not np.isfinite(gradients["J"]).all()


@pytest.mark.parametrize("Tp", [1, 5, 12])
def test_no_averaged_step_is_nan_as_in_the_original(Tp):
    ps, s, _ = network(5, 1, 20, seed=0, dtype=np.float32)
    loss, spectrum, gradients = flossing_adjoint(5, Tp, 4)(s, flossed(ps), ps["xInit"])
    assert np.isnan(loss) and np.isnan(spectrum).all()


def test_saturated_states_keep_relative_accuracy():
    """log sech^2 of states up to 300, whose sech^2 of 1e-260 is 0 in Float32: exponents of about -2|x|."""
    x = np.array([0.0, 1e-5, 1.0, 5.0, 10.0, 20.0, 100.0, 300.0])
    exact = 1 / np.cosh(x.astype(np.longdouble)) ** 2
    np.testing.assert_allclose(sech_squared(x), exact.astype(float), rtol=1e-15)
    np.testing.assert_array_equal(sech_squared(-x), sech_squared(x))
    assert sech_squared(np.array([1e4, np.inf])).tolist() == [0, 0]
    with np.errstate(invalid="raise"):
        assert abs((1 - np.tanh(x[4]) ** 2) / exact[4] - 1) > 1e-9  # what it avoids


# ------------------------------------------------------------------------------------------------- memory, threads


def peak_memory(build_and_call):
    tracemalloc.start()
    build_and_call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_training_memory_is_little_more_than_the_states():
    def training(N, T, B):
        ps, s, y = network(N, B, T, seed=0, dtype=np.float32)
        return peak_memory(lambda: [adjoint(s, y, ps) for adjoint in [TrainingAdjoint(N, T, B, 5)] for _ in range(3)])

    for N, T, B in ((40, 800, 16), (40, 1600, 16), (40, 800, 32), (80, 800, 16)):
        assert training(N, T, B) < 1.5 * (4 * T * B * N) + 2 * BLOCK_BYTES + 4 * 10 * N**2


def test_flossing_memory_is_proportional_to_the_orthonormal_systems():
    """Float64 products and R, in units of Tp N nLE Float32 numbers."""

    def flossing(N, Tp, nLE):
        ps, s, _ = network(N, 1, Tp, seed=0, dtype=np.float32)
        return peak_memory(
            lambda: [floss(s, flossed(ps), ps["xInit"]) for floss in [flossing_adjoint(N, Tp, nLE)] for _ in range(3)]
        )

    for N, Tp, nLE in ((40, 55, 40), (40, 110, 40), (80, 55, 40), (80, 55, 80)):
        assert flossing(N, Tp, nLE) < 5.5 * (4 * Tp * N * nLE) + 8 * 10 * N**2


def threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_small_products_use_one_blas_thread_and_the_setting_comes_back():
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        with blas_threads(80, max(16, 75)):  # the README call
            assert len(threads()) >= 1 and set(threads()) == {1}
        assert threads() == before
        with pytest.raises(ZeroDivisionError), blas_threads(80, 80):  # the largest of the original's sizes
            assert set(threads()) == {1}
            1 / 0
        assert threads() == before
        for N, columns in ((320, 320), (640, 16), (1000, SHARED_FLOPS / 2e6)):
            with blas_threads(N, columns):
                assert threads() == before
        for N, columns in ((640, 1), (160, 160), (1000, SHARED_FLOPS / 2e6 - 1)):
            with blas_threads(N, columns):
                assert set(threads()) == {1}


def test_the_setting_comes_back_when_the_last_of_several_runs_is_over():
    """The first to come leaves first: the limit is the program's, and so stays until the last leaves."""
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        with blas_threads(80), ThreadPoolExecutor(1) as pool:
            other = blas_threads(80)
            pool.submit(other.__enter__).result()
        assert set(threads()) == {1}
        with ThreadPoolExecutor(1) as pool:
            pool.submit(other.__exit__, None, None, None).result()
        assert threads() == before


FOUR_RUNS = """
from concurrent.futures import ThreadPoolExecutor
from gradient_flossing_example import train_rnn_flossing
from tests.conftest import short_call
from threadpoolctl import threadpool_info

threads = lambda: [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
before = threads()
train = lambda seed: train_rnn_flossing(**short_call(E=40, sNet=seed), progress=False)
with ThreadPoolExecutor(4) as pool:
    records = list(pool.map(train, [1, 2, 3, 4]))
assert records[2] == train(3)
assert threads() == before and set(before) == {2}, (threads(), before)
"""


def test_torch_may_be_half_imported_by_another_thread(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", type(sys)("torch"))
    with blas_threads(80):
        assert set(threads()) == {1}


def test_four_runs_at_a_time_leave_the_setting_as_it_was():
    """A process of its own: here the setting would belong to the tests' thread."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", FOUR_RUNS], cwd=ROOT, env=environment, check=True)


def test_torch_has_one_thread_too_and_gives_the_same_numbers_for_any_setting():
    call, before, records = README_CALL._replace(E=1, Ep=2, Ni=0), torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            records.append(train_rnn_flossing(*call, engine="autograd", progress=False))
            assert torch.get_num_threads() == number
        assert records[0] == records[1]
        with blas_threads(80):
            assert torch.get_num_threads() == 1
        with ThreadPoolExecutor(1) as pool:  # a thread that sees torch for the first time
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)
