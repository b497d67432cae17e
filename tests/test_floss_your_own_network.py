"""The example for a network of one's own: its task, its recipe, what it prints and draws, and which options it refuses."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch import nn

from example_code import floss_your_own_network as example
from example_code.floss_your_own_network import H, delayed_xor, floss_before_training, training
from extras.flossing import flossing_loss
from tests.conftest import ROOT

LABELS = ("as drawn", "flossed before training", "orthogonal", "orthogonal, flossed")

def test_the_target_is_the_xor():
    bits, target = delayed_xor(2, 40, 7, torch.Generator().manual_seed(1))
    assert bits.shape == (40, 2, 1) and target.shape == (26, 2, 1)
    for t in range(14, 40):
        assert torch.equal(target[t - 14], (bits[t - 7] != bits[t - 14]).float())


def test_the_recipe_is_75_exponents_of_39_of_55_steps_and_a_spread_of_a_half():
    torch.manual_seed(1)
    network = nn.RNN(1, H)
    torch.manual_seed(2)
    expected = flossing_loss(network, torch.randint(2, (55, 1, 1)).float(), 75, discard=16, spread=0.5).item()
    torch.manual_seed(2)
    history = floss_before_training(network, 1)
    assert history.loss.tolist() == [expected] and history.exponents.shape == (1, 75)


def test_training_is_adam_on_the_cross_entropy_of_new_batches():
    torch.manual_seed(1)
    network = nn.RNN(1, H)
    before = [p.clone() for p in network.parameters()]
    torch.manual_seed(3)
    readout, generator = nn.Linear(H, 1), torch.Generator().manual_seed(3)
    batches = [delayed_xor(16, 300, 20, generator) for _ in range(2)]

    def judge():
        bits, target = batches.pop(0)
        logits = readout(network(bits)[0])[40:]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
        return loss, ((logits > 0) == (target > 0)).float().mean().item()

    loss, accuracy = judge()
    gradients = torch.autograd.grad(loss, [*network.parameters(), *readout.parameters()])
    epochs = training(network, 20, 3)
    assert next(epochs) == (loss.item(), accuracy)
    for p, old, gradient in zip(network.parameters(), before, gradients):  # the first step of Adam is lr times the sign
        large = gradient.abs() > 1e-5
        torch.testing.assert_close((p - old)[large], (-1e-3 * gradient.sign())[large], rtol=2e-3, atol=1e-7)
    with torch.no_grad():
        for p, gradient in zip(readout.parameters(), gradients[-2:]):
            p -= 1e-3 * gradient.sign()
        loss, accuracy = judge()
    assert next(epochs) == pytest.approx((loss.item(), accuracy), rel=1e-4)


def test_flossing_alongside_training_adds_the_loss_of_one_trial_every_fourth_epoch(monkeypatch):
    calls = []

    def flossing_loss(network, bits, k, discard):
        calls.append((epoch, bits.shape, k, discard))
        return 0 * network.bias_hh_l0.sum() + network.weight_ih_l0.sum() * 1e6  # so large that its sign is the gradient's

    monkeypatch.setattr(example, "flossing_loss", flossing_loss)
    for delay, window in ((10, 55), (20, 60)):
        torch.manual_seed(1)
        network = nn.RNN(1, H)
        before, epochs = network.weight_ih_l0.detach().clone(), training(network, delay, 3, flossed=True)
        for epoch in range(5):
            next(epochs)
            if epoch == 0:
                torch.testing.assert_close(network.weight_ih_l0.detach(), before - 1e-3, rtol=0, atol=1e-6)
        assert [calls.pop(0) for _ in range(2)] == [(epoch, (window, 1, 1), H, 16) for epoch in (0, 4)] and not calls


@pytest.mark.parametrize("options, said", [
    ("--delay 150", "--delay 150: must be from 1 to 149"),
    ("--delay 0", "--delay 0: must be from 1 to 149"),
    ("--delay -5", "--delay -5: must be from 1 to 149"),
    ("--delay 1.5", "argument --delay: invalid int value: '1.5'"),
    ("--steps -1", "--steps -1: must be from 0 to 1000000"),
    ("--epochs 0", "--epochs 0: must be from 1 to 1000000"),
    ("--network CNN", "argument --network: invalid choice: 'CNN'"),
])  # fmt: skip
def test_options_that_cannot_be_are_named_before_any_work(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as raised:
        example.main(options.split())
    printed = capsys.readouterr()
    assert raised.value.code == 2 and printed.out == "" and f"error: {said}" in printed.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_four_networks_are_trained_on_the_same_data_and_one_figure_shows_them(kind, tmp_path, monkeypatch, capsys):
    """Epochs of accuracies that are given: learned is a mean of ten above 95 %, and the first network never learns."""
    trained, flossed = [], []

    def fake_training(network, delay, seed, alongside):
        assert (delay, seed, alongside) == (12, 5, len(trained) == 3)
        trained.append(network)
        accuracies = [[0.95] * 50, [0.5] * 7 + [0.96] * 13, [0.96] * 20, [0.5] * 30][len(trained) - 1]
        return ((0.25, accuracy) for accuracy in itertools.chain(accuracies, itertools.repeat(1.0)))

    monkeypatch.setattr(example, "training", fake_training)
    monkeypatch.setattr(example, "floss_before_training", lambda *args: flossed.append(args))
    options = ["--network", kind, "--delay", "12", "--epochs", "50", "--steps", "9", "--seed", "5", "--out", str(tmp_path)]
    example.main(options)
    path = tmp_path / f"floss_your_own_network_{kind}_delay12.png"
    assert [path] == list(tmp_path.iterdir())
    ends = zip(LABELS, ("95.0", "100.0", "100.0", "100.0"), ("not learned", *(f"learned at epoch {n}" for n in (17, 10, 40))))
    lines = [(f"{label}: epoch 50/50  loss 0.2500  accuracy {last} %", f"{label}: {end}") for label, last, end in ends]
    assert capsys.readouterr().out.splitlines() == [*itertools.chain(*lines), f"wrote {path}"]
    assert flossed == [(trained[1], 9)]
    drawn, orthogonal = trained[:2], trained[2:]
    for one, other in itertools.combinations(trained, 2):
        for p, q in zip(one.parameters(), other.parameters()):
            assert torch.equal(p, q) == (p is not one.weight_hh_l0 or (one in drawn) == (other in drawn))
    for gate in orthogonal[0].weight_hh_l0.split(H):
        torch.testing.assert_close(gate @ gate.T, torch.eye(H), rtol=0, atol=1e-5)
    biases = trained[0].bias_ih_l0.view(-1, H)
    assert kind == "RNN" or ((biases[0] == 3).all() and (biases[1] == -3).all())


@pytest.mark.long
def test_it_runs_from_any_folder(tmp_path):
    script = str(ROOT / "example_code" / "floss_your_own_network.py")
    command = [sys.executable, script, "--network", "GRU", "--epochs", "1", "--steps", "0", "--delay", "149"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:4] == [f"{label}: not learned" for label in LABELS]
    assert (tmp_path / "out" / "floss_your_own_network_GRU_delay149.png").exists()
