"""Hand-derived gradients of the two losses, in NumPy and BLAS/LAPACK only.

Both classes allocate their buffers once and reuse them: the arrays of a returned gradient are valid
until the next call. Arrays are C-ordered with neurons last, (time, trial, neuron) or (exponent, neuron):
in memory these are Julia's N x B and N x nLE matrices, and BLAS sees them without a copy.

Training: backpropagation through time
--------------------------------------
With h_t = tanh(x_t) and x_t = J h_{t-1} + b + ws s_t, the readout r_t = wr x_t + offset gives
dL/dr_t = (sigmoid(r_t) - y_t) / (number of scored outputs). The adjoint delta_t = dL/dx_t runs backward,

    delta_t = wr^T dL/dr_t + (1 - h_t^2) * (J^T delta_{t+1}),

and the weight gradients are single products over (time x trial): dL/dJ = sum_t delta_t h_{t-1}^T.

Flossing: the adjoint of a time-averaged QR
-------------------------------------------
With p_t = sech(x_t)^2 the Jacobians D_t = diag(p_t) J carry an orthonormal system along, D_t Q_{t-1} = Q_t R_t,
and the exponents are averages of log|diag R_t| (Engelken 2023, arXiv 2312.17306). For A = Q R, given
Qbar = dL/dQ from the later steps and w_i = dL/dlog|R_ii|, the adjoint is (Seeger et al. 2018,
arXiv 1710.08717; Liao et al. 2019, PRX 9, 031041)

    Abar = (Qbar + Q sym(M)) R^-T,    M = diag(w) - Qbar^T Q,

where sym mirrors the lower triangle: R enters the loss through its diagonal only, so that R Rbar^T has the
lower triangle diag(w). Then dL/dJ += diag(p) Abar Q_{t-1}^T, dL/dQ_{t-1} = J^T diag(p) Abar, and
p * dL/dp = rowsum(Abar * A), which at an orthonormalised step equals rowsum((Qbar + Q sym(M)) * Q).
From there x has the adjoint of the training loop, with d log sech(x)^2 / dx = -2 tanh(x).

Products of triangular factors are triangular, so D_{t+m} ... D_{t+1} Q_t = Q_{t+m} R has the diagonal of
the product of the m single factors: orthonormalising after m steps gives the same sums of logarithms, as long
as the end of the transient is an orthonormalisation. A QR costs more than a step's three matrix products,
so fewer are better, but the product of Jacobians loses condition(R) * eps on the way. Therefore

- the linear algebra is done in Float64 whatever the dtype of the arguments: it affords longer intervals, which
  saves more time than Float32 arithmetic would;
- a segment is accepted only if the estimated 1-norm condition number of its R stays below CONDITION_LIMIT;
  else it is cut short at a step for which the product is already stored, in the worst case to one step.
  The next length is extrapolated from the growth per step that was met.
"""
import math

import numpy as np
from scipy.linalg.blas import dgemm, dsymm, dtrsm, get_blas_funcs
from scipy.linalg.lapack import dgeqrf, dorgqr, dtrcon

N_STEP_TRANSIENT = 10       # nStepTransient of the original
FIRST_INTERVAL = 4          # steps before the first orthonormalisation, when nothing is known yet
# Float64 arguments are orthonormalised at every step.
CONDITION_LIMIT = {np.dtype(np.float32): 1e9, np.dtype(np.float64): 1.0}


class TrainingAdjoint:
    """Loss, accuracy and gradients of one training step: one sweep forward, one backward."""

    def __init__(self, N, T, B, firstlossidx, dtype=np.float32):
        self.N, self.T, self.B, self.first = N, T, B, firstlossidx - 1
        self.dtype = np.dtype(dtype)
        self.gemm, = get_blas_funcs(("gemm",), dtype=self.dtype)
        self.x = np.empty((T, B, N), dtype)             # states, later overwritten by their adjoints delta
        self.h = np.empty((T + 1, B, N), dtype)         # h[t] = tanh of the state before step t
        self.slope = np.empty((T, B, N), dtype)         # 1 - h^2
        self.back = np.empty((B, N), dtype)
        self.drive = np.ones((T * B, 2), dtype)         # columns: s, 1
        self.J = np.empty((N, N), dtype, order="F")
        self.JT = np.empty((N, N), dtype, order="F")
        self.gradients = {key: np.empty(shape, dtype) for key, shape in dict(
            ws=(N, 1), J=(N, N), wr=(1, N), b=(N,), offset=(1,), xInit=(N, B)).items()}
        # N x B views for BLAS, made once: a view costs a tenth of a step
        self.x_columns = [x.T for x in self.x]
        self.h_columns = [h.T for h in self.h]

    def __call__(self, s, rtarg, ps):
        self.J[:] = ps["J"]
        self.JT[:] = self.J.T
        self._forward(s, ps)
        loss, accuracy, dr = self._readout(rtarg, ps)
        self._backward(dr, ps)
        return loss, accuracy, self.gradients

    def _forward(self, s, ps):
        self.drive[:, 0] = np.reshape(s, -1)
        ws_b = np.column_stack([np.reshape(ps["ws"], -1), ps["b"]]).astype(self.dtype, copy=False)
        np.dot(self.drive, ws_b.T, out=self.x.reshape(-1, self.N))
        np.tanh(np.transpose(ps["xInit"]), out=self.h[0])
        gemm, J, tanh = self.gemm, self.J, np.tanh
        for x, x_columns, h_columns, h_next in zip(self.x, self.x_columns, self.h_columns, self.h[1:]):
            gemm(1.0, J, h_columns, 1.0, x_columns, overwrite_c=1)      # x_t = J h_{t-1} + what is there
            tanh(x, h_next)

    def _readout(self, rtarg, ps):
        """Loss and accuracy; starts the gradients with those of the readout and returns dL/dr."""
        x = self.x[self.first:].reshape(-1, self.N)
        y = np.reshape(rtarg[self.first:], -1)
        r = np.dot(x, np.reshape(ps["wr"], -1).astype(self.dtype, copy=False)) + self.dtype.type(ps["offset"][0])
        decay = np.exp(-np.abs(r))
        sigmoid = np.where(r >= 0, self.dtype.type(1), decay) / (1 + decay)
        loss = np.sum((1 - y) * r - np.minimum(r, 0) + np.log1p(decay), dtype=np.float64) / r.size
        # not r >= 0: a tiny negative r has a sigmoid that rounds to 0.5
        accuracy = np.mean((sigmoid >= 0.5) == y)
        dr = ((sigmoid - y) / r.size).astype(self.dtype, copy=False)
        np.dot(dr, x, out=self.gradients["wr"][0])
        self.gradients["offset"][0] = dr.sum()
        return float(loss), float(accuracy), dr

    def _backward(self, dr, ps):
        delta, h, slope = self.x, self.h[:-1], self.slope       # from here on x holds delta
        np.multiply(h, h, out=slope)
        np.subtract(1, slope, out=slope)
        delta[:self.first] = 0
        np.multiply(dr.reshape(-1, self.B, 1), np.reshape(ps["wr"], -1), out=delta[self.first:])
        gemm, JT, back, multiply, add = self.gemm, self.JT, self.back, np.multiply, np.add
        back_columns = back.T
        for t in range(self.T - 1, 0, -1):
            gemm(1.0, JT, self.x_columns[t], 0.0, back_columns, overwrite_c=1)
            multiply(back, slope[t], back)
            d = delta[t - 1]
            add(d, back, d)
        gemm(1.0, JT, self.x_columns[0], 0.0, back_columns, overwrite_c=1)
        np.multiply(back, slope[0], out=back)
        self.gradients["xInit"][:] = back.T

        delta = delta.reshape(-1, self.N)
        np.dot(delta.T, h.reshape(-1, self.N), out=self.gradients["J"])
        ws_b = np.dot(self.drive.T, delta)
        self.gradients["ws"][:, 0], self.gradients["b"][:] = ws_b


class FlossingAdjoint:
    """Loss, Lyapunov spectrum and gradients of one flossing step."""

    def __init__(self, N, Tp, nLE, Q, Lwnt, dtype=np.float32):
        self.N, self.Tp, self.nLE, self.Lwnt = N, Tp, nLE, float(Lwnt)
        self.dtype = np.dtype(dtype)
        self.transient = min(N_STEP_TRANSIENT + math.ceil(Tp / 10), Tp)
        self.condition_limit = CONDITION_LIMIT[self.dtype]
        self.h = np.empty((Tp + 1, N))                  # tanh of the trajectory; h[0] of its start
        self.p = np.empty((Tp + 1, N))                  # sech^2 of the trajectory; p[0] is not used
        self.system = np.empty((Tp + 1, nLE, N))        # Q_t where orthonormalised, else D_t times the one before
        self.system[0] = np.transpose(Q)
        self.R = np.empty((Tp, nLE, N))                 # upper triangle of the first nLE x nLE entries, one per QR
        self.J = np.empty((N, N), order="F")
        self.JT = np.empty((N, N), order="F")
        self.gradient_J = np.empty((N, N), order="F")
        self.adjoint = np.empty((nLE, N))
        self.scaled = np.empty((nLE, N))
        self.sym = np.empty((nLE, nLE), order="F")
        self.row_sums = np.empty((Tp + 1, N))
        self.gradients = {key: np.empty(shape, dtype) for key, shape in dict(ws=(N, 1), J=(N, N), b=(N,)).items()}
        self.lwork = 64 * max(nLE, 1)
        self.segments = []                              # (start, end) of the last call's QR factorisations

    def __call__(self, s, psFlossing, xInit):
        s = np.asarray(s, dtype=np.float64).reshape(len(s), -1)[:self.Tp, 0]
        self.J[:] = psFlossing["J"]
        self.JT[:] = self.J.T
        with np.errstate(all="ignore"):                 # a vanishing R_ii is an exponent of -inf
            self._trajectory(s, psFlossing, xInit)
            Lspectrum = self._forward()
            error = Lspectrum - self.Lwnt
            loss = np.mean(error**2)
            self._backward(2 * error / (self.nLE * (self.Tp - self.transient)))
            self._backward_trajectory(s)
        return float(loss), Lspectrum.astype(self.dtype), self.gradients

    def _trajectory(self, s, ps, xInit):
        drive = np.multiply.outer(s, np.reshape(ps["ws"], -1)) + np.asarray(ps["b"], dtype=np.float64)
        x = np.empty((self.Tp + 1, self.N))
        x[0] = xInit[:, 0]
        for t in range(self.Tp):
            np.tanh(x[t], out=self.h[t])
            np.dot(self.J, self.h[t], out=x[t + 1])
            x[t + 1] += drive[t]
        np.tanh(x[-1], out=self.h[-1])
        # sech^2 = 4u/(1+u)^2 with u = exp(-2|x|): no overflow, and no cancellation as in 1 - tanh^2
        u = np.exp(-2 * np.abs(x))
        np.divide(4 * u, (1 + u)**2, out=self.p)

    def _forward(self):
        log_R = np.zeros(self.nLE)
        self.segments.clear()
        start, computed, length = 0, 0, FIRST_INTERVAL if self.condition_limit > 1 else 1
        while start < self.Tp:
            phase_end = self.transient if start < self.transient else self.Tp
            end = start + even_length(phase_end - start, length)
            for t in range(computed + 1, end + 1):
                dgemm(1.0, self.J, self.system[t - 1].T, 0.0, self.system[t].T, overwrite_c=1)
                np.multiply(self.system[t], self.p[t], out=self.system[t])
            R = self.R[len(self.segments)]
            R[:] = self.system[end]
            _, tau, _, _ = dgeqrf(R.T, lwork=self.lwork, overwrite_a=1)
            diagonal = np.abs(np.diagonal(R))
            condition = condition_number(R.T[:self.nLE], diagonal)
            length = next_length(end - start, condition, self.condition_limit)
            if condition > self.condition_limit and end - start > 1:
                computed = end                          # the products up to here are kept: only the QR is redone
                length = min(length, end - start - 1)
                continue
            self.system[end] = R
            dorgqr(self.system[end].T, tau, lwork=self.lwork, overwrite_a=1)
            if end > self.transient:
                log_R += np.log(diagonal)
            self.segments.append((start, end))
            start = computed = end
        return log_R / (self.Tp - self.transient)

    def _backward(self, w):
        """dL/dJ through the Jacobians, and the row sums that hand dL/dp to the trajectory."""
        adjoint, scaled = self.adjoint, self.scaled
        adjoint[:] = 0
        self.gradient_J[:] = 0
        diagonal = np.einsum("ii->i", self.sym)
        for segment in range(len(self.segments) - 1, -1, -1):
            start, end = self.segments[segment]
            Q = self.system[end]
            dgemm(-1.0, adjoint.T, Q.T, 0.0, self.sym, trans_a=1, overwrite_c=1)
            if end > self.transient:
                diagonal += w
            dsymm(1.0, self.sym, Q.T, 1.0, adjoint.T, side=1, lower=1, overwrite_c=1)
            np.einsum("kn,kn->n", adjoint, Q, out=self.row_sums[end])
            dtrsm(1.0, self.R[segment].T[:self.nLE], adjoint.T, side=1, trans_a=1, overwrite_b=1)
            for t in range(end, start, -1):
                if t < end:
                    np.einsum("kn,kn->n", adjoint, self.system[t], out=self.row_sums[t])
                np.multiply(adjoint, self.p[t], out=scaled)
                dgemm(1.0, scaled.T, self.system[t - 1].T, 1.0, self.gradient_J, trans_b=1, overwrite_c=1)
                dgemm(1.0, self.JT, scaled.T, 0.0, adjoint.T, overwrite_c=1)

    def _backward_trajectory(self, s):
        delta = np.multiply(self.h, self.row_sums, out=self.row_sums)
        delta *= -2
        for t in range(self.Tp - 1, 0, -1):
            delta[t] += self.p[t] * np.dot(self.JT, delta[t + 1])
        delta = delta[1:]
        self.gradients["J"][:] = self.gradient_J + np.dot(delta.T, self.h[:-1])
        self.gradients["b"][:] = delta.sum(axis=0)
        self.gradients["ws"][:, 0] = np.dot(s, delta)


def condition_number(R, diagonal):
    """LAPACK's estimate of the 1-norm condition number of the upper triangle of R; inf if there is none."""
    if not (diagonal.min() > 0 and diagonal.max() < np.inf):
        return np.inf
    reciprocal, _ = dtrcon(R)
    return 1 / reciprocal if reciprocal > 0 else np.inf


def next_length(length, condition, limit):
    """How many steps may follow, if the logarithm of the condition number grows as fast as in the last `length`."""
    if condition <= 1:
        return 2 * length
    return max(1, min(2 * length, int(length * math.log(limit) / math.log(condition))))


def even_length(remaining, longest):
    """Length of the first of as few and as equal segments as possible."""
    return math.ceil(remaining / math.ceil(remaining / longest))
