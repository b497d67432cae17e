"""The functions of gradient_flossing_example.py against truths that do not come from the original."""

import inspect
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import gradient_flossing_example as port
from extras.record import load_record
from gf_task05spatialXORShort import generate_input_output
from gradient_flossing_example import (
    LONG_README_CALL,
    README_CALL,
    Parameters,
    calc_flossing_loss,
    calc_loss_binary_crossentropy,
    calc_lyapunov_spectrum,
    first_loss_index,
    flossing_gradient,
    get_accuracy,
    get_d,
    initial_orthonormal_system,
    phid,
    relax_ic,
    train_rnn_flossing,
    training_gradient,
)
from julia_packages.backwards_linalg import qr
from julia_packages.random import MersenneTwister
from julia_packages.zygote import gradient
from tests.conftest import ROOT, short_call

ORIGINAL_ORDER = (
    "N E Ef Ei Ep Ni B S T Tp Ti sIC sIn sNet sONS lr b1 b2 IC g gbar I1 delay wsS wsM wrS wrM bS bM nLE task intype Lwnt"
).split()


def test_signature_is_the_originals():
    parameters = list(inspect.signature(train_rnn_flossing).parameters.values())
    assert [p.name for p in parameters[:33]] == ORIGINAL_ORDER
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters[:33])
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[33:])


def test_the_calls_of_the_readme_are_the_originals(arguments):
    """That of earlier commits as it was recorded, and the longer one that it has now."""
    assert README_CALL == Parameters(**arguments("readme_seed1"))
    longer = {name: value for name, value in LONG_README_CALL._asdict().items() if value != getattr(README_CALL, name)}
    assert longer == dict(E=3001, Ef=100, Ei=500, Ep=500)


def test_positional_and_named_arguments_give_the_same_run():
    call = short_call()
    by_name, by_position = train_rnn_flossing(**call, progress=False), train_rnn_flossing(*call.values(), progress=False)
    np.testing.assert_array_equal(by_name.loss, by_position.loss)
    np.testing.assert_array_equal(by_name.final["J"], by_position.final["J"])


@pytest.mark.parametrize("delay, task, expected", [(10, -1, 20), (10, 1, 20), (3, -2, 12), (3, 2, 6), (7, 0, 7), (0, 0, 0)])
def test_first_scored_step(delay, task, expected):
    assert first_loss_index(delay, task) == expected


def random_network(N=6, B=3, T=15, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(dtype)
    ps = dict(ws=draw(N, 1), J=draw(N, N) / np.sqrt(N), wr=draw(1, N), b=0.1 * draw(N), offset=draw(1), xInit=draw(N, B))
    s = rng.integers(0, 2, (T, 1, B)).astype(dtype)
    return {name: np.asarray(p, dtype) for name, p in ps.items()}, s, rng.integers(0, 2, (T, 1, B)).astype(dtype)


def test_phid_is_the_derivative_of_tanh_and_survives_large_states():
    x = torch.tensor([-1000.0, -95.0, -2.0, 0.0, 0.3, 95.0, 1000.0], requires_grad=True)
    (slope,) = torch.autograd.grad(phid(x).sum(), x)
    h = np.tanh(x.detach().double().numpy())
    np.testing.assert_allclose(phid(x).detach().numpy(), 1 - h**2, atol=1e-7)
    np.testing.assert_allclose(slope.numpy(), -2 * h * (1 - h**2), atol=1e-7)


def test_get_d_is_the_jacobian_of_one_step_at_the_new_state():
    """D = diag(phi'(x)) J is the derivative of tanh(x) with x = J h, with respect to h."""
    ps, *_ = random_network()
    J, h = torch.tensor(ps["J"]), torch.tensor(ps["b"])
    expected = torch.autograd.functional.jacobian(lambda h: torch.tanh(J @ h), h)
    torch.testing.assert_close(get_d(J @ h, J), expected)


@pytest.mark.parametrize("library", ["NumPy", "torch"])
def test_loss_and_accuracy_by_a_second_route(library):
    """Same network in NumPy, trial by trial, with the cross-entropy written as probabilities."""
    ps, s, y = random_network()
    convert = {"NumPy": np.asarray, "torch": torch.as_tensor}[library]
    T, _, B = s.shape
    first, losses, hits = 4, [], []
    for trial in range(B):
        x = ps["xInit"][:, trial]
        for t in range(1, T + 1):
            x = ps["J"] @ np.tanh(x) + ps["b"] + ps["ws"][:, 0] * s[t - 1, 0, trial]
            if t >= first:
                p = 1 / (1 + np.exp(-(ps["wr"][0] @ x + ps["offset"][0])))
                target = y[t - 1, 0, trial]
                losses.append(-np.log(p if target else 1 - p))
                hits.append((p >= 0.5) == target)
    arguments = dict(s=s, rtarg=y, **ps)
    arguments = {name: convert(x) for name, x in arguments.items()} | {"firstlossidx": first}
    assert calc_loss_binary_crossentropy(**arguments).item() == pytest.approx(np.mean(losses), rel=1e-12)
    assert get_accuracy(**arguments) == pytest.approx(np.mean(hits), rel=1e-12)


def test_a_second_readout_that_says_the_same_changes_neither_loss_nor_accuracy():
    ps, s, y = random_network()
    twice = ps | {"wr": np.tile(ps["wr"], (2, 1))}
    for formula in (calc_loss_binary_crossentropy, get_accuracy):
        once = formula(s, y, **ps, firstlossidx=4)
        assert formula(s, np.tile(y, (1, 2, 1)), **twice, firstlossidx=4) == pytest.approx(once, rel=1e-14)


def test_two_input_channels_that_say_the_same_are_averaged():
    ps, s, y = random_network(T=30)
    channels, twice = np.tile(s, (1, 2, 1)), ps | {"ws": np.tile(ps["ws"], (1, 2))}
    for formula in (calc_loss_binary_crossentropy, get_accuracy):
        once = formula(s, y, **ps, firstlossidx=4)
        assert formula(channels, y, **twice, firstlossidx=4) == pytest.approx(once, rel=1e-14)
    once, of_two = (
        calc_lyapunov_spectrum(s, None, p["ws"], p["J"], p["b"], p["xInit"], 25, 4, 1)
        for s, p in ((s, ps), (channels, twice))
    )
    np.testing.assert_allclose(of_two, once, rtol=1e-12)


def test_the_quirk_of_a_delay_of_zero_divides_by_one_step_too_many():
    """firstlossidx 0 scores T steps and divides by T + 1, as the original does."""
    ps, s, y = random_network()
    T = len(s)
    from_one = calc_loss_binary_crossentropy(s, y, **ps, firstlossidx=1).item()
    assert calc_loss_binary_crossentropy(s, y, **ps, firstlossidx=0).item() == pytest.approx(from_one * T / (T + 1))


def value_and_gradient(loss, ps, *data):
    value, _, gs = gradient(lambda ps, *data: (loss(ps, *data), None), ps, *data)
    return value, gs


def finite_difference(f, ps, name, index, step=1e-6):
    values = []
    for sign in (1, -1):
        moved = {key: p.copy() for key, p in ps.items()}
        moved[name][index] += sign * step
        values.append(f(moved))
    return (values[0] - values[1]) / (2 * step)


def check_gradient(f, ps, gs):
    for name, p in ps.items():
        for index in [np.unravel_index(i, p.shape) for i in range(0, p.size, max(1, p.size // 7))]:
            assert gs[name][index] == pytest.approx(finite_difference(f, ps, name, index), rel=2e-5, abs=1e-8), (name, index)


def test_training_gradient_against_finite_differences():
    ps, s, y = random_network()
    loss = lambda p, s=s, y=y: calc_loss_binary_crossentropy(s, y, **p, firstlossidx=3)
    value, gs = value_and_gradient(loss, ps, s, y)
    assert value == pytest.approx(loss(ps), rel=1e-13)
    check_gradient(loss, ps, gs)


def test_flossing_gradient_against_finite_differences():
    ps, s, _ = random_network(T=30)
    flossed, xInit = {name: ps[name] for name in ("ws", "J", "b")}, ps["xInit"]
    loss = lambda p, s=s, x=xInit: calc_flossing_loss(s, **p, xInit=x, Tp=25, nLE=4, sONS=3, Lwnt=-0.1)[0]
    _, gs = value_and_gradient(loss, flossed, s, xInit)
    check_gradient(loss, flossed, gs)


def spectrum_of(J, Tp, nLE, b=None, x=None, dtype=np.float64):
    """By torch, having seen that NumPy gives the same."""
    N = len(J)
    zeros = np.zeros(N, dtype)
    s, ws, J = np.zeros((Tp, 1, 1), dtype), np.zeros((N, 1), dtype), np.asarray(J, dtype)
    arrays = s, ws, J, zeros if b is None else b, (zeros if x is None else x)[:, None]
    of_arrays, of_tensors = (
        calc_lyapunov_spectrum(s, None, *rest, Tp, nLE, 1) for s, *rest in (arrays, map(torch.as_tensor, arrays))
    )
    np.testing.assert_allclose(of_arrays, of_tensors, atol=1e-13 if dtype == np.float64 else 1e-6)
    return of_tensors.numpy()


def test_diagonal_linear_recurrence_has_the_exponents_log_abs_diagonal():
    """At x = 0 the network is linear, x -> J x: exponents log|J_ii|, ordered, in 1/step.

    After 200 steps the slowest gap, log(0.9/0.7), has turned the system to 1e-20; the rest is rounding.
    """
    diagonal = np.array([0.3, -0.9, 0.5, 0.1, 0.7])
    spectrum = spectrum_of(np.diag(diagonal), Tp=2000, nLE=5)
    np.testing.assert_allclose(spectrum, np.sort(np.log(np.abs(diagonal)))[::-1], atol=1e-12)
    np.testing.assert_allclose(spectrum_of(np.diag(diagonal), Tp=2000, nLE=1), np.log([0.9]), atol=1e-12)


def test_saturated_diagonal_network_has_the_exponents_of_its_fixed_points():
    """One neuron with J = 2 rests at x = 2 tanh(x): exponent log(2 sech(x)^2); four uncoupled ones have four."""
    gains = np.array([1.5, 2.0, 2.5, 3.0])
    x = np.full(4, 3.0)
    for _ in range(500):
        x = gains * np.tanh(x)
    spectrum = spectrum_of(np.diag(gains), Tp=1000, nLE=4, x=x)
    np.testing.assert_allclose(spectrum, np.sort(np.log(gains / np.cosh(x) ** 2))[::-1], atol=1e-10)


def test_orthogonal_coupling_in_the_linear_regime_has_exponents_zero():
    J = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]
    np.testing.assert_allclose(spectrum_of(J, Tp=100, nLE=12), 0, atol=1e-14)
    np.testing.assert_allclose(spectrum_of(0.5 * J, Tp=100, nLE=7), np.log(0.5), atol=1e-14)
    np.testing.assert_allclose(spectrum_of(J, Tp=100, nLE=12, dtype=np.float32), 0, atol=1e-6)


def test_the_sum_of_all_exponents_is_the_mean_log_determinant():
    ps, s, _ = random_network(N=5, T=60, B=1)
    spectrum = calc_lyapunov_spectrum(s, None, ps["ws"], ps["J"], ps["b"], ps["xInit"], 60, 5, 1)
    x, log_determinants = ps["xInit"][:, 0], []
    for t in range(60):
        x = ps["J"] @ np.tanh(x) + ps["b"] + ps["ws"][:, 0] * s[t, 0, 0]
        log_determinants.append(np.linalg.slogdet(ps["J"] / np.cosh(x)[:, None] ** 2)[1])
    assert spectrum.sum() == pytest.approx(np.mean(log_determinants[16:]), rel=1e-10)  # 10 + ceil(60/10) discarded


def test_too_short_a_simulation_averages_over_nothing():
    """Tp = 11 leaves 10 + 2 discarded steps and none to average; the original divides by 0, the port refuses."""
    ps, s, _ = random_network(N=3, T=30)
    flossed = {name: ps[name] for name in ("ws", "J", "b")}
    calls = [
        lambda Tp, nLE: spectrum_of(np.eye(3), Tp, nLE),
        lambda Tp, nLE: flossing_gradient(s, flossed, ps["xInit"], Tp, nLE, 1, 0.0),
        lambda Tp, nLE: flossing_gradient(s, flossed, ps["xInit"], Tp, nLE, 1, 0.0, "autograd"),
        lambda Tp, nLE: train_rnn_flossing(**short_call(N=3, Tp=Tp, nLE=nLE)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="^Tp = 11: must be at least 13"):
            call(11, 2)
        with pytest.raises(ValueError, match="^nLE = 4: must be <= N = 3"):
            call(20, 4)
    with pytest.raises(ValueError, match="^Tp = 31: must be <= Ti = 30"):
        calls[1](31, 2)


def test_qr_has_lapacks_signs_and_its_gradient_is_right(reference):
    recorded = reference("initial_qr")
    for key in [key[:-2] for key in recorded if key.endswith("_A")]:
        for convert in (torch.tensor, np.array):
            Q, R = qr(convert(recorded[f"{key}_A"]))
            # a few units in the last place of entries up to 1 and 11: Float32 Householder in another order
            np.testing.assert_allclose(Q, recorded[f"{key}_Q"], atol=1e-6)
            np.testing.assert_allclose(R, recorded[f"{key}_R"], atol=1e-5)
    A = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(qr, A)


def test_initial_orthonormal_system_is_the_recorded_one(reference):
    recorded = reference("initial_qr")
    np.testing.assert_allclose(initial_orthonormal_system(1, 80, 75), recorded["seed1_80x75_Q"], atol=1e-6)


def test_zygote_gradient_gives_zeros_for_an_array_that_is_not_used():
    loss_function = lambda p: ((p["a"] ** 2).sum(), "more")
    value, more, gs = gradient(loss_function, {"a": np.array([1.0, 2.0]), "c": np.ones((2, 3))})
    assert (value, more) == (5.0, "more")
    np.testing.assert_array_equal(gs["a"], [2.0, 4.0])
    np.testing.assert_array_equal(gs["c"], np.zeros((2, 3)))


def test_relax_ic_starts_from_the_drawn_state():
    J, b = np.zeros((3, 3), np.float32), np.array([0.1, 0.2, 0.3], np.float32)
    np.testing.assert_array_equal(relax_ic(4, 0, J, b, 2), MersenneTwister(4).randn_float32(3, 2))
    np.testing.assert_array_equal(relax_ic(4, 1, J, b, 2), np.stack([b, b], axis=1))


def test_given_arrays_are_taken_and_stay_as_they_are():
    """Training changes copies; the initial state relaxes in the network that was given."""
    call, rng = short_call(), np.random.default_rng(0)
    shapes = dict(ws=(16, 1), J=(16, 16), wr=(1, 16), b=(16,), offset=(1,))
    given = {name: (rng.normal(size=shape) / 4).astype(np.float32) for name, shape in shapes.items()}
    before = {name: x.copy() for name, x in given.items()}
    record = train_rnn_flossing(**call, progress=False, initial=given)
    for name in given:
        np.testing.assert_array_equal(given[name], before[name])
        np.testing.assert_array_equal(record.initial[name], before[name])
    relaxed = relax_ic(call["sIC"], 100, given["J"], given["b"], call["B"])
    np.testing.assert_array_equal(record.initial["xInit"], relaxed)


@pytest.mark.parametrize("engine", ["adjoint", "autograd"])
def test_engines_leave_the_parameters_alone(engine):
    ps, s, y = random_network(N=8, T=30, dtype=np.float32)
    before = {name: p.copy() for name, p in ps.items()}
    training_gradient(s, y, ps, 4, engine)
    flossing_gradient(s[:, :, :1], {n: ps[n] for n in ("ws", "J", "b")}, ps["xInit"], 25, 5, 1, 0.0, engine)
    for name in ps:
        np.testing.assert_array_equal(ps[name], before[name])


def test_training_changes_all_six_arrays_and_flossing_alone_three():
    trained = train_rnn_flossing(**short_call(Ep=0, Ni=0), progress=False)
    assert all(not np.array_equal(trained.initial[name], trained.final[name]) for name in trained.initial)
    assert len(trained.loss) == 6 and len(trained.flossing_loss) == 0
    flossed = train_rnn_flossing(**short_call(E=1, lr=1e-3), progress=False)
    assert flossed.flossing_epoch.tolist() == [1, 1, 1]
    for name in ("wr", "offset", "xInit"):  # untouched until the first training step
        np.testing.assert_array_equal(flossed.first_training_parameters[name], flossed.initial[name])
    for name in ("ws", "J", "b"):
        assert not np.array_equal(flossed.first_training_parameters[name], flossed.initial[name])


def test_when_flossing_blocks_run():
    """Block at epoch 1 if Ep > 0, then every Ef epochs, at most Ni; a block at epoch 1 does not count."""
    epochs = lambda **changes: train_rnn_flossing(**short_call(**changes), progress=False).flossing_epoch.tolist()
    assert epochs(Ef=2, Ni=2) == [1] * 3 + [2] * 2 + [4] * 2
    assert epochs(Ef=1, Ep=0, Ni=2) == [2] * 2 + [3] * 2  # epoch 1: an empty block
    assert epochs(Ep=0, Ni=0) == []
    assert epochs(nLE=0) == []


def test_without_preflossing_none_is_announced(capsys):
    train_rnn_flossing(**short_call(Ep=0, Ni=1))
    lines = capsys.readouterr().out.splitlines()
    assert "preflossing now" not in lines and lines[2] == "interflossing now at 4"


@pytest.mark.parametrize("S", [1, 2])
def test_several_input_channels_are_differentiated_by_torch_and_refused_by_name_elsewhere(S):
    rng = np.random.default_rng(1)
    N, T, B, Tp, nLE = 8, 30, 2, 30, 5
    ps = dict(ws=rng.normal(size=(N, S)), J=rng.normal(size=(N, N)) / 3, wr=rng.normal(size=(1, N)), b=rng.normal(size=N),
              offset=np.zeros(1), xInit=rng.normal(size=(N, B)))  # fmt: skip
    psFlossing = {name: ps[name] for name in ("ws", "J", "b")}
    s, rtarg = rng.integers(0, 2, (T, S, B)).astype(float), rng.integers(0, 2, (T, 1, B)).astype(float)
    calls = {
        "training": lambda engine: training_gradient(s, rtarg, ps, 5, engine=engine),
        "flossing": lambda engine: flossing_gradient(s[:, :, :1], psFlossing, ps["xInit"], Tp, nLE, 1, 0.0, engine=engine),
    }
    for call in calls.values():
        _, _, gradients = call("autograd")
        assert gradients["ws"].shape == (N, S) and np.abs(gradients["ws"]).min(axis=0).max() > 0
        if S > 1:
            with pytest.raises(ValueError, match="S must be 1 for engine 'adjoint'.*got 2"):
                call("adjoint")
        else:
            np.testing.assert_allclose(call("adjoint")[2]["ws"], gradients["ws"], rtol=0, atol=1e-4 * np.abs(gradients["ws"]).max())


CHANGES = {  # of the README's section "Change the model": relu for tanh, squares for the cross-entropy
    "phi = tanh": "phi = lambda x: x.clip(0)",
    "return sech_squared(x)": "return 1.0 * (x > 0)",
    "loss = loss + logitbinarycrossentropy(r, rtarg[ti - 1], agg=lambda losses: losses.sum())":
        "loss = loss + ((r - rtarg[ti - 1]) ** 2).sum()",
    "accuracy += ((sigmoid(r) >= 0.5) == rtarg[ti - 1]).sum().item()":
        "accuracy += ((r >= 0.5) == rtarg[ti - 1]).sum().item()",
}  # fmt: skip


OTHER = {  # formulae that are not those of extras/adjoints.py
    "phi": lambda x: x.clip(0), "phid": lambda x: 1.0 * (x > 0), "get_d": lambda x, J: J,
    "get_accuracy": lambda *args, **rest: 0.5, "sigmoid": lambda r: r - 9,
    "logitbinarycrossentropy": lambda r, y, agg: agg((r - y) ** 2),
    "calc_flossing_loss": lambda *args, **rest: (calc_flossing_loss(*args, **rest)[0] * 1.00001, np.zeros(2)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_a_changed_formula_is_refused_by_the_default_engine_before_anything_is_printed(name, monkeypatch, tmp_path, capsys):
    ps, s, y = random_network(T=30)
    calls = [
        lambda: training_gradient(s, y, ps, 4),
        lambda: flossing_gradient(s, {n: ps[n] for n in ("ws", "J", "b")}, ps["xInit"], 25, 4, 1, 0.0),
        lambda: train_rnn_flossing(**short_call(), checkpoint=tmp_path / "run.npz"),
    ]
    for call in calls:
        call()
    (tmp_path / "run.npz").unlink()
    capsys.readouterr()
    monkeypatch.setattr(port, name, OTHER[name])
    for call in calls:
        with pytest.raises(ValueError, match="^engine = 'adjoint': .*other formulae .*'autograd'"):
            call()
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())
    port.check_formulae("autograd")


def test_the_formulae_are_checked_once_a_run(monkeypatch):
    right, engines = port.check_formulae, []
    monkeypatch.setattr(port, "check_formulae", lambda engine: (engines.append(engine), right(engine)))
    train_rnn_flossing(**short_call(), progress=False)
    assert engines == ["adjoint"]


def test_a_changed_model_is_trained_by_autograd(tmp_path):
    """Lines of a copy; the first loss, accuracy and spectrum as NumPy computes them of the new formulae in Float64."""
    copy, ignored = tmp_path / "copy", shutil.ignore_patterns(".*", "__pycache__", "tests", "out", "*.png")
    shutil.copytree(ROOT, copy, ignore=ignored)
    source = (copy / "gradient_flossing_example.py").read_text()
    for old, new in CHANGES.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    (copy / "gradient_flossing_example.py").write_text(source)
    call = short_call(E=3, Ep=1, Ni=0, nLE=3)
    options = [f"--{parameter}={value}" for parameter, value in call.items()]
    command = [sys.executable, "gradient_flossing_example.py", "--engine", "autograd", "--quiet", *options]
    subprocess.run(command, cwd=copy, check=True)
    record = load_record(copy / "out" / "record.npz")

    T, B, delay = call["T"], call["B"], call["delay"]
    advance = lambda ps, x, s: ps["J"] @ np.maximum(x, 0) + ps["b"][:, None] + ps["ws"] * s
    s, y = generate_input_output(B, T, call["E"] + 1, 1, 1.0, delay, -1)
    order = MersenneTwister(1).shuffled_indices(B)
    ps = {key: x.astype(float) for key, x in record.first_training_parameters.items()}
    x, losses, hits = ps["xInit"], [], []
    for t in range(T):
        x = advance(ps, x, s[t, 0, order])
        r = ps["wr"] @ x + ps["offset"]
        losses.append((r - y[t, 0, order]) ** 2)
        hits.append((r >= 0.5) == y[t, 0, order])
    first = 2 * delay - 1
    assert record.loss[0] == pytest.approx(np.mean(losses[first:]), rel=1e-4)
    assert record.accuracy[0] == pytest.approx(np.mean(hits[first:]), abs=1e-12)

    ps = {key: x.astype(float) for key, x in record.initial.items()}
    s, _ = generate_input_output(1, call["Ti"], call["E"] + 2, 1, 1.0, delay, -1)
    x, Q, log_R = ps["xInit"][:, :1], initial_orthonormal_system(1, 16, 3).astype(float), []
    for t in range(call["Tp"]):
        x = advance(ps, x, s[t, 0, 0])
        Q, R = np.linalg.qr((x > 0) * ps["J"] @ Q)
        log_R.append(np.log(np.abs(np.diagonal(R))))
    np.testing.assert_allclose(record.lyapunov_spectrum[0], np.mean(log_R[10 + 3 :], axis=0), atol=1e-4)


def test_the_default_engine_imports_no_torch():
    """Nor do its diagnostics: torch takes seconds to import."""
    program = (
        "import sys; from gradient_flossing_example import *; from tests.conftest import short_call\n"
        "from extras.lyapunov import Diagnostics\n"
        "train_rnn_flossing(**short_call(), progress=False, diagnostics=Diagnostics(True, (1,), (5,)))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
