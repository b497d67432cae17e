"""No flossing: the RNN of the README call trained on delayed XOR by gradient descent alone.

The network stays at chance (50 %, loss log 2 = 0.693): the comparison for preflossing.py and
flossing_during_training.py, which differ from it in the flossing arguments only.

    python example_code/no_flossing.py        (any folder; options: --help)

prints at the end `final loss 0.70, final accuracy 50 %` (chance; give or take 2 %).
It writes no_flossing.npz and .png to out/, and comparison.png of all records that lie there.
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
    Ef, Ei, Ep, Ni = 100, 0, 0, 0  # no preflossing (Ep), no interflossing blocks (Ni)
    arguments = (
        80, 301, Ef, Ei, Ep, Ni, 16, 1, 300, 55, 300, seed, seed, seed, seed, 0.001, 0.9, 0.999, 1, 1.0, 0.0, 1.0,
        delay, 1.0, 0.0, 1.0, 0.0, 0.1, 0.0, 75, -1, 3, 0.0,
    )  # fmt: skip
    run(train_rnn_flossing, arguments, __doc__, name="no_flossing")


if __name__ == "__main__":
    main()
