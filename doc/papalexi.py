"""The figure of the README: `python doc/papalexi.py papalexi2021_thp1_crispr.h5ad`.

The screen is that of Papalexi et al. (2021): ECCITE-seq of 25 knock-outs in THP-1 cells, with
`obs["perturbation"]` and control cells "control".
"""

import sys
from pathlib import Path

from skpert import SVAEPlus
from skpert.datasets import load_screen
from skpert.plotting import TargetsDisplay

FIGURE = Path(__file__).parent / "_static" / "papalexi_targets.png"


def main(path):
    """Fit the screen and draw its targets."""
    screen = load_screen(path)
    model = SVAEPlus(random_state=0).fit(screen.X, screen.A)
    display = TargetsDisplay.from_estimator(model, width=7.2)
    display.figure_.savefig(FIGURE, dpi=110)
    print(f"{len(display.ordered_)} of {len(model.targets_)} knock-outs move a latent")
    print(display.ordered_.round(2).to_string())


if __name__ == "__main__":
    main(sys.argv[1])
