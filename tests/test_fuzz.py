"""Any arguments at all end in a finite record, a refusal by name before output, or a NonFiniteError with a finite record."""

import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from extras.check_parameters import PARAMETERS
from extras.lyapunov import Diagnostics
from extras.record import NonFiniteError
from gradient_flossing_example import train_rnn_flossing
from julia_packages.checks import shown
from tests.conftest import short_call

SMALL = short_call(N=6, E=4, Ef=2, Ei=2, Ep=3, Ni=2, B=3, T=24, Tp=16, Ti=20, delay=3, nLE=4)
ODD_INTEGERS = [-1, -3, 2**31, 2**63 - 1, 2**63, 10**12, -(10**30), 10**5000, 2**200]
REALS = [0.0, 0.3, 1.0, -0.7, 2, 1e-3, 5.0, np.float32(0.5), np.float64(1.5)]
ODD_REALS = [1e-45, -1e-300, 0.999999999, 30.0, 1e10, 1e19, -1e25, 1e36, 2e37, 3.4e38, 1e39, -np.inf, np.nan, 10**400]
NOT_NUMBERS = [
    None, True, np.bool_(False), "3", b"1", [], {}, 1j, Decimal(1), Fraction(1, 3), np.timedelta64(3, "s"), object(),
    np.datetime64("2020-01-01"), np.array([1, 2]), np.array(3), range(3), lambda: 1,
]  # fmt: skip
KEYWORDS = {
    "engine": ["adjoint", "autograd", "jax", "", 7],
    "initial": [None, {}, {"J": np.zeros((6, 6))}, {"b": np.full(6, 3e38)}, {"J": np.full((6, 6), 1e30)}, {"xInit": [[1e38] * 3] * 6},
                {"wr": np.full((1, 6), 1e-40)}, {"K": 1}, {"J": np.eye(3)}, True, 3],
    "checkpoint_every": [1, 5, 0, -3, 2.5, "x"],
    "diagnostics": [None, Diagnostics(), Diagnostics(True, (1, 3), (1, 4)), Diagnostics(epochs=(2,), horizons=(30,)), True,
                    Diagnostics(epochs=5), Diagnostics(epochs=(99,)), Diagnostics(horizons=(10**9,), epochs=(1,))],
    "checkpoint": [None, True, 0, "\0", "/", "/no/such/folder/run.npz"],
}  # fmt: skip


def random_call(rng):
    """A small call with a few of its arguments replaced, from harmless to absurd, and now and then a keyword."""
    pick = lambda values: values[rng.integers(len(values))]
    call = dict(SMALL)
    for name in rng.choice(list(PARAMETERS), rng.integers(1, 5), replace=False):
        if PARAMETERS[name].kind is int:
            harmless, odd = [pick([int, np.int8, np.int64])(SMALL[name] + pick([-2, -1, 0, 1, 3, 9]))], ODD_INTEGERS
        else:
            harmless, odd = REALS, ODD_REALS
        call[str(name)] = pick(pick([harmless] * 12 + [odd] * 2 + [NOT_NUMBERS]))
    keywords = {str(name): pick(KEYWORDS[name]) for name in rng.choice(list(KEYWORDS), pick([0, 0, 0, 1, 2]), replace=False)}
    return call, keywords


def assert_finite(record):
    for name, x in record.to_arrays()[1].items():
        assert np.isfinite(x).all(), name


def outcome(call, keywords, capsys):
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            record = train_rnn_flossing(**call, **keywords)
        except NonFiniteError as error:
            assert_finite(error.record)
            return "not finite"
        except ValueError as error:
            assert capsys.readouterr().out == ""
            message = str(error)
            assert len(message) < 500 and message.startswith((*PARAMETERS, *KEYWORDS))
            return "refused"
    assert_finite(record)
    return "finite"


def test_any_arguments(capsys, request):
    calls = request.config.getoption("--fuzz")
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(("finite", "refused", "not finite"), 0)
    for number in range(calls):
        call, keywords = random_call(rng)
        changed = {name: shown(value) for name, value in (call | keywords).items() if value is not SMALL.get(name)}
        try:
            counts[outcome(call, keywords, capsys)] += 1
        except Exception as error:
            pytest.fail(f"call {number}, {changed}: {type(error).__name__}: {error}")
    with capsys.disabled():
        if request.config.getoption("verbose") > 0:
            print(counts)
    assert min(counts.values()) > calls / 100, counts
