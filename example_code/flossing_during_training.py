"""Flossing during training: preflossing as in preflossing.py, and two more blocks while the network learns.

At epochs 100 and 200, a block of 100 flossing steps pushes the Lyapunov exponents back towards 0. Right after a block
the accuracy drops, and then it recovers.

    python example_code/flossing_during_training.py        (any folder; options: --help)

prints at the end `final loss 0.02, final accuracy 99.4 %` (give or take 0.1 %), means of the last 100 epochs.
It writes flossing_during_training.npz and flossing_during_training.png to out/.
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

CALL = README_CALL._replace(Ef=100, Ei=100, Ep=500, Ni=2)  # 500 steps before training, 100 at the epochs 100 and 200

if __name__ == "__main__":
    train_command(train_rnn_flossing, {"default": CALL}, name="flossing_during_training", description=__doc__)
