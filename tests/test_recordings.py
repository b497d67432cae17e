"""The port against every recording of the original in tests/reference, by the comparison of tests/side_by_side.

Limits are computed where this runs, see tests/side_by_side/limits.py: they are right on other processors, too.
"""

from functools import partial

import numpy as np
import pytest

import gradient_flossing_example as port
from gradient_flossing_example import flossing_gradient
from tests.conftest import long
from tests.side_by_side import limits
from tests.side_by_side.compare_with_original import REFERENCE, Comparison, read_arguments
from tests.test_side_by_side import noisy_runs, recording

RECORDINGS = sorted(path.stem.removeprefix("run_") for path in REFERENCE.glob("run_*.npz"))
ONCE = [case for case in RECORDINGS if not case.endswith("second_julia_run")]
SHORT = "copy_small"  # its whole run is in the default run of the tests, those of the others come with --long
LIKE_README_SEED1 = ("preflossing", "readme_seed11")  # of its sizes, which take minutes: it stands for their whole runs
WHOLE = [(SHORT, "adjoint")]
WHOLE += long(*((case, "adjoint") for case in RECORDINGS if not case.startswith((SHORT, *LIKE_README_SEED1))))
WHOLE += long(*((case, "autograd") for case in ONCE if not case.startswith(("readme", "preflossing"))))
# eight noisy runs are enough: with 22 sets of eight a difference was at most 0.2 of its limit, but 3 times means_and_gains'
LIGHT_TAILS = (SHORT, "w_T_just_above", "no_flossing", "no_preflossing", "orthogonal_parity4")
LARGE = ("no_flossing", *LIKE_README_SEED1)  # as readme_seed1, whose first steps stand for theirs by default
FIRST = [(case, "adjoint") for case in ONCE if case not in (SHORT, *LARGE)]
FIRST += [(case, "autograd") for case in ("copy_delay0", "no_preflossing", "orthogonal_parity4")]
FIRST += long(("readme_seed1", "autograd"), ("readme_seed11", "adjoint"))


@pytest.mark.parametrize("case", ONCE)
def test_the_initial_weights_are_the_recorded_ones(case):
    recorded = recording(case)
    arguments = read_arguments(recorded)
    initial = port.train_rnn_flossing(*arguments._replace(E=0), progress=False).initial
    for name in ("ws", "wr", "b", "offset", "J"):
        if name == "J" and arguments.IC == 3:  # a QR
            known = limits.orthogonal_J(arguments)
            assert limits.norm(initial["J"] - recorded["init_J"]) < limits.STEP_FACTOR * known.error * known.scale
        else:
            np.testing.assert_array_equal(initial[name], recorded[f"init_{name}"])


@pytest.mark.parametrize("case, engine", FIRST)
def test_the_first_steps_agree_with_the_recordings(case, engine):
    comparison = Comparison(recording(case), engine, noisy_runs=None)
    assert comparison.passed, "\n" + comparison.table()
    assert sum(line.verdict == limits.OK for line in comparison.lines) >= 19  # and they were compared


@pytest.mark.parametrize("case, engine", WHOLE)
def test_the_port_agrees_with_every_recording(case, engine):
    draws = 8 if case.startswith(LIGHT_TAILS) else None
    comparison = Comparison(recording(case), engine, partial(noisy_runs, draws=draws))
    assert comparison.passed, "\n" + comparison.table()
    # and it was compared: the whole run if noisy runs do not part before its first epoch, and what follows preflossing
    verdict = lambda rung, name: comparison.line(rung, name).verdict
    assert verdict("whole run", "losses, shifted") == limits.OK
    assert (verdict("whole run", "losses") == limits.OK) == (not case.startswith("readme"))
    if comparison.arguments.Ep > 0:
        names = ("losses", "right answers", "log gradient of J", "log step of J")
        assert [verdict("after preflossing", name) for name in names] == [limits.OK] * 4


@pytest.mark.parametrize("engine", ["adjoint", "autograd"])
@pytest.mark.parametrize("case", ["copy_small", "orthogonal_parity4", "preflossing", "readme_seed1"])
def test_first_flossing_gradient_is_nearer_to_float64_than_the_recording(case, engine, reference, arguments):
    run, call = reference(f"run_{case}"), arguments(case)

    def gradient(dtype, engine):
        ps = {name: run[f"init_{name}"].astype(dtype) for name in ("ws", "J", "b")}
        s, xInit = run["floss1_s"].astype(dtype), run["init_xInit"].astype(dtype)
        settings = (call[name] for name in ("Tp", "nLE", "sONS", "Lwnt"))
        return flossing_gradient(s, ps, xInit, *settings, engine)[2]

    exact, ours = gradient(np.float64, "autograd"), gradient(np.float32, engine)
    # all arrays together, in units of each one's largest entry: single arrays of the smallest cases are at a few
    # units in the last place, where either may be ahead
    error = lambda gs: np.sqrt(sum(np.sum((gs[n] - exact[n]) ** 2) / np.max(exact[n] ** 2) for n in exact))
    recorded = {name: run[f"floss1_grad_{name}"].astype(np.float64) for name in exact}
    if engine == "adjoint":
        assert error(ours) <= error(recorded)
    else:  # Float32, as the original: chance decides which is nearer
        assert error(ours) <= limits.FLOSSING_FACTOR * error(recorded)
