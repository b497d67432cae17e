"""extras/flossing.py against autograd Jacobians of torch's own modules, finite differences and known exponents."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from example_code.experiments import own_network
from extras import flossing
from extras.flossing import floss, flossing_loss, lyapunov_exponents
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
        parts = vector.view(network.num_layers, -1, network.hidden_size)
        state = tuple(part.contiguous()[:, None] for part in parts.unbind(1))
        x_t = x[None, None]
        _, new = network(x_t, state if isinstance(network, nn.LSTM) else state[0])
        return torch.stack(new if isinstance(new, tuple) else (new,), 1)[:, :, 0].reshape(-1)

    return step


def jacobians(network, inputs, state):
    """For each trial the Jacobians of all steps by autograd through torch's module, itself differentiable."""
    for b in range(inputs.shape[1]):
        states = state if isinstance(state, tuple) else (state,)
        vector = torch.stack([s[:, b] for s in states], 1).reshape(-1)
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
    weights = torch.arange(1.0, exponents.numel() + 1, dtype=exponents.dtype).view_as(exponents)
    return torch.autograd.grad((exponents * weights).sum(), tensors)


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

    gradients = torch.autograd.grad(loss(), tensors)
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
    system = flossing._system(network, torch.as_tensor(s), torch.as_tensor(np.tanh(xInit.T))[None])
    Q = torch.as_tensor(initial_orthonormal_system(seed, N, nLE).astype(float))
    exponents = flossing._exponents(system, Q, discarded_steps(Tp), 1)[0]
    # Float32 rounding of Q is the same on both sides; the rest is Float64
    torch.testing.assert_close(exponents, by_port, rtol=0, atol=1e-12)


# ------------------------------------------------------------------ Float32, segments, memory


@pytest.mark.parametrize("kind", ["tanh", "GRU", "LSTM", "wide"])
def test_a_float32_network_shares_factorisations_and_loses_nothing(kind, monkeypatch):
    """wide: six steps would have a condition number of 1e30."""
    generator = torch.Generator().manual_seed(1)
    kind, wide = ("tanh", True) if kind == "wide" else (kind, False)
    network = KINDS[kind](1, 40)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-(40**-0.5), 40**-0.5, generator=generator)
        if wide:
            orthogonal = torch.linalg.qr(torch.randn(40, 40, generator=generator))[0]
            network.weight_hh_l0.copy_(orthogonal * torch.logspace(0, -5, 40))
    inputs = torch.randint(2, (55, 2, 1), generator=generator).float()
    double = KINDS[kind](1, 40, dtype=torch.float64)
    double.load_state_dict(network.state_dict())
    chains, run = [], flossing._Chain.run
    monkeypatch.setattr(flossing._Chain, "run", lambda self, *args: (run(self, *args), chains.append(self))[0])
    k = 35
    exponents = lyapunov_exponents(network, inputs, k, discard=15)
    expected = lyapunov_exponents(double, inputs.double(), k, discard=15)
    assert exponents.dtype == torch.float32
    assert len(chains[0].segments) < (56 if wide else 30) and len(chains[-1].segments) == 55
    # a segment's R has a condition number of at most CONDITION_LIMIT, of which Float64 loses as many digits
    limit = 10 * (EPS32 + flossing.CONDITION_LIMIT * EPS64)
    torch.testing.assert_close(exponents.double(), expected, rtol=0, atol=limit)
    gradients = weighted_gradients(exponents, list(network.parameters()))
    assert_close(gradients, weighted_gradients(expected, list(double.parameters())), 10 * limit)


@pytest.mark.parametrize("kind", ["tanh", "LSTM"])
def test_neither_factorising_seldom_nor_small_chunks_nor_no_grad_change_the_exponents(kind, monkeypatch):
    network, inputs, state = draw(kind, layers=2)
    parameters = list(network.parameters())
    expected = lyapunov_exponents(network, inputs, 3, discard=DISCARD)
    gradients = weighted_gradients(expected, parameters)
    seldom = lyapunov_exponents(network, inputs, 3, discard=DISCARD, qr_every=4)
    torch.testing.assert_close(seldom, expected, rtol=0, atol=1e-9)
    assert_close(weighted_gradients(seldom, parameters), gradients, 1e-7)
    monkeypatch.setattr(flossing, "CHUNK_BYTES", 1)
    monkeypatch.setattr(flossing, "FIRST_LENGTH", 2)
    chunked = lyapunov_exponents(network, inputs, 3, discard=DISCARD)
    assert len(flossing._chunks(flossing._system(network, inputs, None).layers, inputs, 1)) == 5
    torch.testing.assert_close(chunked, expected, rtol=0, atol=1e-12)
    assert_close(weighted_gradients(chunked, parameters), gradients, 1e-10)
    with torch.no_grad():
        assert torch.equal(lyapunov_exponents(network, inputs, 3, discard=DISCARD), chunked)


def test_the_first_exponents_do_not_depend_on_how_many_are_asked_for():
    network, inputs, _ = draw("GRU")
    torch.testing.assert_close(
        lyapunov_exponents(network, inputs, 2), lyapunov_exponents(network, inputs)[:, :2], rtol=0, atol=1e-12
    )


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    network, inputs, _ = draw("GRU")
    state = torch.get_rng_state()
    first, again, other = (lyapunov_exponents(network, inputs, 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gradient_cannot_be_differentiated_silently():
    network, inputs, _ = draw("tanh")
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.grad(lyapunov_exponents(network, inputs, 2).sum(), [network.weight_hh_l0], create_graph=True)


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
    for kind in KINDS:
        network, inputs, state = draw(kind, layers=2)
        expected = lyapunov_exponents(network, inputs, 2)
        gradients = weighted_gradients(expected, list(network.parameters()))
        exponents = lyapunov_exponents(network.cuda(), inputs.cuda(), 2)
        assert exponents.is_cuda
        torch.testing.assert_close(exponents.cpu(), expected, rtol=0, atol=1e-10)
        weights = torch.arange(1.0, exponents.numel() + 1).view_as(expected).to(exponents)
        on_gpu = torch.autograd.grad((exponents * weights).sum(), list(network.parameters()))
        assert_close([g.cpu() for g in on_gpu], gradients, 1e-8)


# ------------------------------------------------------------------ what is refused


def refusal(*args, **options):
    with pytest.raises(ValueError) as error:
        lyapunov_exponents(*args, **options)
    return str(error.value)


@pytest.mark.parametrize("network, text", [
    (nn.GRU(I, H, bidirectional=True), "bidirectional"),
    (nn.LSTM(I, H, proj_size=2), "proj_size 0, got 2"),
    (nn.GRU(I, H, num_layers=2, dropout=0.5), "dropout 0.5"),
    (nn.GRU(I, H).half(), "float16"),
    (3, "got int"),
])  # fmt: skip
def test_a_network_without_such_exponents_is_refused_by_name(network, text):
    message = refusal(network, torch.zeros(T, B, I))
    assert message.startswith("network must") and text in message


def test_dropout_in_evaluation_mode_is_no_dropout():
    network = nn.GRU(I, H, num_layers=2, dropout=0.5).eval()
    assert lyapunov_exponents(network, torch.zeros(T, B, I), 2).isfinite().all()


@pytest.mark.parametrize("options, text", [
    (dict(k=H + 1), f"k must be an integer from 1 to {H}, the size of the system's state, got {H + 1}"),
    (dict(k=0), "k must"),
    (dict(k=2.0), "got 2.0"),
    (dict(discard=T), f"discard must be an integer from 0 to {T - 1}"),
    (dict(discard=-1), "discard must"),
    (dict(seed=-1), "seed must be an integer of at least 0, got -1"),
    (dict(qr_every=0), "qr_every must be an integer of at least 1, got 0"),
    (dict(state=torch.zeros(1, B + 1, H)), f"state must be a tensor of shape (1, {B}, {H})"),
    (dict(state=(torch.zeros(1, B, H),) * 2), "state must be a tensor"),
])  # fmt: skip
def test_an_argument_that_cannot_be_is_refused_by_name(options, text):
    assert text in refusal(nn.GRU(I, H), torch.zeros(T, B, I), **options)


def test_inputs_of_another_kind_are_refused_by_name():
    network = nn.GRU(I, H)
    assert "inputs must" in refusal(network, torch.zeros(T, B, I + 1))
    assert "inputs must" in refusal(network, torch.zeros(T, B, I, dtype=torch.int64))
    assert "inputs must have at least one time step" in refusal(network, torch.zeros(0, B, I))
    assert "inputs must" in refusal(network, [[1.0]])
    assert "state must be a tensor (B, n)" in refusal(lambda x, s: s, torch.zeros(T, B, I))
    message = refusal(lambda x, s: s[:, :1], torch.zeros(T, B, I), state=torch.ones(B, 2))
    assert "network must return a state of shape (3, 2)" in message


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
    history = floss(network, bits(), 4, steps=150, target=-0.2, lr=1e-2, discard=5, progress=False)
    assert history.loss.shape == (150,) and history.exponents.shape == (150, 4)
    assert history.loss[-10:].mean() < 0.05 * history.loss[0]
    assert abs(history.exponents[-10:].mean() + 0.2) < 0.1


def test_the_first_flossing_step_is_one_of_adam_on_flossing_loss():
    network, _, _ = draw("GRU", dtype=torch.float32)
    other, _, _ = draw("GRU", dtype=torch.float32)
    history = floss(network, bits(), 4, steps=1, target=0.1, discard=5, progress=False)
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
    floss(network, inputs, 3, steps=2, parameters=[network.weight_hh_l0], progress=False)
    changed = [not torch.equal(p, old) for p, old in zip(network.parameters(), before)]
    assert changed == [False, True, False, False]
    floss(network, inputs, 3, steps=2, optimizer=torch.optim.SGD([network.weight_ih_l0], lr=0.1), progress=False)
    changed = [not torch.equal(p, old) for p, old in zip(network.parameters(), before)]
    assert changed == [True, True, False, False] and all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("bad, error", [(math.nan, FloatingPointError), (None, ValueError)])
def test_what_is_not_finite_stops_at_the_step_and_leaves_the_network_as_it_was(bad, error):
    network, inputs, _ = draw("tanh")
    before = [p.clone() for p in network.parameters()]
    batches = iter([inputs, inputs, inputs * bad if bad is not None else inputs.long()])
    with pytest.raises(error, match="^flossing step 3: "):
        floss(network, lambda: next(batches), 3, steps=5, progress=False)
    assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before))


def test_flossing_without_parameters_is_refused_by_name():
    with pytest.raises(ValueError, match="parameters must be given"):
        floss(lambda x, s: s, torch.zeros(T, B, I), 1, steps=1, state=torch.ones(B, 2))
    network, inputs, _ = draw("tanh")
    with pytest.raises(ValueError, match="parameters must be None"):
        floss(network, inputs, 1, steps=1, parameters=[], optimizer=torch.optim.SGD(network.parameters(), 0.1))
    with pytest.raises(ValueError, match="steps must"):
        floss(network, inputs, 1, steps=-1)


def test_progress_is_some_ten_lines_and_can_be_switched_off(capsys):
    network, inputs, _ = draw("tanh")
    floss(network, inputs, 1, steps=40, progress=False)
    assert capsys.readouterr().out == ""
    floss(network, inputs, 1, steps=40)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("flossing 40/40  loss ")


# ------------------------------------------------------------------ scripts


def test_the_file_needs_nothing_but_torch_and_numpy(tmp_path):
    (tmp_path / "flossing.py").write_text((ROOT / "extras" / "flossing.py").read_text())
    code = ("import sys, flossing, torch;"
            "print(flossing.lyapunov_exponents(torch.nn.GRU(1, 4), torch.ones(9, 2, 1), 2).shape);"
            "assert not {'extras', 'scipy', 'matplotlib'} & set(sys.modules)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "[2, 2]" in done.stdout


def test_the_example_runs(tmp_path):
    script = str(ROOT / "example_code" / "floss_your_own_network.py")
    command = [sys.executable, script, "--network", "GRU", "--epochs", "1", "--steps", "1", "--delay", "100"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "floss_your_own_network.png").exists()


def test_the_target_of_the_example_is_the_xor():
    from example_code.floss_your_own_network import delayed_xor

    bits, target = delayed_xor(2, 40, 7, torch.Generator().manual_seed(1))
    assert bits.shape == (40, 2, 1) and target.shape == (26, 2, 1)
    for t in range(14, 40):
        assert torch.equal(target[t - 14], (bits[t - 7] != bits[t - 14]).float())


def test_the_table_of_times_has_a_line_for_each_network():
    lines = own_network.time_table(rounds=1, k=2, T=4, discard=1)
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["nn.RNN", "nn.GRU", "nn.LSTM"]


def test_the_initial_weights_of_the_experiment_are_what_their_names_say():
    torch.manual_seed(1)
    deviation = 80**-0.5  # of N(0, 1) / sqrt(H); torch's are uniform up to that
    spread = {start: functions[0](functions[1][0]) for start, functions in own_network.STARTS.items()}
    assert float(spread["paper"].weight_hh_l0.std()) == pytest.approx(deviation, rel=0.05)
    assert float(spread["torch"].weight_hh_l0.std()) == pytest.approx(deviation / 3**0.5, rel=0.05)
    assert float(spread["example"].weight_ih_l0.std()) == pytest.approx(1, rel=0.3)
    gates = spread["holding"].bias_ih_l0.view(3, -1)  # of a GRU: r z n
    assert (gates[0] == 3).all() and (gates[1] == 1).all()


def test_the_experiment_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(own_network, "DELAYS", (10, 20))
    monkeypatch.setattr(own_network, "EPOCHS", 2)
    monkeypatch.setattr(own_network, "STEPS", 1)
    arguments = ["--seeds", "1", "--starts", "example", "--out", str(tmp_path)]
    own_network.main(arguments)
    rows = own_network.read(tmp_path / "own_network.csv")
    assert len(rows) == 7  # three networks with flossing and without, and the LSTM with k = 150
    assert {row["delay"] for row in rows} == {"10"}  # nothing is learned in two epochs: no longer delay is tried
    monkeypatch.setattr(own_network, "train", None)
    own_network.main(arguments)
    assert own_network.read(tmp_path / "own_network.csv") == rows
