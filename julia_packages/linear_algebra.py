"""How many threads BLAS may use: at the sizes of the README call every thread beyond the first costs time."""

from contextlib import contextmanager

import scipy.linalg.blas  # noqa: F401  only libraries that are loaded can be limited, and SciPy brings its own BLAS
from threadpoolctl import threadpool_limits

SHARED_FLOPS = 10e6  # floating-point operations of a matrix product from which on it is long enough to share


@contextmanager
def blas_threads(N, columns=1):
    """Limit BLAS to one thread if the largest product of a step, N x N by N x columns, takes fewer than SHARED_FLOPS.

    columns: trials or exponents, the larger number. The user's setting returns on leaving the block. Below the limit, so
    at all sizes of the original (N = 80, 16 trials, up to 80 exponents: 1 MFLOP), no number depends on the cores that a
    machine has; above it, the last bits may. Two threads against one, measured on two cores that were busy otherwise:
    training at N = 320, 640, 1024 with 16 trials (3, 13, 34 MFLOP) 1.1 to 1.4, 1.0 to 1.5, 1.2 to 1.4 times as fast;
    flossing the full spectrum at N = 160, 240, 320 (8, 28, 66 MFLOP) 0.6, 0.9, 0.9 times, 320 exponents of N = 640 1.1.
    Entering and leaving cost about 0.5 ms (two libraries loaded): wrap a run, not a step.
    """
    with threadpool_limits(1 if 2 * N * N * columns < SHARED_FLOPS else None, user_api="blas"):
        yield
