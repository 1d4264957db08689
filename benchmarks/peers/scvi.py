"""SCVI of scvi-tools, trained and scored as the benchmarks need it; the extra ``bench``."""

import logging
import warnings

import anndata
import numpy as np
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from scipy import sparse

from ..timing import Clock

BATCH = 64  # cells that are scored at once
BATCH_SIZE = 128  # its default


def prepared(X, n_latent, dropout, **networks):
    """SCVI on these counts, with a negative binomial and one dispersion per gene."""
    _quiet()
    data = _data(X)
    scvi.model.SCVI.setup_anndata(data)
    options = {"gene_likelihood": "nb", "dispersion": "gene", "dropout_rate": dropout}
    return scvi.model.SCVI(data, n_latent=n_latent, **networks, **options)


def _quiet():
    for name in ("lightning", "lightning.fabric", "lightning.pytorch", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _data(X, **obs):
    data = anndata.AnnData(sparse.csr_matrix(X) if sparse.issparse(X) else X)  # it wants a matrix
    data.obs = data.obs.assign(**obs)
    return data


class _Listener(Callback):
    def __init__(self, model, clock):
        self.model, self.clock = model, clock

    def on_train_start(self, trainer, pl_module):
        self.clock.start = self.clock.now()

    def on_train_epoch_end(self, trainer, pl_module):
        self.clock.tick(self.model)


def train(model, clock, *, max_epochs, batch_size, n_epochs_kl_warmup=None, accelerator="cpu"):
    """Train on all cells with whatever is not training switched off."""
    model.train(
        max_epochs=max_epochs,
        batch_size=batch_size,
        train_size=1.0,
        validation_size=None,
        check_val_every_n_epoch=None,
        accelerator=accelerator,
        callbacks=[_Listener(model, clock)],
        plan_kwargs={"n_epochs_kl_warmup": n_epochs_kl_warmup},
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


@torch.no_grad()
def iwelbo(model, X, n_particles):
    """Mean IWELBO of the cells of a CSR matrix, nats per cell, with every constant."""
    network, total = model.module.eval(), 0.0
    for rows in np.array_split(np.arange(X.shape[0]), -(-X.shape[0] // BATCH)):
        x = torch.from_numpy(X[rows].toarray())
        batch = torch.zeros(len(rows), 1)
        q = network.inference(x, batch, n_samples=n_particles)
        p = network.generative(q["z"], q["library"], batch)
        log_q = q["qz"].log_prob(q["z"]).sum(-1)
        log_weights = p["px"].log_prob(x).sum(-1) + p["pz"].log_prob(q["z"]).sum(-1) - log_q
        total += float((torch.logsumexp(log_weights, 0) - np.log(n_particles)).sum())
    network.train()
    return total / X.shape[0]


def embedded(cells, new, seed, options):
    """Posterior means of new cells, (n_new_cells, n_latent); its encoder reads no batch."""
    _quiet()
    scvi.settings.seed = seed
    data, others = (_data(part.X, batch=part.environment()) for part in (cells, new))
    epochs = None if options["max_epochs"] == "auto" else options["max_epochs"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi.model.SCVI.setup_anndata(data, batch_key="batch")
        model = scvi.model.SCVI(data, n_latent=options["n_latent"], gene_likelihood="nb")
        train(model, Clock(), max_epochs=epochs, batch_size=BATCH_SIZE)
        return model.get_latent_representation(others)
