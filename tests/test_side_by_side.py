"""compare_with_original.py finds what is wrong, at the rung where it is wrong: in the port, or in a recording."""

import subprocess
import sys
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest

import gradient_flossing_example as port
from julia_packages import flux
from julia_packages.random import MersenneTwister
from tests.conftest import long
from tests.side_by_side import compare_with_original as tool
from tests.side_by_side import limits
from tests.side_by_side.limits import NOT_JUDGED, OK, WRONG, Series
from tests.side_by_side.recordings import Start, after_preflossing, last_bit_changed, read_arguments, run_port, run_with_noise

SCRIPT = Path(tool.__file__)
NOISY_RUNS = {}


def noisy_runs(arguments, flossing_noise, start=Start({}), draws=8):
    """limits.noisy_runs, made once: wrong recordings, both engines and a call's two recordings have them in common."""
    key = arguments, flossing_noise, start.epochs, *(x.tobytes() for x in start.initial.values()), draws
    if key not in NOISY_RUNS:
        NOISY_RUNS[key] = limits.noisy_runs(arguments, flossing_noise, start, draws)
    return NOISY_RUNS[key]


def recording(case):
    return tool.read_recording(tool.REFERENCE / f"run_{case}.npz")


def first_wrong_rung(case="copy_small"):
    return tool.Comparison(recording(case), noisy_runs=None).wrong_rungs[:1]


# --- wrong ports ----------------------------------------------------------------------------------


def test_a_right_port_has_no_wrong_rung():
    assert first_wrong_rung() == []


def test_the_seed_of_the_batches_off_by_one_is_caught_at_the_task_data(monkeypatch):
    right = port.generate_input_output
    monkeypatch.setattr(port, "generate_input_output", lambda B, T, seed, *rest: right(B, T, seed + 1, *rest))
    assert first_wrong_rung() == ["task data"]


def test_the_seed_of_the_trial_order_off_by_one_is_caught_at_the_task_data(monkeypatch):
    right = port.epoch_generator
    monkeypatch.setattr(port, "epoch_generator", lambda ei: right(ei + 1))
    assert first_wrong_rung() == ["task data"]


def test_the_seed_of_the_weights_off_by_one_is_caught_at_the_initial_weights(monkeypatch):
    monkeypatch.setattr(port, "MersenneTwister", lambda seed: MersenneTwister(seed + 1))
    assert first_wrong_rung() == ["initial weights"]


def test_a_transposed_fill_is_caught_at_the_initial_weights(monkeypatch):
    right = MersenneTwister.randn_float32
    monkeypatch.setattr(MersenneTwister, "randn_float32", lambda self, *shape: right(self, *shape[::-1]).T)
    assert first_wrong_rung() == ["initial weights"]


@pytest.mark.parametrize("case", ["copy_small", *long("no_preflossing", "no_flossing")])
def test_a_wrong_epsilon_of_adam_is_caught_at_the_first_update(case, monkeypatch):
    monkeypatch.setattr(flux, "EPSILON", 1e-7)
    assert first_wrong_rung(case) == ["first update"]


@pytest.mark.parametrize("case", ["copy_small", *long("no_preflossing", "no_flossing")])
def test_clipping_by_the_global_norm_is_caught_at_the_first_update(case, monkeypatch):
    def clipped_together(opt, ps, gs):
        if isinstance(opt.os[0], flux.ClipNorm):
            norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gs.values()))
            for g in gs.values():
                g *= min(1, 0.03 / norm)
        right(opt, ps, gs)

    right = flux.update
    monkeypatch.setattr(flux, "update", clipped_together)
    monkeypatch.setattr(port, "update", clipped_together)
    assert first_wrong_rung(case) == ["first update"]


def test_a_loss_scored_one_step_late_is_caught_at_the_first_loss(monkeypatch):
    right = port.first_loss_index
    for module in (port, limits):
        monkeypatch.setattr(module, "first_loss_index", lambda delay, task: right(delay, task) + 1)
    assert first_wrong_rung() == ["first loss"]


def test_a_spectrum_from_another_orthonormal_system_is_caught_at_the_first_flossing_step(monkeypatch):
    right = port.initial_orthonormal_system
    monkeypatch.setattr(port, "initial_orthonormal_system", lambda sONS, N, nLE: right(sONS + 1, N, nLE))
    assert first_wrong_rung() == ["first flossing step"]


@pytest.mark.parametrize("engine", ["adjoint", "autograd"])
def test_a_wrong_gradient_does_not_pass_for_rounding(engine, monkeypatch):
    """The limits come from code that is wrong, too: each is compared with itself in Float64 only."""
    right = port.training_engine

    def scaled(*settings):
        gradient = right(*settings)

        def call(*args):
            loss, accuracy, gs = gradient(*args)
            return loss, accuracy, gs | {"b": 1.2 * gs["b"]}

        return call

    monkeypatch.setattr(port, "training_engine", scaled)
    wrong = tool.Comparison(recording("copy_small"), engine, noisy_runs=None)
    assert [line.name for line in wrong.lines if line.verdict == WRONG] == ["b"]


def kept_beta(monkeypatch):
    """ADAM's bias correction of the second step and later is that of the first."""
    right = flux.ADAM.apply

    def apply(self, x, d):
        d = right(self, x, d)
        mt, vt, _ = self.state[id(x)]
        self.state[id(x)] = (mt, vt, self.beta)
        return d

    monkeypatch.setattr(flux.ADAM, "apply", apply)


def other_beta(monkeypatch):
    right = flux.ADAM.__init__
    monkeypatch.setattr(flux.ADAM, "__init__", lambda self, eta, beta: right(self, eta, (beta[0], 0.95)))


def other_epsilon(monkeypatch):
    monkeypatch.setattr(flux, "EPSILON", 1e-6)


def next_batch(monkeypatch):
    """Batches of the second epoch and later are those of the next epoch."""
    right, calls = port.generate_input_output, []

    def generate_input_output(B, T, seed, *rest):
        calls.append(seed)
        return right(B, T, seed + (len(calls) > 1), *rest)

    monkeypatch.setattr(port, "generate_input_output", generate_input_output)


@lru_cache(maxsize=None)
def restarted(case):
    """(Comparison without noisy runs, noisy runs after preflossing) of the port as it is."""
    arguments, start, _ = after_preflossing(recording(case))
    return tool.Comparison(recording(case), noisy_runs=None), noisy_runs(arguments, 1.0, start)


def wrong_after_preflossing(case, recorded=None):
    """Names of what is WRONG in a run of the port, as it is now, from the recorded parameters."""
    arguments, start, cut = after_preflossing(recorded or recording(case))
    comparison, runs = restarted(case)
    lines = comparison.along_a_run("after preflossing", run_port(arguments, start=start), cut, runs)
    return [line.name for line in lines if line.verdict == WRONG]


@pytest.mark.parametrize("break_it", [kept_beta, other_beta, other_epsilon, next_batch])
@pytest.mark.parametrize("case", ["orthogonal_parity4", *long("readme_seed11")])
def test_what_the_first_update_does_not_show_is_caught_after_preflossing(case, break_it, monkeypatch):
    assert wrong_after_preflossing(case) == []
    break_it(monkeypatch)
    assert "losses" in wrong_after_preflossing(case)


@pytest.mark.long
def test_a_wrong_power_of_beta_is_caught_in_the_whole_run(monkeypatch):
    kept_beta(monkeypatch)
    wrong = tool.Comparison(recording("copy_small"), noisy_runs=partial(limits.noisy_runs, draws=3)).wrong_rungs
    assert wrong == ["after preflossing", "whole run"]


# --- wrong recordings -----------------------------------------------------------------------------


def scaled(factor, *names):
    return {name: lambda r, name=name: factor * r[name] for name in names}


def shifted_losses(r):
    return np.concatenate([r["loss"][:3], r["loss"][:-3]])


GRADIENTS, FLOSSING_GRADIENTS = ([f"{kind}_grad_{name}" for name in names] for kind, names in (
    ("train1", tool.TRAINED), ("floss1", tool.FLOSSED)))  # fmt: skip
WRONG_RECORDINGS = {  # what is changed -> function of the recording, the first rung that says so, and what is wrong there
    "transposed J": ({"init_J": lambda r: r["init_J"].T.copy()}, "initial weights", ["J", "xInit"]),
    "seed of the weights": ({"init_ws": lambda r: r["init_ws"][::-1].copy()}, "initial weights", ["ws"]),
    "order of trials": ({"train1_s": lambda r: r["train1_s"][..., ::-1].copy()}, "task data", ["train1_s"]),
    "first loss": (scaled(1 + 1e-4, "loss"), "first loss", ["loss"]),
    "gradients negative": (scaled(-1, *GRADIENTS), "first gradient", [*tool.TRAINED]),
    "gradients larger": (scaled(1.2, *GRADIENTS), "first gradient", [*tool.TRAINED]),
    "one gradient larger": (scaled(1.2, "train1_grad_b"), "first gradient", ["b"]),
    "flossing gradients negative": (scaled(-1, *FLOSSING_GRADIENTS), "first flossing step", [*tool.FLOSSED]),
    "flossing gradients larger": (scaled(1.2, *FLOSSING_GRADIENTS), "first flossing step", [*tool.FLOSSED]),
    "losses 3 epochs late": ({"loss": shifted_losses}, "whole run", None),
    "flossing losses off by half": (
        {"floss_loss": lambda r: r["floss_loss"] * np.where(np.arange(len(r["floss_loss"])), 1.5, 1)}, "whole run", None),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_RECORDINGS)
@pytest.mark.parametrize("case", ["copy_small", *long("copy_delay0")])
def test_a_wrong_recording_is_caught_where_it_is_wrong(case, what):
    changes, rung, names = WRONG_RECORDINGS[what]
    wrong = recording(case)
    wrong |= {name: change(wrong) for name, change in changes.items()}
    comparison = tool.Comparison(wrong, noisy_runs=noisy_runs if rung == "whole run" else None)
    assert [r for r in comparison.wrong_rungs if r != "after preflossing"][:1] == [rung], "\n" + comparison.table()
    found = [line.name for line in comparison.lines if line.rung == rung and line.verdict == WRONG]
    assert names is None or found == names


@lru_cache(maxsize=None)
def compared(case):
    return tool.Comparison(recording(case), noisy_runs=noisy_runs)


FROM_THE_SECOND_STEP_ON = {  # what is changed -> how, and the line that says so
    "floss_spectrum": (lambda x: x + 0.02, "sums of exponents"),
    "floss_gradnorm": (lambda x: 2 * x, "log flossing gradient of J"),
    "gradnorm": (lambda x: 2 * x, "log gradient of J"),
    "svdJ": (lambda x: 1.2 * x, "log step of J"),
    "svdxInit": (lambda x: 1.2 * x, "log step of xInit"),
    "loss": (lambda x: 1.05 * x, "losses"),
}


@pytest.mark.parametrize("case", ["copy_small", *long("orthogonal_parity4", "no_preflossing")])
@pytest.mark.parametrize("name", FROM_THE_SECOND_STEP_ON)
def test_what_is_recorded_at_every_step_is_judged_beyond_the_first(case, name):
    change, line = FROM_THE_SECOND_STEP_ON[name]
    wrong, comparison = recording(case), compared(case)
    wrong[name] = wrong[name].astype(np.float64)
    wrong[name][..., 1:] = change(wrong[name][..., 1:])
    lines = comparison.along_a_run("whole run", comparison.port, wrong, comparison.runs)
    names = [line.name for line in lines if line.verdict == WRONG]
    if comparison.arguments.Ep > 0:
        names += wrong_after_preflossing(case, wrong)
    assert line in names


def test_another_number_of_flossing_steps_is_wrong():
    wrong, comparison = recording("copy_small"), compared("copy_small")
    for name in ("floss_loss", "floss_spectrum", "floss_gradnorm"):  # longer than the port's
        wrong[name] = np.concatenate([wrong[name], wrong[name][..., -1:]], axis=-1)
    lines = comparison.along_a_run("whole run", comparison.port, wrong, comparison.runs)
    assert [line.name for line in lines if line.verdict == WRONG] == ["flossing steps"]


@pytest.mark.parametrize("case", ["copy_small", "orthogonal_parity4", "w_T_just_above"])
def test_one_wrong_answer_in_one_epoch_is_wrong_where_noisy_runs_agree(case):
    wrong, comparison = recording(case), restarted(case)[0]
    a = comparison.arguments
    wrong["accuracy"][5] -= 1 / (a.B * (a.T - port.first_loss_index(a.delay, a.task) + 1))
    assert wrong_after_preflossing(case, wrong) == ["right answers"]


@pytest.mark.long
def test_where_noisy_runs_disagree_an_answer_is_open_before_they_do_and_ten_times_as_many_after():
    """orthogonal_parity4: noisy runs of it part in preflossing, and 552 answers are scored in an epoch."""
    comparison = tool.Comparison(recording("orthogonal_parity4"), noisy_runs=partial(limits.noisy_runs, draws=1))
    series = next(s for s in comparison.series(comparison.port, comparison.recorded, comparison.runs) if "answers" in s.name)
    agreeing = {"accuracy": np.full(3, 0.5)}
    disagreeing = {"accuracy": np.array([0.5, 0.5, 0.5 + 2 / 552])}
    np.testing.assert_allclose(series.limits([agreeing, disagreeing])[:, 0], [1, 1, 20])
    assert series.values(disagreeing)[-1] == 278


def test_a_series_is_judged_where_its_limit_is_zero_or_below_a_third_of_its_range():
    series = Series("", "steps", lambda run: run, 0.0)
    ours, runs = np.array([[0.0, 0], [6, 6], [3, 3]]), [np.zeros((3, 2)), np.array([[0, 0], [0, 0.1], [0, 0.21]])]
    np.testing.assert_array_equal(series.judged(ours, runs), [[True, True], [True, True], [True, False]])


def test_there_are_as_many_noisy_runs_as_their_length_allows(monkeypatch):
    """Eight draws are too few for a heavy tail: with seeds 8 to 15 they make u_full_rank_N37_B3 WRONG, which is right."""
    monkeypatch.setattr(limits, "run_with_noise", lambda arguments, seed, *_: seed)
    number = lambda E: len(limits.noisy_runs(read_arguments(recording("copy_small"))._replace(E=E), 1.0)) - 1
    assert [number(E) for E in (0, 40, 112, 300, 3001)] == [32, 32, 32, 12, 8]


@pytest.mark.long
def test_other_noise_seeds_do_not_make_a_right_recording_wrong():
    """Of the recording with the heaviest tail; test_recordings.py has the first set of seeds."""
    runs = partial(limits.noisy_runs, first_seed=32)
    comparison = tool.Comparison(recording("u_full_rank_N37_B3"), noisy_runs=runs)
    assert comparison.passed, "\n" + comparison.table()


# --- what cannot be judged ------------------------------------------------------------------------


def test_a_first_flossing_step_at_parameters_that_are_not_recorded_is_not_judged():
    """The recording was made by an older recorder, and flossing begins after training has."""
    recorded = recording("no_preflossing")
    comparison = tool.Comparison(recorded, noisy_runs=None)
    line = comparison.line("first flossing step", "all of it")
    assert line.verdict == NOT_JUDGED and "not in the recording" in line.note
    assert comparison.flossing_noise == 1  # of the port itself: how noisy the recording is, is not known
    # the parameters then: after one training step
    ps = {name: recorded[f"train1_param_{name}"].copy() for name in tool.TRAINED}
    a = read_arguments(recorded)
    opt = flux.Optimiser(flux.ClipNorm(0.03), flux.ADAMW(a.lr, (a.b1, a.b2), 0))
    flux.update(opt, ps, {name: recorded[f"train1_grad_{name}"].copy() for name in tool.TRAINED})
    recorded |= {f"floss1_param_{name}": ps[name] for name in ("ws", "J", "b", "xInit")}
    lines = [line for line in tool.Comparison(recorded, noisy_runs=None).lines if line.rung == "first flossing step"]
    assert [line.verdict for line in lines] == [OK] * 5


def test_gradients_without_a_correct_digit_are_not_judged():
    """A chaotic network: over 300 steps Float32 loses all digits of the gradient, and half of those of the loss."""
    arguments = read_arguments(recording("no_flossing"))._replace(g=2.0, E=1, N=40, B=4, nLE=10)
    run = run_with_noise(arguments, 0)
    recorded = fake_recording(arguments, run)
    line = tool.Comparison(recorded, noisy_runs=None).line("first gradient", "J")
    assert line.verdict == NOT_JUDGED and "no digit" in line.note


def fake_recording(arguments, run):
    """A recording that the port made, with a first training step at its initial parameters."""
    ours = tool.run_port(arguments, "adjoint")
    a = arguments
    s0, r0 = port.generate_input_output(a.B, a.T, a.sIn, a.S, a.I1, a.delay, a.task)
    ps = {name: run[f"init_{name}"] for name in tool.TRAINED}
    first = port.first_loss_index(arguments.delay, arguments.task)
    loss, _, gs = port.training_gradient(ours["train1_s"], ours["train1_r"], ps, first, "autograd")
    recorded = dict(run, s0=s0, r0=r0, train1_s=ours["train1_s"], train1_r=ours["train1_r"])
    recorded["loss"][0] = loss
    recorded["julia_arguments"] = np.array(str(tuple(arguments)))
    recorded |= {f"train1_param_{name}": ps[name] for name in ps} | {f"train1_grad_{name}": gs[name] for name in ps}
    opt, steps = flux.Optimiser(flux.ClipNorm(0.03), flux.ADAMW()), {name: g.copy() for name, g in gs.items()}
    flux.update(opt, {name: x.copy() for name, x in ps.items()}, steps)
    for name in ("J", "xInit"):
        recorded[f"svd{name}"][:, 0] = np.linalg.svd(steps[name], compute_uv=False)
    return recorded


# --- the pieces -----------------------------------------------------------------------------------


def test_the_arguments_are_read_as_julia_means_them():
    arguments = read_arguments(recording("orthogonal_parity4"))
    assert arguments.lr == float(np.float32(0.002)) and arguments.b1 == 0.8
    assert arguments.task == -2 and isinstance(arguments.task, int)
    with pytest.raises(ValueError, match="expected 33"):
        read_arguments({"julia_arguments": "(1, 2)"})


def test_a_recording_in_float64_is_compared_after_rounding():
    """Julia computes in Float64 where an argument is Float64, as long as there is no flossing (D2)."""
    ours = np.random.default_rng(0).normal(size=(5, 1)).astype(np.float32)
    assert limits.equal("", "", ours, ours + 1e-9 * ours.astype(np.float64)).verdict == OK
    assert limits.equal("", "", ours, ours + 1e-5 * ours.astype(np.float64)).verdict == WRONG
    assert limits.equal("", "", ours, ours[:4]).verdict == WRONG


def test_the_last_bit_changes_in_every_entry():
    J = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    changed = last_bit_changed(J, np.random.default_rng(1))
    assert changed.dtype == np.float32
    np.testing.assert_array_equal(np.abs(changed.view(np.int32) - J.view(np.int32)), 1)


def test_the_noise_changes_every_gradient_and_the_port_stays_as_it_was():
    arguments = read_arguments(recording("copy_small"))._replace(E=2, Ep=2)
    before = port.training_engine, port.flossing_engine, port.relax_ic
    one, again, other = (run_with_noise(arguments, seed) for seed in (1, 1, 2))
    assert (port.training_engine, port.flossing_engine, port.relax_ic) == before
    for name in ("loss", "floss_loss", "init_xInit", "final_J"):
        np.testing.assert_array_equal(one[name], again[name])
        assert np.any(one[name] != other[name]) and np.allclose(one[name], other[name], rtol=1e-3, atol=1e-3)


def test_a_larger_flossing_noise_is_larger():
    arguments = read_arguments(recording("copy_small"))._replace(E=1, Ep=6)
    right = tool.run_port(arguments)["final_J"]
    error = lambda noise: limits.norm(run_with_noise(arguments, 3, noise)["final_J"] - right)
    assert 3 * error(1.0) < error(30.0) < 100 * error(1.0)


def written_folder(folder, arrays):
    """A folder as record_original.jl writes it, from a recording."""
    folder.mkdir()
    lines = [f"# julia_arguments: {arrays['julia_arguments']}", "# julia: 1.6.7"]
    for name, array in arrays.items():
        if name != "julia_arguments":
            lines.append(f"{name} {array.dtype.name.capitalize()} {','.join(map(str, array.shape))}")
            (folder / f"{name}.bin").write_bytes(array.tobytes(order="F"))
    (folder / "manifest.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_a_folder_and_an_npz_read_the_same(tmp_path):
    expected = recording("copy_small")
    found = tool.read_recording(written_folder(tmp_path / "folder", expected))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype or name == "julia_arguments"
        np.testing.assert_array_equal(found[name], array)


def test_the_command_says_what_was_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(limits, "NOISY_RUNS", (2, 2))
    folder, second = (str(written_folder(tmp_path / name, recording("copy_small"))) for name in ("one", "two"))
    assert tool.main([folder, "--second", second, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "\nShown: task data, initial" in printed.out and "the original from itself, losses: 0 at most" in printed.out
    assert "of the 40 losses of the whole run 40 can be judged" in printed.out
    assert "one: 3 noisy runs of the port" in printed.err
    (figure,) = (tmp_path / "out").iterdir()
    assert "one" in figure.name and figure.stat().st_size > 20_000


@pytest.mark.long
def test_the_command_works_in_any_folder_with_processes_for_the_noisy_runs_of_a_long_run(tmp_path):
    arguments = read_arguments(recording("copy_small"))._replace(N=8, E=limits.SHORT + 1, Ep=0, Ni=0, B=2, T=30)
    folder = written_folder(tmp_path / "one", fake_recording(arguments, run_with_noise(arguments, 0)))
    result = subprocess.run([sys.executable, SCRIPT, folder], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"of the {arguments.E} losses of the whole run {arguments.E} can be judged" in result.stdout
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_the_command_ends_with_1_if_anything_is_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(limits, "NOISY_RUNS", (2, 2))
    arrays = recording("copy_small")
    arrays["loss"] = arrays["loss"] * 1.001
    assert tool.main([str(written_folder(tmp_path / "one", arrays)), "--out", str(tmp_path)]) == 1
    assert "\nWRONG, where the difference is beyond the limit: first loss (loss)" in capsys.readouterr().out


def test_what_is_no_recording_ends_with_a_word(tmp_path):
    result = subprocess.run([sys.executable, SCRIPT, "."], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and "manifest.txt" in result.stderr and "Traceback" not in result.stderr
