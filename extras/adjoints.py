"""Hand-derived gradients of the training and the flossing loss, in NumPy, BLAS and LAPACK only.

Work arrays have the neuron last, (time, trial, neuron) or (time, exponent, neuron): each time slice is in memory Julia's
N x B or N x nLE matrix, and BLAS works on it without a copy.

Training, by backpropagation through time: with h_t = tanh(x_t), x_t = J h_{t-1} + b + ws s_t and r_t = wr x_t + offset,
dL/dr_t = (sigmoid(r_t) - y_t) / scored outputs. The adjoint delta_t = dL/dx_t runs backward, and each weight gradient is a
product over (time x trial):

    delta_t = wr^T dL/dr_t + (1 - h_t^2) * (J^T delta_{t+1}),        dL/dJ = sum_t delta_t h_{t-1}^T.

Flossing, by the adjoint of repeated QR factorisations: the Jacobians D_t = diag(p_t) J, p_t = sech(x_t)^2, carry an
orthonormal system along, D_t Q_{t-1} = Q_t R_t, and the Lyapunov exponents are the averages of log|diag R_t| (Engelken
2023, arXiv 2312.17306). Let A = Q R be such a factorisation, Qbar = dL/dQ as it comes from the later steps, and
w_i = dL/dlog|R_ii|. Then (Seeger et al. 2018, arXiv 1710.08717; Liao et al. 2019, PRX 9, 031041)

    Abar = dL/dA = (Qbar + Q sym(M)) R^-T,    M = diag(w) - Qbar^T Q,

where sym mirrors the lower triangle, as only the diagonal of R enters the loss. A square Q (nLE = N) has Q Q^T = 1, and
the bracket is Q times the lower triangle of Q^T Qbar - Qbar^T Q with the diagonal w. With A = diag(p) J Q' it follows that

    dL/dQ' = J^T diag(p) Abar,    dL/dJ += diag(p) Abar Q'^T,    p * dL/dp = rowsum(Abar * A),

and Abar A^T = (Qbar + Q sym(M)) Q^T gives the last one right after a factorisation. As dp/dx = -2 tanh(x) p, these row sums
drive the same recursion for dL/dx as above.

How often to orthonormalise: a segment of m steps, D_{t+m} ... D_{t+1} Q_t = Q_{t+m} R, gives the same sum of log|R_ii| as m
factorisations, each of which takes, with its adjoint, as long as three steps. But it loses digits with the condition number
of R, which grows exponentially with m. So the arithmetic is Float64, also for Float32 parameters, and a segment counts only
if LAPACK's estimate of that number stays below CONDITION_LIMIT; else it is cut at an earlier step, whose product is still
there. If a single step exceeds the limit, the call starts again with a factorisation at every step, as always for Float64
parameters. At the first README step (N = 80, nLE = 75) the error of dL/dJ, in units of its largest entry, is 1e-11 with one
step per segment, 4e-8 with six, 5e-6 with eight, 5e-2 with twelve (Float32, one step: torch 2e-3, the original 4e-3).
"""

import math

import numpy as np
from scipy.linalg.blas import dgemm, dgemv, dsymm, dtrmm, dtrsm
from scipy.linalg.lapack import dgeqrf, dorgqr, dtrcon

from extras.check_parameters import trainer
from julia_packages.base import sech_squared

BLOCK_BYTES = 2**19  # of an array over a block of time steps: a few of them fit a core's cache
CONDITION_LIMIT = 1e10  # 1-norm condition number of R up to which a segment of several steps counts
FIRST_LENGTH = 6  # steps of the first segment, when no growth has been met yet


class TrainingAdjoint:
    """Loss, accuracy and gradients of a training step: N neurons, T time steps, B trials; firstlossidx counts from 1."""

    def __init__(self, N, T, B, firstlossidx, dtype=np.float32):
        self.N, self.dtype, self.first = N, np.dtype(dtype), max(firstlossidx - 1, 0)
        self.scored_outputs = B * (T - firstlossidx + 1)
        self.h = np.empty((T + 1, B, N), dtype)  # tanh of the states, from the initial one on: nearly all of the memory
        self.drive = np.ones((T, B, 2), dtype)  # s, 1
        self.dr = np.zeros((T, B), dtype)  # dL/dr
        length = min(T, max(1, BLOCK_BYTES // self.h[0].nbytes))
        self.blocks = [(t, min(t + length, self.first)) for t in range(0, self.first, length)]  # (first, last + 1) step
        self.blocks += [(t, min(t + length, T)) for t in range(self.first, T, length)]  # the scored ones
        self.x, self.slope = np.empty((2, length, B, N), dtype)  # of a block: states, then adjoints delta; 1 - h^2
        # views of the time slices, made once: making one takes a tenth of the time of a step
        self.h_steps, self.x_steps, self.slope_steps = list(self.h), list(self.x), list(self.slope)

    def __call__(self, s, rtarg, ps):
        """s (T, 1, B), rtarg (T, 1, B), ps: dict of ws J wr b offset xInit -> loss, accuracy, dict of gradients."""
        ps = {name: np.ascontiguousarray(p, self.dtype) for name, p in ps.items()}
        loss, accuracy, gradients = self._forward(s, rtarg, ps)
        gradients |= self._backward(ps)
        return loss, accuracy, {name: np.array(gradients[name], self.dtype, order="C") for name in ps}

    def _forward(self, s, rtarg, ps):
        """Loss, accuracy, gradients of wr and offset; keeps h and dL/dr."""
        loss = hits = dwr = doffset = 0
        JT, product, add, tanh = ps["J"].T.copy(), np.empty_like(self.h[0]), np.add, np.tanh
        self.drive[:, :, 0] = s[:, 0]
        tanh(ps["xInit"].T, out=self.h[0])
        for start, end in self.blocks:
            states = self.x[: end - start].reshape(-1, self.N)
            np.dot(self.drive[start:end].reshape(-1, 2), np.stack([ps["ws"][:, 0], ps["b"]]), out=states)
            for h, x, h_next in zip(self.h_steps[start:end], self.x_steps, self.h_steps[start + 1 :]):
                h.dot(JT, product)
                add(x, product, x)
                tanh(x, h_next)
            if start >= self.first:
                losses, right, slopes = readout(states @ ps["wr"][0] + ps["offset"], np.reshape(rtarg[start:end], -1))
                dr = np.divide(slopes, self.scored_outputs, out=self.dr[start:end].reshape(-1))
                loss, hits = loss + losses.sum(dtype=np.float64), hits + np.count_nonzero(right)
                dwr, doffset = dwr + dr @ states, doffset + dr.sum(dtype=np.float64)
        return float(loss / self.scored_outputs), float(hits / self.scored_outputs), {"wr": [dwr], "offset": [doffset]}

    def _backward(self, ps):
        """Gradients of ws, J, b and xInit."""
        J, multiply, add = ps["J"], np.multiply, np.add
        dJ, dws_db = np.zeros_like(J), np.zeros((2, self.N))
        product = np.zeros_like(self.h[0])  # J^T delta_{t+1}
        for start, end in reversed(self.blocks):
            slope, delta = self.slope[: end - start], self.x[: end - start].reshape(-1, self.N)
            np.subtract(1, np.square(self.h[start + 1 : end + 1], out=slope), out=slope)
            np.dot(self.dr[start:end].reshape(-1, 1), ps["wr"], out=delta)
            for delta_t, slope_t in zip(self.x_steps[end - start - 1 :: -1], self.slope_steps[end - start - 1 :: -1]):
                multiply(product, slope_t, product)
                add(delta_t, product, delta_t)
                delta_t.dot(J, product)
            dJ += delta.T @ self.h[start:end].reshape(-1, self.N)
            dws_db += self.drive[start:end].reshape(-1, 2).T @ delta
        return {"ws": dws_db[:1].T, "J": dJ, "b": dws_db[1], "xInit": (product * (1 - self.h[0] ** 2)).T}


class FlossingAdjoint:
    """Loss, Lyapunov spectrum and gradients of a flossing step over Tp time steps, for the target Lwnt of all exponents.

    Q (N, nLE): initial orthonormal system. Memory in Float64: Tp N nLE numbers, and nLE^2 for every factorisation.
    After a call, segments lists the first and last step of each factorisation, of steps 0..Tp, and its R.
    """

    def __init__(self, N, Tp, nLE, Q, Lwnt, dtype=np.float32):
        self.N, self.Tp, self.nLE, self.Lwnt = N, Tp, nLE, float(Lwnt)
        self.dtype, self.first_length = np.dtype(dtype), FIRST_LENGTH if dtype == np.float32 else 1
        self.transient = min(trainer().discarded_steps(Tp), Tp)
        self.averaged_steps = Tp - self.transient
        self.h, self.p, self.row_sums = np.empty((3, Tp + 1, N))  # tanh, sech^2 of the trajectory; p * dL/dp, then dL/dx
        self.system = np.empty((Tp + 1, nLE, N))  # Q_t at the end of a segment, inside it D_t times the one before
        self.system[0] = np.transpose(Q)
        self.columns = [system.T for system in self.system]  # N x nLE

    def __call__(self, s, psFlossing, xInit):
        """s (>= Tp, 1, 1), psFlossing: dict of ws J b, xInit (N, B) -> loss, spectrum (nLE,), dict of gradients."""
        s = np.asarray(s[: self.Tp, 0, 0], np.float64)
        self.J = np.array(psFlossing["J"], np.float64, order="F")
        self.JT = self.J.T.copy(order="F")
        with np.errstate(all="ignore"):  # R_ii = 0 is an exponent of -inf
            self._trajectory(s, psFlossing, xInit)
            Lspectrum = self._spectrum(self.first_length)
            error = Lspectrum - self.Lwnt
            dJ = self._backward(2 * error / (self.nLE * self.averaged_steps))
            return float(np.mean(error**2)), Lspectrum.astype(self.dtype), self._backward_trajectory(s, dJ)

    def _trajectory(self, s, ps, xInit):
        x = np.empty((self.Tp + 1, self.N))
        x[0] = xInit[:, 0]
        x[1:] = np.multiply.outer(s, ps["ws"][:, 0]) + ps["b"]
        for x_now, h, x_next in zip(x, self.h, x[1:]):
            np.tanh(x_now, h)
            dgemv(1.0, self.J, h, 1.0, x_next, overwrite_y=1)
        np.tanh(x[-1], out=self.h[-1])
        self.p[:] = sech_squared(x)

    def _spectrum(self, first_length):
        """The exponents; keeps the products, orthonormal systems and R for the way back."""
        log_R, lwork = np.zeros(self.nLE), 64 * self.nLE  # LAPACK works in blocks only if there is room for them
        self.segments, start, computed, length = [], 0, 0, first_length
        while start < self.Tp:
            left = (self.transient if start < self.transient else self.Tp) - start  # steps; the transient ends a segment
            end = start + math.ceil(left / math.ceil(left / length))  # as few and as equal segments as possible
            for t in range(computed + 1, end + 1):
                dgemm(1.0, self.J, self.columns[t - 1], 0.0, self.columns[t], overwrite_c=1)
                np.multiply(self.system[t], self.p[t], out=self.system[t])
            reflectors, tau, _, _ = dgeqrf(self.columns[end], lwork=lwork)
            R = reflectors[: self.nLE].copy(order="F")  # its upper triangle
            diagonal = np.abs(R.diagonal())
            if first_length > 1:
                condition = condition_number(R, diagonal)
                length = next_length(end - start, condition)
                if condition > CONDITION_LIMIT:
                    if end - start == 1:
                        return self._spectrum(first_length=1)
                    computed, length = end, min(length, end - start - 1)
                    continue
            self.system[end] = dorgqr(reflectors, tau, lwork=lwork, overwrite_a=1)[0].T
            if end > self.transient:
                log_R += np.log(diagonal)
            self.segments.append((start, end, R))
            start = computed = end
        return log_R / self.averaged_steps

    def _backward(self, w):
        """dL/dJ through the Jacobians; keeps the row sums."""
        adjoint, dJ = np.zeros((self.nLE, self.N)), np.zeros((self.N, self.N), order="F")
        # diag(p) Abar of a block of steps, several only where one is too small for a quick product
        scaled = np.empty((min(self.Tp, max(1, BLOCK_BYTES // (64 * adjoint.size))), self.nLE, self.N))
        for start, end, R in reversed(self.segments):
            # adjoint is Qbar here, becomes Qbar + Q sym(M), then Abar
            Q = self.columns[end]
            sym = dgemm(-1.0, adjoint.T, Q, trans_a=1)
            if self.nLE == self.N:
                sym -= sym.T.copy()
            np.einsum("ii->i", sym)[:] += w if end > self.transient else 0
            if self.nLE == self.N:
                adjoint = dtrmm(1.0, sym, Q, side=1, lower=1).T
            else:
                dsymm(1.0, sym, Q, 1.0, adjoint.T, side=1, lower=1, overwrite_c=1)
            for t in range(end, start, -1):
                np.einsum("kn,kn->n", adjoint, self.system[t], out=self.row_sums[t])
                if t == end:
                    dtrsm(1.0, R, adjoint.T, side=1, trans_a=1, overwrite_b=1)
                place = (t - 1) % len(scaled)
                np.multiply(adjoint, self.p[t], out=scaled[place])
                dgemm(1.0, self.JT, scaled[place].T, 0.0, adjoint.T, overwrite_c=1)
                if place == 0:  # the block is whole
                    before = self.system[t - 1 : min(t - 1 + len(scaled), self.Tp)].reshape(-1, self.N)
                    after = scaled.reshape(-1, self.N)[: len(before)]
                    dgemm(1.0, after.T, before.T, 1.0, dJ, trans_b=1, overwrite_c=1)
        return dJ

    def _backward_trajectory(self, s, dJ):
        """Gradients of ws, J and b, of which dJ comes from the Jacobians."""
        delta = self.row_sums
        delta *= -2 * self.h
        for delta_t, p, delta_next in zip(delta[-2:0:-1], self.p[-2:0:-1], delta[:1:-1]):
            delta_t += p * dgemv(1.0, self.JT, delta_next)
        delta = delta[1:]
        dJ = dgemm(1.0, delta.T, self.h[:-1].T, 1.0, dJ, trans_b=1, overwrite_c=1)
        gradients = {"ws": (s @ delta)[:, None], "J": dJ, "b": delta.sum(axis=0)}
        return {name: np.array(g, self.dtype, order="C") for name, g in gradients.items()}


def readout(r, y):
    """Binary cross-entropy of the logits r, whether they are right, and the derivative sigmoid(r) - y."""
    decay = np.exp(-np.abs(r))  # of the overflow-safe sigmoid and of its logarithm
    sigmoid = np.where(r >= 0, 1, decay) / (1 + decay)
    losses = (1 - y) * r - np.minimum(r, 0) + np.log1p(decay)
    return losses, (sigmoid >= 0.5) == y, sigmoid - y  # not r >= 0: the sigmoid of a tiny negative r rounds to 0.5


def condition_number(R, diagonal):
    """LAPACK's estimate of the 1-norm condition number of the upper triangle of R; inf for a singular or non-finite one."""
    reciprocal = dtrcon(R)[0] if diagonal.min() > 0 and diagonal.max() < np.inf else 0
    return 1 / reciprocal if reciprocal > 0 else np.inf


def next_length(length, condition):
    """Steps to try if log(condition) grows per step as it did over the last `length`, at most twice as many."""
    growth = math.log(max(condition, 2)) / length
    return max(1, min(2 * length, int(math.log(CONDITION_LIMIT) / growth)))
