"""Bad arguments are refused by name before anything is drawn; good ones become plain numbers."""

import inspect
import math
import os
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import gradient_flossing_example
from extras.check_parameters import PARAMETERS, check_initial, check_parameters, check_spectrum_call, flossing_steps
from gradient_flossing_example import README_CALL, train_rnn_flossing
from julia_packages.checks import shown

INTEGERS = [name for name, p in PARAMETERS.items() if p.kind is int]
REALS = [name for name, p in PARAMETERS.items() if p.kind is float]
HUGE = 10**5000  # more digits than Python prints
BAD_INTEGERS = [
    True, np.bool_(True), "3", None, 2.5, 3.0, math.nan, [3], 3 + 0j, Fraction(3), np.float64(3), np.timedelta64(3, "s"),
    np.datetime64("2020"), "3" * 999, np.array(3.0), np.array([3, 4]), -HUGE,
]  # fmt: skip
BAD_REALS = [
    False, np.bool_(False), "0.5", None, math.nan, math.inf, -math.inf, 1e39, 10**400, 0.5j, [0.5], Decimal(1), HUGE,
    np.timedelta64(3, "s"), np.array(0.5), Fraction(HUGE, 3),
]  # fmt: skip
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
    (dict(E=1, sIn=2**63 - 51), "sIn"), (dict(E=0, Ep=0, Ei=0, sIn=2**63), "sIn"),
    (dict(lr=0.0), "lr"), (dict(lr=-0.001), "lr"), (dict(lr=1e-50), "lr"), (dict(lr=-0.0), "lr"),
    (dict(b1=1.0), "b1"), (dict(b1=-0.1), "b1"), (dict(b2=1.0), "b2"), (dict(b2=1.5), "b2"), (dict(b2=-1e-9), "b2"),
    (dict(intype=2**63), "intype"), (dict(intype=-(2**63) - 1), "intype"), (dict(IC=0), "IC"), (dict(IC=2), "IC"), (dict(IC=4), "IC"), (dict(IC=-1), "IC"),
    (dict(nLE=81), "nLE"), (dict(nLE=-1), "nLE"), (dict(N=74), "nLE"),
    (dict(delay=-1), "delay"), (dict(delay=0), "delay"), (dict(delay=0, task=1), "delay"), (dict(task=63), "task"),
    (dict(task=-63), "task"), (dict(task=2**62), "task"), (dict(task=2**64), "task"), (dict(task=60), "task"), (dict(delay=2**62), "task"),
    (dict(wsS=1.1e34), "wsS"), (dict(bM=-1.1e34), "bM"), (dict(g=3e38), "g"),
    (dict(N=10**6), "N"), (dict(T=10**10), "T"), (dict(B=10**9), "T"), (dict(Tp=10**9, Ti=10**9), "Tp"), (dict(Ti=10**11), "Ti"),
    (dict(E=2**32 - 1), "E"), (dict(E=HUGE), "E"), (dict(delay=10**11, T=10**12), "T"), (dict(sIn=HUGE), "sIn"),
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

    for name in ("MersenneTwister", "generate_input_output", "Run"):
        monkeypatch.setattr(gradient_flossing_example, name, started)
    # on larger machines, too
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 2**12, "SC_PHYS_PAGES": 2**23}.get, raising=False)


def named(change):
    return README_CALL._asdict() | change


def check(change):
    return check_parameters(README_CALL._replace(**change))


def test_at_least_200_bad_argument_lists():
    assert len(BAD) >= 200


@pytest.mark.parametrize(("change", "name"), BAD, ids=lambda value: shown(value))
def test_bad_argument_is_refused_by_name_before_any_work(change, name, nothing_may_start, capsys):
    with pytest.raises(ValueError, match=rf"(^|, ){name}( =|:| must)") as refused:
        train_rnn_flossing(**named(change))
    assert shown(named(change)[name]) in str(refused.value) and len(str(refused.value)) < 300
    assert capsys.readouterr().out == ""


GOOD = [
    {},
    dict(E=0), dict(E=10**6), dict(Ep=0, Ni=0, Tp=1), dict(Ep=0, Ef=302, Tp=400), dict(nLE=0, Tp=12),
    dict(Ep=0, Ei=0, Tp=12), dict(Tp=13), dict(Ti=55), dict(Ep=0, Ef=1, E=1, Tp=12),
    dict(sIn=-2), dict(sIn=-2, Ep=300), dict(sIn=-2, Ei=300), dict(sIC=0, sNet=0, sONS=0),
    dict(sNet=2**200), dict(task=0, delay=0), dict(task=1), dict(task=5, T=21), dict(task=-4, T=161), dict(T=21),
    dict(E=1, sIn=2**63 - 52), dict(E=1, sIn=-(2**63) + 52), dict(intype=-(2**63)), dict(intype=2**63 - 1),
    dict(b1=0.0, b2=0.0), dict(g=-1.0), dict(g=0.0), dict(wsS=1e34), dict(gbar=-1e34),
    dict(nLE=80), dict(nLE=1, N=1), dict(task=0, delay=0, T=1), dict(Ep=0, Ni=0, Ti=1),
]  # fmt: skip


def test_the_largest_numbers_give_finite_weights_and_states():
    largest = dict.fromkeys(("g", "gbar", "wsS", "wsM", "wrS", "wrM", "bS", "bM"), 1e34)
    record = train_rnn_flossing(*README_CALL._replace(E=0, N=400, **largest), progress=False)
    assert all(np.isfinite(x).all() and np.abs(x).max() > 1e33 for name, x in record.initial.items() if name != "offset")


@pytest.mark.parametrize("change", GOOD, ids=str)
def test_what_the_original_can_do_is_accepted(change):
    assert check(change) == README_CALL._replace(**change)


# bytes: 40 N^2, 15,616 T, 93,000 Tp, 16 Ti, 64 E, 348 a flossing step
@pytest.mark.parametrize(("name", "fits", "too_large", "rest"), [
    ("N", 29_200, 29_400, dict(B=1, T=21, nLE=0)), ("T", 2_190_000, 2_210_000, {}),
    ("Tp", 365_000, 372_000, dict(Ti=10**6)), ("Ti", 2_100_000_000, 2_150_000_000, {}),
    ("E", 530_000_000, 540_000_000, dict(Ep=0, Ni=0)),
])  # fmt: skip
def test_the_largest_run_that_fits_into_32_gib(name, fits, too_large, rest, nothing_may_start):
    check(rest | {name: fits})
    with pytest.raises(ValueError, match=f"{name} = {too_large}[,:].* the run would need .* this machine has 32.0 GiB"):
        check(rest | {name: too_large})


def test_the_rows_of_flossing_steps_take_memory_too(nothing_may_start):
    check(dict(Ep=98_000_000))
    with pytest.raises(ValueError, match="Ep = 100000000, .* the run would need"):
        check(dict(Ep=100_000_000))


def test_a_spectrum_that_is_asked_for_is_checked_as_one_of_a_run():
    J, s = np.eye(3), np.zeros((20, 1, 1))
    check_spectrum_call(s, J, 20, 3)
    for Tp, nLE, message in ((20, 4, "^nLE = 4: .* N = 3"), (21, 3, "^Tp = 21: .* Ti = 20"), (12, 3, "^Tp = 12"), (0, 3, "^Tp"), (20, 0, "^nLE")):
        with pytest.raises(ValueError, match=message):
            check_spectrum_call(s, J, Tp, nLE)


def test_one_exponent_is_flossed_too():
    assert flossing_steps(README_CALL._replace(nLE=1)._asdict()) == 150 == 50 + 2 * 50


def test_numpy_scalars_become_plain_numbers_in_order():
    given = {
        name: (np.int64 if PARAMETERS[name].kind is int else np.float64)(value)
        for name, value in README_CALL._asdict().items()
    }
    checked = check(given)
    assert checked == README_CALL
    assert {type(getattr(checked, name)) for name in INTEGERS} == {int}
    assert {type(getattr(checked, name)) for name in REALS} == {float}
    assert type(check({"g": 1}).g) is float


def test_small_numpy_integers_do_not_overflow_in_the_run():
    """E * sIn is beyond an int8: the run has to go on with the plain integers."""
    small = dict(named({}), N=8, E=2, Ep=1, nLE=2, T=21, Tp=13, Ti=13, B=2, sIn=100)
    narrow = small | {name: np.int8(small[name]) for name in ("E", "sIn", "delay", "T")}
    assert train_rnn_flossing(**narrow, progress=False) == train_rnn_flossing(**small, progress=False)


@pytest.mark.parametrize("sIn", [-5, -3, -2, -1])
@pytest.mark.parametrize("Ef", [1, 2, 3, 5])
@pytest.mark.parametrize("Ni", [0, 1, 3])
@pytest.mark.parametrize("Ep", [0, 9])
def test_no_run_meets_the_input_seed_zero(sIn, Ef, Ni, Ep):
    """Whatever blocks there are, those are refused in which an epoch or a step of flossing could have it."""
    for Ei in (0, 4, 13, 30):
        p = dict(E=6, Ef=Ef, Ei=Ei, Ep=Ep, Ni=Ni, sIn=sIn)
        seeds, ni = [], 0
        for ei in range(1, 7):
            if (ei == 1 and Ep > 0) or (ei % Ef == 0 and ni < Ni):
                ni += ei > 1
                seeds += [6 * sIn + ei + i for i in range(1, (Ep if ei == 1 else Ei) + 1)]
            seeds.append(6 * sIn + ei)
        if 6 * sIn + 6 + max(Ep, Ei) >= 0:
            with pytest.raises(ValueError, match="^sIn"):
                check(p)
        else:
            check(p)
            assert max(seeds) < 0


def test_parameter_table_has_the_order_of_the_signature():
    assert list(inspect.signature(train_rnn_flossing).parameters)[:33] == list(PARAMETERS)
    assert {p.kind for p in PARAMETERS.values()} == {int, float}
    assert {p.group for p in PARAMETERS.values()} == {"network", "training", "flossing", "task", "seeds"}


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ({"J": np.zeros((2, 2)), "K": 1}, r"^initial = \['J', 'K'\]: must be None or a dict with any of ws, J, "),
        ({"J": np.zeros((2, 3))}, "shape"),
        ({"J": [["a", "b"], ["c", "d"]]}, "numbers"),
        ({"J": np.full((2, 2), np.nan)}, "finite"),
        ({"J": np.full((2, 2), 1e300)}, "finite"),
        ({"J": np.full((2, 2), -1.1e34)}, r"'J'.*no entry beyond 1e\+34"),
        ({"J": None}, "numbers|shape"),
        (True, "initial = True: must be None or a dict"),
        ({7: 1}, r"^initial = \[7\]: must be None or a dict"),
    ],
)
def test_bad_initial_arrays(initial, message):
    with pytest.raises(ValueError, match=message):
        check_initial(initial, dict(N=2, S=1, B=3))


ODD = [True, 0, 1.5, "x\0y", "", b"x", (), object(), np.timedelta64(3, "s"), -HUGE, "a/" * 3000]


@pytest.mark.parametrize("name", ["engine", "progress", "initial", "checkpoint", "checkpoint_every", "diagnostics"])
@pytest.mark.parametrize("value", ODD, ids=lambda value: shown(value)[:20])
def test_an_odd_keyword_is_refused_by_name_before_anything_is_printed(name, value, capsys):
    value = "yes" if (name, value) == ("progress", True) else value
    with pytest.raises(ValueError, match=f"^{name}"):
        train_rnn_flossing(*README_CALL, **{name: value})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("path", ["missing/run.npz", "file/run.npz", ".", "x" * 300])
def test_a_place_where_no_checkpoint_can_be_is_refused_at_the_start(path, tmp_path, capsys):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ValueError, match="^checkpoint = "):
        train_rnn_flossing(*README_CALL, checkpoint=tmp_path / path)
    assert capsys.readouterr().out == ""
