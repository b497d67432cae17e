"""What the original takes from Flux 0.11.3: optimisers, data loader, binary cross-entropy.

Stands for `using Flux`, `Flux.Data: DataLoader` and `Flux.Losses.logitbinarycrossentropy` (ex.jl:1-2, 6) of
RainerEngelken/GradientFlossing at commit 324d2a0, under the names that Flux gives them.

As in Flux, an optimiser is applied to one array at a time. `apply(x, d)` turns the gradient d of the array x,
IN PLACE, into the step that `update` subtracts from x, in place too. The optimiser keeps its state by the
identity of x. Coefficients are Float64 and arrays Float32, so every formula is evaluated in Float64 and rounded
when it is stored, as Julia's broadcasting does.
"""

import numpy as np

from julia_packages.base import library

EPSILON = 1e-8  # Flux's ϵ


class ClipNorm:
    """Scale a gradient d down to the 2-norm `thresh` if it is longer, each array by its own norm.

    thresh: largest 2-norm of one array, a Float32 in the original (0.03f0).
    """

    def __init__(self, thresh):
        self.thresh = float(np.float32(thresh))

    def apply(self, x, d):
        norm = float(np.sqrt(np.sum(np.square(d, dtype=np.float64))))
        if norm > self.thresh:
            d *= d.dtype.type(self.thresh / norm)
        return d


class ADAM:
    """ADAM (Kingma & Ba 2015, algorithm 1) for each array, with its own step counter per array.

    eta: step size; beta: decay rates (first moment, second moment).
    state: id(x) -> (mt, vt, βp), the moments in the type of x and the powers of beta for the next step.
    """

    def __init__(self, eta=0.001, beta=(0.9, 0.999)):
        self.eta = float(eta)
        self.beta = (float(beta[0]), float(beta[1]))
        self.state = {}

    def apply(self, x, d):
        b1, b2 = self.beta
        mt, vt, (b1p, b2p) = self.state.get(id(x)) or (np.zeros_like(x), np.zeros_like(x), self.beta)
        m, v = mt.astype(np.float64), vt.astype(np.float64)  # and in place from here on: this takes half the time
        m *= b1
        m += np.multiply(d, 1 - b1, dtype=np.float64)
        v *= b2
        v += np.square(d, dtype=np.float64) * (1 - b2)
        mt[...], vt[...] = m, v
        m[...], v[...] = mt, vt  # what was stored, not what was rounded away
        m /= 1 - b1p
        v /= 1 - b2p
        np.sqrt(v, out=v)
        v += EPSILON
        m /= v
        m *= self.eta
        d[...] = m
        self.state[id(x)] = (mt, vt, (b1p * b1, b2p * b2))
        return d


class WeightDecay:
    """Add `wd` times the array to its step."""

    def __init__(self, wd=0):
        self.wd = wd

    def apply(self, x, d):
        d += self.wd * x
        return d


class Optimiser:
    """Apply several optimisers one after another."""

    def __init__(self, *optimisers):
        self.os = list(optimisers)

    def apply(self, x, d):
        for o in self.os:
            d = o.apply(x, d)
        return d


def ADAMW(eta=0.001, beta=(0.9, 0.999), decay=0):
    """ADAM followed by weight decay (not scaled by the step size), as Flux 0.11 composes it."""
    return Optimiser(ADAM(eta, beta), WeightDecay(decay))


def update(opt, ps, gs):
    """Subtract the optimiser's step from every array, in place: `Flux.update!`.

    ps: dict of arrays; gs: dict of their gradients, which hold the STEPS afterwards (as in Flux).
    """
    for name, x in ps.items():
        x -= opt.apply(x, gs[name])


class DataLoader:
    """Iterate over mini-batches along the last dimension of several arrays.

    arrays: tuple of arrays (..., n); batchsize: trials per batch, the last batch may be smaller;
    rng: generator with `.shuffled_indices(n)`, needed if shuffle. Each iteration draws one new order.
    """

    def __init__(self, arrays, batchsize=1, shuffle=False, rng=None):
        self.arrays, self.batchsize, self.shuffle, self.rng = arrays, batchsize, shuffle, rng

    def __iter__(self):
        n = self.arrays[0].shape[-1]
        order = self.rng.shuffled_indices(n) if self.shuffle else np.arange(n)
        for start in range(0, n, self.batchsize):
            yield tuple(a[..., order[start : start + self.batchsize]] for a in self.arrays)


def sigmoid(r):
    return np.exp(logsigmoid(r)) if library(r) is np else r.sigmoid()


def logsigmoid(r):
    return -np.logaddexp(0, -r) if library(r) is np else library(r).nn.functional.logsigmoid(r)


def logitbinarycrossentropy(r, y, agg):
    """agg((1 - y) r - log σ(r)): binary cross-entropy of the logits r, arrays or tensors (Flux.Losses)."""
    return agg((1 - y) * r - logsigmoid(r))
