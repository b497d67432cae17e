"""The adaptive loop does what its docstring says, and the committed tables are those of the script."""

import dataclasses

import numpy as np
import pytest

from example_code.experiments import longest_delay, sweep
from example_code.experiments.longest_delay import (
    HIGH, QUICK, SCHEDULE, TRIALS, WEIGHT, call, decide, draw, summary, train_adaptively,
)  # fmt: skip
from extras.run import Run
from gf_task05spatialXORShort import generate_input_output
from gradient_flossing_example import flossing_gradient, training_gradient
from julia_packages.flux import EPSILON
from tests.test_experiments import jobs_of, rows_of, table

LOW, E = 5e-4, 10_000
tiny = lambda seed, **changes: call(seed, 5, 8, **dict(E=230, T=60, Tp=20) | changes)  # noqa: E731


def test_at_chance_flossing_has_its_full_weight_and_the_rate_stays():
    assert decide(np.array([]), LOW, E) == (LOW, 1)
    assert decide(np.full(1000, 0.5), LOW, E) == (LOW, 1)
    assert decide(np.full(1000, 0.49), LOW, E) == (LOW, 1)


def test_flossing_fades_out_as_the_accuracy_rises_and_comes_back_when_it_is_lost():
    shares = [decide(np.full(100, accuracy), LOW, E)[1] for accuracy in (0.5, 0.6, 0.65, 0.7, 0.9)]
    np.testing.assert_allclose(shares, [1, 0.5, 0.25, 0, 0])
    lost = np.repeat([0.9, 0.5], [1000, 100])
    assert decide(lost[:1000], LOW, E)[0] > 2 * LOW
    assert decide(lost, LOW, E) == (LOW, 1)
    assert decide(lost[:-1], LOW, E) == decide(lost[:1000], LOW, E)  # until the next decision


def test_the_rate_grows_to_a_line_that_ends_at_zero():
    accuracy = np.full(E, 0.8)
    rates = [decide(accuracy[:end], LOW, E)[0] for end in range(0, E + 1, 100)]
    np.testing.assert_allclose(rates[:11], LOW * 1.1 ** np.arange(11))
    np.testing.assert_allclose(rates[20:], HIGH * (1 - np.arange(20, 101) / 100))
    assert decide(np.full(1000, 0.74), LOW, E) == (LOW, 0)  # neither rising nor lost


@pytest.mark.parametrize("rate, share", [(1e-3, 1), (3e-3, 0.25), (1e-3, 0)])
def test_an_epoch_steps_along_both_gradients(rate, share, monkeypatch):
    """The first ADAM step is rate g / (|g| + epsilon), with g the gradient of training, clipped, plus that of flossing, scaled down."""
    monkeypatch.setattr(longest_delay, "EVERY", 1)
    monkeypatch.setattr(longest_delay, "decide", lambda *_: (rate, share))
    p = tiny(3, E=1)
    record = train_adaptively(*p, progress=False)
    s, rtarg = generate_input_output(p.B, p.T, p.E * p.sIn + 1, p.S, p.I1, p.delay, p.task)
    _, _, of_training = training_gradient(s, rtarg, record.initial, firstlossidx=10)
    flossed = {name: record.initial[name] for name in ("ws", "J", "b")}
    _, spectrum, of_flossing = flossing_gradient(s[..., :1], flossed, record.initial["xInit"], p.Tp, p.nLE, p.sONS, p.Lwnt)
    for name, g in of_training.items():
        g = g * min(1, 0.03 / np.linalg.norm(g))
        if name in of_flossing:
            g = g + of_flossing[name] * min(1, WEIGHT * share / np.linalg.norm(of_flossing[name]))
        step = record.final[name] - record.initial[name]
        np.testing.assert_allclose(step, -rate * g / (np.abs(g) + EPSILON), rtol=1e-3, atol=4 * np.spacing(np.float32(2)))
    assert record.lyapunov_spectrum.tolist() == [spectrum.tolist()] * (share > 0)


def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, monkeypatch):
    arguments = tiny(1)
    whole = train_adaptively(*arguments, progress=False)
    assert whole.flossing_epoch.tolist() == list(range(4, 231, 4))  # nothing is learned here: at full weight to the end
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


def test_without_exponents_nothing_is_flossed():
    record = train_adaptively(*tiny(1, E=8, nLE=0), progress=False)
    assert (len(record.loss), len(record.flossing_loss)) == (8, 0)


def test_the_committed_table_is_that_of_the_script():
    calls, rows = list(jobs_of(longest_delay)), table("longest_delay")
    assert len(rows) == len(calls)
    for row, p in zip(rows, calls):
        assert (p.sIC, p.sIn, p.sNet, p.sONS) == (int(row["seed"]),) * 4 and (p.Ef, p.Ep, p.Ei, p.Ni) == (1, 0, 0, 0)
        assert (p.IC, p.wsS, p.lr, p.task, p.T, p.Tp) == (3, 0.3, 5e-4, -1, 400, 3 * p.delay // 2)
        assert all(row[field] == str(getattr(p, field)) for field in SCHEDULE)


def test_what_is_reported_is_run_once_and_with_seeds_that_were_not_searched_with():
    for trials, options in ((TRIALS, []), (QUICK, ["--quick"])):
        jobs = jobs_of(longest_delay, *options)
        assert list(jobs) == trials and len({job.path("") for job in jobs.values()}) == len(trials)
        assert all(job.arguments == p for p, job in jobs.items())
    assert min(p.sNet for p in TRIALS) > 2


def test_a_tiny_run_as_a_job_its_row_and_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(longest_delay, "QUICK", [tiny(1)])
    ((p, job),) = jobs_of(longest_delay, "--quick").items()
    sweep.do(job, tmp_path)
    record = job.record(tmp_path)
    record.accuracy[:] = np.repeat([0.4, 0.97], [115, 115])
    record.elapsed_time = 65.4
    without = dataclasses.replace(record, accuracy=np.full(230, 0.5))
    records = {p: record, tiny(2): without}
    first, second = rows = rows_of(longest_delay, records)
    assert list(first) == list(table("longest_delay")[0])
    assert first == {
        "delay": 5, "N": 8, "nLE": 8, "E": 230, "seed": 1, "epoch_learned": 125, "final_accuracy": pytest.approx(0.97),
        "seconds": 65,
    }  # fmt: skip
    assert (second["seed"], second["epoch_learned"]) == (2, None)
    assert summary(rows)[2:] == ["| 5 (10) | 8 | 8 | 230 | 1/2 | 125, - | 97.0, 50.0 | 65 |"]
    (ax,) = draw(records, rows).axes
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[100, 40], [200, (15 * 40 + 85 * 97) / 100]])
    assert ax.get_title() == "delay 5, N = 8, 8 exponents flossed, seeds: 2"
