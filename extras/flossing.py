"""Lyapunov exponents and gradient flossing for any recurrent network in torch. One file, torch and NumPy only: copy it.

    from flossing import floss, lyapunov_exponents

    network = torch.nn.GRU(1, 80)
    floss(network, lambda: torch.randint(2, (55, 1, 1)).float(), k=75, steps=500, discard=16)  # changes its parameters
    lyapunov_exponents(network, inputs, k=10)                                                  # (B, 10), 1/step

Gradient flossing (R. Engelken, "Gradient Flossing: Improving Gradient Descent through Dynamic Control of Jacobians",
NeurIPS 2023, arXiv 2312.17306) drives the Lyapunov exponents of a network towards zero by gradient descent, so that
gradients survive many time steps. The state of the system is everything that the network carries on from step to step:
the hidden states of all layers, and for an LSTM the cell states too. With the Jacobian D_t of one step of that state,

    D_t Q_{t-1} = Q_t R_t,    exponent i = mean over steps of log|R_t[i, i]|,

where Q_0 is a random orthonormal system of k columns. Exponents are natural logarithms per step.

The Jacobians of nn.RNN, nn.GRU, nn.LSTM and their Cells stand here in closed form. In a layer with the hidden state h
(and the cell state c of an LSTM), G gates, and weights W_g of the hidden state and U_g of the input x, a tangent moves

    as  dh' (and dc') = sum_g a_g * (W_g dh) + sum_g e_g * (U_g dx) + d * (dh of a GRU, dc of an LSTM)

with vectors a_g, e_g and d that the cells' formulae give; dx is the tangent dh' of the layer below. The way back is one
sweep through the QR chain, with the adjoint of A = Q R: for Qbar = dL/dQ and w_i = dL/dlog|R_ii|,

    dL/dA = (Qbar + Q sym(M)) R^-T,    M = diag(w) - Qbar^T Q,    sym mirrors the lower triangle

(Seeger et al. 2018, arXiv 1710.08717; Liao et al. 2019, PRX 9, 031041), then through the trajectory with the Jacobians
that are there anyway. A factorisation may stand for several steps, since a product of triangular matrices is
triangular: the arithmetic is Float64 throughout, and steps of a Float32 network share one as long as the condition
number of R leaves more digits than Float32 has. The result can be differentiated once, not twice.

Times and memory: example_code/experiments/own_network.py of the project that this file comes from.
"""

import math
import sys
from collections import namedtuple

import numpy as np
import torch

CONDITION_LIMIT = 1e10  # condition number of R up to which steps of a Float32 network share a factorisation
FIRST_LENGTH = 6  # steps of the first segment, when no growth has been met yet
RANK_TOLERANCE = 10  # a column with |R_ii| below 10 n eps max|R_jj| is dependent; rounding alone gave up to 2 n eps
CHUNK_BYTES = 2**22  # of Jacobians held at once

FlossingHistory = namedtuple("FlossingHistory", "loss exponents")
FlossingHistory.__doc__ = "loss (steps,) and exponents (steps, k), mean over trials, before each step; float64 arrays."


# ------------------------------------------------------------------ what one calls


def lyapunov_exponents(network, inputs, k=None, *, state=None, discard=0, qr_every=1, seed=0):
    """First k Lyapunov exponents of every trial: tensor (B, k), 1/step, differentiable in parameters, inputs and state.

    network: nn.RNN, nn.GRU or nn.LSTM (not bidirectional, no proj_size, no dropout at work), with inputs as the module
        takes them; nn.RNNCell, nn.GRUCell or nn.LSTMCell, with inputs (T, B, I); or any callable
        (input (B, I), state (B, n)) -> state (B, n) that treats every trial alone, with inputs (T, B, I).
    k: at most n, the size of the system's state; None: all n.
    state: initial state, as the module takes it (default zeros); a callable needs one, (B, n).
    discard: first steps, in which the orthonormal system turns towards the directions of growth, not averaged.
    qr_every: steps per factorisation. With 1, steps of a Float32 network share one where no digits are lost.
    seed: of the initial orthonormal system, the same for every trial; torch's own generator is not touched.

    Float32 or Float64, on the device of the network. They come in the order of the QR: descending, up to fluctuations.
    ValueError for arguments that cannot be, and for a step whose Jacobian has a rank below k: it says how many
    exponents exist. FloatingPointError if the trajectory or its Jacobians are not finite.
    """
    if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
        raise ValueError(f"inputs must be a tensor of floating-point numbers, got {_describe(inputs)}")
    system = _system(network, inputs, state)
    T, n = len(system.inputs), system.n
    k = n if k is None else k
    _check_integer("k", k, 1, n, "the size of the system's state")
    if T < 1:
        raise ValueError(f"inputs must have at least one time step, got shape {tuple(inputs.shape)}")
    _check_integer("discard", discard, 0, T - 1, f"one less than the {T} time steps of inputs")
    _check_integer("qr_every", qr_every, 1)
    _check_integer("seed", seed, 0)
    Q = _orthonormal_system(n, k, seed)
    return _exponents(system, Q, discard, qr_every)


def flossing_loss(network, inputs, k, *, target=0.0, **options):
    """mean((exponents - target)^2) over trials and exponents, a scalar tensor: to add to a loss, or to descend alone.

    target: a number or k of them, 1/step; options: those of lyapunov_exponents.
    """
    return _loss(lyapunov_exponents(network, inputs, k, **options), target)


def floss(network, inputs, k, *, steps, target=0.0, lr=1e-3, parameters=None, optimizer=None, progress=True, **options):
    """Drive the first k Lyapunov exponents of the network towards target; its parameters change in place.

    inputs: a tensor, or a function without arguments that returns the batch of the next step.
    parameters: what changes; default: all parameters of the network that require a gradient (of an nn.RNN, nn.GRU or
        nn.LSTM the recurrent weights, the input weights and the biases).
    optimizer: a torch optimiser of the parameters, instead of Adam with the step size lr.
    progress: print how far it is; options: state, discard, qr_every and seed of lyapunov_exponents.

    Returns FlossingHistory(loss (steps,), exponents (steps, k)). If something is not finite, or an exponent does not
    exist, FloatingPointError or ValueError names the step, and the parameters are what they were before the call.
    """
    _check_integer("steps", steps, 0)
    if optimizer is None:
        parameters = _parameters(network, parameters)
        optimizer = torch.optim.Adam(parameters, lr=lr)
    elif parameters is not None:
        raise ValueError("parameters must be None if an optimizer is given: it has its own")
    else:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    losses, spectra = [], []
    try:
        for step in range(1, steps + 1):
            batch = inputs() if callable(inputs) else inputs
            try:
                exponents = lyapunov_exponents(network, batch, k, **options)
                loss = _loss(exponents, target)
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                if not all(g is None or g.isfinite().all() for g in gradients):
                    raise FloatingPointError("the gradient is not finite")
            except (FloatingPointError, ValueError) as error:
                raise type(error)(f"flossing step {step}: {error}") from error
            for p, g in zip(parameters, gradients):
                p.grad = g
            optimizer.step()
            losses.append(loss.item())
            spectra.append(exponents.detach().mean(0).double().cpu().numpy())
            if progress:
                _print_progress(step, steps, losses[-1])
    except (FloatingPointError, ValueError):
        with torch.no_grad():
            for p, old in zip(parameters, before):
                p.copy_(old)
        raise
    finally:
        for p in parameters:
            p.grad = None
    return FlossingHistory(np.array(losses), np.array(spectra).reshape(len(losses), k))


def _loss(exponents, target):
    return ((exponents - torch.as_tensor(target, dtype=exponents.dtype, device=exponents.device)) ** 2).mean()


def _parameters(network, parameters):
    if parameters is None:
        if not isinstance(network, torch.nn.Module):
            raise ValueError(f"parameters must be given for a network that is no nn.Module, got {_describe(network)}")
        parameters = network.parameters()
    parameters = [p for p in parameters if p.requires_grad]
    if not parameters:
        raise ValueError("parameters must contain at least one tensor that requires a gradient, got none")
    return parameters


def _print_progress(step, steps, loss):
    """On a terminal one line that is rewritten, elsewhere some ten lines."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    if terminal or step == steps or step % max(1, steps // 10) == 0:
        print(f"{chr(13) * terminal}flossing {step}/{steps}  loss {loss:<9.3g}",
              end="\n" if step == steps or not terminal else "", flush=True)  # fmt: skip


# ------------------------------------------------------------------ networks, and what is refused

# T x B x I inputs and B x n state, Float64; layers: of _Layer. Or a callable, in its own dtype.
_System = namedtuple("_System", "inputs state n layers network dtype")
# kind: key of _CELLS. Float64 weights as torch has them: input (G H, I), hidden (G H, H), biases (G H,) or None.
_Layer = namedtuple("_Layer", "kind W_ih W_hh b_ih b_hh")


def _system(network, inputs, state):
    kind = _kind(network)
    if kind is None:
        if not callable(network):
            raise ValueError(f"network must be an nn.RNN, nn.GRU, nn.LSTM, Cell or callable, got {_describe(network)}")
        return _system_of_callable(network, inputs, state)
    dtype = network.weight_hh_l0.dtype if isinstance(network, torch.nn.RNNBase) else network.weight_hh.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"network must have Float32 or Float64 parameters, got {dtype}")
    if isinstance(network, torch.nn.RNNBase):
        _check_module(network)
        suffixes = [f"_l{layer}" for layer in range(network.num_layers)]
    else:
        suffixes = [""]
    names = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * bool(network.bias)
    layers = []
    for suffix in suffixes:
        weights = [getattr(network, name + suffix).double() for name in names]
        layers.append(_Layer(kind, *weights, *[None] * (4 - len(weights))))
    batched = inputs.dim() == 3
    if inputs.dim() not in (2, 3) or inputs.shape[-1] != network.input_size:
        raise ValueError(f"inputs must have the {network.input_size} channels of the network last, "
                         f"and time and trials before, got shape {tuple(inputs.shape)}")  # fmt: skip
    inputs = inputs.double() if batched else inputs.double()[:, None]
    if batched and getattr(network, "batch_first", False):
        inputs = inputs.transpose(0, 1)
    B, H, parts = inputs.shape[1], network.hidden_size, _CELLS[kind].parts
    n = len(layers) * parts * H
    return _System(inputs, _initial_state(state, len(layers), B, H, parts, inputs), n, layers, None, dtype)


def _kind(network):
    if isinstance(network, (torch.nn.RNN, torch.nn.RNNCell)):
        return f"RNN {network.nonlinearity}"
    if isinstance(network, (torch.nn.GRU, torch.nn.GRUCell)):
        return "GRU"
    if isinstance(network, (torch.nn.LSTM, torch.nn.LSTMCell)):
        return "LSTM"
    return None


def _check_module(network):
    if network.bidirectional:
        raise ValueError("network must not be bidirectional: its state runs through time both ways")
    if network.proj_size:
        raise ValueError(f"network must have proj_size 0, got {network.proj_size}")
    if network.dropout and network.training:
        raise ValueError(f"network must have dropout 0 or be in evaluation mode, got dropout {network.dropout}")


def _initial_state(state, L, B, H, parts, inputs):
    """(B, n): of layer after layer the hidden state and, for an LSTM, the cell state."""
    if state is None:
        return inputs.new_zeros(B, L * parts * H)
    states = state if isinstance(state, (tuple, list)) else (state,)
    allowed = [(L, B, H)] + [(B, H)] * (L == 1 or B == 1) + [(H,)] * (L == B == 1)
    shapes = [tuple(s.shape) if isinstance(s, torch.Tensor) else s for s in states]
    if len(states) != parts or any(shape not in allowed for shape in shapes):
        what = "a tensor" if parts == 1 else "a pair of tensors"
        raise ValueError(f"state must be {what} of shape {(L, B, H)}, got {shapes}")
    return torch.stack([s.double().reshape(L, B, H) for s in states], 1).permute(2, 0, 1, 3).reshape(B, L * parts * H)


def _system_of_callable(network, inputs, state):
    if inputs.dim() != 3:
        raise ValueError(f"inputs must have the shape (T, B, I) for a callable network, got {tuple(inputs.shape)}")
    if not isinstance(state, torch.Tensor) or state.dim() != 2 or len(state) != inputs.shape[1]:
        got = tuple(state.shape) if isinstance(state, torch.Tensor) else state
        raise ValueError(f"state must be a tensor (B, n) for a callable network, with B = {inputs.shape[1]}, got {got}")
    if state.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"state must be of Float32 or Float64, got {state.dtype}")
    return _System(inputs, state, state.shape[1], None, network, state.dtype)


def _check_integer(name, value, minimum, maximum=math.inf, what=""):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not minimum <= value <= maximum:
        allowed = f"from {minimum} to {maximum}, {what}" if maximum < math.inf else f"of at least {minimum}"
        raise ValueError(f"{name} must be an integer {allowed}, got {value!r}")


def _describe(value):
    return f"{value.dtype} tensor" if isinstance(value, torch.Tensor) else type(value).__name__


def _orthonormal_system(n, k, seed):
    """Q of the QR of a Gaussian matrix (n, k); its first columns do not depend on k."""
    columns = np.random.default_rng(seed).standard_normal((k, n))
    return torch.linalg.qr(torch.as_tensor(columns, device="cpu").T)[0]


# ------------------------------------------------------------------ cells in closed form


def _sech_squared(x):
    """sech(x)^2, also where 1 - tanh(x)^2 cancels."""
    return 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)


def _tanh_cell(x, h, _):
    """x, h (..., 1, H): what the gate gets from the input and from the hidden state, biases included."""
    x = x + h
    a = _sech_squared(x)[..., None, :, :]
    return torch.tanh(x), a, a, None


def _relu_cell(x, h, _):
    x = x + h
    a = ((x > 0) + 0 * x)[..., None, :, :]  # 0 * x: autograd asks for the derivative of a, which is 0
    return torch.relu(x), a, a, None


def _gru_cell(x, h, old):
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.unbind(-2), h.unbind(-2)
    old = old[..., 0, :]
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    not_z = torch.sigmoid(-x_z - h_z)  # 1 - z without cancellation
    n = x_n + r * h_n
    slope = not_z * _sech_squared(n)
    n = torch.tanh(n)
    a_r = slope * h_n * r * torch.sigmoid(-x_r - h_r)
    a_z = (old - n) * z * not_z
    a, e = torch.stack([a_r, a_z, slope * r], -2), torch.stack([a_r, a_z, slope], -2)
    return (n + z * (old - n))[..., None, :], a[..., None, :, :], e[..., None, :, :], z[..., None, :]


def _lstm_cell(x, h, old):
    x_i, x_f, x_g, x_o = x = (x + h).unbind(-2)
    c = old[..., 1, :]
    i, f, g, o = torch.sigmoid(x_i), torch.sigmoid(x_f), torch.tanh(x_g), torch.sigmoid(x_o)
    new = f * c + i * g
    a_c = torch.stack([g * i * torch.sigmoid(-x_i), c * f * torch.sigmoid(-x_f), i * _sech_squared(x_g)], -2)
    slope = o * _sech_squared(new)  # dh'/dc'
    a_o = torch.tanh(new) * o * torch.sigmoid(-x_o)
    a_h = torch.cat([slope[..., None, :] * a_c, a_o[..., None, :]], -2)
    a_c = torch.cat([a_c, torch.zeros_like(a_o)[..., None, :]], -2)
    a = torch.stack([a_h, a_c], -3)
    return torch.stack([o * torch.tanh(new), new], -2), a, a, torch.stack([slope * f, f], -2)


# parts: of the state, R (h; h and c). one_step: torch's kernel for the trajectory. formulae: (x, h (..., G, H), old
# state (..., R, H)) -> new state (..., R, H), a and e (..., R, G, H), d (..., R, H) or None
_Cell = namedtuple("_Cell", "parts one_step formulae")
_CELLS = {
    "RNN tanh": _Cell(1, torch.rnn_tanh_cell, _tanh_cell),
    "RNN relu": _Cell(1, torch.rnn_relu_cell, _relu_cell),
    "GRU": _Cell(1, torch.gru_cell, _gru_cell),
    "LSTM": _Cell(2, torch.lstm_cell, _lstm_cell),
}


def _gates(layer, x, h):
    """What the G gates get from x (..., I) and from h (..., H): two tensors (..., G, H)."""
    H = layer.W_hh.shape[1]
    x = torch.nn.functional.linear(x, layer.W_ih, layer.b_ih)
    h = torch.nn.functional.linear(h, layer.W_hh, layer.b_hh)
    return x.unflatten(-1, (-1, H)), h.unflatten(-1, (-1, H))


def _trajectory(layers, inputs, state):
    """States (T + 1, B, n) from the initial one (B, n) on."""
    states = []
    x = inputs
    for layer, old in zip(layers, _of_layers(layers, state)):
        cell = _CELLS[layer.kind]
        states_of_layer = [old]
        for x_t in x:
            h = tuple(old.unbind(-2)) if cell.parts > 1 else old[..., 0, :]
            new = cell.one_step(x_t, h, layer.W_ih, layer.W_hh, layer.b_ih, layer.b_hh)
            old = torch.stack(new if cell.parts > 1 else (new,), -2)
            states_of_layer.append(old)
        states_of_layer = torch.stack(states_of_layer)
        x = states_of_layer[1:, :, 0]
        states.append(states_of_layer.flatten(-2))
    return torch.cat(states, -1)


def _of_layers(layers, state):
    """List of (..., R, H) of the state (..., n)."""
    sizes = [_CELLS[layer.kind].parts * layer.W_hh.shape[1] for layer in layers]
    return [s.unflatten(-1, (_CELLS[layer.kind].parts, -1)) for s, layer in zip(state.split(sizes, -1), layers)]


def _step(layers, x, states):
    """New states, and for each layer (a, e, d): inputs x (m, B, I) and states (m, B, n) of m steps at once."""
    new, coefficients = [], []
    for layer, old in zip(layers, _of_layers(layers, states)):
        state, *vectors = _CELLS[layer.kind].formulae(*_gates(layer, x, old[..., 0, :]), old)
        x = state[..., 0, :]
        new.append(state.flatten(-2))
        coefficients.append(vectors)
    return torch.cat(new, -1), coefficients


class _Jacobians:
    """The Jacobians of m steps, each for B trials, layer by layer; from the coefficients of _step."""

    def __init__(self, layers, coefficients):
        self.layers = []  # (rows of the state, W (m, B, R H, H), U (m, B, R H, I) or None, d (m, B, R, H, 1) or None)
        start = 0
        for layer, (a, e, d) in zip(layers, coefficients):
            H = layer.W_hh.shape[1]
            rows = slice(start, start + a.shape[-3] * H)
            W = torch.einsum("mbrgi,gij->mbrij", a, layer.W_hh.view(-1, H, H)).flatten(2, 3)
            U = torch.einsum("mbrgi,gij->mbrij", e, layer.W_ih.view(-1, H, H)).flatten(2, 3) if start else None
            self.layers.append((rows, W, U, None if d is None else d[..., None]))
            start = rows.stop

    def forward(self, t, V, out):
        """out = D_t V, both (B, n, k)."""
        below = None
        for rows, W, U, d in self.layers:
            H = W.shape[-1]
            new, old = out[:, rows], V[:, rows]
            torch.bmm(W[t], old[:, :H], out=new)
            if U is not None:
                new.baddbmm_(U[t], below)
            if d is not None:
                new.unflatten(1, (-1, H)).addcmul_(d[t], old[:, None, -H:])
            below = new[:, :H]

    def backward(self, t, V, out):
        """out = D_t^T V, both (B, n, k); what the layers above send down is added to V."""
        below = None
        for rows, W, U, d in reversed(self.layers):
            H = W.shape[-1]
            new, old = V[:, rows], out[:, rows]
            if below is not None:
                new[:, :H] += below
            torch.bmm(W[t].mT, new, out=old[:, :H])
            if d is not None and d.shape[2] == 1:
                old.addcmul_(d[t, :, 0], new)
            elif d is not None:
                torch.mul(d[t, :, 0], new[:, :H], out=old[:, H:]).addcmul_(d[t, :, 1], new[:, H:])
            below = None if U is None else torch.bmm(U[t].mT, new)


# ------------------------------------------------------------------ the chain of factorisations


def _exponents(system, Q, discard, qr_every):
    """lyapunov_exponents for the initial orthonormal system Q (n, k)."""
    Q = Q.to(system.inputs.device).expand(system.inputs.shape[1], -1, -1)
    if system.layers is None:
        return _exponents_of_callable(system, Q, discard, qr_every)
    kinds = [layer.kind for layer in system.layers]
    weights = [w for layer in system.layers for w in layer[1:]]
    pooled = qr_every == 1 and system.dtype == torch.float32
    return _Exponents.apply(Q, discard, qr_every, pooled, kinds, system.inputs, system.state, *weights).to(system.dtype)


class _Exponents(torch.autograd.Function):
    """Exponents (B, k) of layers in closed form; keeps the orthonormal systems, T B n k numbers, and the states."""

    @staticmethod
    def forward(ctx, Q, discard, qr_every, pooled, kinds, inputs, state, *weights):
        layers = _as_layers(kinds, weights)
        states = _trajectory(layers, inputs, state)
        _check_finite(states.flatten(1).isfinite().all(1), "the state", 0)
        chain = _Chain(Q, discard, len(inputs), qr_every, pooled, keep=any(ctx.needs_input_grad))
        chunks = _chunks(layers, inputs, qr_every)
        for first, last in chunks:
            _, coefficients = _step(layers, inputs[first:last], states[first:last])
            chain.run(_Jacobians(layers, coefficients), first, last)
        ctx.chain, ctx.chunks, ctx.kinds = chain, chunks, kinds
        ctx.save_for_backward(inputs, states, *weights)
        return chain.exponents()

    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled():
            raise RuntimeError("Lyapunov exponents can be differentiated once: create_graph must be False")
        inputs, states, *weights = ctx.saved_tensors
        needed = [i for i, w in enumerate(weights) if w is not None]
        sums = {i: torch.zeros_like(weights[i]) for i in needed}
        inputs_grad = torch.empty_like(inputs)
        adjoint = torch.zeros_like(ctx.chain.systems[0])  # of the orthonormal system
        delta = torch.zeros_like(states[0])[..., None]  # dL/d state after the chunk, (B, n, 1)
        w = grad / ctx.chain.averaged_steps
        for first, last in reversed(ctx.chunks):
            x = inputs[first:last].detach().requires_grad_()
            old = states[first:last].detach().requires_grad_()
            leaves = [None if p is None else p.detach().requires_grad_() for p in weights]
            layers = _as_layers(ctx.kinds, leaves)
            with torch.enable_grad():
                new, coefficients = _step(layers, x, old)
            vectors = [v for layer in coefficients for v in layer if v is not None]
            jacobians = _Jacobians(layers, coefficients)
            adjoint, totals = ctx.chain.backward(jacobians, first, last, adjoint, w)
            bars = _backward_jacobians(layers, coefficients, jacobians, ctx.chain.store[first:last], totals, sums)
            del totals
            # through the vectors to the states, then back through time, then to weights and inputs
            direct = torch.autograd.grad(vectors, old, bars, retain_graph=True, allow_unused=True)[0]
            direct = torch.zeros_like(old) if direct is None else direct  # as of a linear network
            deltas = torch.cat([direct[1:, ..., None], delta[None]])
            for t in reversed(range(1, last - first)):
                jacobians.backward(t, deltas[t].clone(), delta)
                deltas[t - 1] += delta
            jacobians.backward(0, deltas[0].clone(), delta)
            delta += direct[0, ..., None]
            gradients = torch.autograd.grad(
                [*vectors, new], [x, *(leaves[i] for i in needed)], [*bars, deltas[..., 0]], allow_unused=True
            )
            inputs_grad[first:last] = gradients[0]
            for i, g in zip(needed, gradients[1:]):
                sums[i] += g
        return None, None, None, None, None, inputs_grad, delta[..., 0], *(sums.get(i) for i in range(len(weights)))


def _as_layers(kinds, weights):
    return [_Layer(kind, *weights[4 * i : 4 * i + 4]) for i, kind in enumerate(kinds)]


def _backward_jacobians(layers, coefficients, jacobians, V, totals, sums):
    """Adjoints of the vectors in coefficients, in order; adds those of the weight matrices to sums.

    V (m, B, n, k): what each step began with; totals (m, B, n, k): adjoint of what it gave (_Chain.backward).
    """
    bars, below = [], None
    for number, (layer, (a, e, d), (rows, W, U, d_column)) in enumerate(zip(layers, coefficients, jacobians.layers)):
        H = layer.W_hh.shape[1]
        total, old = totals[:, :, rows], V[:, :, rows]
        bar, weights = _backward_weighted_sum(a, layer.W_hh, total, old[:, :, :H])
        bars.append(bar)
        sums[4 * number + 1] += weights
        if number:
            bar, weights = _backward_weighted_sum(e, layer.W_ih, total, below)
            bars.append(bar)
            sums[4 * number] += weights
        else:
            bars.append(torch.zeros_like(e))  # the tangent of the network's input is 0
        if d is not None:
            bars.append((total.unflatten(2, (-1, H)) * old[:, :, None, -H:]).sum(-1))
        if number + 1 < len(layers):
            below = _tangent_of_output(H, old, below, W, U, d_column)
    return bars


def _backward_weighted_sum(vectors, weight, total, tangent):
    """Adjoints of the vectors a_g (m, B, R, G, H) and the weights (G H, J) of sum_g a_g * (W_g tangent).

    total (m, B, R H, k): adjoint of the sum; tangent (m, B, J, k).
    """
    G, H = vectors.shape[-2:]
    J = weight.shape[1]
    outer = torch.bmm(total.flatten(0, 1), tangent.flatten(0, 1).mT)
    outer = outer.view(-1, H, J).transpose(0, 1).contiguous()  # (H, m B R, J): both sums are over the inner two
    bars = torch.bmm(outer, weight.view(G, H, J).permute(1, 2, 0)).permute(1, 2, 0).reshape(vectors.shape)
    weights = torch.bmm(vectors.reshape(-1, G, H).permute(2, 1, 0), outer).transpose(0, 1).reshape(weight.shape)
    return bars, weights


def _tangent_of_output(H, V, below, W, U, d):
    """dh' (m, B, H, k) of a layer at every step, from the tangents V of its state and those of its input."""
    tangent = W[:, :, :H] @ V[:, :, :H]
    if below is not None:
        tangent += U[:, :, :H] @ below
    return tangent if d is None else tangent.addcmul_(d[:, :, 0], V[:, :, -H:])


class _Chain:
    """Orthonormal systems along the trajectory, and the segments of steps between two factorisations."""

    def __init__(self, Q, discard, T, qr_every, pooled, keep):
        # (T + 1, B, n, k), step by step: Q at the end of a segment, inside it D_t times the one before
        self.store = Q.new_empty(T + 1, *Q.shape) if keep else [None] * (T + 1)
        self.systems = list(self.store)
        if keep:
            self.store[0] = Q
        else:
            self.systems[0] = Q
        self.k, self.discard, self.averaged_steps = Q.shape[-1], discard, T - discard
        self.pooled, self.keep = pooled, keep
        self.length = FIRST_LENGTH if pooled else qr_every
        self.segments, self.R = [], []
        self.log_R = torch.zeros_like(Q[:, 0])

    def run(self, jacobians, first, last):
        """Steps first to last; segments end with the last and with the last discarded step."""
        systems, start, computed = self.systems, first, first
        while start < last:
            phase_end = self.discard if start < self.discard < last else last
            end = start + _first_of_even_lengths(phase_end - start, self.length)
            for t in range(computed, end):
                if not self.keep:
                    systems[t + 1] = torch.empty_like(systems[t])
                jacobians.forward(t - first, systems[t], systems[t + 1])
            Q, R = torch.linalg.qr(systems[end])
            if self.pooled:
                condition = _condition_number(R)
                self.length = _next_length(end - start, condition)
                if condition > CONDITION_LIMIT and end - start > 1:
                    computed, self.length = end, min(self.length, end - start - 1)
                    continue
            self.accept(Q, R, start, end)
            start = computed = end

    def accept(self, Q, R, start, end):
        """A segment ends: the next begins with Q, with fewer columns if the Jacobian has lost rank."""
        diagonal = R.diagonal(dim1=-2, dim2=-1).abs()
        existing = _existing_exponents(diagonal, Q.shape[-2], start, end)
        if existing < Q.shape[-1]:
            self.keep = False  # all that is left is to count how many exist
            Q, diagonal, self.log_R = Q[..., :existing], diagonal[:, :existing], self.log_R[:, :existing]
        if end > self.discard:
            self.log_R += diagonal.log()
        if self.keep:
            self.systems[end].copy_(Q)
            self.segments.append((start, end))
            self.R.append(R)
        else:
            self.systems[start : end + 1] = [None] * (end - start) + [Q.contiguous()]

    def exponents(self):
        _check_all_exist(self.k, self.log_R.shape[-1])
        return self.log_R / self.averaged_steps

    def backward(self, jacobians, first, last, adjoint, w):
        """Adjoint of the system at step first, and those of what each step gave, (m, B, n, k).

        adjoint (B, n, k): of the system at step last; w: dL/dlog|R_ii|.
        """
        totals = adjoint.new_empty(last - first, *adjoint.shape)
        for start, end in reversed([segment for segment in self.segments if first <= segment[0] < last]):
            Q, R = self.systems[end], self.R.pop()
            M = -adjoint.mT @ Q
            if end > self.discard:
                M.diagonal(dim1=-2, dim2=-1).add_(w)
            adjoint = torch.baddbmm(adjoint, Q, M.tril() + M.tril(-1).mT)
            torch.linalg.solve_triangular(R.mT, adjoint, upper=False, left=False, out=totals[end - 1 - first])
            for t in range(end - 1 - first, start - first, -1):
                jacobians.backward(t, totals[t], totals[t - 1])
            jacobians.backward(start - first, totals[start - first], adjoint)
        return adjoint, totals


def _exponents_of_callable(system, Q, discard, qr_every):
    """The same by forward-mode automatic differentiation of the callable, and backward by torch throughout."""
    network, state, k = system.network, system.state, Q.shape[-1]
    log_R = torch.zeros_like(Q[:, 0])
    start = 0
    for end in (discard, len(system.inputs)):
        while start < end:
            stop = start + _first_of_even_lengths(end - start, qr_every)
            for t in range(start, stop):
                state, Q = _step_of_callable(network, system.inputs[t], state, Q.to(state.dtype))
                _check_finite(state.isfinite().all()[None], "the state", t + 1)
            Q, R = torch.linalg.qr(Q.double())
            diagonal = R.diagonal(dim1=-2, dim2=-1).abs()
            existing = _existing_exponents(diagonal.detach(), Q.shape[-2], start, stop)
            Q, diagonal, log_R = Q[..., :existing], diagonal[:, :existing], log_R[:, :existing]
            if stop > discard:
                log_R = log_R + diagonal.log()
            start = stop
    _check_all_exist(k, log_R.shape[-1])
    return (log_R / (len(system.inputs) - discard)).to(system.dtype)


def _step_of_callable(network, x, state, V):
    """Next state (B, n) and D_t V (B, n, k): jvp carries one column, vmap all of them."""

    def step(state):
        new = network(x, state)
        if not isinstance(new, torch.Tensor) or new.shape != state.shape:
            got = tuple(new.shape) if isinstance(new, torch.Tensor) else type(new).__name__
            raise ValueError(f"network must return a state of shape {tuple(state.shape)}, got {got}")
        return new

    columns = torch.func.vmap(lambda v: torch.func.jvp(step, (state,), (v,)), in_dims=-1, out_dims=(None, -1))
    return columns(V)


def _check_finite(finite, what, first):
    """finite: a bool for each step from step `first` on."""
    if not finite.all():
        raise FloatingPointError(f"{what} is not finite after time step {first + int((~finite).nonzero()[0])}")


def _existing_exponents(diagonal, n, start, end):
    """How many leading columns of a product with this |diag R| (B, k) are independent, in every trial."""
    if not diagonal.isfinite().all():
        raise FloatingPointError(f"the Jacobian is not finite within the time steps {start + 1} to {end}")
    noise = RANK_TOLERANCE * n * torch.finfo(diagonal.dtype).eps * diagonal.amax(-1, keepdim=True)
    independent = diagonal > noise
    return int(independent.cumprod(-1).sum(-1).min())


def _check_all_exist(k, existing):
    if existing < k:
        raise ValueError(
            f"k must be at most {existing} here, got {k}: the Jacobian loses rank along the trajectory (units that are "
            f"off or saturated), and only {existing} Lyapunov exponents exist"
        )


def _condition_number(R):
    """The largest of the trials, in the Frobenius norm; inf for a singular or non-finite R."""
    inverse = torch.linalg.solve_triangular(R, torch.eye(R.shape[-1], dtype=R.dtype, device=R.device), upper=True)
    condition = float((torch.linalg.matrix_norm(R) * torch.linalg.matrix_norm(inverse)).max())
    return condition if math.isfinite(condition) else math.inf


def _next_length(length, condition):
    """Steps to try if log(condition) grows per step as it did over the last `length`, at most twice as many."""
    growth, allowed = math.log(max(condition, 1)) / length, math.log(CONDITION_LIMIT)
    return 2 * length if 2 * length * growth <= allowed else max(1, int(allowed / growth))


def _first_of_even_lengths(steps, longest):
    """Length of the first of as few and as equal segments as possible, none above `longest`."""
    return math.ceil(steps / math.ceil(steps / longest))


def _chunks(layers, inputs, qr_every):
    """(first, last) steps of stretches whose Jacobians fit into CHUNK_BYTES."""
    T, B = inputs.shape[:2]
    numbers = sum(_CELLS[w.kind].parts * w.W_hh.shape[1] * (w.W_hh.shape[1] + w.W_ih.shape[1] * (i > 0))
                  for i, w in enumerate(layers))  # fmt: skip
    steps = max(CHUNK_BYTES // (8 * B * numbers), FIRST_LENGTH, qr_every)
    return [(first, min(first + steps, T)) for first in range(0, T, steps)]
