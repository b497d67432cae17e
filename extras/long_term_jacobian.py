"""Long-term Jacobian of a driven network: singular values, condition number, Lyapunov spectrum, gradient norm; float64.

With x_t = J tanh(x_{t-1}) + b + ws s_t and h_t = tanh(x_t), one step has the Jacobian (paper, eq. 2)

    D_t = dh_t / dh_{t-1} = diag(sech(x_t)^2) J,        and the long-term Jacobian is  T_t = D_t ... D_2 D_1.

Its singular values grow and shrink exponentially, sigma_i ~ exp(lambda_i t): after a few dozen steps the smallest lie
below the rounding error of the largest, so T_t must not be multiplied out. Here T_t Q_0 = Q_t R_t ... R_1 by a QR
factorisation per step; the product of the triangular factors is kept as diag(exp(l)) U with rows of U of norm 1, and
one-sided Jacobi rotations, with the scales l as logarithms throughout, turn it into the singular values. All of them
are accurate relative to themselves, and none overflows or underflows: everything returned is a natural logarithm.
"""

import numpy as np

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


def sech_squared(x):
    """sech(x)^2 = 4u/(1+u)^2 with u = exp(-2|x|): no overflow, and no cancellation as in 1 - tanh(x)^2."""
    u = np.exp(-2 * np.abs(x))
    return 4 * u / (1 + u) ** 2


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
