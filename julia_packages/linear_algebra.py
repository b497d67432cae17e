"""How many threads a run may use: at the sizes of the README call every thread beyond the first costs time."""

import sys
from contextlib import nullcontext
from threading import Lock

import scipy.linalg.blas  # noqa: F401  only libraries that are loaded can be limited, and SciPy brings its own BLAS
from threadpoolctl import OpenBLASController, threadpool_limits

SHARED_FLOPS = 10e6  # floating-point operations of a matrix product from which on it is long enough to share


def blas_threads(N, columns=1):
    """Context that limits BLAS, and torch if it is loaded, to one thread if the largest product of a step is small.

    That product is N x N by N x columns (columns: trials or exponents, the larger number), and small below SHARED_FLOPS.
    On leaving the user's setting returns. At all sizes of the original (N = 80, 16 trials, up to 80 exponents: 1 MFLOP)
    no number depends on the cores that a machine has; above the limit the last bits may. Two threads against one,
    measured on two cores that were busy otherwise: training at N = 320, 640, 1024 with 16 trials (3, 13, 34 MFLOP)
    1.1 to 1.4, 1.0 to 1.5, 1.2 to 1.4 times as fast; flossing the full spectrum at N = 160, 240, 320 (8, 28, 66 MFLOP)
    0.6, 0.9, 0.9 times, 320 exponents of N = 640 1.1. By torch ten epochs of the README call took 1.6 s with one thread and
    62 s with two, which wait for each other. Entering and leaving cost about 0.5 ms: wrap a run, not a step.
    """
    return ONE_THREAD if 2 * N * N * columns < SHARED_FLOPS else nullcontext()


class OneThread:
    """One thread from the first entry to the last exit; runs in several threads of a program may overlap."""

    def __init__(self):
        self.lock, self.inside = Lock(), 0

    def __enter__(self):
        with self.lock:
            if self.inside == 0:  # BLAS has one setting for the whole program
                take_control_of_openblas()
                self.blas, self.torch_threads = threadpool_limits(1, user_api="blas"), None
            self.inside += 1
            torch = sys.modules.get("torch")  # it has a setting for each thread, and one for threads to come
            if hasattr(torch, "set_num_threads"):  # another thread may be importing it just now
                self.torch_threads = self.torch_threads or torch.get_num_threads()
                torch.set_num_threads(1)

    def __exit__(self, *exception):
        with self.lock:
            self.inside -= 1
            if self.torch_threads:
                sys.modules["torch"].set_num_threads(self.torch_threads)
            if self.inside == 0:
                take_control_of_openblas()
                self.blas.restore_original_limits()
                take_control_of_openblas()  # and leaves it to whoever comes next


def take_control_of_openblas():
    """Let this thread set BLAS's limit: threadpoolctl obeys only the first thread that did, which may have ended."""
    OpenBLASController.clear_controlling_thread(force=True)


ONE_THREAD = OneThread()
