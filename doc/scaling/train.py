"""Train a model on a file; under torchrun all of its processes do so together."""

import sys

import anndata
import torch.distributed as dist

from skpert import SVAEPlus, save

if __name__ == "__main__":
    screen, result, checkpoints = sys.argv[1:]
    obs = anndata.read_h5ad(screen, backed="r").obs
    model = SVAEPlus(checkpoint=checkpoints, random_state=0).fit(screen, obs)
    if not dist.is_initialized() or dist.get_rank() == 0:
        save(model, result)
