"""extras/flossing.py against autograd Jacobians of torch's own modules, finite differences and known exponents."""

import itertools
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from extras import flossing
from extras.flossing import floss, flossing_loss, lyapunov_exponents, open_gates
from tests.conftest import ROOT

H, I, T, B, DISCARD = 6, 2, 9, 3, 2
KINDS = {
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "GRU": nn.GRU,
    "LSTM": nn.LSTM,
}
CELLS = {
    "tanh": nn.RNNCell,
    "relu": lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options),
    "GRU": nn.GRUCell,
    "LSTM": nn.LSTMCell,
}
EPS32, EPS64 = np.finfo(np.float32).eps, np.finfo(np.float64).eps


def draw(kind, layers=1, seed=3, dtype=torch.float64, **options):
    """Network, inputs (T, B, I) and initial state; a ReLU network with a bias that keeps its units on."""
    generator = torch.Generator().manual_seed(seed)
    network = KINDS[kind](I, H, num_layers=layers, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
        if kind == "relu":
            for name, parameter in network.named_parameters():
                parameter.copy_(parameter.abs() if "bias" in name or "ih" in name else 0.1 * parameter)
    inputs = torch.randn(T, B, I, dtype=dtype, generator=generator)
    inputs = inputs.abs() + 1 if kind == "relu" else inputs
    states = torch.randn(2, layers, B, H, dtype=dtype, generator=generator)
    return network, inputs, tuple(states) if kind == "LSTM" else states[0]


def tensors_of(network, inputs, state):
    """Everything that the exponents can be differentiated by."""
    leaves = [inputs, *(state if isinstance(state, tuple) else [state])]
    return [*network.parameters(), *(leaf.requires_grad_() for leaf in leaves)]


def step_of(network, x):
    """The network's step as a function of its whole state, a vector (n,)."""

    def step(vector):
        state = tuple(vector.view(-1, network.num_layers, 1, network.hidden_size))
        _, new = network(x[None, None], state if isinstance(network, nn.LSTM) else state[0])
        return torch.stack(new if isinstance(new, tuple) else (new,)).flatten()

    return step


def jacobians(network, inputs, state):
    """For each trial the Jacobians of all steps by autograd through torch's module, itself differentiable."""
    for b in range(inputs.shape[1]):
        states = state if isinstance(state, tuple) else (state,)
        vector = torch.stack([s[:, b] for s in states]).flatten()
        trial = []
        for x in inputs[:, b]:
            step = step_of(network, x)
            trial.append(torch.autograd.functional.jacobian(step, vector, create_graph=True))
            vector = step(vector)
        yield trial


def exponents_by_autograd(network, inputs, state, k, discard=DISCARD, seed=0):
    spectra = []
    for trial in jacobians(network, inputs, state):
        Q, log_R = flossing._orthonormal_system(len(trial[0]), k, seed), 0
        for t, D in enumerate(trial):
            Q, R = torch.linalg.qr(D @ Q)
            log_R = log_R + (R.diagonal().abs().log() if t >= discard else 0)
        spectra.append(log_R / (len(trial) - discard))
    return torch.stack(spectra)


def weighted_gradients(exponents, tensors):
    weights = torch.arange(1.0, exponents.numel() + 1).view_as(exponents).to(exponents)
    return torch.autograd.grad((exponents * weights).sum(), tensors, allow_unused=True, materialize_grads=True)


def assert_close(gradients, expected, limit):
    for gradient, other in zip(gradients, expected, strict=True):
        largest = max(float(other.abs().max()), 1e-12)  # the exponents of a ReLU network do not depend on its biases
        assert float((gradient - other).abs().max()) <= limit * largest


# ------------------------------------------------------------------ against torch's modules


@pytest.mark.parametrize(
    "layers, options", [(1, {}), (1, {"bias": False}), (2, {"batch_first": True}), (2, {"bias": False})]
)
@pytest.mark.parametrize("kind", KINDS)
def test_exponents_and_gradients_are_those_of_the_autograd_jacobians(kind, layers, options):
    network, inputs, state = draw(kind, layers, **options)
    k = 2 * layers if kind == "relu" else 5 * layers
    tensors = tensors_of(network, inputs, state)
    batch = inputs.transpose(0, 1) if network.batch_first else inputs
    exponents = lyapunov_exponents(network, batch, k, state=state, discard=DISCARD)
    assert exponents.shape == (B, k)
    network.batch_first = False
    expected = exponents_by_autograd(network, inputs, state, k)
    torch.testing.assert_close(exponents, expected, rtol=0, atol=1e-12)
    assert_close(weighted_gradients(exponents, tensors), weighted_gradients(expected, tensors), 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_and_a_callable_have_the_exponents_of_the_module(kind):
    network, inputs, state = draw(kind)
    cell = CELLS[kind](I, H, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in network.named_parameters()})
    options = dict(k=2, discard=DISCARD)
    expected = lyapunov_exponents(network, inputs, state=state, **options)
    state = tuple(s[0] for s in state) if kind == "LSTM" else state[0]
    by_cell = lyapunov_exponents(cell, inputs, state=state, **options)
    torch.testing.assert_close(by_cell, expected, rtol=0, atol=1e-14)

    def call(x, vector):  # torch's own cell; the state as one vector
        if kind != "LSTM":
            return cell(x, vector)
        return torch.cat(cell(x, (vector[:, :H], vector[:, H:])), 1)

    vector = torch.cat(state, 1) if kind == "LSTM" else state
    by_callable = lyapunov_exponents(call, inputs, state=vector, **options)
    torch.testing.assert_close(by_callable, expected, rtol=0, atol=1e-12)
    parameters = list(cell.parameters())
    assert_close(weighted_gradients(by_callable, parameters), weighted_gradients(by_cell, parameters), 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind):
    network, inputs, state = draw(kind, layers=2)
    tensors = tensors_of(network, inputs, state)
    k = 3
    weights = torch.arange(1.0, B * k + 1, dtype=torch.float64).view(B, k)

    def loss():
        return (lyapunov_exponents(network, inputs, k, state=state, discard=DISCARD) * weights).sum()

    gradients = torch.autograd.grad(loss(), tensors, allow_unused=True, materialize_grads=True)
    generator = torch.Generator().manual_seed(1)
    for tensor, gradient in zip(tensors, gradients):
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        # two distances: a fourth-order difference quotient
        quotients = []
        for distance in (1e-4, 2e-4):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    tensor += sign * distance * direction
                    values.append(loss().item())
                    tensor -= sign * distance * direction
            quotients.append((values[0] - values[1]) / (2 * distance))
        quotient = (4 * quotients[0] - quotients[1]) / 3
        largest = float((gradient.abs() * direction.abs()).sum())
        assert float((gradient * direction).sum()) == pytest.approx(quotient, rel=1e-5, abs=1e-8 * largest + 1e-9)


def test_default_state_is_zero_and_unbatched_inputs_are_one_trial():
    network, inputs, state = draw("LSTM", layers=2)
    zero = tuple(torch.zeros_like(s) for s in state)
    expected = lyapunov_exponents(network, inputs, 3, state=zero)
    assert torch.equal(lyapunov_exponents(network, inputs, 3), expected)
    one = lyapunov_exponents(network, inputs[:, 1], 3)
    torch.testing.assert_close(one, expected[1:2], rtol=0, atol=1e-14)


# ------------------------------------------------------------------ systems with known exponents


def test_a_linear_cell_has_the_logarithms_of_its_eigenvalues():
    eigenvalues = torch.tensor([1.25, -0.9, 0.5, 0.1], dtype=torch.float64)
    P = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    A = P @ torch.diag(eigenvalues) @ torch.linalg.inv(P)
    inputs, state = torch.zeros(300, 2, 1, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64)
    exponents = lyapunov_exponents(lambda x, s: s @ A.T, inputs, state=state, discard=200)
    expected = eigenvalues.abs().log().expand(2, -1)  # what is left of the transient: (0.9 / 1.25)^200 = 3e-29
    torch.testing.assert_close(exponents, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("gain", [1.0, 0.8, 1.1])
def test_an_orthogonal_network_at_the_origin_has_the_logarithm_of_its_gain(gain):
    network = nn.RNN(1, 12, bias=False, dtype=torch.float64)
    with torch.no_grad():
        network.weight_hh_l0.copy_(gain * nn.init.orthogonal_(torch.empty(12, 12, dtype=torch.float64)))
    exponents = lyapunov_exponents(network, torch.zeros(20, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(exponents, torch.full_like(exponents, math.log(gain)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind, layers", [("tanh", 2), ("GRU", 2), ("LSTM", 1), ("LSTM", 2)])
def test_all_exponents_together_are_the_mean_logarithm_of_the_determinant(kind, layers):
    network, inputs, state = draw(kind, layers)
    exponents = lyapunov_exponents(network, inputs, state=state, discard=DISCARD)
    assert exponents.shape == (B, layers * H * (1 + (kind == "LSTM")))
    for spectrum, trial in zip(exponents, jacobians(network, inputs, state)):
        log_det = torch.stack([torch.linalg.slogdet(D)[1] for D in trial[DISCARD:]]).mean()
        assert spectrum.sum().item() == pytest.approx(log_det.item(), rel=1e-10)


@pytest.mark.parametrize("seed", [1, 4])
def test_the_spectrum_of_the_port_is_that_of_an_nn_rnn(seed):
    """x_t = J tanh(x) + b + ws s and h_t = tanh(x_t): diag(sech(x_t)^2) J is the Jacobian of h, the state of nn.RNN."""
    from gradient_flossing_example import calc_lyapunov_spectrum, initial_orthonormal_system
    from gradient_flossing_example import discarded_steps

    N, Tp, nLE = 20, 55, 17
    rng = np.random.default_rng(seed)
    ws, J, b = rng.normal(size=(N, 1)), rng.normal(size=(N, N)) / math.sqrt(N), 0.1 * rng.random(N)
    xInit, s = rng.normal(size=(N, 1)), rng.integers(0, 2, (Tp, 1, 1)).astype(float)
    by_port = torch.as_tensor(calc_lyapunov_spectrum(s, None, ws, J, b, xInit, Tp, nLE, seed))
    network = nn.RNN(1, N, dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), (ws, J, b, 0 * b)):
            parameter.copy_(torch.as_tensor(value))
    system = flossing._ClosedForm(network, torch.as_tensor(s), torch.as_tensor(np.tanh(xInit.T))[None], torch.float64)
    Q = torch.as_tensor(initial_orthonormal_system(seed, N, nLE).astype(float))
    exponents = flossing._exponents(system, Q.mT[None], discarded_steps(Tp), 1)[0][0]
    # Float32 rounding of Q is the same on both sides; the rest is Float64
    torch.testing.assert_close(exponents, by_port, rtol=0, atol=1e-12)


def henon(s):
    return torch.stack([1 - 1.4 * s[..., 0] ** 2 + s[..., 1], 0.3 * s[..., 0]], -1)


def lorenz(s, h=0.01):
    """A step of Runge-Kutta; the divergence of the field is -(10 + 1 + 8/3) everywhere."""

    def field(s):
        x, y, z = s.unbind(-1)
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)

    a = field(s)
    b = field(s + h / 2 * a)
    c = field(s + h / 2 * b)
    return s + h / 6 * (a + 2 * b + 2 * c + field(s + h * c))


def rotation(s):
    x, y, c, d = s[..., 0], s[..., 1], math.cos(0.3), math.sin(0.3)
    return torch.stack([c * x - d * y, d * x + c * y], -1)


@pytest.mark.parametrize("step, steps, start, literature, fluctuation, total", [
    (henon, 500, [0.1, 0.1], [0.4192, -1.6223], 0.1, math.log(0.3)),
    (lambda s: 4 * s * (1 - s), 500, [0.3], [math.log(2)], 0.1, None),
    pytest.param(lorenz, 1000, [1.0, 1.0, 20.0], [0.00906, 0.0, -0.1457], 0.005, -0.01 * (11 + 8 / 3), marks=pytest.mark.long),
    (rotation, 50, [1.0, 0.0], [0.0, 0.0], 1e-14, 0.0),
], ids=["Henon", "logistic", "Lorenz", "rotation"])  # fmt: skip
def test_maps_have_the_exponents_of_their_jacobians_and_nearly_those_of_the_literature(
    step, steps, start, literature, fluctuation, total
):
    """fluctuation: of so few steps about the value of infinitely many; total: of all exponents, in any number of steps."""
    trajectory = [torch.tensor(start, dtype=torch.float64)]
    for _ in range(steps - 1):
        trajectory.append(step(trajectory[-1]))
    with torch.no_grad():
        exponents = lyapunov_exponents(lambda x, s: step(s), steps, state=trajectory[0][None], discard=20)[0]
    Q, log_R = flossing._orthonormal_system(len(start), len(start), 0), 0
    for t, D in enumerate(torch.func.vmap(torch.func.jacrev(step))(torch.stack(trajectory))):
        Q, R = torch.linalg.qr(D @ Q)
        log_R = log_R + (R.diagonal().abs().log() if t >= 20 else 0)
    # on a chaotic trajectory the rounding of single steps grows: what agrees is the statistics
    chaotic = literature[0] > 0
    torch.testing.assert_close(exponents, log_R / (steps - 20), rtol=0, atol=fluctuation if chaotic else 1e-14)
    torch.testing.assert_close(exponents, torch.tensor(literature).double(), rtol=0, atol=fluctuation)
    if total is not None:
        assert exponents.sum().item() == pytest.approx(total, abs=1e-5)  # Runge-Kutta leaves (20 h)^5 / 5! a step


# ------------------------------------------------------------------ networks that people have


class Leaky(nn.GRUCell):
    def forward(self, x, h=None):
        return 0.5 * h + 0.5 * super().forward(x, h)


def same_weights(network, cell):
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in network.named_parameters()})
    return cell


def test_the_forward_of_a_subclass_counts():
    network, inputs, _ = draw("GRU")
    cell = same_weights(network, nn.GRUCell(I, H).double())
    leaky = same_weights(network, Leaky(I, H).double())
    state = torch.zeros(B, H, dtype=torch.float64)
    expected = lyapunov_exponents(lambda x, h: 0.5 * h + 0.5 * cell(x, h), inputs, state=state)
    torch.testing.assert_close(lyapunov_exponents(leaky, inputs), expected, rtol=0, atol=1e-12)
    with_same_forward = same_weights(network, type("Named", (nn.GRUCell,), {})(I, H).double())
    torch.testing.assert_close(
        lyapunov_exponents(with_same_forward, inputs), lyapunov_exponents(cell, inputs), rtol=0, atol=1e-12
    )


def test_a_forward_that_raises_raises():
    class Broken(nn.RNN):
        def forward(self, x, h=None):
            raise NotImplementedError("not yet")

    patched = nn.GRU(I, H)
    patched.forward = Broken(I, H).forward
    for network in (Broken(I, H), patched):
        with pytest.raises(NotImplementedError, match="not yet"):
            lyapunov_exponents(network, torch.zeros(T, B, I), 2)


@pytest.mark.parametrize("layers, options", [(1, {}), (2, {"batch_first": True}), (1, {"bias": False})])
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_run_and_one_that_does_nothing_changes_nothing(kind, layers, options):
    network, inputs, _ = draw(kind, layers, **options)
    batch, k = inputs.transpose(0, 1) if options.get("batch_first") else inputs, 2
    tensors = list(network.parameters())
    expected = lyapunov_exponents(network, batch, k)
    gradients = weighted_gradients(expected, tensors)
    before = network.register_forward_pre_hook(lambda *_: None)
    after = network.register_forward_hook(lambda *_: None)
    for hook in (before, after):
        exponents = lyapunov_exponents(network, batch, k)
        torch.testing.assert_close(exponents, expected, rtol=0, atol=1e-11)
        assert_close(weighted_gradients(exponents, tensors), gradients, 1e-9)
        hook.remove()
    network.register_forward_pre_hook(lambda module, args: (2 * args[0], *args[1:]))
    doubled = lyapunov_exponents(network, batch, k)
    torch.testing.assert_close(doubled, lyapunov_exponents(same_kind(network), 2 * batch, k), rtol=0, atol=1e-11)


def same_kind(network):
    """A network with the same weights and no hooks."""
    copy = type(network)(I, H, network.num_layers, bias=network.bias, batch_first=network.batch_first, dtype=torch.float64,
                         **({"nonlinearity": network.nonlinearity} if isinstance(network, nn.RNN) else {}))  # fmt: skip
    copy.load_state_dict(network.state_dict())
    return copy


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weight_norm_old_and_new_counts_with_its_own_parameters():
    network, inputs, _ = draw("LSTM")
    expected = lyapunov_exponents(network, inputs, 3)
    for norm in (nn.utils.parametrizations.weight_norm, nn.utils.weight_norm):
        normed = norm(same_kind(network), "weight_hh_l0")
        exponents = lyapunov_exponents(normed, inputs, 3)
        torch.testing.assert_close(exponents, expected, rtol=0, atol=1e-12)
        gradients = torch.autograd.grad(exponents.sum(), list(normed.parameters()))
        assert len(gradients) == 5 and all(g.abs().max() > 0 for g in gradients)


def test_an_lstm_with_projections_and_dropout_at_work_go_through_torchs_forward():
    projecting = nn.LSTM(I, H, proj_size=2, dtype=torch.float64)
    inputs = torch.randn(T, B, I, dtype=torch.float64)
    assert lyapunov_exponents(projecting, inputs).shape == (B, H + 2)
    network = nn.GRU(I, H, num_layers=2, dropout=0.5, dtype=torch.float64)
    active = lyapunov_exponents(network, inputs, 2)
    assert not torch.equal(active, lyapunov_exponents(network, inputs, 2))
    network.eval()
    assert torch.equal(lyapunov_exponents(network, inputs, 2), lyapunov_exponents(network, inputs, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrapped_modules_are_unwrapped_and_scripted_ones_refused():
    network, inputs, _ = draw("GRU")
    expected = lyapunov_exponents(network, inputs, 2)
    many = (nn.DataParallel(network), torch.compile(network), torch.compile(nn.DataParallel(network)))
    network.cpu()  # DataParallel moves it to a GPU where there is one
    for wrapped in many:
        assert torch.equal(lyapunov_exponents(wrapped, inputs, 2), expected)
    assert "hand over the module that was scripted" in refusal(torch.jit.script(network), inputs, 2)
    W, state = network.weight_hh_l0[:H], torch.zeros(B, H, dtype=torch.float64)
    step = lambda x, h: torch.tanh(h @ W.T + x[:, :1])  # noqa: E731
    compiled = lyapunov_exponents(torch.compile(step), inputs, 2, state=state)
    assert torch.equal(compiled, lyapunov_exponents(step, inputs, 2, state=state))


def test_a_recurrent_layer_inside_a_model_with_inputs_and_a_state_that_carry_a_graph():
    torch.manual_seed(1)
    embedding, lstm, first = nn.Embedding(5, I), nn.LSTM(I, H), nn.Linear(1, H)
    tokens = torch.randint(5, (T, B))
    state = lambda: (first(torch.ones(1, B, 1)), torch.zeros(1, B, H))  # noqa: E731
    lyapunov_exponents(lstm, embedding(tokens), 3, state=state()).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in (embedding.weight, first.weight, lstm.weight_hh_l0))
    before = embedding.weight.clone()
    floss(lstm, lambda: embedding(tokens), 3, steps=2)
    fixed = embedding(tokens)
    floss(lstm, fixed, 3, steps=2)  # the graph of the inputs is not needed, and not freed
    assert torch.equal(embedding.weight, before)
    floss(lstm, lambda: embedding(tokens), 3, steps=2, parameters=[*lstm.parameters(), embedding.weight])
    assert not torch.equal(embedding.weight, before)


def test_states_may_be_tuples_and_outputs_may_come_with_them():
    network, inputs, _ = draw("LSTM")
    cell = same_weights(network, nn.LSTMCell(I, H).double())
    zeros = torch.zeros(B, H, dtype=torch.float64)
    expected = lyapunov_exponents(network, inputs, 3)
    for step in (cell, lambda x, s: cell(x, s), lambda x, s: (x, cell(x, s)), lambda x, s: list(cell(x, s))):
        exponents = lyapunov_exponents(step, inputs, 3, state=(zeros, zeros))
        torch.testing.assert_close(exponents, expected, rtol=0, atol=1e-12)


def test_a_module_of_ones_own_computes_in_the_dtype_that_is_asked_for():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(H, H)
            self.register_buffer("gain", torch.tensor(0.9))
            self.register_buffer("steps", torch.tensor(3))

        def forward(self, x, h):
            assert self.steps.dtype == torch.int64 and h.dtype == x.dtype == self.gain.dtype == self.linear.weight.dtype
            dtypes.add(h.dtype)
            return torch.tanh(self.gain * self.linear(h) + x[:, :1])

    dtypes, cell = set(), Cell()
    inputs, state = torch.randn(T, B, I), torch.zeros(B, H)
    exponents = lyapunov_exponents(cell, inputs, state=state)
    assert dtypes == {torch.float64} and exponents.dtype == torch.float32
    assert cell.linear.weight.dtype == torch.float32
    torch.testing.assert_close(exponents, lyapunov_exponents(cell, inputs, state=state, dtype=torch.float32), rtol=0, atol=1e-4)
    assert dtypes == {torch.float64, torch.float32}


def test_noise_is_the_same_for_all_tangents(monkeypatch):
    """A mask that is drawn in each step: the exponents of the same masks drawn before."""
    network, inputs, _ = draw("tanh")
    cell, state = same_weights(network, nn.RNNCell(I, H).double()), torch.zeros(B, H, dtype=torch.float64)
    mask = lambda: 0.5 + torch.rand(B, H, dtype=torch.float64)  # noqa: E731
    monkeypatch.setattr(flossing, "FIRST_LENGTH", 1)  # and so no step is tried twice
    monkeypatch.setattr(flossing, "_next_length", lambda *_: 1)
    torch.manual_seed(1)
    masks = iter([mask() for _ in inputs])
    torch.manual_seed(1)
    exponents = lyapunov_exponents(lambda x, h: mask() * cell(x, h), inputs, state=state)
    expected = lyapunov_exponents(lambda x, h: next(masks) * cell(x, h), inputs, state=state)
    torch.testing.assert_close(exponents, expected, rtol=0, atol=1e-12)


class Spike(torch.autograd.Function):
    """A step with a surrogate slope, as spiking networks have it; there is no formula for forward differentiation."""

    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v > 0).to(v)

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        return grad / (1 + 3 * v.abs()) ** 2


@pytest.mark.parametrize("grad", [True, False])
def test_a_surrogate_gradient_is_what_the_backward_formula_says(grad):
    W = torch.randn(H, H, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    inputs, state = torch.rand(T, B, 1, dtype=torch.float64), torch.zeros(B, H, dtype=torch.float64)

    def straight_through(v):  # the same value, and the same slope by way of u / (1 + 3 |u|)
        soft = v / (1 + 3 * v.abs())
        return (v > 0).to(v) + soft - soft.detach()

    with torch.set_grad_enabled(grad):
        exponents, expected = (
            lyapunov_exponents(lambda x, v: 0.8 * v + spike(v - 0.3) @ W.T / 2 + x, inputs, 4, state=state)  # noqa: B023
            for spike in (Spike.apply, straight_through)
        )
    torch.testing.assert_close(exponents, expected, rtol=0, atol=1e-12)
    assert exponents.requires_grad == grad
    if grad:
        assert_close(weighted_gradients(exponents, [W]), weighted_gradients(expected, [W]), 1e-10)


@pytest.mark.parametrize("step", [lambda x, h: 0 * h, lambda x, h: x[:, :1].expand(B, 2) * 1.0, lambda x, h: h.detach()])
def test_a_jacobian_of_zero_has_no_exponents(step):
    assert "k must be at most 0 here, got 2" in refusal(step, torch.ones(T, B, I), state=torch.ones(B, 2))


# ------------------------------------------------------------------ precision, segments, memory


@pytest.fixture
def segments(monkeypatch):
    """List of (steps, was it accepted) of every segment that is tried."""
    tried, next_length = [], flossing._next_length

    def record(steps, condition, limit):
        tried.append((steps, condition <= limit or steps == 1))
        return next_length(steps, condition, limit)

    monkeypatch.setattr(flossing, "_next_length", record)
    return tried


def network_of_40(kind, dtype=torch.float32, wide=False):
    """Weights as torch draws them; wide: a step alone has a condition number of 1e5, so that six would have 1e30."""
    generator = torch.Generator().manual_seed(1)
    network = KINDS[kind](1, 40)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-(40**-0.5), 40**-0.5, generator=generator)
        if wide:
            orthogonal = torch.linalg.qr(torch.randn(40, 40, generator=generator))[0]
            network.weight_hh_l0.copy_(orthogonal * torch.logspace(0, -5, 40))
    return network.to(dtype), torch.randint(2, (55, 2, 1), generator=generator).to(dtype)


@pytest.mark.parametrize("kind", ["tanh", "GRU", "LSTM", "wide"])
def test_steps_share_factorisations_and_lose_no_digit_that_the_result_has(kind, segments):
    wide, kind, k, options = kind == "wide", "tanh" if kind == "wide" else kind, 35, dict(discard=15)
    double, inputs = network_of_40(kind, torch.float64, wide)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flossing, "_next_length", lambda *_: 1)  # a factorisation in every step
        patch.setattr(flossing, "FIRST_LENGTH", 1)
        expected = lyapunov_exponents(double, inputs, k, **options)
        gradients = weighted_gradients(expected, list(double.parameters()))
    for network, dtype, eps in [  # the result's digits; where the arithmetic has few, its last four are given up
        (double, torch.float64, 4000 * EPS64),
        (double.float(), torch.float64, 10 * EPS32),
        (double.float(), torch.float32, 4000 * EPS32),
    ]:
        network = network_of_40(kind, torch.float64 if eps < EPS32 else torch.float32, wide)[0]
        segments.clear()
        exponents = lyapunov_exponents(network, inputs, k, dtype=dtype, **options)
        steps = [steps for steps, accepted in segments if accepted]
        assert sum(steps) == 55 and (len(steps) < 40 or wide)
        # one step alone may be worse conditioned than a segment is allowed to be
        limit = max(eps, 1e5 * torch.finfo(dtype).eps) if wide else eps
        torch.testing.assert_close(exponents.double(), expected, rtol=0, atol=10 * limit)
        assert_close(weighted_gradients(exponents, list(network.parameters())), gradients, 100 * limit)


def test_a_float32_callable_is_judged_by_the_digits_of_float32(segments):
    """A cell of 8 units and 30 steps a factorisation: the condition number would be beyond 1e7 long before the 30th."""
    torch.manual_seed(1)
    cell, inputs = nn.RNNCell(1, 8), torch.randn(60, 1, 1)
    options = dict(qr_every=30, discard=10)
    double = lyapunov_exponents(cell.double(), inputs.double(), state=torch.zeros(1, 8).double(), discard=10)
    cell.float()
    exponents = lyapunov_exponents(lambda x, h: cell(x, h), inputs, state=torch.zeros(1, 8), **options)
    assert not all(accepted for _, accepted in segments) and max(steps for steps, ok in segments if ok) < 30
    torch.testing.assert_close(exponents.double(), double, rtol=0, atol=4000 * EPS32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("autocast", [True, False])
def test_exponents_that_rounding_alone_makes_are_refused(dtype, autocast):
    """Spiking units with a straight-through gradient whose 16 voltages are driven by 8 numbers: a Jacobian of rank 8."""
    generator = torch.Generator().manual_seed(1)
    A, W = (torch.linalg.qr(torch.randn(16, 8, generator=generator))[0].to(dtype) for _ in range(2))

    def step(x, v):
        soft = torch.sigmoid(v - 0.3)
        return (soft + ((v > 0.3).to(dtype) - soft).detach()) @ W @ A.T + x

    inputs, state = torch.ones(20, 1, 1, dtype=dtype), torch.zeros(1, 16, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert "k must be at most 8 here, got 12" in refusal(step, inputs, 12, state=state)
        exponents = lyapunov_exponents(step, inputs, 8, state=state)
    torch.testing.assert_close(exponents, lyapunov_exponents(step, inputs, 8, state=state), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["tanh", "GRU", "LSTM", "callable"])
def test_computing_steps_again_changes_no_number_and_keeps_less(kind, monkeypatch):
    network, inputs, state = draw("GRU" if kind == "callable" else kind, layers=1)
    parameters, options = list(network.parameters()), dict(discard=DISCARD)
    if kind == "callable":
        network.register_forward_hook(lambda *_: None)
    kept = []

    def gradients():
        numbers = 0

        def count(tensor):
            nonlocal numbers
            numbers += tensor.numel() * (tensor.dim() == 3)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            exponents = lyapunov_exponents(network, inputs, 3, **options)
        kept.append(numbers)
        return [exponents, *weighted_gradients(exponents, parameters)]

    plain = gradients()
    monkeypatch.setattr(flossing, "RECOMPUTE_BYTES", 0)
    exponents, *recomputed = gradients()
    torch.testing.assert_close(exponents, plain[0], rtol=0, atol=1e-14)
    assert_close(recomputed, plain[1:], 1e-10)
    assert kept[1] < 0.7 * kept[0]
    with torch.no_grad():  # torch 2.2 takes another way to the last bit
        torch.testing.assert_close(lyapunov_exponents(network, inputs, 3, **options), plain[0], rtol=0, atol=1e-14)


def test_the_backward_pass_computes_a_few_steps_again_at_a_time(monkeypatch):
    network, inputs, _ = draw("GRU")
    inputs, steps = inputs.repeat(6, 1, 1), []

    def checkpoint(advance, first, last, *args, **options):
        steps.append(last - first)
        return advance(first, last, *args)

    monkeypatch.setattr(flossing, "RECOMPUTE_BYTES", 0)
    monkeypatch.setattr(flossing, "checkpoint", checkpoint)
    lyapunov_exponents(network, inputs, 1)
    assert sum(steps) == len(inputs) and max(steps) == 2 * math.isqrt(len(inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_small_has_its_coefficients_computed_once(kind, monkeypatch):
    network, inputs, _ = draw(kind, layers=2)
    right, calls = flossing._ClosedForm.coefficients, []
    monkeypatch.setattr(flossing._ClosedForm, "coefficients", lambda *args: calls.append(1) or right(*args))
    once = lyapunov_exponents(network, inputs, 3, discard=DISCARD)
    gradients = weighted_gradients(once, list(network.parameters()))
    assert len(calls) == 1
    monkeypatch.setattr(flossing, "PREPARE_BYTES", T * B * 3 * (2 if kind == "LSTM" else 1) * 2 * H * 8 - 1)
    often = lyapunov_exponents(network, inputs, 3, discard=DISCARD)
    assert len(calls) > 2
    torch.testing.assert_close(often, once, rtol=0, atol=1e-13)
    assert_close(weighted_gradients(often, list(network.parameters())), gradients, 1e-10)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@pytest.mark.parametrize("layers", [1, 2])
def test_few_tangents_and_many_take_two_ways_to_the_same_exponents(kind, layers):
    """Up to k = H / 2 the weights multiply the tangents, above they are combined first."""
    network, inputs, _ = draw(kind, layers)
    all_of_them = lyapunov_exponents(network, inputs)
    for k in (1, 2, 3, 4):
        torch.testing.assert_close(lyapunov_exponents(network, inputs, k), all_of_them[:, :k], rtol=0, atol=1e-11)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    network, inputs, _ = draw("GRU")
    state = torch.get_rng_state()
    first, again, other = (lyapunov_exponents(network, inputs, 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------ torch differentiates


@pytest.mark.parametrize("kind", [*KINDS, "callable"])
def test_gradients_can_be_differentiated_again(kind):
    network, inputs, _ = draw("tanh" if kind == "callable" else kind)
    inputs, k = inputs[:4, :1], 2
    if kind == "callable":
        network.register_forward_hook(lambda *_: None)
    parameters = tuple(network.parameters())  # gradgradcheck changes them in place
    parameters = parameters[1:2] if kind == "relu" else parameters[:2]  # W_hh is all that counts where units are on
    assert torch.autograd.gradgradcheck(lambda *_: lyapunov_exponents(network, inputs, k), parameters, fast_mode=True)


def test_a_loss_can_be_differentiated_twice_by_parts_and_is_freed():
    network, inputs, _ = draw("GRU")
    W = network.weight_hh_l0
    exponents = lyapunov_exponents(network, inputs, 3)
    one_by_one = [torch.autograd.grad(exponent, W, retain_graph=True)[0] for exponent in exponents.mean(0)]
    exponents.mean(0).sum().backward(retain_graph=True)
    torch.testing.assert_close(sum(one_by_one), W.grad, rtol=1e-10, atol=1e-14)
    exponents.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        exponents.sum().backward()


def test_the_transforms_of_torch_func_give_the_same_gradient():
    network, inputs, state = draw("GRU")
    of_inputs = torch.func.grad(lambda x: lyapunov_exponents(network, x, 2).sum())(inputs)
    inputs.requires_grad_()
    expected = torch.autograd.grad(lyapunov_exponents(network, inputs, 2).sum(), inputs)[0]
    torch.testing.assert_close(of_inputs, expected, rtol=0, atol=1e-12)


# ------------------------------------------------------------------ devices


@pytest.mark.parametrize("kind", ["tanh", "LSTM", "callable"])
def test_every_tensor_is_made_on_a_device_that_is_named(kind):
    """Under another default device, a tensor made without a device would meet those of the network and fail."""
    network, inputs, state = draw("tanh" if kind == "callable" else kind, layers=1 if kind == "callable" else 2)
    if kind == "callable":
        W, state = network.weight_hh_l0, torch.ones(B, H, dtype=torch.float64)
        network = lambda x, s: torch.tanh(s @ W.T + x[:, :1])  # noqa: E731
    with torch.device("meta"):
        exponents = lyapunov_exponents(network, inputs, 3, state=state)
        exponents.square().mean().backward()


def test_on_a_gpu_all_is_as_on_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use on this machine: extras/flossing.py is not tested on one")
    for kind, own in itertools.product(KINDS, (False, True)):
        network, inputs, _ = draw(kind, layers=2)
        if own:  # by its own forward pass: on a GPU torch cannot differentiate its GRU and LSTM forwards
            network.register_forward_hook(lambda *args: None)
        expected = lyapunov_exponents(network, inputs, 2)
        gradients = weighted_gradients(expected, list(network.parameters()))
        exponents = lyapunov_exponents(network.cuda(), inputs.cuda(), 2)
        assert exponents.is_cuda
        torch.testing.assert_close(exponents.cpu(), expected, rtol=0, atol=1e-10)
        on_gpu = weighted_gradients(exponents, list(network.parameters()))
        assert_close([g.cpu() for g in on_gpu], gradients, 1e-8)


def test_a_gpu_is_waited_for_once_a_segment(monkeypatch):
    """For what _judge finds; and once at the beginning, when the orthonormal system goes there."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use on this machine: how often extras/flossing.py waits for one is not tested")
    judge, segments = flossing._judge, []
    monkeypatch.setattr(flossing, "_judge", lambda *args: segments.append(1) or judge(*args))
    for kind in KINDS:
        network, inputs, _ = draw(kind)
        network, inputs = network.cuda(), inputs.cuda()
        for _ in range(2):  # the first prepares
            segments.clear()
            with warnings.catch_warnings(record=True) as waits:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                lyapunov_exponents(network, inputs, 2).square().mean().backward()
                torch.cuda.set_sync_debug_mode("default")
        assert 1 < len(segments) + 1 == len([w for w in waits if "synchronizing" in str(w.message)])


# ------------------------------------------------------------------ what is refused


def refusal(*args, **options):
    with pytest.raises(ValueError) as error:
        lyapunov_exponents(*args, **options)
    return str(error.value)


@pytest.mark.parametrize("network, text", [
    (nn.GRU(I, H, bidirectional=True), "bidirectional"),
    (nn.RNN(I, H, bidirectional=True), "bidirectional"),
    (nn.GRU(I, H).half(), "float16"),
    (3, "got 3"),
])  # fmt: skip
def test_a_network_without_such_exponents_is_refused_by_name(network, text):
    message = refusal(network, torch.zeros(T, B, I))
    assert message.startswith("network must") and text in message


@pytest.mark.parametrize("options, text", [
    (dict(k=H + 1), f"k must be an integer from 1 to {H}, the size of the system's state, got {H + 1}"),
    (dict(k=0), "k must"),
    (dict(k=2.0), "got 2.0"),
    (dict(discard=T), f"discard must be an integer from 0 to {T - 1}"),
    (dict(discard=-1), "discard must"),
    (dict(seed=-1), "seed must be an integer of at least 0, got -1"),
    (dict(qr_every=0), "qr_every must be an integer of at least 1, got 0"),
    (dict(dtype=torch.bfloat16), "dtype must be torch.float32 or torch.float64, got torch.bfloat16"),
    (dict(state=torch.zeros(1, B + 1, H)), f"state must be a tensor of shape (1, {B}, {H})"),
    (dict(state=(torch.zeros(1, B, H),) * 2), "state must be a tensor"),
    (dict(state=()), f"state must be a tensor of shape (1, {B}, {H}), got ()"),
    (dict(state=np.zeros((1, B, H))), "state must be a tensor"),
])  # fmt: skip
def test_an_argument_that_cannot_be_is_refused_by_name(options, text):
    assert text in refusal(nn.GRU(I, H), torch.zeros(T, B, I), **options)


def test_inputs_of_another_kind_are_refused_by_name():
    network = nn.GRU(I, H)
    assert "inputs must" in refusal(network, torch.zeros(T, B, I + 1))
    assert "inputs must" in refusal(network, torch.zeros(T, B, I, dtype=torch.int64))
    assert "inputs must have the 2 channels of the network last, and at least one" in refusal(network, torch.zeros(0, B, I))
    assert "inputs must have the shape (T, B, ...)" in refusal(lambda x, s: s, torch.zeros(T, B + 1, I), state=torch.ones(B, 2))
    assert "inputs must be an integer of at least 1, got 0" in refusal(lambda x, s: s, 0, state=torch.ones(B, 2))
    assert "inputs must" in refusal(network, [[1.0]])
    model = nn.Sequential(nn.GRU(I, H), nn.Linear(H, 1))
    for network, state in ((model, None), (lambda x, s: s, torch.ones(B)), (lambda x, s: s, torch.ones(B, 2).long())):
        message = refusal(network, torch.zeros(T, B, I), state=state)
        assert "state must be a tensor (B, ...)" in message and "hand over the recurrent layer" in message
    for wrong in (lambda s: s[:, :1], lambda s: s.double(), lambda s: (s, s, s), lambda s: (s, s.double()), lambda s: None):
        message = refusal(lambda x, s: wrong(s), torch.zeros(T, B, I), state=torch.ones(B, 2))  # noqa: B023
        assert "network must return a state like the one it got, float32 tensor (3, 2), or a pair" in message


@pytest.mark.parametrize("kind", ["module", "callable"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(5))
def test_where_the_jacobian_loses_rank_the_error_says_how_many_exponents_exist(kind, dtype, seed):
    """A ReLU network of which two units are always off, and one from the fifth step on in one of the trials."""
    network = nn.RNN(1, H, nonlinearity="relu", dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-1, 1, generator=generator)
        network.bias_ih_l0.fill_(1.0)
        network.bias_hh_l0.fill_(0.0)
        network.bias_hh_l0[:2] = -10
        network.weight_hh_l0.mul_(0.1)
        network.weight_ih_l0[:] = 0
        network.weight_ih_l0[2] = -10
    inputs = torch.zeros(T, B, 1, dtype=dtype)
    inputs[5, 1] = 1
    options = {}
    if kind == "callable":
        weights = list(network.parameters())
        options["state"] = torch.zeros(B, H, dtype=dtype)
        network = lambda x, s: torch.relu(x @ weights[0].T + weights[2] + s @ weights[1].T + weights[3])  # noqa: E731
    message = refusal(network, inputs, 5, **options)
    assert "k must be at most 3 here, got 5" in message and "only 3 Lyapunov exponents exist" in message
    exponents = lyapunov_exponents(network, inputs, 3, **options)
    assert exponents.isfinite().all()
    assert lyapunov_exponents(network, inputs[:5], 4, **options).isfinite().all()


def test_a_trajectory_that_overflows_is_an_error_that_names_the_step():
    network = nn.RNN(1, H, nonlinearity="relu", dtype=torch.float64)
    with torch.no_grad():
        network.weight_hh_l0.fill_(1e100)
    with pytest.raises(FloatingPointError, match="the state is not finite after time step 4"):
        lyapunov_exponents(network, torch.ones(T, 1, 1, dtype=torch.float64), 1, state=torch.ones(1, 1, H))


# ------------------------------------------------------------------ flossing


def bits(seed=1, steps=30):
    """A function that gives batch after batch of random bits."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randint(2, (steps, 1, I), generator=generator).float()


@pytest.mark.parametrize("kind", ["tanh", "GRU", "LSTM"])
def test_flossing_drives_the_exponents_to_the_target(kind):
    network, _, _ = draw(kind, dtype=torch.float32)
    history = floss(network, bits(steps=15), 4, steps=100, target=-0.2, lr=2e-2, discard=5)
    assert history.loss.shape == (100,) and history.exponents.shape == (100, 4)
    assert history.loss[-10:].mean() < 0.05 * history.loss[0]
    assert abs(history.exponents[-10:].mean() + 0.2) < 0.1


def test_the_first_flossing_step_is_one_of_adam_on_flossing_loss():
    network, _, _ = draw("GRU", dtype=torch.float32)
    other, _, _ = draw("GRU", dtype=torch.float32)
    history = floss(network, bits(), 4, steps=1, target=0.1, discard=5)
    loss = flossing_loss(other, bits()(), 4, target=0.1, discard=5)
    assert history.loss[0] == loss.item()
    assert loss.item() == pytest.approx(np.mean((history.exponents[0] - 0.1) ** 2), rel=1e-6)
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-3)
    loss.backward()
    optimizer.step()
    for p, q in zip(network.parameters(), other.parameters()):
        assert torch.equal(p, q) and p.grad is None


def test_only_the_given_parameters_change():
    network, inputs, _ = draw("GRU")
    before = [p.clone() for p in network.parameters()]
    floss(network, inputs, 3, steps=2, parameters=[network.weight_hh_l0])
    changed = [not torch.equal(p, old) for p, old in zip(network.parameters(), before)]
    assert changed == [False, True, False, False]
    floss(network, inputs, 3, steps=2, optimizer=torch.optim.SGD([network.weight_ih_l0], lr=0.1))
    changed = [not torch.equal(p, old) for p, old in zip(network.parameters(), before)]
    assert changed == [True, True, False, False] and all(p.grad is None for p in network.parameters())


class Stop(Exception):
    pass


@pytest.mark.parametrize("what", ["nan", "integers", "CUDA out of memory", "callback", "LBFGS"])
def test_what_fails_names_the_step_and_leaves_the_network_of_the_last_entry_of_the_history(what):
    network, inputs, _ = draw("tanh")
    seen, calls = [], 0

    def batch():
        seen.append([p.detach().clone() for p in network.parameters()])
        if len(seen) == 3 and what == "CUDA out of memory":
            raise RuntimeError(what)
        bad = {"nan": inputs * math.nan, "integers": inputs.long()}
        return bad.get(what, inputs) if len(seen) == 3 else inputs

    def callback(step, loss, exponents):
        assert np.isfinite(loss) and exponents.shape == (3,)
        if step == 2 and what == "callback":
            raise Stop("enough")

    error = {"nan": FloatingPointError, "integers": ValueError, "callback": Stop, "LBFGS": FloatingPointError}.get(what, RuntimeError)
    optimizer = None
    if what == "LBFGS":  # a step so large that the second evaluation fails
        optimizer = torch.optim.LBFGS(network.parameters(), lr=math.inf)
    with pytest.raises(error) as raised:
        floss(network, batch, 3, steps=5, callback=callback, optimizer=optimizer)
    steps = 1 if what == "LBFGS" else 2
    assert raised.value.history.loss.shape == (steps,) and raised.value.history.exponents.shape == (steps, 3)
    assert "enough" == str(raised.value) if what == "callback" else f"flossing step {3 if steps == 2 else 1}: " in str(raised.value)
    assert all(torch.equal(p, old) for p, old in zip(network.parameters(), seen[steps - 1]))
    loss = flossing_loss(network, inputs, 3).item()
    assert raised.value.history.loss[-1] == loss and all(p.grad is None for p in network.parameters())


def test_a_first_step_that_fails_changes_nothing():
    network, inputs, _ = draw("tanh")
    before = [p.clone() for p in network.parameters()]
    with pytest.raises(ValueError, match="flossing step 1: k must") as raised:
        floss(network, inputs, H + 1, steps=5)
    assert raised.value.history.loss.shape == (0,) and raised.value.history.exponents.shape == (0, H + 1)
    assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before))


def test_ctrl_c_gives_the_history_so_far_and_says_so(capsys):
    network, inputs, _ = draw("tanh")
    batches = 0

    def batch():
        nonlocal batches
        batches += 1
        if batches == 4:
            raise KeyboardInterrupt
        return inputs

    history = floss(network, batch, 3, steps=9)
    assert history.loss.shape == (3,) and history.loss[-1] == flossing_loss(network, inputs, 3).item()
    assert capsys.readouterr().err == "flossing interrupted in step 4 of 9\n"


def test_a_callback_sees_every_step_and_can_end_flossing():
    network, inputs, _ = draw("tanh")
    seen = []
    history = floss(network, inputs, 3, steps=9, callback=lambda *step: seen.append(step) or len(seen) == 4)
    assert [step for step, _, _ in seen] == [1, 2, 3, 4]
    assert [loss for _, loss, _ in seen] == list(history.loss)
    assert np.array_equal([exponents for *_, exponents in seen], history.exponents)


@pytest.mark.parametrize("form", ["tensor", "list", "groups", "LBFGS"])
def test_parameters_come_as_torch_optimisers_take_them_and_their_gradients_are_left_alone(form):
    network, inputs, _ = draw("GRU")
    W, V = network.weight_hh_l0, network.weight_ih_l0
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    before = [p.clone() for p in network.parameters()]
    parameters = {"tensor": W, "list": [W, V], "groups": [dict(params=[W], lr=1e-2), dict(params=[V], lr=0.0)]}
    optimizer = torch.optim.LBFGS([W, V], max_iter=3) if form == "LBFGS" else None
    history = floss(network, inputs, 3, steps=3, parameters=parameters.get(form), optimizer=optimizer)
    changed = [not torch.equal(p, old) for p, old in zip(network.parameters(), before)]
    assert changed == [form in ("list", "LBFGS"), True, False, False]
    assert history.loss[-1] < history.loss[0]
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in network.parameters())


def test_parameters_without_influence_are_refused():
    network, inputs, _ = draw("GRU")
    readout = nn.Linear(H, 1, dtype=torch.float64)
    for options in (dict(parameters=readout.parameters()), dict(optimizer=torch.optim.SGD(readout.parameters(), lr=0.1))):
        with pytest.raises(ValueError, match="parameters must contain at least one that the exponents depend on"):
            floss(network, inputs, 3, steps=1, **options)
    with pytest.raises(ValueError, match="parameters must .* one at least must require a gradient"):
        floss(network, inputs, 3, steps=1, parameters=[])


@pytest.mark.parametrize("target", [[0.0, 0.1], torch.zeros(3, 3), np.zeros((1, 3))])
def test_targets_of_another_number_are_refused(target):
    network, inputs, _ = draw("GRU")
    with pytest.raises(ValueError, match="target must be a number or 3 of them, got shape"):
        flossing_loss(network, inputs, 3, target=target)


def test_a_target_for_each_exponent_belongs_to_that_exponent():
    network, inputs, _ = draw("GRU")
    exponents = lyapunov_exponents(network, inputs, 3)
    target = torch.tensor([0.0, -0.1, -0.2], dtype=torch.float64)
    loss = flossing_loss(network, inputs, 3, target=target)
    assert loss.item() == pytest.approx(((exponents - target) ** 2).mean().item(), rel=1e-14)


# ------------------------------------------------------------------ does the input still reach the network?


@pytest.mark.parametrize("kind", ["tanh", "LSTM", "cell", "callable"])
def test_spread_is_the_deviation_of_the_outputs_over_time(kind):
    network, inputs, state = draw("LSTM" if kind == "LSTM" else "tanh", layers=2 if kind == "LSTM" else 1)
    options, called = dict(discard=DISCARD), network
    if kind == "LSTM":
        outputs = torch.cat([network(inputs[: t + 1])[1][0] for t in range(T)], -1)  # h of both layers, not c
        outputs = torch.stack([network(inputs[: t + 1])[1][0].transpose(0, 1).flatten(1) for t in range(T)])
    else:
        outputs = network(inputs)[0]
    if kind in ("cell", "callable"):
        called = nn.RNNCell(I, H, dtype=torch.float64)
        called.load_state_dict({name.removesuffix("_l0"): p for name, p in network.named_parameters()})
        if kind == "callable":
            options["state"] = torch.zeros(B, H, dtype=torch.float64)
            cell, called = called, lambda x, h: cell(x, h)
    loss = flossing_loss(called, inputs, 3, spread=0.5, **options) - flossing_loss(called, inputs, 3, **options)
    expected = ((outputs[DISCARD:].std(0, correction=0) - 0.5) ** 2).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    if kind in ("tanh", "LSTM"):
        parameters = list(network.parameters())
        assert_close(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), 1e-10)


def blind_or_not(kind, strength):
    """Network, batch and options; at rest without input, which only its first unit gets, of that strength."""
    network, inputs, _ = draw("tanh", batch_first=kind == "batch_first")
    with torch.no_grad():
        network.weight_hh_l0.mul_(0.1)
        network.weight_ih_l0.zero_()[0] = strength
    options = dict(steps=2, lr=1e-6, discard=4)
    if kind == "callable":
        cell = same_weights(network, nn.RNNCell(I, H).double())
        options |= dict(state=torch.zeros(B, H, dtype=torch.float64), parameters=list(cell.parameters()))
        network = lambda x, h: cell(x, h)  # noqa: E731
    return network, inputs.transpose(0, 1) if kind == "batch_first" else inputs, options


@pytest.mark.parametrize("kind", ["tanh", "batch_first", "callable"])
def test_a_network_that_goes_blind_is_warned_of_once_with_what_to_do(kind):
    network, inputs, options = blind_or_not(kind, 1e-3)
    with pytest.warns(RuntimeWarning, match=r"has gone blind: .* open_gates\(network\) before .* spread=0.5") as warned:
        floss(network, lambda: inputs, 3, **options)
    ours = [warning for warning in warned if warning.category is RuntimeWarning]  # torch.func may warn when first used
    assert len(ours) == 1 and ours[0].filename == __file__


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["tanh", "batch_first", "callable"])
def test_networks_that_see_and_inputs_that_do_not_tell_get_no_warning(kind):
    network, inputs, options = blind_or_not(kind, 1.0)
    floss(network, inputs, 3, **options)
    network, inputs, options = blind_or_not(kind, 1e-3)
    floss(network, inputs * 0 + 1, 3, **options)  # inputs that do not change
    floss(network, inputs, 3, **options | dict(discard=T - 1))  # a single step of outputs
    floss(network, inputs, 3, **options | dict(steps=0))
    if kind == "callable":
        floss(lambda x, h: network(torch.zeros(B, I).double(), h), T, 3, **options)


@pytest.mark.filterwarnings("error")
def test_a_last_update_that_went_too_far_costs_no_history():
    network, inputs, _ = draw("tanh")
    history = floss(network, inputs, 3, steps=1, optimizer=torch.optim.SGD(network.parameters(), lr=1e200))
    assert history.loss.shape == (1,)
    with pytest.raises(ValueError, match="k must be at most 0"):
        lyapunov_exponents(network, inputs, 3)


@pytest.mark.parametrize("network", [nn.GRU(I, H, num_layers=2), nn.LSTM(I, H), nn.GRUCell(I, H), nn.LSTMCell(I, H)])
def test_open_gates_lets_the_new_in_and_the_old_out_and_leaves_the_candidate_alone(network):
    before = {name: p.clone() for name, p in network.named_parameters()}
    open_gates(network, 4.0)
    for name, p in network.named_parameters():
        if "weight" in name:
            assert torch.equal(p, before[name])
            continue
        gates, old = p.view(-1, H), before[name].view(-1, H)
        expected = {0: 4.0, 1: -4.0} | ({3: 4.0} if len(gates) == 4 else {})  # r z n; i f g o
        for number, gate in enumerate(gates):
            value = old[number] if number == 2 else torch.full_like(gate, expected[number] if "ih" in name else 0.0)
            assert torch.equal(gate, value)


@pytest.mark.parametrize("network", [nn.RNN(I, H), nn.GRU(I, H, bias=False), nn.Linear(I, H), 3])
def test_open_gates_wants_gates_with_biases(network):
    with pytest.raises(ValueError, match="network must be an nn.GRU, nn.LSTM or Cell with biases, got"):
        open_gates(network)


def test_flossing_without_parameters_is_refused_by_name():
    with pytest.raises(ValueError, match="parameters must be given for what is no nn.Module"):
        floss(lambda x, s: s, torch.zeros(T, B, I), 1, steps=1, state=torch.ones(B, 2))
    network, inputs, _ = draw("tanh")
    with pytest.raises(ValueError, match="parameters must be None"):
        floss(network, inputs, 1, steps=1, parameters=[], optimizer=torch.optim.SGD(network.parameters(), 0.1))
    with pytest.raises(ValueError, match="steps must"):
        floss(network, inputs, 1, steps=-1)
    for k in (2.0, 0, None):
        with pytest.raises(ValueError, match=f"^k must be an integer of at least 1, got {k}"):
            floss(network, inputs, k, steps=1)


# ------------------------------------------------------------------ scripts


def test_the_file_needs_nothing_but_torch_and_numpy(tmp_path):
    (tmp_path / "flossing.py").write_text((ROOT / "extras" / "flossing.py").read_text())
    code = ("import sys, flossing, torch;"
            "print(flossing.lyapunov_exponents(torch.nn.GRU(1, 4), torch.ones(9, 2, 1), 2).shape);"
            "assert not {'extras', 'scipy', 'matplotlib'} & set(sys.modules)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[2, 2]" in done.stdout
