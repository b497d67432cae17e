"""Lyapunov exponents and gradient flossing for any recurrent network in torch. One file, torch and NumPy only: copy it.

    import torch
    from flossing import floss, lyapunov_exponents, open_gates

    network = torch.nn.RNN(1, 80)  # with an nn.GRU or nn.LSTM, open_gates(network) first
    inputs = lambda: torch.randint(2, (55, 1, 1)).float()
    floss(network, inputs, k=75, steps=400, discard=16, spread=0.5)  # changes its parameters
    lyapunov_exponents(network, inputs(), k=10)  # (1, 10), 1/step

Gradient flossing (R. Engelken, "Gradient Flossing: Improving Gradient Descent through Dynamic Control of Jacobians",
NeurIPS 2023, arXiv 2312.17306) drives the Lyapunov exponents of a network towards zero by gradient descent, so that
gradients survive many time steps. With the Jacobian D_t of step t and a random orthonormal system Q_0 of k columns,

    D_t Q_{t-1} = Q_t R_t,    exponent i = mean over steps of ln|R_t[i, i]|.

The columns are tangents V (B, k, n) here, which go along with the state as if they were k more trials. Several steps share
a factorisation as long as the condition number of R costs the result no digits. torch differentiates all of it.
"""

import math
import sys
import warnings
from collections import namedtuple
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

FIRST_LENGTH = 6  # steps of the first segment, when no growth has been met yet
RANK_TOLERANCE = 10  # a column with |R_ii| below 10 n eps max|R_jj| is dependent; rounding alone gave up to 2 n eps
BLIND = 0.03  # _change of outputs / that of inputs: 0.002 to 0.008 in GRUs and LSTMs flossed blind, else 0.16 to 1.5
PREPARE_BYTES = 1e7  # of the tangents of all steps; above, coefficients of all steps at once would leave the cache
RECOMPUTE_BYTES = 5e7  # of the same; above, the backward pass, which needs five times that, recomputes the tangents
_DTYPES = (torch.float32, torch.float64)
_LAYERS = (nn.RNN, nn.RNNCell, nn.GRU, nn.GRUCell, nn.LSTM, nn.LSTMCell)

FlossingHistory = namedtuple("FlossingHistory", "loss exponents")
FlossingHistory.__doc__ = "loss (steps,) and exponents (steps, k), mean over trials, before each step; float64 arrays."


def lyapunov_exponents(network, inputs, k=None, *, state=None, discard=0, qr_every=1, seed=0, dtype=torch.float64):
    """First k Lyapunov exponents of every trial: tensor (B, k), 1/step, differentiable in parameters, inputs and state.

    network: nn.RNN, nn.GRU or nn.LSTM (not bidirectional), with inputs as the module takes them; their Cells, with inputs
        (T, B, I); or any callable (input (B, I), state) -> state or (output, state) that treats every trial alone, with
        inputs (T, B, I), or their number T if it has no input (it gets None). Of a larger model hand over the recurrent
        part and what it gets: `lyapunov_exponents(model.lstm, model.embedding(tokens))`. Subclasses, hooks, noise (the
        same for all tangents) and surrogate gradients count as they are, by way of the network's own forward pass.
    k: default all n, the size of the system's state: h of all layers, and c of an LSTM.
    state: initial state, as the module takes it (default zeros); a callable needs one, a tensor (B, ...) or a tuple of them.
    discard: first steps, in which the orthonormal system turns towards the directions of growth, not averaged.
    qr_every: steps per factorisation, fewer where digits would be lost; with 1, as many as lose none.
    seed: of the initial orthonormal system, the same for every trial; torch's own generator is not touched.
    dtype: of the arithmetic, torch.float64 or torch.float32, to which a module is converted for this call only; any other
        callable computes in the dtype of its state. Float32 will do for flossing where Float64 is slow: of default networks
        (80 and 256 units, 20 to 75 exponents) it changed exponents by up to 1e-4, gradients by less, except one (2 %).

    The result has the dtype and device of the network, and the order of the QR, descending up to fluctuations. ValueError
    for arguments that cannot be, and for a step whose Jacobian has a rank below k: it says how many exponents exist.
    FloatingPointError if the trajectory or its Jacobians are not finite.
    """
    return _simulate(network, inputs, k, state, discard, qr_every, seed, dtype)[0]


def flossing_loss(network, inputs, k, *, target=0.0, spread=None, **options):
    """mean((exponents - target)^2) over trials and exponents, a scalar tensor: to add to a loss, or to descend alone.

    target: a number or k of them, 1/step. options: those of lyapunov_exponents.
    spread: if given, mean((deviation - spread)^2) over trials and units is added, where deviation is the standard deviation
        of a unit's output over time. The exponents do not tell whether the input still reaches the network; this does.
    """
    return _loss(*_simulate(network, inputs, k, **options)[:2], target, spread)


def floss(network, inputs, k, *, steps, target=0.0, lr=1e-3, spread=None, callback=None, parameters=None, optimizer=None,
          **options):  # fmt: skip
    """Descend on flossing_loss, whose target, spread and options these are; the network's parameters change in place.

    inputs: as lyapunov_exponents takes them, or a function without arguments that returns those of the next step.
    callback: function (step, loss, exponents (k,)), called after each step; flossing ends if it returns True.
    parameters: as torch's optimisers take them, or a single tensor; default: all of the network that require a gradient.
    optimizer: a torch optimiser that has the parameters, instead of Adam with the step size lr.

    Returns the FlossingHistory of the steps done. If Ctrl-C or an error ends it, the network is left as it was at the last
    entry of that history: Ctrl-C returns it, an error names the step and has it as .history. RuntimeWarning at the
    end if the outputs of the last step hardly followed its inputs: exponents near 0 are then those of a blind network.
    """
    _check_integer("k", k, 1)
    _check_integer("steps", steps, 0)
    optimizer, parameters = _optimizer(network, parameters, optimizer, lr)
    gradients_of_user, good = [p.grad for p in parameters], [p.detach().clone() for p in parameters]
    losses, spectra, ends = [], [], (None, None)

    def evaluate():
        nonlocal good, ends
        exponents, outputs, seen = _simulate(network, batch, k, **options)
        loss = _loss(exponents, outputs, target, spread)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else [None]
        if all(g is None for g in gradients):
            raise ValueError("parameters must contain at least one that the exponents depend on")
        if not all(g.isfinite().all() for g in gradients if g is not None):
            raise FloatingPointError("the gradient is not finite")
        for p, g in zip(parameters, gradients):
            p.grad = g
        if len(losses) < step:  # LBFGS evaluates several times in a step
            good, ends = [p.detach().clone() for p in parameters], (outputs.detach(), seen)
            losses.append(loss.item())
            spectra.append(exponents.detach().mean(0).double().cpu().numpy())
        return loss

    history = lambda: FlossingHistory(np.array(losses), np.reshape(spectra, (-1, k)))  # noqa: E731
    try:
        for step in range(1, steps + 1):
            batch = inputs() if callable(inputs) else inputs
            optimizer.step(evaluate)
            if callback is not None and callback(step, losses[-1], spectra[-1]):
                break
    except BaseException as error:
        with torch.no_grad():
            for p, old in zip(parameters, good):
                p.copy_(old)
        if isinstance(error, KeyboardInterrupt):
            print(f"flossing interrupted in step {step} of {steps}", file=sys.stderr)
        else:
            error.history = history()
            if isinstance(error, (ValueError, ArithmeticError, RuntimeError)):
                error.args = (f"flossing step {step}: {error}",)
            raise
    finally:
        for p, g in zip(parameters, gradients_of_user):
            p.grad = g
    change, change_of_inputs = map(_change, ends)
    if change < BLIND * change_of_inputs:  # never for inputs that do not change
        warnings.warn(f"the network has gone blind: a step changes its outputs by only {change:.1g} of their size. Floss it "
                      "from its initial weights again, with open_gates(network) before if it has gates, and with spread=0.5",
                      RuntimeWarning, stacklevel=2)  # fmt: skip
    return history()


def open_gates(network, bias=3.0):
    """Open the gates of a GRU or LSTM to new input, in place: biases become +bias for r, i and o, -bias for z and f."""
    signs = {"GRU": (1, -1, 0), "LSTM": (1, -1, 0, 1)}.get(_kind(network))  # r z n; i f g o
    if not signs or not network.bias:
        raise ValueError(f"network must be an nn.GRU, nn.LSTM or Cell with biases, got {_describe(network)}")
    with torch.no_grad():
        for name, p in network.named_parameters():
            for gate, sign in zip(p.chunk(len(signs)), signs):
                if sign and name.startswith("bias"):
                    gate.fill_(sign * bias if name.startswith("bias_ih") else 0)


def _loss(exponents, outputs, target, spread):
    target = torch.as_tensor(target, dtype=exponents.dtype, device=exponents.device)
    if target.shape not in ((), exponents.shape[1:]):
        raise ValueError(f"target must be a number or {exponents.shape[1]} of them, got shape {tuple(target.shape)}")
    loss = ((exponents - target) ** 2).mean()
    return loss if spread is None else loss + ((outputs.std(0, correction=0) - spread) ** 2).mean().to(loss.dtype)


def _change(x):
    """Change of x (T, ...) from step to step, by its size (root mean squares); NaN of one step, or of what is no tensor."""
    x = x.detach().float() if isinstance(x, torch.Tensor) else torch.zeros(1)
    return float((x.diff(dim=0).square().mean() / x.square().mean()).sqrt())


def _optimizer(network, parameters, optimizer, lr):
    """The optimiser, and those of its parameters that can change."""
    if optimizer is None:
        parameters = network.parameters() if parameters is None and isinstance(network, nn.Module) else parameters
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters or [])
        optimizer = torch.optim.Adam(parameters, lr=lr) if parameters else None
    elif parameters is not None:
        raise ValueError("parameters must be None if an optimizer is given: it has its own")
    parameters = [p for group in (optimizer.param_groups if optimizer else []) for p in group["params"] if p.requires_grad]
    if not parameters:
        raise ValueError("parameters must be given for what is no nn.Module, and one at least must require a gradient")
    return optimizer, parameters


def _simulate(network, inputs, k, state=None, discard=0, qr_every=1, seed=0, dtype=torch.float64):
    """Exponents (B, k), the units' outputs at the averaged steps, (T - discard, B, units), and all inputs, time first."""
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype!r}")
    network = _unwrapped(network)
    with torch.autocast(inputs.device.type if isinstance(inputs, torch.Tensor) else "cpu", enabled=False):
        system = (_ClosedForm if _has_closed_form(network) else _Callable)(network, inputs, state, dtype)
        k = system.n if k is None else k
        _check_integer("k", k, 1, system.n, "the size of the system's state")
        _check_integer("discard", discard, 0, system.T - 1, f"one less than the {system.T} time steps of inputs")
        _check_integer("qr_every", qr_every, 1)
        _check_integer("seed", seed, 0)
        Q = _orthonormal_system(system.n, k, seed).to(system.state)
        return *_exponents(system, Q.mT.expand(len(system.state), -1, -1), discard, qr_every), system.inputs


def _exponents(system, V, discard, qr_every):
    """The QR iteration. V (B, k, n): the initial orthonormal system, as rows; returns exponents and outputs."""
    T, k, eps = system.T, V.shape[1], torch.finfo(V.dtype).eps
    limit = max(10 * torch.finfo(system.dtype).eps / eps, 4000)  # of a condition number
    longest = T if qr_every == 1 else qr_every
    length, t, state, states, log_R = min(FIRST_LENGTH, longest), 0, system.state, [], torch.zeros_like(V[..., 0])
    advance = system.advance
    size = T * V.numel() * V.element_size()
    if torch.is_grad_enabled() and size > RECOMPUTE_BYTES:
        advance = partial(_advance_and_recompute, advance, 2 * math.isqrt(T))
    elif size <= PREPARE_BYTES:
        system.prepare(k)
    while t < T and V.shape[1]:
        steps = (discard if t < discard else T) - t
        m = math.ceil(steps / math.ceil(steps / length))  # as few and as equal segments as possible
        new, W = advance(t, t + m, state, V)
        Q, R = torch.linalg.qr(W.mT)
        finite, R_finite, existing, condition = _judge(torch.stack(new), R, eps)
        length = min(longest, _next_length(m, condition, limit))
        if m > 1 and (condition > limit or existing < V.shape[1]):
            length = min(length, m - 1)
            continue
        if not (finite and R_finite):
            raise FloatingPointError(f"the {'Jacobian' if finite else 'state'} is not finite after time step {t + 1}")
        t, state, states, V, log_R = t + m, new[-1], states + new, Q.mT[:, :existing], log_R[:, :existing]
        if t > discard:
            log_R = log_R + R.diagonal(dim1=-2, dim2=-1)[:, :existing].abs().log()
    if V.shape[1] < k:
        raise ValueError(f"k must be at most {V.shape[1]} here, got {k}: the Jacobian loses rank along the trajectory "
                         f"(units that are off or saturated), and only {V.shape[1]} Lyapunov exponents exist")  # fmt: skip
    return (log_R / (T - discard)).to(system.dtype), torch.stack(states[discard:])[..., system.outputs]


def _advance_and_recompute(advance, m, first, last, state, V):
    """The same as `advance`, but keeps only the start of every m steps; the backward pass recomputes the rest."""
    states = [state]
    for t in range(first, last, m):
        new, V = checkpoint(advance, t, min(t + m, last), states[-1], V, use_reentrant=False)
        states += new
    return states[1:], V


@torch.no_grad()
def _judge(states, R, eps):
    """Are states finite, is R (B, k, k), how many columns are independent in all trials, R's largest condition number."""
    diagonal = R.diagonal(dim1=-2, dim2=-1).abs()
    largest = diagonal.amax(-1, keepdim=True)
    existing = (diagonal > RANK_TOLERANCE * R.shape[-1] * eps * largest).cumprod(-1).sum(-1).min()
    inverse = torch.linalg.solve_triangular(R, torch.eye(R.shape[-1], dtype=R.dtype, device=R.device), upper=True)
    condition = (torch.linalg.matrix_norm(R) * torch.linalg.matrix_norm(inverse)).max().nan_to_num(math.inf, math.inf)
    results = torch.stack([states.abs().amax().to(R.dtype), largest.amax(), existing.to(R.dtype), condition])
    *sizes, existing, condition = results.tolist()  # one transfer from the device
    return *map(math.isfinite, sizes), int(existing), condition


def _next_length(length, condition, limit):
    """Steps to try if log(condition) grows per step as it did over the last `length`, at most twice as many."""
    growth, allowed = math.log(max(condition, 1)) / length, math.log(limit)
    return 2 * length if 2 * length * growth <= allowed else max(1, int(allowed / growth))


def _orthonormal_system(n, k, seed):
    """Q of the QR of a Gaussian matrix (n, k); its first columns do not depend on k."""
    columns = np.random.default_rng(seed).standard_normal((k, n))
    return torch.linalg.qr(torch.as_tensor(columns, device="cpu").T)[0]


def _sech_squared(x):
    """sech(x)^2, also where 1 - tanh(x)^2 cancels."""
    return 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)


def _gru_vectors(x, h, old):
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x, h
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    not_z = torch.sigmoid(-x_z - h_z)  # 1 - z without cancellation
    n = x_n + r * h_n
    slope = not_z * _sech_squared(n)
    a_r, a_z = slope * h_n * r * torch.sigmoid(-x_r - h_r), (old[0] - torch.tanh(n)) * z * not_z
    return [[a_r, a_z, slope * r]], [[a_r, a_z, slope]], [z]


def _lstm_vectors(x, h, old):
    x_i, x_f, x_g, x_o = (a + b for a, b in zip(x, h))
    i, f, g, o = torch.sigmoid(x_i), torch.sigmoid(x_f), torch.tanh(x_g), torch.sigmoid(x_o)
    c = f * old[1] + i * g
    a_c = [g * i * torch.sigmoid(-x_i), old[1] * f * torch.sigmoid(-x_f), i * _sech_squared(x_g)]
    return [a_c, [torch.tanh(c) * o * torch.sigmoid(-x_o)]], [f, o * _sech_squared(c)]


def _lstm_tangents(sums, vectors, old):
    dc = torch.addcmul(sums[0], vectors[0], old[1])
    return [torch.addcmul(sums[1], vectors[1], dc), dc]


# A tangent of a layer, with gates g and their weights W_g of the hidden state h and U_g of the input x, moves as
#     sum_g a_g * (W_g dh) + sum_g e_g * (U_g dx),    and by terms of the old dh or dc,
# where dx is dh of the layer below. gates: how many stand in each sum; step: torch's kernel for the trajectory; vectors: of
# what every gate gets from x and from h, and the old state, (T, B, H) each: a by sums, e if it is not a, those of the terms.
_Cell = namedtuple("_Cell", "gates step vectors tangents")
_CELLS = {
    "tanh": _Cell([1], torch.rnn_tanh_cell, lambda x, h, _: ([[_sech_squared(x[0] + h[0])]], []), lambda sums, *_: sums),
    "relu": _Cell([1], torch.rnn_relu_cell, lambda x, h, _: ([[(x[0] + h[0] > 0).to(h[0])]], []), lambda sums, *_: sums),
    "GRU": _Cell([3], torch.gru_cell, _gru_vectors, lambda sums, z, old: [torch.addcmul(sums[0], z[0], old[0])]),
    "LSTM": _Cell([3, 1], torch.lstm_cell, _lstm_vectors, _lstm_tangents),
}


def _gated_sum(a, W, k):
    """Function (t, V (B, k, J)) -> sum_g a_g * (W_g V), (B, k, H), of m steps: a (m, B, G, H), W (G H, J)."""
    (m, B, G, H), steps = a.shape, a.unbind(0)
    if G == 1:
        return lambda t, V: linear(V, W) * steps[t]
    if 2 * k < H:  # more work for the matrices than for the tangents
        return lambda t, V: (linear(V, W).unflatten(-1, (G, H)) * steps[t][:, None]).sum(-2)
    M = torch.bmm(a.permute(3, 0, 1, 2).flatten(1, 2), W.view(G, H, -1).transpose(0, 1))  # (H, m B, J)
    M = M.unflatten(1, (m, B)).permute(1, 2, 3, 0).unbind(0)
    return lambda t, V: torch.bmm(V, M[t])


class _System:
    """What goes through time: inputs, T of them, and the state, a vector (n,) for each trial; outputs, a part of it."""

    def __init__(self, network, inputs, state, dtype):
        self.inputs, self.outputs, self.tuple, self.batch = inputs, slice(None), isinstance(state, (tuple, list)), 0
        parts = list(state) if self.tuple else [state]
        parts = self.parts_of_callable(network, parts) if _kind(network) is None else self.parts_of_layer(network, parts)
        if isinstance(network, nn.Module):
            self.convert = lambda x: x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x
            self.inputs, *parts = map(self.convert, (self.inputs, *parts))
        self.state, self.shapes = self.pack(parts), [part.movedim(self.batch, 0).shape for part in parts]
        self.T, self.n = len(self.inputs), self.state.shape[1]
        parameters = network.parameters() if isinstance(network, nn.Module) else [self.state]
        self.dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.get_default_dtype())
        if self.dtype not in _DTYPES:
            raise ValueError(f"network must have Float32 or Float64 parameters, got {self.dtype}")

    def parts_of_layer(self, network, parts):
        """For torch's layers: makes inputs (T, B, I), and says which dimension of the state's parts is the trials."""
        layers, H, x = (network.num_layers,) if isinstance(network, nn.RNNBase) else (), network.hidden_size, self.inputs
        if layers and network.bidirectional:
            raise ValueError("network must not be bidirectional: its state runs through time both ways")
        numbers = isinstance(x, torch.Tensor) and x.is_floating_point() and x.numel() and x.dim() in (2, 3)
        if not numbers or x.shape[-1] != network.input_size:
            raise ValueError(f"inputs must have the {network.input_size} channels of the network last, and at least one "
                             f"time step and trial before, in floating point, got {_describe(x)}")  # fmt: skip
        x = x[:, None] if x.dim() == 2 else x.transpose(0, 1) if layers and network.batch_first else x
        self.inputs, self.batch, self.tuple = x, len(layers), _kind(network) == "LSTM"
        sizes = [getattr(network, "proj_size", 0) or H, H] if self.tuple else [H]
        zeros = [x.new_zeros(*layers, x.shape[1], size) for size in sizes]
        if len(parts) == 1 and parts[0] is None:
            return zeros
        tensors = all(isinstance(part, torch.Tensor) for part in parts)
        parts = [part[..., None, :] if part.dim() == self.batch + 1 else part for part in parts] if tensors else parts
        if not tensors or [part.shape for part in parts] != [zero.shape for zero in zeros]:
            shapes = " and one of ".join(str(tuple(zero.shape)) for zero in zeros)
            raise ValueError(f"state must be a tensor of shape {shapes}, got {_describe(*parts)}")
        return [part.to(x.device) for part in parts]

    def parts_of_callable(self, network, parts):
        if not callable(network):
            raise ValueError(f"network must be an nn.RNN, nn.GRU, nn.LSTM, Cell or callable, got {_describe(network)}")
        if not parts or not all(isinstance(p, torch.Tensor) and p.dim() > 1 and p.dtype in _DTYPES for p in parts):
            raise ValueError("state must be a tensor (B, ...), or a tuple of them, of Float32 or Float64 (of a larger model "
                             f"hand over the recurrent layer and what it gets), got {_describe(*parts)}")  # fmt: skip
        x, B = self.inputs, len(parts[0])
        if not isinstance(x, torch.Tensor):
            _check_integer("inputs", x, 1)
            self.inputs = [None] * x
        elif x.dim() < 2 or x.shape[1] != B or not len(x):
            raise ValueError(f"inputs must have the shape (T, B, ...), T > 0, B = {B} as in state, got {_describe(x)}")
        return parts

    def prepare(self, k):
        """Do once, for k tangents, what `advance` would repeat every few steps."""

    def pack(self, parts):
        return torch.cat([part.movedim(self.batch, 0).flatten(1) for part in parts], 1)


class _ClosedForm(_System):
    """nn.RNN, nn.GRU, nn.LSTM or a Cell: the trajectory in advance, by torch's kernels, then tangents in closed form."""

    def __init__(self, network, inputs, state, dtype):
        super().__init__(network, inputs, state, dtype)
        self.cell, self.H, self.L = _CELLS[_kind(network)], network.hidden_size, getattr(network, "num_layers", 1)
        self.outputs = slice(self.L * self.H)  # h, not c
        x, self.layers, self.prepared = self.inputs.unbind(0), [], []
        for number in range(self.L):
            suffix, names = f"_l{number}" if self.batch else "", ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            weights = [self.convert(getattr(network, name + suffix, None)) for name in names]
            states = [self.state.split(self.H, -1)[number :: self.L]]
            for x_t in x:
                new = self.cell.step(x_t, states[-1] if self.tuple else states[-1][0], *weights)
                states.append(new if self.tuple else (new,))
            self.layers.append((x, states, *weights))
            x = [new[0] for new in states[1:]]
        steps = zip(*(states[1:] for _, states, *_ in self.layers))
        self.states = [torch.cat([part for parts in zip(*new) for part in parts], -1) for new in steps]

    def advance(self, first, last, state, V):
        """States (B, n) after each of the steps, a list, and the tangents (B, k, n) after the last of them."""
        below, pieces = [], list(V.split(self.H, -1))
        begin, layers = (0, self.prepared) if self.prepared else (first, self.coefficients(slice(first, last), V.shape[1]))
        for number, (from_h, from_x, vectors) in enumerate(layers):
            tangent, outputs = pieces[number :: self.L], []
            for t in range(first - begin, last - begin):
                sums = [f(t, tangent[0]) for f in from_h]
                if below:
                    sums = [s + f(t, below[len(outputs)]) for s, f in zip(sums, from_x)]
                tangent = self.cell.tangents(sums, [v[t] for v in vectors], tangent)
                outputs.append(tangent[0])
            below, pieces[number :: self.L] = outputs, tangent
        return self.states[first:last], torch.cat(pieces, -1)

    def prepare(self, k):
        """Compute the coefficients of all steps at once: faster, and they stay in memory."""
        self.prepared = self.coefficients(slice(0, self.T), k)

    def coefficients(self, steps, k):
        return [self.coefficients_of_layer(steps, k, number > 0, *layer) for number, layer in enumerate(self.layers)]

    def coefficients_of_layer(self, steps, k, below, x, states, W_ih, W_hh, b_ih, b_hh):
        """Of some steps: sums over W_hh; those over W_ih if there is a layer below; vectors of other terms."""
        x, old = torch.stack(x[steps]), [torch.stack(part) for part in zip(*states[steps])]
        x, h = (y.chunk(sum(self.cell.gates), -1) for y in (linear(x, W_ih, b_ih), linear(old[0], W_hh, b_hh)))
        *groups, vectors = self.cell.vectors(x, h, old)
        rows = [G * self.H for G in self.cell.gates]
        sums = lambda group, W: [_gated_sum(torch.stack(a, -2), W_g, k) for a, W_g in zip(group, W.split(rows))]  # noqa: E731
        from_x = sums(groups[-1], W_ih) if below else []
        return sums(groups[0], W_hh), from_x, [v[:, :, None].unbind(0) for v in vectors]


class _Callable(_System):
    """Any function (input, state) -> state or (output, state), with a forward pass of its own, differentiated by torch."""

    def __init__(self, network, inputs, state, dtype):
        super().__init__(network, inputs, state, dtype)
        self.call, self.forward_mode = network, True
        if isinstance(network, nn.Module):
            tensors = {name: self.convert(x) for name, x in (*network.named_parameters(), *network.named_buffers())}
            self.call = lambda *args: torch.func.functional_call(network, tensors, args)
        if self.batch:
            self.inputs = self.inputs.unsqueeze(2 if network.batch_first else 1)  # a sequence of one step

    def advance(self, first, last, state, V):
        states = []
        for x in self.inputs[first:last]:
            state, V = self.tangents(lambda vector: self.step(x, vector), state, V)  # noqa: B023
            states.append(state)
        return states, V

    def step(self, x, vector):
        """The next state as a vector (B, n)."""
        pieces = vector.split([shape[1:].numel() for shape in self.shapes], 1)
        parts = tuple(piece.reshape(shape).movedim(0, self.batch) for piece, shape in zip(pieces, self.shapes))
        with torch.backends.cudnn.flags(enabled=False):  # its recurrent layers can be differentiated only once
            result = self.call(x, parts if self.tuple else parts[0])
        for new in (result, *result[1:]) if isinstance(result, tuple) and len(result) == 2 else (result,):
            new = new if self.tuple and isinstance(new, (tuple, list)) else [new]
            if _describe(*new) == _describe(*parts):
                return self.pack(new)
        raise ValueError(f"network must return a state like the one it got, {_describe(*parts)}, or a pair (output, state), "
                         f"got {_describe(result)}")  # fmt: skip

    def tangents(self, step, state, V):
        """Next state (B, n) and tangents (B, k, n), by forward differentiation, or by two backward ones where it fails."""
        V = V.movedim(1, 0)
        if self.forward_mode:
            columns = torch.func.vmap(lambda v: torch.func.jvp(step, (state,), (v,)), 0, (None, 0), randomness="same")
            try:
                state, V = columns(V)
                return state, V.movedim(0, 1)
            except RuntimeError:  # a torch.autograd.Function without jvp; anything else that is wrong comes again below
                self.forward_mode = False
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            state = state if state.requires_grad else state.detach().requires_grad_()
            new = step(state)
            u = torch.zeros_like(new, requires_grad=True)
            options = dict(allow_unused=True, materialize_grads=True)
            Du = torch.autograd.grad(new, state, u, create_graph=True, **options)[0]  # D^T u, whose derivative is D
            V = torch.autograd.grad(Du, u, V, create_graph=differentiable, is_grads_batched=True, **options)[0]
        return (new if differentiable else new.detach()), V.movedim(0, 1)


def _unwrapped(network):
    """What is inside torch.compile, DataParallel and DistributedDataParallel."""
    if isinstance(network, torch.jit.ScriptModule):
        raise ValueError("network must not be a scripted module: hand over the module that was scripted")
    if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return _unwrapped(network.module)
    inner = getattr(network, "_orig_mod", getattr(network, "_torchdynamo_orig_callable", None))
    return network if inner is None else _unwrapped(inner)


def _kind(network):
    """Key of _CELLS for torch's recurrent layers and what inherits from them, None for all else."""
    name = next((layer.__name__.removesuffix("Cell") for layer in _LAYERS if isinstance(network, layer)), None)
    return network.nonlinearity if name == "RNN" else name


def _has_closed_form(network):
    """Is this one of torch's layers, with torch's forward and nothing that runs beside it?"""
    own = _kind(network) is not None and type(network).forward in [layer.forward for layer in _LAYERS]
    if not own or "forward" in vars(network) or network._forward_hooks or network._forward_pre_hooks:
        return False
    return not (getattr(network, "dropout", 0) and network.training or getattr(network, "proj_size", 0))


def _check_integer(name, value, minimum, maximum=math.inf, what=""):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not minimum <= value <= maximum:
        allowed = f"from {minimum} to {maximum}, {what}" if maximum < math.inf else f"of at least {minimum}"
        raise ValueError(f"{name} must be an integer {allowed}, got {value!r}")


def _describe(*values):
    """Dtype and shape of tensors, and of all else its value or kind."""
    tensor = lambda x: f"{x.dtype} tensor {tuple(x.shape)}".removeprefix("torch.")  # noqa: E731
    plain = lambda x: repr(x) if isinstance(x, (int, float, str)) else type(x).__name__  # noqa: E731
    return ", ".join((tensor if isinstance(x, torch.Tensor) else plain)(x) for x in values) or "()"
