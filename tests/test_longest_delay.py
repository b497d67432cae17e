"""The adaptive loop does what its docstring says, and the committed tables are those of the script."""

import dataclasses
from dataclasses import asdict, replace

import numpy as np
import pytest

from example_code.experiments import longest_delay, sweep
from example_code.experiments.longest_delay import (
    ADAPTIVE, EXPERIMENT, TRIALS, decide, draw, make_rows, summary, train_adaptively,
)  # fmt: skip
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


def test_without_weight_there_is_flossing_before_training_only():
    record = train_adaptively(*replace(TINY, E=8, weight=0.0).job(1).arguments, progress=False)
    assert record.flossing_epoch.tolist() == [1] * TINY.Ep


def dies_at(epoch, method):
    def training_step(run, *arguments):
        if run.ei == epoch:
            raise MemoryError
        return method(run, *arguments)

    return training_step


@pytest.mark.parametrize("name, trials", [
    ("longest_delay", "reported"), ("schedule_search", "searched"), ("longest_delay_low_rate", "low_rate"),
])
def test_the_committed_tables_are_those_of_the_script(name, trials):
    rows = table(name)
    assert len(rows) == len(TRIALS[trials])
    for row, (schedule, seed) in zip(rows, TRIALS[trials]):
        assert row["seed"] == str(seed)
        for field, value in asdict(schedule).items():
            assert row[field] == str(value)


def test_what_is_reported_was_not_searched_with_and_is_run_once():
    assert not {seed for _, seed in TRIALS["reported"]} & {seed for _, seed in TRIALS["searched"]}
    for trials, count in (("reported", 26), ("searched", 8), ("low_rate", 1), ("quick", 2)):
        jobs = EXPERIMENT.make_jobs(EXPERIMENT.parse(["--trials", trials]))
        assert len({job.path("") for job in jobs.values()}) == count


def test_a_job_has_the_schedules_parameters_one_seed_and_no_blocks_of_flossing():
    arguments = TINY.job(3).arguments
    p = Parameters(*arguments[:-2])
    assert arguments[-2:] == (TINY.weight, TINY.high)
    assert (p.sIC, p.sIn, p.sNet, p.sONS) == (3, 3, 3, 3) and (p.Ei, p.Ni) == (0, 0)
    assert (p.N, p.nLE, p.Tp, p.delay, p.E, p.Ep, p.lr) == (8, 8, 20, 5, 230, 7, 1e-3)


def test_a_tiny_run_as_a_job_its_row_and_its_line(tmp_path):
    job = TINY.job(1)
    sweep.do(job, tmp_path)
    record = job.record(tmp_path)
    record.accuracy[:] = np.repeat([0.4, 0.97], [115, 115])
    record.elapsed_time = 65.4
    without = dataclasses.replace(record, accuracy=np.full(230, 0.5), flossing_epoch=np.array([], int), flossing_loss=np.array([]))
    records = {(TINY, 1): record, (TINY, 2): without}
    first, second = make_rows(records)
    results = {"seed": 1, "flossing_steps": 64, "last_flossing_epoch": 228, "epoch_learned": 125, "seconds": 65}
    assert first == asdict(TINY) | results | {"final_accuracy": pytest.approx(0.97)}
    assert (second["flossing_steps"], second["last_flossing_epoch"], second["epoch_learned"]) == (0, 0, None)
    line = "| adaptive | 5 (10) | 8 | 230 | 0.001 | 1/2 | 125, - | 97.0, 50.0 | 65 |"
    assert summary([first, second])[2:] == [line]
    (ax,) = draw(records, []).axes
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[100, 40], [200, (15 * 40 + 85 * 97) / 100]])
    assert ax.get_title() == "delay 5, N = 8, lr = 0.001, seeds: 2"
