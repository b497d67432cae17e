"""Kept quirks and forced deviations of the table in tests/side_by_side/README.md that no other test holds."""

import numpy as np
import pytest

import gradient_flossing_example as port
from gf_task05spatialXORShort import generate_input_output
from julia_packages import flux
from julia_packages.xorshifts import Xoroshiro128Star
from tests.side_by_side.recordings import Parameters, run_port

CALL = Parameters(**dict(
    N=12, E=3, Ef=2, Ei=2, Ep=2, Ni=1, B=4, S=1, T=30, Tp=25, Ti=30, sIC=1, sIn=2, sNet=3, sONS=4, lr=0.01, b1=0.9,
    b2=0.999, IC=1, g=1.0, gbar=0.0, I1=1.0, delay=3, wsS=1.0, wsM=0.0, wrS=1.0, wrM=0.0, bS=0.1, bM=0.0, nLE=5,
    task=-1, intype=3, Lwnt=0.0))  # fmt: skip


def run(engine="adjoint", **changes):
    return port.train_rnn_flossing(*CALL._replace(**changes), engine=engine, progress=False)


def test_flossing_sees_the_first_trial_of_coming_batches():
    """D12: step i of epoch ei has the seed of the batch of epoch ei + i."""
    s, _ = generate_input_output(CALL.B, CALL.T, CALL.E * CALL.sIn + 1 + 1, 1, CALL.I1, CALL.delay, CALL.task)
    np.testing.assert_array_equal(run_port(CALL)["floss1_s"], s[..., :1])


@pytest.mark.parametrize("task, h", [(-1, 1), (-2, 2), (2, 2)])
def test_the_first_scored_target_asks_for_bits_that_were_cut_off(task, h):
    """D21 (D5): up to row delay * 2^h, the first scored one for task < 0, a tap lies before the first row of s."""
    delay, T, B = 3, 40, 200
    s, target = generate_input_output(B, T, 11, 1, 1.0, delay, task)
    bits = Xoroshiro128Star(11).bitrand(T + delay, 1, B)
    last = delay * 2**h - 1  # counted from 0
    if task < 0:
        assert port.first_loss_index(delay, task) == last + 1
    seen = [s[last - delay * tap] for tap in range(1, 2**h)]
    oldest = last - delay * 2**h  # = -1, in rows of s; that is row delay - 1 of the bits
    parity = np.sum(seen, axis=0) % 2
    np.testing.assert_array_equal(target[last], (parity + bits[oldest + delay]) % 2)
    assert 0.3 < np.mean(target[last] == parity) < 0.7  # what can be known says nothing
    # targets begin at row delay * (2^h - 1) + 1, counted from 1: before, scored steps are easy zeros
    begin = delay * (2**h - 1)
    assert not target[:begin].any() and target[begin].any()
    if task > 0:
        assert port.first_loss_index(delay, task) <= begin


def test_batches_are_seeded_by_the_number_of_epochs_too(monkeypatch):
    """D24: E * sIn + ei for the batch, ei alone for the order of its trials."""
    seeds, orders = [], []
    own_generate, own_generator = port.generate_input_output, port.epoch_generator

    def generate(B, T, seedInput, *rest):
        if B == CALL.B:
            seeds.append(seedInput)
        return own_generate(B, T, seedInput, *rest)

    monkeypatch.setattr(port, "generate_input_output", generate)
    monkeypatch.setattr(port, "epoch_generator", lambda ei: orders.append(ei) or own_generator(ei))
    run()
    run(E=2, sIn=5)
    assert seeds == [7, 8, 9, 11, 12] and orders == [1, 2, 3, 1, 2]


def test_gbar_enters_gaussian_coupling_only():
    """D25."""
    J = {(IC, gbar): run(E=0, IC=IC, gbar=gbar).initial["J"] for IC in (1, 3) for gbar in (0.0, 6.0)}
    np.testing.assert_array_equal(J[3, 0.0], J[3, 6.0])
    np.testing.assert_allclose(J[1, 6.0] - J[1, 0.0], 6.0 / CALL.N, rtol=1e-5)


def test_the_step_is_made_of_moments_as_they_are_stored():
    """In Float32 for Float32 arrays, while the rest of the formula, as the gradient, is Float64."""
    rng = np.random.default_rng(0)
    x, g = np.zeros(1000, np.float32), rng.normal(size=1000)
    step = flux.ADAM(0.5, (0.9, 0.999)).apply(x, g.copy())
    stored = lambda moment: moment.astype(np.float32).astype(np.float64)
    m, v = stored((1 - 0.9) * g), stored((1 - 0.999) * g**2)
    np.testing.assert_allclose(step, 0.5 * (m / (1 - 0.9)) / (np.sqrt(v / (1 - 0.999)) + 1e-8), rtol=1e-13)


@pytest.mark.parametrize("name", ["lr", "wsS", "wsM", "wrS", "wrM", "bS", "bM", "Lwnt"])
def test_arguments_are_rounded_to_float32(name):
    """D2: as Julia's 0.3f0."""
    assert run(**{name: 0.3}).final["J"].dtype == np.float32
    as_given, as_rounded = run(**{name: 0.3}), run(**{name: float(np.float32(0.3))})
    for array in as_given.final:
        np.testing.assert_array_equal(as_given.final[array], as_rounded.final[array])
    np.testing.assert_array_equal(as_given.flossing_loss, as_rounded.flossing_loss)


@pytest.mark.parametrize("engine", ["adjoint", "autograd"])
def test_a_readout_of_zero_answers_one(engine):
    """(sigmoid(r) >= 0.5) == target, as ex.jl:83 has it."""
    rng = np.random.default_rng(0)
    s, target = generate_input_output(CALL.B, CALL.T, 6, 1, 1.0, CALL.delay, CALL.task)
    ps = dict(ws=rng.normal(size=(8, 1)), J=rng.normal(size=(8, 8)) / 3, xInit=rng.normal(size=(8, CALL.B)))
    ps |= dict(wr=np.zeros((1, 8)), b=np.zeros(8), offset=np.zeros(1))
    ps = {name: x.astype(np.float32) for name, x in ps.items()}
    first = port.first_loss_index(CALL.delay, CALL.task)
    accuracy = port.training_gradient(s, target, ps, first, engine)[1]
    assert accuracy == pytest.approx(target[first - 1 :].mean(dtype=float), abs=1e-12) and accuracy != 0.5


@pytest.mark.parametrize("engine", ["adjoint", "autograd"])
def test_training_gradients_reach_the_optimiser_in_float64(engine):
    """D16; those of flossing in Float32."""
    record = run(engine=engine)
    assert {g.dtype for g in record.first_training_gradient.values()} == {np.dtype(np.float64)}
    assert {g.dtype for g in record.first_flossing_gradient.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("Tp", [21, 25, 30])
def test_both_engines_average_the_same_steps(Tp):
    by_hand, formulae = (run(Tp=Tp, engine=engine).lyapunov_spectrum[0] for engine in ("adjoint", "autograd"))
    np.testing.assert_allclose(formulae, by_hand, atol=1e-3)
