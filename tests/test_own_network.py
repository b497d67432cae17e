"""The experiment on own networks: its tasks, conditions, training, table and figure."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from example_code.experiments import own_network, sweep, tasks
from example_code.experiments.own_network import CONDITIONS, KINDS
from example_code.experiments.tasks import TASKS
from example_code.floss_your_own_network import delayed_xor
from tests.test_experiments import jobs_of, numbers, table

RNG = lambda: torch.Generator().manual_seed(1)  # noqa: E731


# ------------------------------------------------------------------ tasks


def test_the_xor_task_scores_the_steps_from_twice_the_delay_on():
    bits, target = TASKS["xor"].batch(30, RNG())
    assert bits.shape == (300, 16, 1) and target.shape == (240, 16, 1)
    assert torch.equal(target, (bits[30:-30] != bits[:-60]).float())
    assert tasks.score_bits(10 * (target - 0.5), target)[1] == 1
    assert tasks.score_bits(torch.ones_like(target), target)[1] == pytest.approx(2 * target.mean().item() - 1)
    assert TASKS["xor"].learned == pytest.approx(0.9)  # an accuracy of 95 %


def test_the_adding_problem():
    inputs, target = tasks.adding(100, RNG())
    assert inputs.shape == (100, 32, 2) and target.shape == (1, 32, 1)
    numbers, marks = inputs.unbind(-1)
    assert (marks[:50].sum(0) == 1).all() and (marks[50:].sum(0) == 1).all() and set(marks.flatten().tolist()) == {0, 1}
    assert torch.equal(target[0, :, 0], numbers[marks.bool()].new_tensor([n[m.bool()].sum() for n, m in zip(numbers.T, marks.T)]))
    assert tasks.score_sums(target, target)[1] == 1
    sums = torch.rand(2, 100_000, generator=RNG()).sum(0)[None, :, None]
    assert tasks.score_sums(torch.ones_like(sums), sums)[1] == pytest.approx(0, abs=0.03)  # always their mean


def test_copy_memory():
    inputs, target = tasks.copying(100, RNG())
    assert inputs.shape == (120, 32, 10) and target.shape == (120, 32) and (inputs.sum(-1) == 1).all()
    shown = inputs.argmax(-1)
    assert (shown[:10] < 8).all() and (shown[109] == 9).all() and (shown[10:109] == 8).all() and (shown[110:] == 8).all()
    assert torch.equal(target[-10:], shown[:10]) and (target[:-10] == 8).all()
    perfect = 9.0 * torch.nn.functional.one_hot(target, 9)
    assert TASKS["copy"].score(perfect, target)[1] == 1
    assert TASKS["copy"].score(torch.zeros(120, 32, 9).index_fill(2, torch.tensor(3), 1), target)[1] == pytest.approx(
        (8 * (target[-10:] == 3).float().mean().item() - 1) / 7
    )


def test_permuted_digits(monkeypatch):
    images, labels = torch.rand(1500, 64), torch.arange(1500) % 10
    monkeypatch.setattr(tasks, "all_digits", lambda: (images, labels))
    inputs, target = tasks.digits(64, RNG())
    assert inputs.shape == (64, 32, 1) and target.shape == (1, 32)
    row = [torch.equal(image, inputs[:, 0, 0]) for image in images].index(True)
    assert row < 1400 and target[0, 0] == labels[row]
    inputs, target = tasks.digits(64, None)
    assert torch.equal(inputs[:, :, 0].T, images[1400:]) and torch.equal(target[0], labels[1400:])
    assert TASKS["digits"].score(torch.nn.functional.one_hot(target).float(), target)[1] == pytest.approx(1)


def test_the_digits_of_scikit_learn():
    pytest.importorskip("sklearn")
    images, labels = tasks.all_digits()
    assert images.shape == (1797, 64) and images.max() == 1 and labels.bincount().min() > 170
    assert (images == 0).all(0).sum() == 3  # pixels that no digit uses


# ------------------------------------------------------------------ conditions


def test_conditions_change_what_their_names_say():
    drawn = {}
    for kind in KINDS:
        torch.manual_seed(1)
        drawn[kind] = getattr(nn, kind)(1, 20)
    for name, kinds in CONDITIONS.items():
        for kind in kinds:
            torch.manual_seed(1)
            network = getattr(nn, kind)(1, 20)
            own_network.start(network, name.split(", "), 100)
            changed = {n for n, p in network.named_parameters() if not torch.equal(p, drawn[kind].get_parameter(n))}
            expected = {"weight_hh_l0"} if "orthogonal" in name else set()
            expected |= {"bias_ih_l0", "bias_hh_l0"} if "open gates" in name else set()
            expected |= {"bias_ih_l0"} if name in ("chrono", "forget bias 1") else set()
            assert changed == expected, name
            if "orthogonal" in name:
                for W in network.weight_hh_l0.split(20):
                    assert torch.allclose(W @ W.mT, torch.eye(20), atol=1e-5)
            change = (network.bias_ih_l0 - drawn[kind].bias_ih_l0).split(20)
            if name == "chrono":
                assert (change[1] >= 0).all() and np.exp(change[1].max().item()) == pytest.approx(99, rel=0.2)
                assert not change[2].any() and torch.allclose(change[0], -change[1] if kind == "LSTM" else torch.zeros(20))
            if name == "forget bias 1":
                assert torch.allclose(change[1], torch.ones(20)) and not any(c.any() for i, c in enumerate(change) if i != 1)


@pytest.mark.parametrize("name", CONDITIONS)
def test_networks_are_flossed_when_their_names_say_so(name, monkeypatch, clock):
    said = []
    monkeypatch.setitem(TASKS, "xor", SMALL)
    monkeypatch.setattr(own_network, "add_flossing_gradient", lambda *_: said.append("alongside"))
    history = SimpleNamespace(exponents=np.zeros((4, 3)))
    monkeypatch.setattr(own_network, "floss", lambda *_, spread, **__: said.append(("before", spread)) or history)
    (row,) = own_network.floss_and_train("xor", CONDITIONS[name][0], name, 1, 8).rows
    before = "flossed" in name and "alongside" not in name
    assert row["flossing_steps"] == 4 * before
    spread = 0.5 if "spread" in name else None
    assert {*said} == ({"alongside"} if "alongside" in name else {("before", spread)} if before else set())


def test_each_network_gets_the_conditions_that_it_can_have():
    keys = jobs_of(own_network, "--tasks", "xor", "--seeds", "1")
    assert [sum(key[1] == kind for key in keys) for kind in KINDS] == [5, 8, 9]
    assert {key[2] for key in keys if key[1] == "LSTM"} >= {"forget bias 1", "chrono", "open gates, orthogonal"}
    assert all(job.arguments == (*key, 25) for key, job in keys.items())
    assert all(job.arguments[-1] == 3 for job in jobs_of(own_network, "--seconds", "3").values())
    assert len(jobs_of(own_network)) == 4 * 5 * 22


# ------------------------------------------------------------------ training


SMALL = TASKS["xor"]._replace(sizes=(1, 2, 4), batch=partial(delayed_xor, 16, 40), steps=4, H=6, k=3, window=20)


@pytest.fixture
def clock(monkeypatch):
    """Time of the processor that a step of training takes: 1 s; each look at the clock is one."""
    now = iter(range(10**6))
    monkeypatch.setattr(own_network, "time", SimpleNamespace(process_time=lambda: next(now)))


def test_copies_of_the_flossed_network_are_trained_until_a_size_is_not_learned(monkeypatch, clock, tmp_path):
    trained, flossed = [], []

    def score(outputs, target):
        return outputs.mean(), 1.0 if trained[-1][0] < 4 else 0.1

    def train(network, task, how, size, seed, seconds):
        trained.append((size, seed, network.weight_hh_l0[0, 0].item()))
        return real(network, task, how, size, seed, seconds)

    def floss(network, inputs, k, steps, discard, spread):
        assert inputs().shape == (20, 1, 1) and (k, discard) == (3, 16)
        assert network.bias_ih_l0[0] == 3  # its gates were opened
        flossed.append((steps, spread))
        with torch.no_grad():
            network.weight_hh_l0[0, 0] = 7
        return SimpleNamespace(exponents=np.repeat([[9.0], [0.111]], [3, 20], axis=0))

    real = own_network.train
    monkeypatch.setitem(TASKS, "xor", SMALL._replace(score=score))
    monkeypatch.setattr(own_network, "train", train)
    monkeypatch.setattr(own_network, "floss", floss)
    keys = jobs_of(own_network, "--tasks", "xor", "--seeds", "3", "--seconds", "31")
    job = keys["xor", "GRU", "open gates, flossed, spread", 3]
    sweep.do(job, tmp_path)
    assert trained == [(1, 3, 7), (2, 3, 7), (4, 3, 7)] and flossed == [(4, 0.5)]
    rows = own_network.make_rows(1, job.record(tmp_path))
    same = {"task": "xor", "network": "GRU", "condition": job.arguments[2], "seed": 3}
    same |= {"flossing_steps": 4, "flossing_loss": 0.012, "flossing_seconds": 1}
    assert all(same.items() <= row.items() for row in rows)
    assert [(row["size"], row["epochs"], row["epoch_learned"], row["score"]) for row in rows] == [
        (1, 10, 10, 1.0), (2, 10, 10, 1.0), (4, 29, None, 0.1),
    ]  # fmt: skip


def test_all_conditions_have_the_same_time(monkeypatch, clock):
    """A second a look at the clock: 30 for all, of which flossing takes 10 here."""
    monkeypatch.setitem(TASKS, "xor", SMALL)

    def floss(*args, **options):
        for _ in range(9):
            own_network.time.process_time()
        return SimpleNamespace(exponents=np.zeros((4, 3)))

    monkeypatch.setattr(own_network, "floss", floss)
    epochs = {}
    for name in ("as drawn", "flossed"):
        (row,) = own_network.floss_and_train("xor", "RNN", name, 1, 30).rows
        epochs[name] = (row["epochs"], row["flossing_seconds"], row["flossing_loss"])
    assert epochs == {"as drawn": (28, 1, None), "flossed": (19, 10, 0.0)}


def test_training_is_by_adam_with_clipped_gradients_and_learns(clock):
    torch.manual_seed(1)
    network, task = nn.RNN(1, 20), SMALL._replace(H=20)
    row = own_network.train(network, task, ["as drawn"], 1, 1, 400)
    assert row["epoch_learned"] == row["epochs"] < 399 and row["score"] > 0.9


def test_flossing_alongside_training_fades_as_the_score_rises():
    torch.manual_seed(1)
    network, inputs = nn.RNN(1, 6), torch.rand(20, 1, 1)
    norms = {}
    for score in (-1, 0, 0.2, 0.4, 1):
        for p in network.parameters():
            p.grad = torch.zeros_like(p)
        own_network.add_flossing_gradient(network, inputs, score)
        norms[score] = torch.cat([p.grad.flatten() for p in network.parameters()]).norm().item()
    assert norms == {-1: pytest.approx(1), 0: pytest.approx(1), 0.2: pytest.approx(0.5), 0.4: 0, 1: 0}


def test_flossing_alongside_training_comes_every_fourth_epoch(monkeypatch, clock):
    calls = []
    monkeypatch.setattr(own_network, "add_flossing_gradient", lambda network, inputs, score: calls.append(inputs.shape))
    how = ["orthogonal", "flossed alongside training"]
    for size, window in ((4, 20), (9, 27)):
        calls.clear()
        row = own_network.train(nn.RNN(1, 6), SMALL, how, size, 1, 18)
        assert calls == [(window, 1, 1)] * (row["epochs"] // 4) and calls


def test_digits_are_scored_by_the_test_set(monkeypatch, clock):
    images, labels = torch.rand(1500, 64), torch.arange(1500) % 10
    monkeypatch.setattr(tasks, "all_digits", lambda: (images, labels))
    row = own_network.train(nn.RNN(1, 32), TASKS["digits"], ["as drawn"], 64, 1, 4)
    assert row["epoch_learned"] is None and row["score"] in [n / 100 for n in range(101)]  # 100 images of the test


# ------------------------------------------------------------------ table and figure


def test_the_committed_table_is_that_of_the_script():
    """Sizes one after the other, all learned but perhaps the last; no training began after its time."""
    jobs = jobs_of(own_network)
    groups = own_network.by(numbers(table("own_network")), "task", "network", "condition", "seed")
    assert groups.keys() == jobs.keys()
    for key, rows in groups.items():
        task, before = TASKS[key[0]], "flossed" in key[2].split(", ")
        assert [row["size"] for row in rows] == list(task.sizes[: len(rows)])
        assert all(row["epoch_learned"] == row["epochs"] for row in rows[:-1])
        for row in rows:
            assert row["flossing_steps"] == (task.steps if before else 0)
            seconds = row["flossing_seconds"] + row["training_seconds"]
            assert row["epoch_learned"] or seconds == pytest.approx(task.seconds, abs=1)  # the last epoch may end later


def row(task, kind, condition, seed, size, learned, seconds=3.0, score=0.5):
    return {
        "task": task, "size": size, "network": kind, "condition": condition, "seed": seed, "flossing_seconds": 1.0,
        "epochs": learned or 90, "epoch_learned": learned, "score": score, "training_seconds": seconds,
    }  # fmt: skip


ROWS = [
    row("xor", "RNN", "as drawn", 1, 10, None), row("xor", "RNN", "as drawn", 2, 10, 200),
    row("xor", "RNN", "as drawn", 2, 15, None), row("xor", "LSTM", "flossed", 1, 10, 80),
    row("xor", "LSTM", "flossed", 1, 15, 90), row("xor", "LSTM", "flossed", 1, 20, None, 7.0),
    row("digits", "RNN", "as drawn", 1, 64, None, score=0.71), row("digits", "RNN", "as drawn", 2, 64, None, score=0.7),
]  # fmt: skip


def test_summary():
    assert own_network.summary(ROWS)[2:] == [
        "| network | condition | xor | digits |", "|---|---|---|---|",
        "| nn.RNN | as drawn | -, 200; -, 10 | 0.710, 0.700 |", "| nn.LSTM | flossed | 80; 15 | - |",
    ]  # fmt: skip


def test_figure():
    xor, digits = own_network.draw({}, ROWS).axes
    points = lambda ax: [(*line.get_xydata()[0], line.get_marker()) for line in ax.lines if len(line.get_xdata())]  # noqa: E731
    assert points(xor) == [(4, 0, "x"), (4, 0, "o"), (4, 1, "o"), (4, 1 / 8, "x"), (4, 9 / 8, "o"), (8, 5 / 4, "x")]
    assert points(digits) == [(0.71, 0, "x"), (0.7, 0, "x")]
    assert [text.get_text() for text in xor.get_legend().get_texts()] == ["10", "15", "20"]
    assert [text.get_text() for text in xor.get_yticklabels()] == ["nn.RNN, as drawn", "nn.LSTM, flossed"]
