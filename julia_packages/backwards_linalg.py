"""What the original takes from BackwardsLinalg 0.1.1: a QR factorisation that can be differentiated.

Stands for `using BackwardsLinalg` (ex.jl:1) of RainerEngelken/GradientFlossing at commit 324d2a0.
"""

import torch


def qr(A):
    """QR factorisation A = Q R of a torch tensor, with LAPACK's signs (the diagonal of R may be negative).

    A: (N, k) with k <= N. Returns Q (N, k) and R (k, k). The gradient is
    Abar = (Qbar + Q copyltu(M)) R^-T with M = R Rbar^T - Qbar^T Q, where copyltu mirrors the lower triangle
    (Seeger et al. 2018, arXiv 1710.08717; Liao et al. 2019, PRX 9, 031041). torch has it built in.
    """
    return torch.linalg.qr(A, mode="reduced")
