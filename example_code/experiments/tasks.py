"""The tasks and conditions of own_network.py. Delayed XOR, the adding problem, copy memory, and permuted digits.

Each task has a function (size, generator) -> inputs (T, B, I), target (steps, B, ...) of the last steps, which are scored;
and one (outputs at these steps, target) -> loss and score, which is 0 at chance and 1 at the best.
"""

from collections import namedtuple
from functools import cache, partial

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from example_code.floss_your_own_network import B, T, delayed_xor
from extras.flossing import open_gates
from extras.record import LEARNED


def score_bits(outputs, target):
    return binary_cross_entropy_with_logits(outputs, target), 2 * ((outputs > 0) == target.bool()).float().mean().item() - 1


def adding(steps, generator, trials=32):
    """Two channels, numbers and marks, of which each half has one; the target is the sum of the two marked numbers."""
    inputs = torch.stack([torch.rand(steps, trials, generator=generator), torch.zeros(steps, trials)], -1)
    for first in (0, steps // 2):
        inputs[first + torch.randint(steps // 2, (trials,), generator=generator), torch.arange(trials), 1] = 1
    return inputs, inputs.prod(-1).sum(0)[None, :, None]


def score_sums(outputs, target):
    loss = ((outputs - target) ** 2).mean()
    return loss, 1 - 6 * loss.item()  # 1/6 is the variance of the sum of two uniform numbers


def copying(steps, generator, trials=32):
    """Ten of eight symbols, a pause, a mark, and ten steps in which they are asked for; only these are scored."""
    symbols = torch.randint(8, (10, trials), generator=generator)
    shown = torch.cat([symbols, torch.full((steps + 10, trials), 8)])
    shown[steps + 9] = 9
    return one_hot(shown, 10).float(), torch.cat([torch.full((steps + 10, trials), 8), symbols])


def digits(_, generator, trials=32):
    """Digits of 8 x 8 pixels, one pixel a step, in an order that was drawn once; without a generator those of the test."""
    images, labels = all_digits()
    chosen = slice(1400, None) if generator is None else torch.randint(1400, (trials,), generator=generator)
    return images[chosen].T[..., None], labels[chosen][None]


@cache
def all_digits():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order, pixels = (np.random.default_rng(0).permutation(n) for n in images.shape)
    return torch.tensor(images[order][:, pixels] / 16, dtype=torch.float32), torch.tensor(labels[order])


def score_class(n, last, outputs, target):
    """The score is that of the last steps, in which there are n classes, equally frequent."""
    right = (outputs[-last:].argmax(-1) == target[-last:]).float().mean().item()
    return cross_entropy(outputs.flatten(0, 1), target.flatten()), (n * right - 1) / (n - 1)


# sizes: delays or time steps, ascending; seconds: of the processor, for a training and the flossing before it; learned: a
# score, mean over WINDOW epochs; H: units; steps: of flossing, of k exponents over `window` time steps of the inputs, of
# which 16 are discarded; memory: time steps for which gates of the condition "chrono" hold at most
Task = namedtuple("Task", "sizes seconds batch score learned outputs H k steps window memory",
                  defaults=(2 * LEARNED - 1, 1, 80, 75, 400, 55, 80))  # fmt: skip
TASKS = {
    "xor": Task((10, 15, 20, 30, 40), 25, partial(delayed_xor, B, T), score_bits),
    "adding": Task((100, 400), 30, adding, score_sums, steps=100, window=100, memory=100),
    "copy": Task((100,), 150, copying, partial(score_class, 8, 10), outputs=9, steps=100, window=120, memory=120),
    "digits": Task((64,), 10, digits, partial(score_class, 10, 1), np.inf, 10, H=32, k=30, steps=200, window=64, memory=64),
}

KINDS, GATED = ("RNN", "GRU", "LSTM"), ("GRU", "LSTM")
SPREAD = 0.5
CONDITIONS = {  # what is done, in words between commas, and to which networks
    "as drawn": KINDS,
    "orthogonal": KINDS,
    "open gates": GATED,
    "open gates, orthogonal": GATED,
    "forget bias 1": ("LSTM",),
    "chrono": GATED,
    "flossed": KINDS,  # before training
    "flossed, spread": ("RNN",),
    "orthogonal, flossed alongside training": ("RNN",),
    "open gates, flossed, spread": GATED,
    "open gates, orthogonal, flossed alongside training": GATED,
}


@torch.no_grad()
def start(network, words, length):
    """Change what torch drew, as the words of a condition say; "chrono": for memories of up to `length` steps."""
    if "orthogonal" in words:
        for block in network.weight_hh_l0.split(network.hidden_size):
            nn.init.orthogonal_(block)
    if "open gates" in words:
        open_gates(network)
    if "forget bias 1" in words:
        network.bias_ih_l0.chunk(4)[1].add_(1)
    if "chrono" in words:  # Tallec & Ollivier, 2018: 1 to length steps are held
        held = (1 + (length - 2) * torch.rand(network.hidden_size)).log()
        first, second, *others = network.bias_ih_l0.split(network.hidden_size)
        second += held
        if len(others) == 2:  # an LSTM
            first -= held
