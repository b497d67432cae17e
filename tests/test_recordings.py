"""Whole runs of the port against whole runs of the original, at the tolerances of side_by_side/tolerances.py.

Those come from the original's own drift, see there. The README call drifts most: of ten runs of the port whose
initial J differs in one unit in the last place of one entry, the epoch of 95 % accuracy ranged from 113 to 218 (median
173; the original's two recordings: 142 and 151, and 102 to 165 over six such changes). So that call is judged by
what most of five such runs do, not by one of them.
"""

import numpy as np
import pytest

from tests.side_by_side.compare_with_original import REFERENCE, Comparison, read_recording, run_port
from gradient_flossing_example import flossing_gradient


def recording(case):
    return read_recording(REFERENCE / f"run_{case}.npz")


@pytest.mark.parametrize("engine", ["adjoint", "autograd"])
@pytest.mark.parametrize("case", ["copy_small", "no_flossing", "orthogonal_parity4", "preflossing"])
def test_whole_run(case, engine):
    comparison = Comparison(recording(case), engine)
    assert comparison.passed, "\n" + comparison.table()


def test_most_runs_of_the_readme_call_agree_with_the_recording():
    undisturbed = Comparison(recording("readme_seed1"))
    whole_run_lines = [line for line in undisturbed.lines if line[0].rung == "whole run"]
    steps = [line for line in undisturbed.lines if line[0].rung != "whole run"]
    assert all(verdict is not False for *_, verdict in steps), "\n" + undisturbed.table()
    passed = [all(verdict is not False for *_, verdict in whole_run_lines)]
    for seed in range(4):
        J = one_unit_in_the_last_place(undisturbed.port["init_J"], seed)
        run = run_port(undisturbed.arguments, "adjoint", {"J": J})
        quantities = [quantity for quantity, *_ in whole_run_lines if quantity.tolerance]
        passed.append(all(q.tolerance.allows(q.of(run), q.of(undisturbed.original)) for q in quantities))
    assert sum(passed) >= 3, passed


def one_unit_in_the_last_place(J, seed):
    """J with one entry, chosen at random, moved to the next Float32."""
    J = J.copy()
    i, j = np.random.default_rng(seed).integers(0, len(J), 2)
    J[i, j] = np.nextafter(J[i, j], np.float32(np.inf))
    return J


@pytest.mark.parametrize("engine", ["adjoint", "autograd"])
@pytest.mark.parametrize("case", ["copy_small", "orthogonal_parity4", "preflossing", "readme_seed1"])
def test_first_flossing_gradient_is_nearer_to_float64_than_the_recording(case, engine, reference, arguments):
    run, call = reference(f"run_{case}"), arguments(case)

    def gradient(dtype, engine):
        ps = {name: run[f"init_{name}"].astype(dtype) for name in ("ws", "J", "b")}
        settings = (call[name] for name in ("Tp", "nLE", "sONS", "Lwnt"))
        return flossing_gradient(run["floss1_s"].astype(dtype), ps, run["init_xInit"].astype(dtype), *settings, engine)[2]

    exact, ours = gradient(np.float64, "autograd"), gradient(np.float32, engine)
    # all arrays together, in units of each one's largest entry: single arrays of the smallest cases are at a few
    # units in the last place, where either may be ahead
    error = lambda gs: np.sqrt(sum(np.sum((gs[n] - exact[n]) ** 2) / np.max(exact[n] ** 2) for n in exact))
    recorded = {name: run[f"floss1_grad_{name}"].astype(np.float64) for name in exact}
    assert error(ours) <= error(recorded) * (1 if engine == "adjoint" else 3)  # autograd: Float32, as the original


def test_the_second_run_of_the_original_drifts_as_the_tolerances_say():
    """The original against itself, one BLAS thread against two: what the tolerances have to allow at least."""
    one, two = (recording(name) for name in ("readme_seed1", "readme_seed1__second_julia_run"))
    assert np.array_equal(one["init_J"], two["init_J"])
    assert 0.07 < np.abs(one["loss"] - two["loss"]).max() < 0.1
    assert 0.15 < np.abs(one["final_J"] - two["final_J"]).max() < 0.25
