"""Long-term Jacobian and diagnostics: against known singular values, multi-precision, differences and recordings."""

import os

import numpy as np
import pytest

from extras import lyapunov
from extras.lyapunov import (
    Diagnostics, check_diagnostics, jacobi_log_singular_values, log_condition_number, log_gradient_norm, log_singular_values,
    long_term_diagnostics, lyapunov_spectrum, step_jacobians, trajectory,
)  # fmt: skip
from gradient_flossing_example import (
    calc_lyapunov_spectrum, discarded_steps, generate_input_output, initial_orthonormal_system, train_rnn_flossing,
)  # fmt: skip
from tests.conftest import short_call

T = 400
EXPONENTS = np.array([0.1, 0.05, 0.0, -0.01, -0.3, -1.0, -3.0, -8.0])  # at t = 400 the singular values span 10^1407


def orthogonal(rng, n, k=None):
    return np.linalg.qr(rng.standard_normal((n, k or n)))[0]


def rotating_product(rng, exponents, T):
    """Jacobians V_t diag(exp(lambda)) V_{t-1}^T, random orthogonal V: the product has exponents lambda exactly."""
    V = [orthogonal(rng, len(exponents)) for _ in range(T + 1)]
    return np.array([b * np.exp(exponents) @ a.T for a, b in zip(V, V[1:])])


def random_network(seed, N=24, g=1.0, T=120):
    rng = np.random.default_rng(seed)
    ws, b, wr = rng.standard_normal((N, 1)), 0.1 * rng.random(N), rng.standard_normal((1, N))
    J = g * rng.standard_normal((N, N)) / np.sqrt(N)
    s = rng.integers(0, 2, (T, 1)).astype(float)
    return s, ws, J, b, rng.standard_normal(N), wr


def test_singular_values_far_beyond_float_range_are_exact():
    jacobians = rotating_product(np.random.default_rng(1), EXPONENTS, T)
    times = [20, 1, T, 150]
    log_sigma = log_singular_values(jacobians, times)
    # the Jacobians themselves are rounded: 1e-16 relative to e^0.1 is 3e-13 of the smallest singular value, e^-8
    np.testing.assert_allclose(log_sigma, np.outer(times, EXPONENTS), atol=1e-12 * T)
    np.testing.assert_allclose(log_condition_number(log_sigma), 8.1 * np.array(times), atol=1e-12 * T)
    np.testing.assert_allclose(log_condition_number(log_sigma, 3), 0.1 * np.array(times), atol=1e-12 * T)


def test_invariant_axes_in_ascending_order():
    """A diagonal recurrence, smallest exponent first: of axes no QR would sort them."""
    jacobians = np.broadcast_to(np.diag(np.exp(EXPONENTS[::-1])), (T, 8, 8))
    np.testing.assert_allclose(log_singular_values(jacobians, [T])[0], T * EXPONENTS, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_rows_of_any_number_and_scales_in_any_order(n):
    """diag(exp(l)) V with V orthogonal has the singular values exp(l), here up to e^+-700."""
    rng = np.random.default_rng(n)
    log_scale, V = rng.uniform(-700, 700, n), orthogonal(rng, n)
    np.testing.assert_allclose(jacobi_log_singular_values(log_scale, V), np.sort(log_scale)[::-1], atol=1e-11)


@pytest.mark.parametrize("cosine", [1e-9, 1e-7, 1e-4, 0.5])
def test_rows_that_are_not_quite_orthogonal(cosine):
    """Six rows of one scale: eigenvalues 1 - c, five times, and 1 + 5 c of their Gram matrix."""
    U = np.linalg.cholesky(np.full((6, 6), cosine) + (1 - cosine) * np.eye(6))
    expected = 0.5 * np.log1p(np.array([5 * cosine] + 5 * [-cosine]))
    np.testing.assert_allclose(jacobi_log_singular_values(np.zeros(6), U), expected, atol=1e-15)


def test_rotations_come_to_an_end(monkeypatch):
    """Rows that are exact multiples of each other may stay parallel, by rounding, however often they are rotated."""
    monkeypatch.setattr(lyapunov, "JACOBI_SWEEPS", 1)
    with pytest.raises(np.linalg.LinAlgError, match="left a cosine of .* after 1 sweeps"):
        jacobi_log_singular_values(np.zeros(3), orthogonal(np.random.default_rng(1), 3) + 0.5)


def test_random_network_against_multiprecision():
    mpmath = pytest.importorskip("mpmath")
    s, ws, J, b, x0, _ = random_network(2, N=12, T=100)
    jacobians = step_jacobians(trajectory(s, ws, J, b, x0), J)
    with mpmath.workdps(400):
        product = mpmath.eye(12)
        for D in jacobians:
            product = mpmath.matrix(D.tolist()) * product
        expected = sorted((float(mpmath.log(v)) for v in mpmath.svd_r(product, compute_uv=False)), reverse=True)
    assert expected[0] - expected[-1] > 280  # 10^120: out of reach of a plain float64 product
    np.testing.assert_allclose(log_singular_values(jacobians, [100])[0], expected, atol=1e-9)


def test_short_products_agree_with_numpy():
    s, ws, J, b, x0, _ = random_network(3, T=3)
    jacobians = step_jacobians(trajectory(s, ws, J, b, x0), J)
    product = jacobians[2] @ jacobians[1] @ jacobians[0]
    expected = np.log(np.linalg.svd(product, compute_uv=False))
    log_sigma = log_singular_values(jacobians, [3])[0]
    np.testing.assert_allclose(log_sigma[:12], expected[:12], atol=1e-10)
    assert log_condition_number(log_sigma) == pytest.approx(np.log(np.linalg.cond(product)), abs=1e-4)


def test_orthogonal_product_has_condition_number_one():
    jacobians = np.array([orthogonal(np.random.default_rng(seed), 10) for seed in range(T)])
    np.testing.assert_allclose(log_singular_values(jacobians, [T]), 0, atol=1e-11)


def test_singular_step_gives_minus_infinity_like_values_and_no_nan():
    jacobians = np.broadcast_to(np.diag([2.0, 1.0, 0.0]), (50, 3, 3))
    log_sigma = log_singular_values(jacobians, [50])[0]
    np.testing.assert_allclose(log_sigma[:2], [50 * np.log(2), 0], atol=1e-10)
    assert log_sigma[2] < -1e100


def test_lyapunov_spectrum_of_a_diagonal_recurrence():
    jacobians = np.broadcast_to(np.diag(np.exp([0.2, -0.1, -0.7])), (2000, 3, 3))
    Q = orthogonal(np.random.default_rng(0), 3)
    np.testing.assert_allclose(lyapunov_spectrum(jacobians, Q, discard=500), [0.2, -0.1, -0.7], atol=1e-10)


def test_spectrum_agrees_with_the_port_of_the_original():
    s, ws, J, b, x0, _ = random_network(6, N=24, T=55)
    ours = lyapunov_spectrum(
        step_jacobians(trajectory(s, ws, J, b, x0), J), initial_orthonormal_system(1, 24, 10).astype(float),
        discard=discarded_steps(55),
    )  # fmt: skip
    theirs = calc_lyapunov_spectrum(s[:, :, None], None, ws, J, b, x0[:, None], 55, 10, 1)
    assert theirs.dtype == np.float64
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_gradient_norm_against_differences():
    s, ws, J, b, x0, wr = random_network(7, T=12)
    times = np.array([1, 4, 12])
    norm = np.exp(log_gradient_norm(trajectory(s, ws, J, b, x0), J, wr, times))
    eps = 1e-6
    readout = [
        [wr @ (trajectory(s, ws, J, b, x0 + sign * eps * e)[times]).T for sign in (1, -1)] for e in np.eye(len(x0))
    ]
    differences = np.array([(up - down)[0] / (2 * eps) for up, down in readout])  # (N, times)
    np.testing.assert_allclose(norm, np.linalg.norm(differences, axis=0), rtol=1e-7)


def test_gradient_norm_beyond_float_range():
    """A linear regime (tiny states) with J = c I: |d r_t / d x_0| = c^t |wr|."""
    x = np.full((1001, 4), 1e-200)
    expected = 1000 * np.log(0.1) + np.log(2)
    assert log_gradient_norm(x, 0.1 * np.eye(4), np.ones(4), [1000])[0] == pytest.approx(expected)


def test_single_direction():
    assert jacobi_log_singular_values(np.array([3.0]), np.ones((1, 1)))[0] == pytest.approx(3.0)


# ---- diagnostics of a run


@pytest.fixture(scope="module")
def record():
    diagnostics = Diagnostics(singular_values=True, epochs=(1, 4, 6), horizons=(1, 3, 6))
    return train_rnn_flossing(**short_call(), progress=False, diagnostics=diagnostics)


def test_singular_values_of_the_steps_are_the_originals(reference, arguments):
    """copy_small: 40 epochs that rounding moves by 3e-5 in the loss."""
    recorded = reference("run_copy_small")
    record = train_rnn_flossing(**arguments("copy_small"), progress=False, diagnostics=Diagnostics(True))
    for name in ("J", "xInit"):
        ours = record.diagnostics[f"singular_values_step_{name}"]
        original = recorded[f"svd{name}"].T
        assert ours.shape == original.shape
        np.testing.assert_allclose(ours[0], original[0], atol=1e-3 * original[0, 0])
        np.testing.assert_allclose(ours, original, atol=2e-2 * original.max())


def test_the_first_step_is_the_rate_times_the_sign_of_the_gradient(record):
    for name in ("J", "xInit"):
        of_step = record.diagnostics[f"singular_values_step_{name}"]
        assert of_step.shape == (6, min(record.initial[name].shape))
        assert np.linalg.norm(of_step[0]) == pytest.approx(0.001 * np.sqrt(record.initial[name].size), rel=0.02)


def test_shapes_and_epochs(record):
    d = record.diagnostics
    assert d["epoch"].tolist() == [1, 4, 6]
    assert d["lyapunov_spectrum"].shape == (3, 10)
    assert d["log_condition_number"].shape == d["log_initial_state_gradient_norm"].shape == (3, 3)


def test_long_term_quantities_by_direct_products(record):
    p, ps = record.parameters, record.final
    found = long_term_diagnostics(p, ps, (3, 6, 1))
    s, _ = generate_input_output(1, p["Tp"], p["sIn"], p["S"], p["I1"], p["delay"], p["task"])
    J, ws, b = (ps[name].astype(np.float64) for name in ("J", "ws", "b"))
    x, product, row = ps["xInit"][:, 0].astype(np.float64), np.eye(16), {}
    state_jacobian = np.eye(16)
    for t in range(1, 7):
        state_jacobian = J * (1 - np.tanh(x) ** 2) @ state_jacobian
        x = J @ np.tanh(x) + b + ws @ s[t - 1, :, 0]
        product = (1 - np.tanh(x) ** 2)[:, None] * J @ product
        row[t] = np.linalg.cond(product), np.linalg.norm(ps["wr"].astype(np.float64) @ state_jacobian)
    for k, t in enumerate((3, 6, 1)):
        assert found["log_condition_number"][k] == pytest.approx(np.log(row[t][0]), rel=1e-6)
        assert found["log_initial_state_gradient_norm"][k] == pytest.approx(np.log(row[t][1]), rel=1e-6)


def test_the_spectrum_is_that_of_the_original_algorithm(record):
    p, ps = record.parameters, {name: x.astype(np.float64) for name, x in record.final.items()}
    s, _ = generate_input_output(1, p["Tp"], p["sIn"], p["S"], p["I1"], p["delay"], p["task"])
    args = (ps["ws"], ps["J"], ps["b"], ps["xInit"], p["Tp"], p["nLE"], p["sONS"])
    expected = calc_lyapunov_spectrum(s.astype(np.float64), None, *args)
    np.testing.assert_allclose(long_term_diagnostics(p, record.final)["lyapunov_spectrum"], expected, atol=1e-6)


def test_the_spectrum_takes_as_many_steps_as_flossing_does(record):
    """Tp, however far the horizons reach; all N exponents where none are flossed, of the orthonormal system of sONS."""
    p, ps = record.parameters, record.final
    alone = long_term_diagnostics(p, ps)
    assert list(alone) == ["lyapunov_spectrum"]
    np.testing.assert_array_equal(long_term_diagnostics(p, ps, (3, 50))["lyapunov_spectrum"], alone["lyapunov_spectrum"])
    all_of_them = long_term_diagnostics(p | {"nLE": 0}, ps)["lyapunov_spectrum"]
    assert all_of_them.shape == (16,)
    np.testing.assert_allclose(all_of_them[:10], long_term_diagnostics(p | {"nLE": 16}, ps)["lyapunov_spectrum"][:10])


def test_the_longest_horizon_that_fits_into_32_gib(monkeypatch):
    """16 bytes for each entry of each Jacobian, here of 16 neurons: with what they are made of."""
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 2**12, "SC_PHYS_PAGES": 2**23}.get, raising=False)
    fits, too_long = (Diagnostics(epochs=(6,), horizons=(5, steps)) for steps in (8_300_000, 8_500_000))
    assert check_diagnostics(fits, short_call()) is fits
    with pytest.raises(ValueError, match="horizons.*8500000.*GiB"):
        check_diagnostics(too_long, short_call())
    check_diagnostics(Diagnostics(horizons=(10**9,)), short_call())  # not asked for at any epoch


def test_no_diagnostics_unless_asked_for():
    assert train_rnn_flossing(**short_call(), progress=False).diagnostics == {}


@pytest.mark.parametrize("diagnostics, says", [
    (Diagnostics(epochs=(7,)), "epochs: 7 is beyond"), (Diagnostics(epochs=(0,)), "diagnostics.epochs"),
    (Diagnostics(epochs=5), "diagnostics.epochs = 5: must be a tuple"), (Diagnostics(singular_values=1), "True or False"),
    (True, "diagnostics = True: must be None or"), (Diagnostics(epochs=(1,), horizons=(10**9,)), "horizons.*GiB"),
    (Diagnostics(epochs=(1,), horizons=(0,)), "horizons"),
])  # fmt: skip
def test_what_cannot_be_computed_is_refused_before_any_work(diagnostics, says, capsys):
    with pytest.raises(ValueError, match=says):
        train_rnn_flossing(**short_call(), diagnostics=diagnostics)
    assert capsys.readouterr().out == ""
