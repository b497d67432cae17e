"""What the original takes from Zygote 0.5.1: the gradient of a loss with respect to several arrays.

Stands for `using Zygote: gradient` (ex.jl:3) of RainerEngelken/GradientFlossing at commit 324d2a0; done here by
torch's automatic differentiation.
"""

import torch


def gradient(loss_function, ps, *data):
    """Value and gradient of a scalar loss with respect to named arrays, and what else its function returns.

    loss_function(ps, *data): takes torch tensors in place of the arrays, returns a scalar tensor and anything else.
    ps: dict of NumPy arrays, left as they are; data: NumPy arrays.
    Returns the loss (float), whatever else there was, and a dict of arrays (zeros where the loss ignores one).
    """
    tensors = {name: torch.tensor(x, requires_grad=True) for name, x in ps.items()}
    loss, more = loss_function(tensors, *map(torch.as_tensor, data))
    gs = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True, materialize_grads=True)
    return loss.item(), more, {name: g.numpy() for name, g in zip(tensors, gs)}
