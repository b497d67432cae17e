"""Bad arguments are refused by name before anything is drawn; good ones become plain numbers."""

import inspect
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import gradient_flossing_example
from extras.check_parameters import PARAMETERS, check_initial, check_parameters
from gradient_flossing_example import train_rnn_flossing

README_CALL = dict(
    N=80, E=301, Ef=10, Ei=50, Ep=50, Ni=2, B=16, S=1, T=300, Tp=55, Ti=300, sIC=1, sIn=1, sNet=1, sONS=1, lr=0.001,
    b1=0.9, b2=0.999, IC=1, g=1.0, gbar=0.0, I1=1.0, delay=10, wsS=1.0, wsM=0.0, wrS=1.0, wrM=0.0, bS=0.1, bM=0.0,
    nLE=75, task=-1, intype=3, Lwnt=0.0,
)  # fmt: skip
INTEGERS = [name for name, p in PARAMETERS.items() if p.kind is int]
REALS = [name for name, p in PARAMETERS.items() if p.kind is float]
BAD_INTEGERS = [True, np.bool_(True), "3", None, 2.5, 3.0, math.nan, [3], 3 + 0j, Fraction(3), np.float64(3)]
BAD_REALS = [False, np.bool_(False), "0.5", None, math.nan, math.inf, -math.inf, 1e39, 10**400, 0.5j, [0.5], Decimal(1)]
BAD_COMBINATIONS = [  # what is changed in the README call, and the parameter that the message is about
    (dict(N=0), "N"), (dict(N=-80), "N"), (dict(N=2**63), "N"), (dict(E=-1), "E"), (dict(E=2**32), "E"),
    (dict(Ef=0), "Ef"), (dict(Ef=-10), "Ef"), (dict(Ei=-1), "Ei"), (dict(Ep=-1), "Ep"), (dict(Ni=-1), "Ni"),
    (dict(B=0), "B"), (dict(B=-1), "B"), (dict(S=0), "S"), (dict(S=2), "S"), (dict(S=-1), "S"),
    (dict(T=0), "T"), (dict(T=20), "T"), (dict(T=19), "T"), (dict(task=-5), "T"), (dict(task=0, T=10), "T"),
    (dict(task=2, T=20), "T"), (dict(delay=150), "T"), (dict(task=-2, T=40), "T"),
    (dict(Tp=0), "Tp"), (dict(Tp=12), "Tp"), (dict(Tp=1), "Tp"), (dict(Tp=301), "Tp"), (dict(Ti=54), "Tp"),
    (dict(Ti=0), "Ti"), (dict(Ep=0, Tp=12), "Tp"), (dict(Ni=0, Tp=12), "Tp"), (dict(Ep=0, Ef=301, Tp=301), "Tp"),
    (dict(Ep=0, Ef=1, E=2, Tp=12), "Tp"),
    (dict(sIC=-1), "sIC"), (dict(sNet=-1), "sNet"), (dict(sONS=-1), "sONS"), (dict(sIn=0), "sIn"),
    (dict(sIn=-1), "sIn"), (dict(sIn=-2, Ep=700), "sIn"), (dict(sIn=-2, Ef=300, Ei=302, Ni=1), "sIn"),
    (dict(sIn=2**63), "sIn"), (dict(sIn=-(2**63) - 1), "sIn"), (dict(sIn=2**60), "sIn"), (dict(sIn=2**128), "sIn"),
    (dict(lr=0.0), "lr"), (dict(lr=-0.001), "lr"), (dict(lr=1e-50), "lr"), (dict(lr=-0.0), "lr"),
    (dict(b1=1.0), "b1"), (dict(b1=-0.1), "b1"), (dict(b2=1.0), "b2"), (dict(b2=1.5), "b2"), (dict(b2=-1e-9), "b2"),
    (dict(IC=0), "IC"), (dict(IC=2), "IC"), (dict(IC=4), "IC"), (dict(IC=-1), "IC"),
    (dict(nLE=81), "nLE"), (dict(nLE=-1), "nLE"), (dict(N=74), "nLE"),
    (dict(delay=-1), "delay"), (dict(delay=0), "delay"), (dict(delay=0, task=1), "delay"), (dict(task=63), "task"),
    (dict(task=-63), "task"), (dict(task=2**64), "task"), (dict(task=60), "delay"), (dict(delay=2**62), "delay"),
]  # fmt: skip
BAD = (
    [({name: value}, name) for name in INTEGERS for value in BAD_INTEGERS]
    + [({name: value}, name) for name in REALS for value in BAD_REALS]
    + BAD_COMBINATIONS
)


@pytest.fixture
def nothing_may_start(monkeypatch):
    def started(*args, **kwargs):
        raise AssertionError("work was started")

    for name in ("MersenneTwister", "generate_input_output", "Recorder"):
        monkeypatch.setattr(gradient_flossing_example, name, started)


def test_at_least_200_bad_argument_lists():
    assert len(BAD) >= 200


@pytest.mark.parametrize(("change", "name"), BAD, ids=lambda value: str(value)[:60])
def test_bad_argument_is_refused_by_name_before_any_work(change, name, nothing_may_start, capsys):
    with pytest.raises(ValueError, match=rf"^{name}( =|:| must)") as refused:
        train_rnn_flossing(**README_CALL | change)
    value = change.get(name, README_CALL[name])
    assert repr(value) in str(refused.value)
    assert capsys.readouterr().out == ""


GOOD = [
    {},
    dict(E=0), dict(E=2**32 - 1), dict(Ep=0, Ni=0, Tp=1), dict(Ep=0, Ef=302, Tp=400), dict(nLE=0, Tp=12),
    dict(Ep=0, Ei=0, Tp=12), dict(Tp=13), dict(Ti=55), dict(Ep=0, Ef=1, E=1, Tp=12),
    dict(sIn=-2), dict(sIn=-2, Ep=600), dict(sIn=-2, Ef=300, Ei=301, Ni=1), dict(sIC=0, sNet=0, sONS=0),
    dict(sNet=2**200), dict(task=0, delay=0), dict(task=1), dict(task=5, T=21), dict(task=-4, T=161), dict(T=21),
    dict(b1=0.0, b2=0.0), dict(g=-1.0), dict(g=0.0), dict(wsS=3.4e38), dict(nLE=80), dict(nLE=1, N=1),
]  # fmt: skip


@pytest.mark.parametrize("change", GOOD, ids=str)
def test_what_the_original_can_do_is_accepted(change):
    assert check_parameters(README_CALL | change) == README_CALL | change


def test_numpy_scalars_become_plain_numbers_in_order():
    given = {
        name: (np.int64 if PARAMETERS[name].kind is int else np.float64)(value)
        for name, value in reversed(README_CALL.items())
    }
    checked = check_parameters(given)
    assert list(checked) == list(README_CALL)
    assert checked == README_CALL
    assert {type(checked[name]) for name in INTEGERS} == {int}
    assert {type(checked[name]) for name in REALS} == {float}
    assert type(check_parameters(README_CALL | {"g": 1})["g"]) is float


def test_small_numpy_integers_do_not_overflow_in_the_run():
    """E * sIn is beyond an int8: the run has to go on with the plain integers."""
    small = dict(README_CALL, N=8, E=2, Ep=1, nLE=2, T=21, Tp=13, Ti=13, B=2, sIn=100)
    narrow = small | {name: np.int8(small[name]) for name in ("E", "sIn", "delay", "T")}
    assert train_rnn_flossing(**narrow, progress=False) == train_rnn_flossing(**small, progress=False)


@pytest.mark.parametrize("sIn", [-5, -3, -2, -1])
@pytest.mark.parametrize("Ef", [1, 2, 3, 5])
@pytest.mark.parametrize("Ni", [0, 1, 3])
@pytest.mark.parametrize("Ep", [0, 9])
def test_zero_input_seeds_are_found_as_by_going_through_the_loops(sIn, Ef, Ni, Ep):
    for Ei in (0, 4, 13, 30):
        p = README_CALL | dict(E=6, Ef=Ef, Ei=Ei, Ep=Ep, Ni=Ni, sIn=sIn)
        seeds, ni = [], 0
        for ei in range(1, 7):
            if (ei == 1 and Ep > 0) or (ei % Ef == 0 and ni < Ni):
                ni += ei > 1
                seeds += [6 * sIn + ei + i for i in range(1, (Ep if ei == 1 else Ei) + 1)]
            seeds.append(6 * sIn + ei)
        if 0 in seeds:
            with pytest.raises(ValueError, match="^sIn"):
                check_parameters(p)
        else:
            check_parameters(p)


def test_parameter_table_has_the_order_of_the_signature():
    assert list(inspect.signature(train_rnn_flossing).parameters)[:33] == list(PARAMETERS) == list(README_CALL)


def test_missing_or_unknown_parameter():
    with pytest.raises(ValueError, match="nonsense"):
        check_parameters(README_CALL | {"nonsense": 1})
    with pytest.raises(ValueError, match="Lwnt"):
        check_parameters({name: value for name, value in README_CALL.items() if name != "Lwnt"})


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ({"K": np.zeros(2)}, "'K'.*unknown"),
        ({"J": np.zeros((2, 3))}, "shape"),
        ({"J": [["a", "b"], ["c", "d"]]}, "numbers"),
        ({"J": np.full((2, 2), np.nan)}, "finite"),
        ({"J": np.full((2, 2), 1e300)}, "finite"),
        ({"J": None}, "numbers|shape"),
    ],
)
def test_bad_initial_arrays(initial, message):
    with pytest.raises(ValueError, match=message):
        check_initial(initial, {"J": (2, 2)})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (dict(engine="jax"), "engine = 'jax'.*adjoint, autograd"),
        (dict(checkpoint_every=0), "checkpoint_every"),
        (dict(checkpoint_errors="ignore"), "checkpoint_errors"),
    ],
)
def test_bad_additions(option, message):
    with pytest.raises(ValueError, match=message):
        train_rnn_flossing(**README_CALL | dict(E=1), **option, progress=False)
