"""The adaptive loop does what its docstring says, and the committed tables are those of the script."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from example_code.experiments import longest_delay
from example_code.experiments.longest_delay import ADAPTIVE, decide, train_adaptively
from extras.run import Run
from gf_task05spatialXORShort import generate_input_output
from gradient_flossing_example import Parameters, flossing_gradient, training_gradient
from julia_packages.flux import EPSILON
from tests.test_experiments import table

TINY = replace(ADAPTIVE, N=8, nLE=8, Tp=20, delay=5, E=230, Ep=7)
LOW, HIGH, E = 1e-3, 5e-3, 10_000


def test_at_chance_flossing_has_its_full_weight_and_the_rate_stays():
    assert decide(np.array([]), LOW, HIGH, E) == (LOW, 1)
    assert decide(np.full(1000, 0.5), LOW, HIGH, E) == (LOW, 1)
    assert decide(np.full(1000, 0.49), LOW, HIGH, E) == (LOW, 1)


def test_flossing_fades_out_as_the_accuracy_rises_and_comes_back_when_it_is_lost():
    shares = [decide(np.full(100, accuracy), LOW, HIGH, E)[1] for accuracy in (0.5, 0.6, 0.65, 0.7, 0.9)]
    np.testing.assert_allclose(shares, [1, 0.5, 0.25, 0, 0])
    lost = np.repeat([0.9, 0.5], [1000, 100])
    assert decide(lost[:1000], LOW, HIGH, E)[0] > 2 * LOW
    assert decide(lost, LOW, HIGH, E) == (LOW, 1)
    assert decide(lost[:-1], LOW, HIGH, E) == decide(lost[:1000], LOW, HIGH, E)  # until the next decision


def test_the_rate_grows_to_a_line_that_ends_at_zero():
    accuracy = np.full(E, 0.8)
    rates = [decide(accuracy[:end], LOW, HIGH, E)[0] for end in range(0, E + 1, 100)]
    np.testing.assert_allclose(rates[:11], LOW * 1.1 ** np.arange(11))
    np.testing.assert_allclose(rates[20:], HIGH * (1 - np.arange(20, 101) / 100))
    assert decide(np.full(1000, 0.74), LOW, HIGH, E) == (LOW, 0)  # neither rising nor lost


@pytest.mark.parametrize("rate, share", [(1e-3, 1), (3e-3, 0.25)])
def test_an_epoch_steps_along_both_gradients(rate, share, monkeypatch):
    """The first ADAM step is rate g / (|g| + epsilon), with g the gradient of training, clipped, plus that of flossing, scaled down."""
    monkeypatch.setattr(longest_delay, "EVERY", 1)
    monkeypatch.setattr(longest_delay, "decide", lambda *_: (rate, share))
    *parameters, weight, high = replace(TINY, E=1, Ep=0).job(3).arguments
    p = Parameters(*parameters)
    record = train_adaptively(*parameters, weight, high, progress=False)
    s, rtarg = generate_input_output(p.B, p.T, p.E * p.sIn + 1, p.S, p.I1, p.delay, p.task)
    _, _, of_training = training_gradient(s, rtarg, record.initial, firstlossidx=10)
    flossed = {name: record.initial[name] for name in ("ws", "J", "b")}
    _, spectrum, of_flossing = flossing_gradient(s[..., :1], flossed, record.initial["xInit"], p.Tp, p.nLE, p.sONS, p.Lwnt)
    for name, g in of_training.items():
        g = g * min(1, 0.03 / np.linalg.norm(g))
        if name in of_flossing:
            g = g + of_flossing[name] * min(1, weight * share / np.linalg.norm(of_flossing[name]))
        step = record.final[name] - record.initial[name]
        np.testing.assert_allclose(step, -rate * g / (np.abs(g) + EPSILON), rtol=1e-3, atol=4 * np.spacing(np.float32(2)))
    np.testing.assert_array_equal(record.lyapunov_spectrum, [spectrum])


def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, monkeypatch):
    arguments = TINY.job(1).arguments
    whole = train_adaptively(*arguments, progress=False)
    assert np.count_nonzero(whole.flossing_epoch == 1) == TINY.Ep
    assert set(whole.flossing_epoch[TINY.Ep:]) == set(range(4, 231, 4))  # nothing is learned here: at full weight to the end
    for killed_at in (1, 50, 222):
        checkpoint = tmp_path / f"{killed_at}.npz"
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(Run, "training_step", dies_at(killed_at, Run.training_step))
            train_adaptively(*arguments, progress=False, checkpoint=checkpoint, checkpoint_every=3)
        assert train_adaptively(*arguments, progress=False, checkpoint=checkpoint) == whole


def dies_at(epoch, method):
    def training_step(run, *arguments):
        if run.ei == epoch:
            raise MemoryError
        return method(run, *arguments)

    return training_step


@pytest.mark.parametrize("name, trials", [("longest_delay", longest_delay.REPORTED), ("schedule_search", longest_delay.SEARCHED)])
def test_the_committed_tables_are_those_of_the_script(name, trials):
    rows = table(name)
    assert len(rows) == len(trials)
    for row, (schedule, seed) in zip(rows, trials):
        assert row["seed"] == str(seed)
        for field, value in asdict(schedule).items():
            assert row[field] == str(value)


def test_what_is_reported_was_not_searched_with_and_is_run_once():
    assert not {seed for _, seed in longest_delay.REPORTED} & {seed for _, seed in longest_delay.SEARCHED}
    for trials in (longest_delay.REPORTED, longest_delay.SEARCHED):
        assert len({schedule.job(seed).path("") for schedule, seed in trials}) == len(trials)


def test_tiny_runs(tmp_path, monkeypatch):
    tiny = [(TINY, 1), (TINY, 2), (replace(TINY, name="before only", weight=0.0), 1)]
    monkeypatch.setattr(longest_delay, "REPORTED", tiny)
    assert longest_delay.main(["--out", str(tmp_path)]) == 0
    rows = table("longest_delay", tmp_path)
    assert [(row["name"], row["seed"]) for row in rows] == [("adaptive", "1"), ("adaptive", "2"), ("before only", "1")]
    assert rows[2]["flossing_steps"] == str(TINY.Ep)
    assert (tmp_path / "longest_delay.png").stat().st_size > 10_000
