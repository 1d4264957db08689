"""Latents of SCVI of scvi-tools with the environment as its batch; the extra ``bench``."""

import logging

import anndata
import scvi
from scipy import sparse

from ._scvi import train
from .throughput import Clock

BATCH_SIZE = 128  # its default


def _data(cells):
    X = sparse.csr_matrix(cells.X) if sparse.issparse(cells.X) else cells.X
    data = anndata.AnnData(X)
    data.obs["batch"] = cells.environment()
    return data


def embedded(cells, new, seed, options):
    """Posterior means of new cells, (n_new_cells, n_latent); its encoder reads no batch."""
    for name in ("lightning", "lightning.fabric", "lightning.pytorch", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    scvi.settings.seed = seed
    data = _data(cells)
    scvi.model.SCVI.setup_anndata(data, batch_key="batch")
    model = scvi.model.SCVI(data, n_latent=options["n_latent"], gene_likelihood="nb")
    epochs = None if options["max_epochs"] == "auto" else options["max_epochs"]
    train(model, Clock(), max_epochs=epochs, batch_size=BATCH_SIZE)
    return model.get_latent_representation(_data(new))
