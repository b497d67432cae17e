"""Hand-derived gradients of the training and the flossing loss, in NumPy, BLAS and LAPACK only.

Both classes allocate their buffers once: the arrays of a returned gradient are valid until the next call. Work arrays are
C-ordered with the neuron last, (time, trial, neuron) or (time, exponent, neuron): each time slice is in memory Julia's
N x B or N x nLE matrix, and BLAS works on it without a copy.

Training: backpropagation through time
--------------------------------------
With h_t = tanh(x_t), x_t = J h_{t-1} + b + ws s_t and r_t = wr x_t + offset, dL/dr_t = (sigmoid(r_t) - y_t) / scored
outputs. The adjoint delta_t = dL/dx_t runs backward,

    delta_t = wr^T dL/dr_t + (1 - h_t^2) * (J^T delta_{t+1}),

and each weight gradient is one product over (time x trial), such as dL/dJ = sum_t delta_t h_{t-1}^T. The loss, the accuracy
and the gradient share one sweep forward.

Flossing: the adjoint of repeated QR factorisations
---------------------------------------------------
The Jacobians D_t = diag(p_t) J, p_t = sech(x_t)^2, carry an orthonormal system along, D_t Q_{t-1} = Q_t R_t, and the
Lyapunov exponents are the averages of log|diag R_t| (Engelken 2023, arXiv 2312.17306). Let A = Q R be such a factorisation,
Qbar = dL/dQ as it comes from the later steps, and w_i = dL/dlog|R_ii|. Then (Seeger et al. 2018, arXiv 1710.08717; Liao et
al. 2019, PRX 9, 031041)

    Abar = dL/dA = (Qbar + Q sym(M)) R^-T,    M = diag(w) - Qbar^T Q,

where sym mirrors the lower triangle; in general M = R Rbar^T - Qbar^T Q, and since only diag R enters the loss, the lower
triangle of R Rbar^T is diag(w). With A = diag(p) J Q' it follows that

    dL/dQ' = J^T diag(p) Abar,    dL/dJ += diag(p) Abar Q'^T,    p * dL/dp = rowsum(Abar * A).

Right after a factorisation the last one is rowsum((Qbar + Q sym(M)) * Q), because Abar A^T = (Qbar + Q sym(M)) Q^T. As
dp/dx = -2 tanh(x) p, these row sums drive the same recursion for dL/dx as above.

How often to orthonormalise
---------------------------
A product of triangular matrices is triangular and its diagonal is the product of the diagonals. So a segment of m steps,
D_{t+m} ... D_{t+1} Q_t = Q_{t+m} R, gives the same sum of log|R_ii| as m factorisations, provided that the end of the
transient ends a segment, too. The formulae above hold as they are, with plain products inside a segment. A factorisation and
its adjoint cost as much as three steps, but a long product loses digits in proportion to the condition number of R, which
grows exponentially with m. Hence

- the arithmetic is Float64, also for Float32 parameters: this allows segments of five to six steps at the README's sizes,
  which saves more time than Float32 would. At the first README step (80 neurons, 75 exponents) the error of dL/dJ, in units
  of its largest entry, is 1e-11 with one step per segment, 4e-8 with six, 5e-6 with eight, 5e-2 with twelve. (Float32 with
  one step: 2e-3 by torch, 4e-3 in the original.)
- a segment counts only if LAPACK's estimate of the condition number of R stays below CONDITION_LIMIT. Otherwise it is cut
  at an earlier step, whose product is still there. The next length is extrapolated from the growth just met.
- a single step above the limit says that no digits can be spared: the call then starts again with a factorisation at every
  step. Float64 parameters are always treated like that.
"""

import math

import numpy as np
from scipy.linalg.blas import dgemm, dsymm, dtrsm, get_blas_funcs
from scipy.linalg.lapack import dgeqrf, dorgqr, dtrcon

from extras.check_parameters import discarded_steps

CONDITION_LIMIT = 1e10  # 1-norm condition number of R up to which a segment of several steps counts
FIRST_LENGTH = 6  # steps of the first segment, when no growth has been met yet


class TrainingAdjoint:
    """Loss, accuracy and gradients of a training step for N neurons, T time steps, B trials; firstlossidx counts from 1.

    Memory: 3 T B N numbers and little more.
    """

    def __init__(self, N, T, B, firstlossidx, dtype=np.float32):
        self.N, self.T, self.B = N, T, B
        self.first = max(firstlossidx - 1, 0)
        self.scored_outputs = B * (T - firstlossidx + 1)
        self.dtype = np.dtype(dtype)
        (self.gemm,) = get_blas_funcs(("gemm",), dtype=self.dtype)
        self.x = np.empty((T, B, N), dtype)  # states; on the way back their adjoints delta
        self.h = np.empty((T + 1, B, N), dtype)  # tanh of the states, from the initial one on
        self.slope = np.empty((T, B, N), dtype)  # 1 - h^2
        self.back = np.empty((B, N), dtype)
        self.drive = np.ones((T * B, 2), dtype)  # columns: s, 1
        self.J, self.JT = np.empty((2, N, N), dtype)
        # N x B views of the slices, made once: making one takes a tenth of the time of a step
        self.x_columns = [x.T for x in self.x]
        self.h_columns = [h.T for h in self.h]
        shapes = dict(ws=(N, 1), J=(N, N), wr=(1, N), b=(N,), offset=(1,), xInit=(N, B))
        self.gradients = {name: np.empty(shape, dtype) for name, shape in shapes.items()}

    def __call__(self, s, rtarg, ps):
        """s (T, 1, B), rtarg (T, 1, B), ps: dict of ws J wr b offset xInit -> loss, accuracy, gradients (reused)."""
        ps = {name: np.asarray(p, self.dtype) for name, p in ps.items()}
        self.J[:], self.JT[:] = ps["J"], ps["J"].T
        self._forward(s, ps)
        loss, accuracy, dr = self._readout(rtarg, ps)
        self._backward(dr, ps)
        return loss, accuracy, self.gradients

    def _forward(self, s, ps):
        self.drive[:, 0] = np.reshape(s, -1)
        np.dot(self.drive, np.stack([ps["ws"][:, 0], ps["b"]]), out=self.x.reshape(-1, self.N))
        np.tanh(ps["xInit"].T, out=self.h[0])
        gemm, tanh, J = self.gemm, np.tanh, self.JT.T  # column-major
        for x, x_columns, h_columns, h_next in zip(self.x, self.x_columns, self.h_columns, self.h[1:]):
            gemm(1.0, J, h_columns, 1.0, x_columns, overwrite_c=1)  # adds J h to the drive
            tanh(x, h_next)

    def _readout(self, rtarg, ps):
        """Loss, accuracy and dL/dr (flat, time x trial); fills the gradients of wr and offset."""
        x = self.x[self.first :].reshape(-1, self.N)
        y = np.reshape(rtarg[self.first :], -1)
        r = x @ ps["wr"][0] + ps["offset"]
        decay = np.exp(-np.abs(r))  # of the overflow-safe sigmoid and of its logarithm
        sigmoid = np.where(r >= 0, 1, decay) / (1 + decay)
        losses = (1 - y) * r - np.minimum(r, 0) + np.log1p(decay)
        loss = losses.sum(dtype=np.float64) / self.scored_outputs
        # not r >= 0: the sigmoid of a tiny negative r rounds to 0.5
        accuracy = np.sum((sigmoid >= 0.5) == y) / self.scored_outputs
        dr = ((sigmoid - y) / self.scored_outputs).astype(self.dtype, copy=False)
        np.dot(dr, x, out=self.gradients["wr"][0])
        self.gradients["offset"][0] = dr.sum()
        return float(loss), float(accuracy), dr

    def _backward(self, dr, ps):
        h, slope, back, delta, delta_columns = self.h[:-1], self.slope, self.back, self.x, self.x_columns
        np.multiply(h, h, out=slope)
        np.subtract(1, slope, out=slope)
        delta[: self.first] = 0
        np.multiply(dr.reshape(-1, self.B, 1), ps["wr"], out=delta[self.first :])
        gemm, multiply, add, JT, back_columns = self.gemm, np.multiply, np.add, self.J.T, back.T  # JT column-major
        for t in range(self.T - 1, 0, -1):
            gemm(1.0, JT, delta_columns[t], 0.0, back_columns, overwrite_c=1)
            multiply(back, slope[t], back)
            add(delta[t - 1], back, delta[t - 1])
        gemm(1.0, JT, delta_columns[0], 0.0, back_columns, overwrite_c=1)
        np.multiply(back_columns, slope[0].T, out=self.gradients["xInit"])

        delta = delta.reshape(-1, self.N)
        np.dot(delta.T, h.reshape(-1, self.N), out=self.gradients["J"])
        self.gradients["ws"][:, 0], self.gradients["b"][:] = self.drive.T @ delta


class FlossingAdjoint:
    """Loss, Lyapunov spectrum and gradients of a flossing step over Tp time steps, for the target Lwnt of all exponents.

    Q (N, nLE): initial orthonormal system. Memory in Float64: Tp N nLE numbers, and nLE^2 for every factorisation.
    After a call, segments lists the (first, last) step of each factorisation, of steps 0..Tp.
    """

    def __init__(self, N, Tp, nLE, Q, Lwnt, dtype=np.float32):
        self.N, self.Tp, self.nLE, self.Lwnt = N, Tp, nLE, float(Lwnt)
        self.dtype = np.dtype(dtype)
        self.first_length = FIRST_LENGTH if self.dtype == np.float32 else 1
        self.transient = min(discarded_steps(Tp), Tp)
        self.averaged_steps = Tp - self.transient
        self.h = np.empty((Tp + 1, N))  # tanh of the trajectory
        self.p = np.empty((Tp + 1, N))  # sech^2 of the trajectory
        self.row_sums = np.empty((Tp + 1, N))  # p * dL/dp; then dL/dx
        self.system = np.empty((Tp + 1, nLE, N))  # Q_t at the end of a segment, inside it D_t times the one before
        self.system[0] = np.transpose(Q)
        self.columns = [system.T for system in self.system]  # N x nLE
        self.R = np.empty((Tp, nLE, nLE))  # R of each segment, in the upper triangle of the transpose
        self.reflectors, self.adjoint, self.scaled = np.empty((3, nLE, N))
        self.sym = np.empty((nLE, nLE), order="F")
        self.gradient_J = np.empty((N, N), order="F")
        self.J, self.JT = np.empty((2, N, N))
        self.lwork = 64 * max(nLE, 1)  # LAPACK works in blocks only if there is room for them
        self.segments = []
        self.gradients = {name: np.empty(shape, dtype) for name, shape in dict(ws=(N, 1), J=(N, N), b=(N,)).items()}

    def __call__(self, s, psFlossing, xInit):
        """s (>= Tp, 1, 1), psFlossing: dict of ws J b, xInit (N, B) -> loss, spectrum (nLE,), gradients (reused)."""
        s = np.asarray(s[: self.Tp, 0, 0], np.float64)
        self.J[:], self.JT[:] = psFlossing["J"], np.transpose(psFlossing["J"])
        with np.errstate(all="ignore"):  # R_ii = 0 is an exponent of -inf
            self._trajectory(s, psFlossing, xInit)
            Lspectrum = self._spectrum(self.first_length)
            error = Lspectrum - self.Lwnt
            loss = np.mean(error**2)
            self._backward(2 * error / (self.nLE * self.averaged_steps))
            self._backward_trajectory(s)
            return float(loss), Lspectrum.astype(self.dtype), self.gradients

    def _trajectory(self, s, ps, xInit):
        x = np.empty((self.Tp + 1, self.N))
        x[0] = xInit[:, 0]
        x[1:] = np.multiply.outer(s, ps["ws"][:, 0]) + ps["b"]
        for t in range(self.Tp):
            np.tanh(x[t], out=self.h[t])
            x[t + 1] += np.dot(self.J, self.h[t])
        np.tanh(x[-1], out=self.h[-1])
        self.p[:] = sech_squared(x)

    def _spectrum(self, first_length):
        """The exponents; keeps the products, orthonormal systems and R for the way back."""
        J = self.JT.T  # column-major
        log_R = np.zeros(self.nLE)
        self.segments.clear()
        start, computed, length = 0, 0, first_length
        while start < self.Tp:
            phase_end = self.transient if start < self.transient else self.Tp
            end = start + first_of_even_lengths(phase_end - start, length)
            for t in range(computed + 1, end + 1):
                dgemm(1.0, J, self.columns[t - 1], 0.0, self.columns[t], overwrite_c=1)
                np.multiply(self.system[t], self.p[t], out=self.system[t])
            self.reflectors[:] = self.system[end]
            _, tau, _, _ = dgeqrf(self.reflectors.T, lwork=self.lwork, overwrite_a=1)
            R = self.R[len(self.segments)]
            R[:] = self.reflectors[:, : self.nLE]
            diagonal = np.abs(R.diagonal())
            if first_length > 1:
                condition = condition_number(R.T, diagonal)
                length = next_length(end - start, condition)
                if condition > CONDITION_LIMIT:
                    if end - start == 1:
                        return self._spectrum(first_length=1)
                    computed = end
                    length = min(length, end - start - 1)
                    continue
            self.system[end] = self.reflectors
            dorgqr(self.columns[end], tau, lwork=self.lwork, overwrite_a=1)
            if end > self.transient:
                log_R += np.log(diagonal)
            self.segments.append((start, end))
            start = computed = end
        return log_R / self.averaged_steps

    def _backward(self, w):
        """dL/dJ through the Jacobians, and the row sums."""
        adjoint, scaled, JT = self.adjoint, self.scaled, self.J.T  # JT column-major
        adjoint_columns, scaled_columns = adjoint.T, scaled.T
        adjoint[:] = 0
        self.gradient_J[:] = 0
        for i in reversed(range(len(self.segments))):
            start, end = self.segments[i]
            # adjoint is Qbar here, becomes Qbar + Q sym(M), then Abar
            dgemm(-1.0, adjoint_columns, self.columns[end], 0.0, self.sym, trans_a=1, overwrite_c=1)
            if end > self.transient:
                np.einsum("ii->i", self.sym)[:] += w
            dsymm(1.0, self.sym, self.columns[end], 1.0, adjoint_columns, side=1, lower=1, overwrite_c=1)
            np.einsum("kn,kn->n", adjoint, self.system[end], out=self.row_sums[end])
            dtrsm(1.0, self.R[i].T, adjoint_columns, side=1, trans_a=1, overwrite_b=1)
            for t in range(end, start, -1):
                if t < end:
                    np.einsum("kn,kn->n", adjoint, self.system[t], out=self.row_sums[t])
                np.multiply(adjoint, self.p[t], out=scaled)
                dgemm(1.0, scaled_columns, self.columns[t - 1], 1.0, self.gradient_J, trans_b=1, overwrite_c=1)
                dgemm(1.0, JT, scaled_columns, 0.0, adjoint_columns, overwrite_c=1)

    def _backward_trajectory(self, s):
        delta = self.row_sums
        delta *= -2 * self.h
        for t in range(self.Tp - 1, 0, -1):
            delta[t] += self.p[t] * np.dot(self.JT, delta[t + 1])
        delta = delta[1:]
        self.gradients["J"][:] = self.gradient_J + delta.T @ self.h[:-1]
        self.gradients["b"][:] = delta.sum(axis=0)
        self.gradients["ws"][:, 0] = s @ delta


def sech_squared(x):
    """sech(x)^2 without overflow, to a few units in the last place also where 1 - tanh(x)^2 cancels.

    Measured at x = 10: relative error 1e-16, against 1e-8 of 1 - tanh(x)^2.
    """
    u = np.exp(-2 * np.abs(x))
    return 4 * u / (1 + u) ** 2


def condition_number(R, diagonal):
    """LAPACK's estimate of the 1-norm condition number of the upper triangle of R; inf for a singular or non-finite one."""
    if not (diagonal.min() > 0 and diagonal.max() < np.inf):
        return np.inf
    reciprocal, _ = dtrcon(R)
    return 1 / reciprocal if reciprocal > 0 else np.inf


def next_length(length, condition):
    """Steps to try if log(condition) grows per step as it did over the last `length`, at most twice as many."""
    growth = math.log(max(condition, 1)) / length
    allowed = math.log(CONDITION_LIMIT)
    return 2 * length if 2 * length * growth <= allowed else max(1, int(allowed / growth))


def first_of_even_lengths(steps, longest):
    """Length of the first of as few and as equal segments as possible, none above `longest`."""
    return math.ceil(steps / math.ceil(steps / longest))
