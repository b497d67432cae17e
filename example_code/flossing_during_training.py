"""Flossing during training: preflossing as in preflossing.py, and two more blocks while the network learns.

Blocks of 100 flossing steps at the epochs 100 and 200 push the Lyapunov exponents back towards 0; right after a
block the accuracy drops, and recovers.

    python example_code/flossing_during_training.py        (any folder; options: --help)

prints at the end `final loss 0.01, final accuracy 99.7 %` (give or take 0.3 %).
It writes flossing_during_training.npz and .png to out/, and comparison.png of all records that lie there.
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
    Ef, Ei, Ep, Ni = 100, 100, 500, 2  # 500 steps before training, 100 at the epochs 100 and 200
    arguments = (
        80, 301, Ef, Ei, Ep, Ni, 16, 1, 300, 55, 300, seed, seed, seed, seed, 0.001, 0.9, 0.999, 1, 1.0, 0.0, 1.0,
        delay, 1.0, 0.0, 1.0, 0.0, 0.1, 0.0, 75, -1, 3, 0.0,
    )  # fmt: skip
    run(train_rnn_flossing, arguments, __doc__, name="flossing_during_training")


if __name__ == "__main__":
    main()
