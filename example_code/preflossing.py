"""Preflossing: 500 flossing steps before training, and otherwise the run of no_flossing.py.

The flossing steps drive the 75 largest Lyapunov exponents towards 0, so that gradients survive the delay.

    python example_code/preflossing.py        (any folder; options: --help)

prints at the end `final loss 0.01, final accuracy 99.7 %` (give or take 0.1 %), means of the last 100 epochs.
It writes preflossing.npz and preflossing.png to out/.
Paper: R. Engelken, "Gradient Flossing: Improving Gradient Descent through Dynamic Control of Jacobians", NeurIPS 2023,
arXiv 2312.17306; code: github.com/RainerEngelken/GradientFlossing, commit 324d2a0.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from extras.signals import ctrl_c_ends_at_once

if __name__ == "__main__":
    ctrl_c_ends_at_once()  # while the modules below are imported

from extras.command_line import train_command
from gradient_flossing_example import README_CALL, train_rnn_flossing

CALL = README_CALL._replace(Ef=100, Ei=0, Ep=500, Ni=0)  # 500 steps before training, no interflossing blocks

if __name__ == "__main__":
    train_command(train_rnn_flossing, {"default": CALL}, name="preflossing", description=__doc__)
