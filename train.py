"""Train and test one network with one loss, or with `-m` every combination of a grid.

python train.py loss=calf model=unet
python train.py -m loss=calf,bce,focal model=unet,fpn seed=0,1,2
python train.py --help
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Return the primary metric of the tested checkpoint, for Hydra's sweepers."""
    from calf.run import run  # torch and its company take seconds to import: --help and -m do without them

    return run(cfg)


if __name__ == "__main__":
    main()
