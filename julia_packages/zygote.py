"""What the original takes from Zygote 0.5.1: the gradient of a loss with respect to several arrays.

Stands for `using Zygote: gradient` (ex.jl:3) of RainerEngelken/GradientFlossing at commit 324d2a0; done here by
torch's automatic differentiation.
"""

import torch


def gradient(loss_function, ps):
    """Value and gradient of a scalar loss with respect to named arrays.

    loss_function: takes a dict of torch tensors with the names of ps, returns a scalar tensor.
    ps: dict of NumPy arrays, left as they are.
    Returns the value (float) and a dict of NumPy arrays (zeros for an array that the loss does not depend on).
    """
    tensors = {name: torch.tensor(x, requires_grad=True) for name, x in ps.items()}
    loss = loss_function(tensors)
    gs = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True, materialize_grads=True)
    return loss.item(), {name: g.numpy() for name, g in zip(tensors, gs)}
