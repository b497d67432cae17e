"""How many threads BLAS may use: at the sizes of the README call every thread beyond the first costs time."""

from contextlib import contextmanager

import scipy.linalg.blas  # noqa: F401  only libraries that are loaded can be limited, and SciPy brings its own BLAS
from threadpoolctl import threadpool_limits

LARGE_N = 512  # neurons from which on a matrix product is long enough to share


@contextmanager
def blas_threads(N):
    """Limit BLAS to one thread for fewer than LARGE_N neurons; the user's setting returns on leaving the block.

    Entering and leaving cost about 1 ms (two libraries loaded): wrap a run, not a step.
    """
    with threadpool_limits(1 if N < LARGE_N else None, user_api="blas"):
        yield
