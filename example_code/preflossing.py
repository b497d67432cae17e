"""Preflossing: 500 flossing steps before training, otherwise the run of no_flossing.py.

The flossing steps drive the first 75 Lyapunov exponents towards 0, so that gradients survive
the delay.

    python example_code/preflossing.py        (any folder; options: --help)

prints at the end `final loss 0.01, final accuracy 99.6 %` (give or take 0.3 %).
It writes preflossing.npz and .png to out/, and comparison.png of all records that lie there.
Paper: R. Engelken, "Gradient Flossing: Improving Gradient Descent through Dynamic Control of Jacobians", NeurIPS 2023,
arXiv 2312.17306; code: github.com/RainerEngelken/GradientFlossing, commit 324d2a0.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from extras.command_line import run
from gradient_flossing_example import train_rnn_flossing


def main():
    delay = 10
    seed = 1
    Ef, Ei, Ep, Ni = 100, 0, 500, 0  # 500 steps before training, no interflossing blocks
    arguments = (
        80, 301, Ef, Ei, Ep, Ni, 16, 1, 300, 55, 300, seed, seed, seed, seed, 0.001, 0.9, 0.999, 1, 1.0, 0.0, 1.0,
        delay, 1.0, 0.0, 1.0, 0.0, 0.1, 0.0, 75, -1, 3, 0.0,
    )  # fmt: skip
    run(train_rnn_flossing, arguments, __doc__, name="preflossing")


if __name__ == "__main__":
    main()
