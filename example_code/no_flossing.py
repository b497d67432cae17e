"""No flossing: a recurrent network trained by gradient descent alone to give the exclusive or of two earlier inputs.

It stays at chance (50 %, loss log 2 = 0.693). preflossing.py and flossing_during_training.py train the same network on
the same data and differ only in how they floss.

    python example_code/no_flossing.py        (any folder; options: --help)

prints at the end `final loss 0.71, final accuracy 50.0 %` (chance; give or take 0.3 %), means of the last 100 epochs.
It writes no_flossing.npz and no_flossing.png to out/.
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

CALL = README_CALL._replace(Ef=100, Ei=0, Ep=0, Ni=0)  # no preflossing (Ep), no interflossing blocks (Ni)

if __name__ == "__main__":
    train_command(train_rnn_flossing, {"default": CALL}, name="no_flossing", description=__doc__)
