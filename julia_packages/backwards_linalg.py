"""What the original takes from BackwardsLinalg 0.1.1: a QR factorisation that can be differentiated.

Stands for `using BackwardsLinalg` (ex.jl:1) of RainerEngelken/GradientFlossing at commit 324d2a0.
"""

from julia_packages.base import library


def qr(A):
    """QR factorisation A = Q R with LAPACK's signs (the diagonal of R may be negative), by the library of A.

    A: (N, k) with k <= N, array or tensor. Returns Q (N, k) and R (k, k). The gradient that torch has of it is
    Abar = (Qbar + Q copyltu(M)) R^-T with M = R Rbar^T - Qbar^T Q, where copyltu mirrors the lower triangle
    (Seeger et al. 2018, arXiv 1710.08717; Liao et al. 2019, PRX 9, 031041).
    """
    return library(A).linalg.qr(A, mode="reduced")
