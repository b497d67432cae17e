"""Long-term Jacobian of a driven network: singular values, condition number, Lyapunov spectrum, gradient norm; float64.

With x_t = J phi(x_{t-1}) + b + ws s_t and h_t = phi(x_t), one step has the Jacobian (paper, eq. 2)

    D_t = dh_t / dh_{t-1} = diag(phi'(x_t)) J,          and the long-term Jacobian is  T_t = D_t ... D_2 D_1.

Its singular values grow and shrink exponentially, sigma_i ~ exp(lambda_i t): after a few dozen steps the smallest lie
below the rounding error of the largest, so T_t must not be multiplied out. Here T_t Q_0 = Q_t R_t ... R_1 by a QR
factorisation per step; the product of the triangular factors is kept as diag(exp(l)) U with rows of U of norm 1, and
one-sided Jacobi rotations, with the scales l as logarithms throughout, turn it into the singular values. Each of them
is accurate relative to itself, and none overflows or underflows: everything returned is a natural logarithm.
"""

from dataclasses import asdict, dataclass

import numpy as np
from scipy.linalg import svdvals

from extras.check_parameters import check_averaged, check_flag, memory_lack, trainer
from julia_packages.checks import check_integer, shown

JACOBI_TOLERANCE = 1e-8  # cosine between two rows; a sweep that meets none above it leaves its square, rounding error
JACOBI_SWEEPS = 60
LOG_0 = np.finfo(np.float64).min / 4  # in place of -inf, so that differences of two stay defined


def trajectory(s, ws, J, b, xInit):
    """States x (T+1, N) from x[0] = xInit (N,), or its first column, under the input s (T, S) or (T, S, 1)."""
    ws, J, b = (np.asarray(a, np.float64) for a in (ws, J, b))
    drive = np.reshape(s, (len(s), -1)).astype(np.float64) @ ws.T / ws.shape[1] + b
    x, phi = np.empty((len(s) + 1, len(J))), trainer().phi
    x[0] = np.reshape(xInit, (len(J), -1))[:, 0]
    for t, d in enumerate(drive):
        x[t + 1] = J @ phi(x[t]) + d
    return x


def step_jacobians(x, J):
    """D_1 ... D_T (T, N, N) along the states x (T+1, N) of trajectory()."""
    return trainer().phid(x[1:])[:, :, None] * np.asarray(J, np.float64)


def triangular_factors(jacobians, Q):
    """Yields R_1, R_2, ... of D_t Q_{t-1} = Q_t R_t; Q (N, k): Q_0, orthonormal columns."""
    for D in jacobians:
        Q, R = np.linalg.qr(D @ Q)
        yield R


def lyapunov_spectrum(jacobians, Q, discard=0):
    """First k Lyapunov exponents (k,), 1/step: mean of log|diag R| after the first `discard` steps, from Q (N, k)."""
    log_R = [log_abs(np.diagonal(R)) for R in triangular_factors(jacobians, Q)]
    return sum(log_R[discard:]) / (len(jacobians) - discard)


def log_singular_values(jacobians, times):
    """Logarithms (len(times), N) of the singular values of D_t ... D_1, descending, for each t in times, 1 <= t <= T.

    jacobians: D_1 ... D_T (T, N, N).
    """
    N = jacobians.shape[1]
    # from a fixed random basis: the coordinate axes may be invariant directions, in which QR never sorts the exponents
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
    log_scale, U, found = np.zeros(N), np.eye(N), {}
    for t, R in enumerate(triangular_factors(jacobians[: max(times)], Q), start=1):
        log_terms = log_abs(R) + log_scale
        largest = np.maximum(log_terms.max(axis=1), LOG_0)
        log_scale, U = normalised(largest, (np.sign(R) * np.exp(log_terms - largest[:, None])) @ U)  # R diag(exp(l)) U
        if t in times:
            found[t] = jacobi_log_singular_values(log_scale, U)
    return np.array([found[t] for t in times])


def log_condition_number(log_sigma, k=None):
    """log(sigma_1 / sigma_k) of log_singular_values' result; k = None: the last one, the condition number itself."""
    return log_sigma[..., 0] - log_sigma[..., -1 if k is None else k - 1]


def log_gradient_norm(x, J, wr, times):
    """log of |d r_t / d x_0| for the readout r_t = wr x_t, for each t >= 1 in times: how an error at t reaches back to 0.

    x: states (T+1, N) of trajectory(); wr (1, N) or (N,). d x_t / d x_{t-1} = J diag(phi'(x_{t-1})).
    """
    J, slope, found = np.asarray(J, np.float64), trainer().phid(x), []
    for time in times:
        log_norm, g = np.zeros(1), np.reshape(wr, (1, -1))
        for t in range(time, 0, -1):
            log_norm, g = normalised(log_norm, g @ J * slope[t - 1])
        found.append(log_norm[0])
    return np.array(found)


def long_term_diagnostics(p, ps, horizons=()):
    """Dict: lyapunov_spectrum (k,); if horizons, log_condition_number, log_initial_state_gradient_norm (horizons,).

    p: dict of the 33 parameters; ps: dict of the arrays, say record.final; horizons: time steps.
    """
    port, steps = trainer(), max([p["Tp"], *horizons])
    ws, J, b, xInit = (np.asarray(ps[name], np.float64) for name in ("ws", "J", "b", "xInit"))
    s = port.generate_input_output(1, steps, p["sIn"], p["S"], p["I1"], p["delay"], p["task"])[0].astype(np.float64)
    with np.errstate(divide="ignore"):  # R_ii = 0 is an exponent of -inf
        spectrum = port.calc_lyapunov_spectrum(s, None, ws, J, b, xInit, p["Tp"], p["nLE"] or p["N"], p["sONS"])
    results = {"lyapunov_spectrum": spectrum}
    if horizons:
        x = trajectory(s, ws, J, b, xInit)
        results["log_condition_number"] = log_condition_number(log_singular_values(step_jacobians(x, J), horizons))
        results["log_initial_state_gradient_norm"] = log_gradient_norm(x, J, ps["wr"], horizons)
    return results


@dataclass(frozen=True)
class Diagnostics:
    """What to compute along a training run; the results are in record.diagnostics, under the names given here.

    singular_values: at every epoch those of the ADAM step, descending, the original's svdvals (D11):
        singular_values_step_J (E, N) and singular_values_step_xInit (E, min(N, B)).
    epochs: at these n epochs, before the update: epoch (n,); lyapunov_spectrum (n, nLE) 1/step, as in flossing over Tp
        steps, but all N exponents if nLE = 0; log_condition_number (n, horizons) of the long-term Jacobian;
        log_initial_state_gradient_norm (n, horizons), log |d r_t / d x_0| of the readout r at t = horizon.
    horizons: time steps.
    """

    singular_values: bool = False
    epochs: tuple = ()
    horizons: tuple = (10, 20, 50, 100)

    def description(self):
        """The settings as JSON holds them."""
        return {name: list(map(int, v)) if isinstance(v, tuple | list) else v for name, v in asdict(self).items()}

    def before_update(self, p, ps, epoch):
        """Dict of what there is to keep of a training step: p, the 33; ps, the parameters."""
        found = {"epoch": epoch} | long_term_diagnostics(p, ps, self.horizons) if epoch in self.epochs else {}
        return {f"diagnostics/{name}": value for name, value in found.items()}

    def after_update(self, steps):
        """The same of the steps (dict of arrays) that ADAM made of the gradients."""
        names = ("J", "xInit") if self.singular_values else ()
        return {f"diagnostics/singular_values_step_{name}": svdvals(steps[name]) for name in names}


def check_diagnostics(diagnostics, p):
    """`diagnostics`, or for None Diagnostics(), which asks for nothing; ValueError if p (the 33) does not allow them."""
    asked = Diagnostics() if diagnostics is None else diagnostics
    if not isinstance(asked, Diagnostics):
        raise ValueError(f"diagnostics = {shown(asked)}: must be None or an extras.lyapunov.Diagnostics")
    check_flag("diagnostics.singular_values", asked.singular_values)
    for name in ("epochs", "horizons"):
        if not isinstance(values := getattr(asked, name), tuple | list):
            raise ValueError(f"diagnostics.{name} = {shown(values)}: must be a tuple of integers")
        for value in values:
            check_integer(f"diagnostics.{name}", value, minimum=1)
    if asked.epochs:
        if max(asked.epochs) > p["E"]:
            raise ValueError(f"diagnostics.epochs: {shown(max(asked.epochs))} is beyond the last epoch E = {p['E']}")
        if lack := memory_lack(16 * max([p["Tp"], *asked.horizons]) * p["N"] ** 2):
            raise ValueError(f"diagnostics.horizons = {shown(asked.horizons)}: Jacobians of as many steps: {lack}")
        check_averaged(p)
    return asked


def normalised(log_scale, rows):
    """The same matrix diag(exp(log_scale)) rows with rows of norm 1; a row of zeros stays one."""
    norm = np.linalg.norm(rows, axis=1)
    return np.maximum(log_scale + log_abs(norm), LOG_0), rows / np.where(norm > 0, norm, 1)[:, None]


def jacobi_log_singular_values(log_scale, U):
    """Logarithms of the singular values of diag(exp(log_scale)) U, descending.

    One-sided Jacobi method on the rows: every pair is rotated until all are orthogonal, the norms are then the singular
    values. With q = exp(l_j - l_i) <= 1 the rotation by the angle atan(t) acts on the unit rows as
    u_i - t q u_j and u_j + (t / q) u_i, and t / q stays finite as q vanishes: there it is a projection.
    """
    l, u = log_scale.copy(), U.copy()
    pairs = np.array(np.triu_indices(len(l), 1))
    rounds = [pairs[:, pairs.sum(axis=0) % len(l) == r] for r in range(len(l))]  # no row is twice in a round
    for _ in range(JACOBI_SWEEPS):
        largest = 0.0
        for i, j in rounds:
            i, j = np.where(l[i] >= l[j], (i, j), (j, i))
            a, b = u[i], u[j]
            c = np.einsum("pn,pn->p", a, b)
            largest = max(largest, np.abs(c).max(initial=0))
            q = np.exp(l[j] - l[i])
            e = 1 - q * q
            denominator = e + np.sqrt(e * e + (2 * c * q) ** 2)
            t_over_q = -2 * c / np.where(denominator > 0, denominator, 1)
            cos = 1 / np.sqrt(1 + (q * t_over_q) ** 2)
            l[i], u[i] = normalised(l[i], cos[:, None] * (a - (q * q * t_over_q)[:, None] * b))
            l[j], u[j] = normalised(l[j], cos[:, None] * (b + t_over_q[:, None] * a))
        if largest < JACOBI_TOLERANCE:
            return np.sort(l)[::-1]
    raise np.linalg.LinAlgError(f"Jacobi rotations left a cosine of {largest:.1e} after {JACOBI_SWEEPS} sweeps")


def log_abs(x):
    """log|x|, -inf at 0 without a warning."""
    with np.errstate(divide="ignore"):
        return np.log(np.abs(x))
