"""What the state of a driven network knows of its past input: single bits, XORs of pairs; and how far gradients reach.

All that is looked at are the states (T, B, n) after each of T steps in B trials and the inputs (T, B) of these steps, so
any network will do. What is known is what a linear readout of the state gives. Its weights are fitted by least squares to
the first half of the time steps, and judged by the second half:

    R^2 = 1 - (mean squared error) / (variance of what is to be read),  or 0 where that is negative.
"""

import numpy as np

NOISE = 1e-3  # standard deviation of noise at each unit that a readout must bear: without it 1e-15 of a state could be read


def memory(states, inputs, lags):
    """R^2 (len(lags),) of the input of each lag: 0 is that of the last step. Their sum is the memory, in inputs (bits).

    states (T, B, n), inputs (T, B), lags: integers >= 0, in steps. ValueError if a state is not finite, if what is to be
    read does not vary, or if too few steps have so long a past: half of them, times B, must exceed n.
    """
    return r_squared(states, past(states, inputs, lags))


def xor_memory(states, inputs, delays):
    """R^2 (len(delays),) of the XOR of the bits delay and 2 * delay steps ago, the target of the delayed XOR task.

    inputs: bits, 0 or 1; delays: integers >= 1, in steps; else as for memory().
    """
    recent, earlier = np.split(past(states, inputs, [*delays, *(2 * delay for delay in delays)]), 2, axis=-1)
    return r_squared(states, np.abs(recent - earlier))


def gradient_norm(jacobians, steps):
    """Root mean square of the singular values of d h_t / d h_(t - steps), over all of them and over t: 1 if nothing fades.

    jacobians (T, n, n): d h_t / d h_(t-1) along one trial; steps: from 1 to T.
    """
    product, T = jacobians, len(jacobians)
    for step in range(1, steps):
        product = jacobians[step:] @ product[: T - step]
    return np.sqrt((product**2).sum(axis=(1, 2)).mean() / product.shape[1])


def past(states, inputs, lags):
    """The inputs of each lag, (t, B, len(lags)), seen from the last t steps: those before which all of them were shown."""
    (T, B, n), first = states.shape, max(lags)
    if (T - first) // 2 * B <= n:
        raise ValueError(f"states: {T} steps of {B} trials are too few for a lag of {first} and {n} units")
    return np.stack([inputs[first - lag : T - lag] for lag in lags], axis=-1)


def r_squared(states, targets):
    """R^2 (m,) of linear readouts of the targets (t, B, m) from the last t of the states (T, B, n)."""
    t, B, _ = targets.shape
    fitted = t // 2 * B
    (X, X_new), (y, y_new) = (np.split(a[-t:].reshape(t * B, -1), [fitted]) for a in (states, targets))
    if not (np.isfinite(states).all() and y_new.std(axis=0).all()):
        raise ValueError("states, inputs: states must be finite, and what is to be read must vary")
    mean, level = X.mean(axis=0), y.mean(axis=0)
    U, s, Vt = np.linalg.svd(X - mean, full_matrices=False)
    weights = Vt.T @ ((s / (s**2 + NOISE**2 * fitted))[:, None] * (U.T @ (y - level)))
    error = y_new - level - (X_new - mean) @ weights
    return np.maximum(1 - (error**2).mean(axis=0) / y_new.var(axis=0), 0)
