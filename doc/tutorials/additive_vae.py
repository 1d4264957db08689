r"""Additive VAE: perturbations translate the latent state of a cell, and their effects add up.

.. math::

    z^\text{basal} \sim \mathcal{N}(0, I), \qquad
    z = z^\text{basal} + \textstyle\sum_p a_p E_p, \qquad
    x \mid z \sim p(x \mid f(z))

with dosages :math:`a \ge 0` and a row of :math:`E` (``embedding_``) per perturbation. The guide
is :math:`q(z \mid x)`, a normal distribution.
"""

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from skpert.base import PerturbationVAE
from skpert.module import Cells, PerturbationModule
from skpert.nn import Decoder, GaussianEncoder, Table
from skpert.objectives import kl_from_unit_normal, log_unit_normal
from skpert.parameters import with_shared_parameters


class AdditiveModule(PerturbationModule):
    """The equation above in torch, with the same symbols."""

    rates = {"embedding": 3.0}  # a row has gradients from its own cells only

    def __init__(self, encoder: GaussianEncoder, decoder: Decoder, embedding: Table):
        super().__init__(encoder, decoder)  # q(z | x) and p(x | z)
        self.embedding = embedding  # E

    def guide(self, cells: Cells) -> Normal:
        """Posterior q(z | x)."""
        q_z: Normal = self.encoder(self.features(cells.x))
        return q_z

    def log_joint(self, cells: Cells, z: Tensor, shared: None = None) -> Tensor:
        """Log p(x, z | a), (n_particles, n_cells)."""
        p_x = self.decoder(z, cells.library, cells.environment)
        return cells.log_prob(p_x) + log_unit_normal(z - self.shift(cells)).sum(-1)

    def loss_terms(self, cells: Cells, kl_weight: float = 1.0) -> dict[str, Tensor]:
        """Terms whose sum is the negative ELBO, in nats per cell."""
        q_z = self.guide(cells)
        p_x = self.decoder(q_z.rsample(), cells.library, cells.environment)
        kl_z = kl_from_unit_normal(q_z, self.shift(cells)).sum(-1)  # (n_cells,)
        return {
            "reconstruction": -cells.log_prob(p_x).mean(),
            "kl_z": kl_weight * kl_z.mean(),
        }

    def intervene(self, z_basal: Tensor, cells: Cells, *, sampled: bool = False) -> Distribution:
        """Distribution of expression of these states after the shifts of ``cells``."""
        z = z_basal + self.shift(cells)
        p_x: Distribution = self.decoder(z, cells.library, cells.environment)
        return p_x

    def shift(self, cells: Cells) -> Tensor:
        """Sum over the perturbations of a cell of dosage times embedding."""
        return cells.shift(self.embedding())

    def learned(self) -> dict[str, Tensor]:
        """Embeddings, (n_perturbations, n_latent)."""
        return {"embedding": self.embedding()}


@with_shared_parameters
class AdditiveVAE(PerturbationVAE):
    """VAE in which the effects of perturbations add up in latent space.

    Parameters
    ----------
    {n_latent}
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    embedding_ : ndarray of shape (n_perturbations, n_latent)
        Shift of the latent state by each perturbation at dosage 1.
    {shared_attributes}

    Examples
    --------
    >>> from skpert.datasets import make_additive_shift
    >>> screen = make_additive_shift(5, n_cells_per_perturbation=40, n_control_cells=40,
    ...                              n_latent=3, n_genes=50, random_state=0)
    >>> model = AdditiveVAE(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> model.predict_intervention("P0+P3").shape
    (1, 50)
    """

    def __init__(
        self,
        n_latent=10,
        *,
        n_hidden=128,
        n_layers=2,
        dropout=0.0,
        batch_norm=True,
        likelihood="negative_binomial",
        control="control",
        sep="+",
        perturbation="perturbation",
        environment=None,
        layer=None,
        max_epochs="auto",
        batch_size="auto",
        learning_rate=1e-2,
        schedule="one_cycle",
        weight_decay=1e-6,
        adam_epsilon=1e-8,
        max_gradient_norm=None,
        n_epochs_kl_warmup="auto",
        validation_fraction=0.1,
        patience=None,
        n_init=1,
        n_particles=100,
        device="auto",
        memory="auto",
        checkpoint=None,
        warm_start=False,
        random_state=None,
        verbose="auto",
    ):
        self._store(locals())

    def _make_module(self, cells):
        embedding = Table(torch.zeros(len(self.perturbations_), self.n_latent))
        return AdditiveModule(*self._networks(cells), embedding)
