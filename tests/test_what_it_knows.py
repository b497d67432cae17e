"""What a network knows: the right networks are looked at, their derivatives are right, and so are table and figure."""

import numpy as np
import pytest
import torch
from torch import nn

from example_code import floss_your_own_network
from example_code.experiments import sweep, what_it_knows
from example_code.experiments.what_it_knows import H, LAGS, derivatives, draw, look, look_at_stages
from example_code.experiments.experiment import readme_call
from example_code.experiments.tasks import CONDITIONS, TASKS, start
from extras.lyapunov import trajectory
from tests.test_experiments import jobs_of, numbers, table


def after(network, inputs, state):
    """The state (n,) of a module after inputs (t, 1) from a state (n,), by its own forward pass."""
    parts = state.view(-1, 1, H).unbind()
    new = network(inputs, parts if isinstance(network, nn.LSTM) else parts[0])[1]
    return torch.cat(new, -1).flatten() if isinstance(network, nn.LSTM) else new.flatten()


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@torch.no_grad()
def test_derivatives_against_differences_of_the_module(kind):
    torch.manual_seed(1)
    network, inputs = getattr(nn, kind)(1, H).double(), torch.tensor([[1.0], [0], [1]], dtype=torch.float64)
    n, step = H * (1 + (kind == "LSTM")), 1e-6
    gains, jacobians = derivatives(network, inputs)
    assert gains.shape == (3, n, 1) and jacobians.shape == (3, n, n)
    state = after(network, inputs[:2], torch.zeros(n, dtype=torch.float64))
    up, down = (after(network, inputs[2:] + sign * step, state) for sign in (1, -1))
    np.testing.assert_allclose(gains[2, :, 0], (up - down) / (2 * step), atol=1e-8)
    for unit in (0, n - 1):
        shift = torch.zeros_like(state)
        shift[unit] = step
        up, down = (after(network, inputs[2:], state + sign * shift) for sign in (1, -1))
        np.testing.assert_allclose(jacobians[2, :, unit], (up - down) / (2 * step), atol=1e-8)


def shift_register(strength):
    """Unit 0 takes the input, and every other what the one before had."""
    network = nn.RNN(1, H)
    weights = (strength * torch.eye(H, 1), torch.eye(H).roll(1, 0).tril(), torch.zeros(H), torch.zeros(H))
    network.load_state_dict(dict(zip(network.state_dict(), weights)))
    return network


def test_a_shift_register_knows_every_bit_and_no_xor():
    numbers = look(shift_register(0.03))
    assert numbers["memory"] == pytest.approx(len(LAGS), abs=0.05)
    assert min(numbers[f"bit_{lag}"] for lag in LAGS) > 0.99 and numbers["xor_10"] < 0.01
    assert numbers["gain"] == pytest.approx(0.03 / np.sqrt(H), rel=0.01)
    assert numbers["gradient"] == pytest.approx(np.sqrt(60 / 80), rel=0.02)  # 20 of 80 fall off the end


def test_the_ports_network_is_looked_at_as_it_was_at_each_stage():
    stages = list(what_it_knows.port_stages("port", "alone", 3, 2, 12))
    call = what_it_knows.train_rnn_flossing(*readme_call(3, E=12, Ep=2, Ni=0), progress=False)
    assert [(stage, accuracy) for stage, _, accuracy in stages] == [
        ("drawn", None), ("flossed", None), ("trained", call.accuracy[-10:].mean())]  # fmt: skip
    bits = np.random.default_rng(1).integers(0, 2, (30, 1, 1))
    for (_, network, _), ps in zip(stages, (call.initial, call.first_training_parameters, call.final)):
        state = torch.from_numpy(np.tanh(ps["xInit"][:, :1].T.copy()))[None]
        expected = np.tanh(trajectory(bits, ps["ws"], ps["J"], ps["b"], ps["xInit"]))[1:]
        np.testing.assert_allclose(network(torch.from_numpy(bits).float(), state)[0][:, 0].detach(), expected, atol=1e-4)


@pytest.mark.parametrize("kind, flossing, gates", [
    ("GRU", "with spread", [3, -3]), ("LSTM", "with spread", [3, -3]), ("RNN", "with spread", None), ("GRU", "alone", None),
])  # fmt: skip
def test_torchs_networks_are_flossed_and_trained_as_asked(kind, flossing, gates, monkeypatch):
    seen = []

    def floss(network, inputs, k, **options):
        seen.append((inputs().shape, k, options, network.bias_ih_l0[[0, H]].tolist()) if kind != "RNN" else options)

    def training(network, delay, seed):
        seen.append((delay, seed))
        yield from ((0.0, accuracy) for accuracy in np.arange(1000.0))

    monkeypatch.setattr(floss_your_own_network, "floss", floss)
    monkeypatch.setattr(what_it_knows, "training", training)
    drawn, flossed, (stage, network, accuracy) = what_it_knows.torch_stages(kind, flossing, 4, 7, 30)
    torch.manual_seed(4)
    assert torch.equal(network.weight_hh_l0, getattr(nn, kind)(1, H).weight_hh_l0)
    assert (drawn[0], flossed[0], stage, accuracy, type(network).__name__) == ("drawn", "flossed", "trained", 24.5, kind)
    options = dict(steps=7, discard=16, spread=0.5 if flossing == "with spread" else None)
    assert seen[1] == (10, 4) and (seen[0] if kind == "RNN" else seen[0][2]) == options
    if kind != "RNN":
        assert seen[0][:2] == ((55, 1, 1), 75) and (gates is None or seen[0][3] == gates)
        assert gates is not None or max(map(abs, seen[0][3])) < 1


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_alongside_training_is_the_condition_of_own_networks(kind, monkeypatch):
    (condition,) = [name for name, kinds in CONDITIONS.items() if "alongside" in name and kind in kinds]
    trained = []
    monkeypatch.setattr(what_it_knows, "train", lambda network, *arguments, seconds: trained.append(arguments) or {"score": 0.92})
    (drawn, network, accuracy), last = what_it_knows.torch_stages(kind, "alongside training", 4, 7, 30)
    assert (drawn, accuracy, last[0], last[2]) == ("drawn", None, "trained", 0.96) and last[1] is network
    assert trained == [(TASKS["xor"], condition.split(", "), 10, 4)]
    torch.manual_seed(4)
    expected = getattr(nn, kind)(1, H)
    start(expected, condition.split(", "), None)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), expected.parameters()))


def test_a_job_its_rows_and_that_nothing_is_flossed_without_flossing(tmp_path, monkeypatch):
    monkeypatch.setattr(what_it_knows, "look", lambda network: {"sum": network.weight_hh_l0.sum().item()})
    jobs = jobs_of(what_it_knows, "--seeds", "2", "--steps", "3", "--epochs", "11")
    assert len(jobs) == 14 and {key[1] for key in jobs if key[0] == "port"} == {"none", "alone"}
    sweep.do(jobs["RNN", "none", 2], tmp_path)
    rows = what_it_knows.make_rows(1, jobs["RNN", "none", 2].record(tmp_path))
    flossed = look_at_stages("RNN", "alone", 2, 3, 11).rows
    assert [(r["network"], r["flossing"], r["seed"], r["stage"]) for r in rows] == [
        ("RNN", "none", 2, "drawn"), ("RNN", "none", 2, "trained")]  # fmt: skip
    assert [r["stage"] for r in flossed] == ["drawn", "flossed", "trained"] and flossed[0]["sum"] == rows[0]["sum"]
    assert 0.3 < rows[1]["accuracy"] < 0.7 and rows[0]["accuracy"] is None


def invented(network, flossing, stage, accuracy, height):
    row = {"network": network, "flossing": flossing, "seed": 1, "stage": stage, "accuracy": accuracy, "memory": 10 * height}
    row |= {"gain": 0.123, "gradient": 1e-5} | {f"bit_{lag}": height / (1 + lag) for lag in LAGS}
    return row | {"xor_10": height / 2}


def test_figure():
    rows = [invented("port", "none", "drawn", None, 0.5), invented("GRU", "alone", "drawn", None, 0.3)]
    rows += [invented("GRU", "alone", "flossed", None, 0.7), invented("GRU", "alone", "trained", 0.987, 0.9)]
    axes = draw({}, [*rows, rows[0] | {"seed": 2}]).axes
    assert [len(ax.lines) for ax in axes] == [1, 0, 2, 0]
    np.testing.assert_allclose(axes[2].lines[1].get_xydata(), np.transpose([LAGS, 0.9 / (1 + np.array(LAGS))]))
    assert [line.get_linestyle() for line in axes[2].lines] == ["--", "-"] and axes[2].get_title() == "GRU"


def test_the_committed_table_is_that_of_the_script():
    rows = numbers(table("what_it_knows"))
    few, many = ["drawn", "trained"], ["drawn", "flossed", "trained"]
    stages = {key: few if key[1] in ("none", "alongside training") else many for key in jobs_of(what_it_knows)}
    assert [(r["network"], r["flossing"], r["seed"], r["stage"]) for r in rows] == [(*k, s) for k, v in stages.items() for s in v]
    for r in rows:
        assert r["memory"] == pytest.approx(sum(r[f"bit_{lag}"] for lag in LAGS))
        assert (r["accuracy"] is None) == (r["stage"] != "trained")
