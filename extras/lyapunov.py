"""Long-term Jacobian of a driven network: singular values, condition number, Lyapunov spectrum, gradient norm; float64.

With x_t = J tanh(x_{t-1}) + b + ws s_t and h_t = tanh(x_t), one step has the Jacobian (paper, eq. 2)

    D_t = dh_t / dh_{t-1} = diag(sech(x_t)^2) J,        and the long-term Jacobian is  T_t = D_t ... D_2 D_1.

Its singular values grow and shrink exponentially, sigma_i ~ exp(lambda_i t): after a few dozen steps the smallest lie
below the rounding error of the largest, so T_t must not be multiplied out. Here T_t Q_0 = Q_t R_t ... R_1 by a QR
factorisation per step; the product of the triangular factors is kept as diag(exp(l)) U with rows of U of norm 1, and
one-sided Jacobi rotations, with the scales l as logarithms throughout, turn it into the singular values. All of them
are accurate relative to themselves, and none overflows or underflows: everything returned is a natural logarithm.

Diagnostics are the same quantities of a training run, computed alongside it.
"""

from dataclasses import asdict, dataclass

import numpy as np
from scipy.linalg import svdvals

from extras.adjoints import sech_squared
from extras.check_parameters import discarded_steps, memory_lack
from gf_task05spatialXORShort import generate_input_output
from julia_packages.checks import check_integer, shown
from julia_packages.random import MersenneTwister

JACOBI_TOLERANCE = 1e-13  # cosine between two rows that counts as orthogonal
JACOBI_SWEEPS = 60


def trajectory(s, ws, J, b, xInit):
    """States x (T+1, N) from x[0] = xInit (N,), or its first column, under the input s (T, S) or (T, S, 1)."""
    ws, J, b = (np.asarray(a, np.float64) for a in (ws, J, b))
    s = np.asarray(s, np.float64).reshape(len(s), ws.shape[1])
    drive = s @ ws.T / ws.shape[1] + b
    x = np.empty((len(s) + 1, len(J)))
    x[0] = xInit if np.ndim(xInit) == 1 else np.asarray(xInit)[:, 0]
    for t, d in enumerate(drive):
        x[t + 1] = J @ np.tanh(x[t]) + d
    return x


def step_jacobians(x, J):
    """D_1 ... D_T (T, N, N) along the states x (T+1, N) of trajectory()."""
    return sech_squared(x[1:])[:, :, None] * np.asarray(J, np.float64)


def lyapunov_spectrum(jacobians, Q, discard=0):
    """First k Lyapunov exponents (k,), 1/step: mean of log|diag R| after the first `discard` steps, from Q (N, k)."""
    total = 0
    for t, D in enumerate(jacobians):
        Q, R = np.linalg.qr(D @ Q)
        if t >= discard:
            total = total + log_abs(np.diagonal(R))
    return total / (len(jacobians) - discard)


def log_singular_values(jacobians, times, Q=None):
    """Logarithms of the singular values of the long-term Jacobian after each t in times, (len(times), k), descending.

    jacobians: (T, N, N), D_1 first; times: ascending, 1 <= t <= T.
    Q (N, k) with orthonormal columns: singular values of T_t Q, the k directions followed; default: all of T_t.
    """
    N = jacobians.shape[1]
    if Q is None:
        # a fixed random basis: the coordinate axes may be invariant directions, in which QR never sorts the exponents
        Q = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
    log_scale, U = np.zeros(Q.shape[1]), np.eye(Q.shape[1])
    result, t = [], 0
    for time in times:
        for D in jacobians[t:time]:
            Q, R = np.linalg.qr(D @ Q)
            log_scale, U = multiply_log_scaled(R, log_scale, U)
        t = time
        result.append(jacobi_log_singular_values(log_scale, U))
    return np.array(result)


def log_condition_number(log_sigma, k=None):
    """log(sigma_1 / sigma_k) of log_singular_values' result; k = None: the last one, the condition number itself."""
    return log_sigma[..., 0] - log_sigma[..., -1 if k is None else k - 1]


def log_gradient_norm(x, J, wr, times):
    """log of |d r_t / d x_0| for the readout r_t = wr x_t, for each t >= 1 in times: how an error at t reaches back to 0.

    x: states (T+1, N) of trajectory(); wr (1, N) or (N,). d x_t / d x_{t-1} = J diag(sech(x_{t-1})^2).
    """
    J, p = np.asarray(J, np.float64), sech_squared(x)
    times = np.asarray(times)
    g = np.zeros((len(times), len(J)))  # one gradient per horizon, all carried back together
    log_norm = np.zeros(len(times))
    for t in range(times.max(), 0, -1):
        g[times == t] = np.reshape(wr, -1)
        active = times >= t
        g[active] = g[active] @ J * p[t - 1]
        norm = np.linalg.norm(g[active], axis=1)
        log_norm[active] += log_abs(norm)
        g[active] /= np.where(norm > 0, norm, 1)[:, None]
    return log_norm


@dataclass(frozen=True)
class Diagnostics:
    """What to compute. The results are in record.diagnostics, under the names given here.

    singular_values: at every epoch, descending:
        singular_values_gradient_J (E, N), singular_values_gradient_xInit (E, min(N, B))   before clipping
        singular_values_step_J, singular_values_step_xInit                                 of the ADAM step: what the
            original's svdvals gives (ex.jl:99-100), since its update! works in place
    epochs: at these epochs (n of them), with the parameters before the update:
        epoch                             (n,)
        lyapunov_spectrum                 (n, nLE) 1/step, over Tp steps as in flossing; all N exponents if nLE = 0
        log_condition_number              (n, horizons) of the long-term Jacobian, natural logarithm
        log_initial_state_gradient_norm   (n, horizons) log |d r_t / d x_0| of the readout r at t = horizon
    horizons: time steps, ascending.
    """

    singular_values: bool = False
    epochs: tuple = ()
    horizons: tuple = (10, 20, 50, 100)

    def check(self, p):
        """ValueError if this cannot be computed in a run with the 33 parameters p (dict)."""
        if not isinstance(self.singular_values, bool):
            raise ValueError(f"diagnostics.singular_values = {shown(self.singular_values)}: must be True or False")
        epochs, horizons = (integers(f"diagnostics.{name}", getattr(self, name)) for name in ("epochs", "horizons"))
        if epochs and max(epochs) > p["E"]:
            raise ValueError(f"diagnostics.epochs: {shown(max(epochs))} is beyond the last epoch E = {p['E']}")
        if sorted(set(horizons)) != horizons:
            raise ValueError(f"diagnostics.horizons = {shown(self.horizons)}: must be ascending")
        steps = max([p["Tp"], *horizons])
        if epochs and (lack := memory_lack(16 * steps * p["N"] ** 2)):
            raise ValueError(f"diagnostics.horizons = {shown(self.horizons)}: the Jacobians of {shown(steps)} steps {lack}")
        if epochs and p["Tp"] <= discarded_steps(p["Tp"]):
            raise ValueError(f"Tp = {p['Tp']}: must be at least 13 for the Lyapunov spectrum among the diagnostics")

    def description(self):
        """The settings as JSON holds them."""
        return {name: list(map(int, v)) if isinstance(v, tuple | list) else v for name, v in asdict(self).items()}

    def before_update(self, p, ps, epoch, gs):
        """Dict of what there is to keep of a training step: p, the 33; ps, the parameters; gs, the gradients."""
        found = singular_values("gradient", gs) if self.singular_values else {}
        if epoch in self.epochs:
            found |= {"epoch": epoch} | long_term_diagnostics(p, ps, self.horizons)
        return {f"diagnostics/{name}": value for name, value in found.items()}

    def after_update(self, steps):
        """The same of the steps (dict of arrays) that ADAM made of the gradients."""
        found = singular_values("step", steps) if self.singular_values else {}
        return {f"diagnostics/{name}": value for name, value in found.items()}


def check_diagnostics(diagnostics, p):
    """The Diagnostics to compute in a run with the 33 parameters p (dict): none for None."""
    if diagnostics is not None and not isinstance(diagnostics, Diagnostics):
        raise ValueError(f"diagnostics = {shown(diagnostics)}: must be None or an extras.lyapunov.Diagnostics")
    diagnostics = diagnostics or Diagnostics()
    diagnostics.check(p)
    return diagnostics


def integers(name, values):
    if not isinstance(values, tuple | list):
        raise ValueError(f"{name} = {shown(values)}: must be a tuple of integers")
    return [check_integer(name, value, minimum=1) for value in values]


def singular_values(kind, arrays):
    return {f"singular_values_{kind}_{name}": svdvals(arrays[name]) for name in ("J", "xInit")}


def long_term_diagnostics(p, ps, horizons=()):
    """Dict of lyapunov_spectrum (k,), log_condition_number and log_initial_state_gradient_norm (horizons,); float64.

    p: dict of the 33 parameters; ps: dict of the arrays, say record.final; horizons: ascending time steps.
    """
    steps = max([p["Tp"], *horizons])
    s, _ = generate_input_output(1, steps, p["sIn"], p["S"], p["I1"], p["delay"], p["task"])
    x = trajectory(s, ps["ws"], ps["J"], ps["b"], ps["xInit"])
    jacobians = step_jacobians(x, ps["J"])
    Q = np.linalg.qr(MersenneTwister(p["sONS"]).randn_float32(p["N"], p["nLE"] or p["N"]))[0].astype(np.float64)
    spectrum = lyapunov_spectrum(jacobians[: p["Tp"]], Q, discard=discarded_steps(p["Tp"]))
    results = {"lyapunov_spectrum": spectrum}
    if horizons:
        log_sigma = log_singular_values(jacobians, horizons)
        results["log_condition_number"] = log_condition_number(log_sigma)
        norm = log_gradient_norm(x, ps["J"], ps["wr"], horizons)
        results["log_initial_state_gradient_norm"] = norm
    return results


def multiply_log_scaled(R, log_scale, U):
    """R diag(exp(log_scale)) U again as (log_scale, U), the rows of U of norm 1."""
    log_terms = log_abs(R) + log_scale
    largest = finite(log_terms.max(axis=1))
    U = (np.sign(R) * np.exp(log_terms - largest[:, None])) @ U
    norm = np.linalg.norm(U, axis=1)
    return finite(largest + log_abs(norm)), U / np.where(norm > 0, norm, 1)[:, None]


def jacobi_log_singular_values(log_scale, U):
    """Logarithms of the singular values of diag(exp(log_scale)) U, descending.

    One-sided Jacobi method on the rows: every pair is rotated until all are orthogonal, the norms are then the singular
    values. With q = exp(l_j - l_i) <= 1 the rotation by the angle atan(t) acts on the unit rows as
    u_i - t q u_j and u_j + (t / q) u_i, and t / q stays finite as q vanishes: there it is a projection.
    """
    order = np.argsort(-log_scale)
    l, u = log_scale[order].copy(), U[order].copy()
    rounds = tournament(len(l))
    for _ in range(JACOBI_SWEEPS):
        largest = 0.0
        for i, j in rounds:
            i, j = np.where(l[i] >= l[j], i, j), np.where(l[i] >= l[j], j, i)
            a, b = u[i], u[j]
            c = np.einsum("pn,pn->p", a, b)
            largest = max(largest, np.abs(c).max(initial=0))
            q = np.exp(l[j] - l[i])
            e = 1 - q * q
            denominator = e + np.sqrt(e * e + (2 * c * q) ** 2)
            t_over_q = -2 * c / np.where(denominator > 0, denominator, 1)
            cos = 1 / np.sqrt(1 + (q * t_over_q) ** 2)
            u[i] = cos[:, None] * (a - (q * q * t_over_q)[:, None] * b)
            u[j] = cos[:, None] * (b + t_over_q[:, None] * a)
            for rows in (i, j):
                norm = np.linalg.norm(u[rows], axis=1)
                u[rows] /= np.where(norm > 0, norm, 1)[:, None]
                l[rows] = finite(l[rows] + log_abs(norm))
        if largest < JACOBI_TOLERANCE:
            return np.sort(l)[::-1]
    raise np.linalg.LinAlgError(f"Jacobi rotations left a cosine of {largest:.1e} after {JACOBI_SWEEPS} sweeps")


def tournament(n):
    """Every pair of n rows once, as rounds (i, j) of index arrays without a row in common."""
    players = list(range(n + n % 2))
    rounds = []
    for _ in range(len(players) - 1 if n > 1 else 0):
        half = len(players) // 2
        pairs = [(a, b) for a, b in zip(players[:half], players[:half - 1:-1]) if max(a, b) < n]
        rounds.append(tuple(np.array(side, int) for side in zip(*pairs)))
        players.insert(1, players.pop())
    return rounds


def log_abs(x):
    """log|x|, -inf at 0 without a warning."""
    with np.errstate(divide="ignore"):
        return np.log(np.abs(x))


def finite(log_x):
    """The same with -inf replaced by the lowest float / 4, so that differences of two stay defined."""
    return np.maximum(log_x, np.finfo(np.float64).min / 4)
