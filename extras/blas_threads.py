from contextlib import nullcontext


def blas_threads(N):
    return nullcontext()
