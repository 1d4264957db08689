r"""InVAE: what is kept between environments, and what is not.

.. math::

    z_I \mid d \sim p(z_I \mid d), \quad z_S \mid e \sim \mathcal{N}(\mu(e), \sigma^2(e)), \qquad
    x_g \mid z \sim \mathrm{NB}(l \, \mathrm{softmax}_g f(z_I, z_S), \theta_g)

    \log p(z_I \mid d) = \langle T(z_I), \lambda_T(d) \rangle + \langle z_I, \lambda_1(d) \rangle
                         + \langle z_I^2, \lambda_2(d) \rangle - \log Z(d)

with invariant covariates :math:`d` of a cell, such as its type, spurious ones :math:`e`, such as
its site, neural sufficient statistics :math:`T` and observed library size :math:`l`. The
exponential family is fitted by score matching; the ``"factorized"`` prior has a normal
distribution in its place (Aliee, Kapl, Hediyeh-Zadeh and Theis, Conditionally invariant
representation learning for disentangling cellular heterogeneity, 2023, arXiv 2307.00558).
Covariates of training cells are hidden from the encoder at random, so that cells without them
can be read: what it infers from expression alone has to agree with the prior of their covariates.
"""

from abc import abstractmethod
from collections.abc import Iterator
from numbers import Integral, Real

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from .._data import ENCODE_SIZE, Cells
from .._input.expression import check_same_cells, read_matrix
from .._input.values import as_list, listed
from .._mixing import N_JUDGED, UNMIXED, Labelled, spaced, whitening
from .._priors import ExponentialPrior, GaussianPrior
from .._responses import Responses, responses_of
from ..base import PerturbationVAE
from ..module import PerturbationModule, Phase
from ..nn import thinned
from ..objectives import total_correlation
from ..parameters import Interval, StrOptions, with_shared_parameters
from ..preprocessing import CovariateEncoder

FEWEST_COUNTS = 100  # of a cell that thinning leaves
UNKNOWN = 0.1  # share of training cells whose covariates the priors do not see, either
FIRST_WEIGHT = 30.0  # of the KL when training starts, from which it falls to 1
FEW, MANY = 300, 600  # training cells with which it starts from 1, and from that weight
APART = 1.0  # standard deviation of the weights that set environments apart at the start
N_MEASURED = 10_000  # training cells, about, evenly spaced: their spread is the unit of latents


def _warming(covariates: Tensor, kl_weight: float) -> Tensor:
    """Weight of the KL of a block: 1 for cells whose covariates are unknown, if it has any."""
    known = covariates.any(1) if covariates.shape[1] else covariates.new_ones(1, dtype=torch.bool)
    return torch.where(known, kl_weight, 1.0)


def share_read(x: Tensor, thinning: float) -> Tensor:
    """Share of the counts of each cell that the encoder reads at a step, at random, (n_cells, 1).

    Where a cell has few counts, it takes most of them to see more of it than its covariates say.
    """
    most = 1 - FEWEST_COUNTS / x.sum(1, keepdim=True).clamp(min=FEWEST_COUNTS)
    return 1 - most.clamp(max=thinning) * torch.rand_like(most)


def first_weight(n_cells: int) -> float:
    """Weight of the KL when training starts, lower for few cells.

    These allow for few steps, of cells that are learned by heart: latents that a large weight
    closed stay closed to expression. They hold what covariates say, and nothing without these.
    """
    share = (n_cells - FEW) / (MANY - FEW)
    weight: float = FIRST_WEIGHT ** min(max(share, 0.0), 1.0)
    return weight


class InvariantModule(PerturbationModule):
    """The equation above in torch, with the same symbols."""

    divisible = False  # the total correlation is that of a whole minibatch
    rates = {"log_dispersion": 30.0, "log_scale": 30.0}
    columns: nn.Linear  # of the encoder that read the covariates
    covariate: Tensor  # (n_columns,) which covariate a column belongs to
    depth: Tensor  # () counts of a typical cell
    whitening: Tensor  # (n_latent, n_latent) from latents of the equation to those that are shown

    def __init__(
        self,
        encoder,
        decoder,
        columns: nn.Linear,
        invariant: GaussianPrior | ExponentialPrior,
        spurious: GaussianPrior,
        covariate: Tensor,
        n_invariant_columns: int,
        library: Tensor,
        *,
        tc_weight: float,
        by_domain: bool,
        hide: float,
        thinning: float,
        regularization: float,
        whiten: bool = True,
        first_weight: float = FIRST_WEIGHT,
        responses: Responses | None = None,
    ):
        super().__init__(encoder, decoder, columns)  # q(z | x, covariates) and p(x | z)
        self.invariant, self.n_invariant = invariant, invariant.n_latent  # p(z_I | d)
        self.spurious = spurious  # p(z_S | e)
        self.register_buffer("covariate", covariate)
        self.register_buffer("depth", library.median().clamp(min=1))
        self.register_buffer("whitening", torch.eye(encoder.n_latent))
        self.n_covariates = int(covariate.max()) + 1 if len(covariate) else 0
        self.n_columns = n_invariant_columns
        self.n_cells = len(library)
        self.tc_weight = tc_weight
        self.by_domain = by_domain
        self.hide = hide
        self.thinning = thinning
        self.regularization = regularization
        self.whitens = whiten
        self.first_weight = first_weight
        self.responses = responses or Responses(None, [], [], self.n_invariant)

    def covariates(self, cells: Cells) -> Tensor:
        """Encoded covariates, zero where they are hidden, (n_cells, n_columns)."""
        values = cells.dosage.new_zeros(cells.n_cells, len(self.covariate))
        return values.scatter_add_(1, cells.part, cells.dosage)

    def _hidden(self, values: Tensor, share: float | None = None) -> Tensor:
        """Covariates of which, in training, some are hidden: all of a cell, or a few."""
        share = self.hide if share is None else share
        if not self.training or share == 0:
            return values
        cell = torch.rand(len(values), 1, device=values.device) < share
        if self.n_covariates == 1:
            return values.masked_fill(cell, 0)
        alone = torch.rand(len(values), self.n_covariates, device=values.device) < share / 4
        return values.masked_fill(cell | alone[:, self.covariate], 0)

    def features(self, x: Tensor) -> Tensor:
        """What the encoder reads: cells as if all had the same depth, in training after thinning.

        A bound follows from any q(z | x), also from one that has not read all of x.
        """
        if not self.decoder.head.counts:
            return x
        if self.training and self.thinning:
            x = thinned(x, share_read(x, self.thinning))
        scale = self.depth / x.sum(1, keepdim=True).clamp(min=1)
        return self.decoder.features(x * scale)

    def _read(self, cells: Cells, covariates: Tensor) -> Normal:
        q: Normal = self.encoder(self.features(cells.x), self.columns(covariates))
        return q

    def _groups(self, covariates: Tensor) -> tuple[Tensor, Tensor]:
        return covariates[:, : self.n_columns], covariates[:, self.n_columns :]

    def _halves(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values[..., : self.n_invariant], values[..., self.n_invariant :]

    def loss_terms(self, cells: Cells, kl_weight: float = 1.0) -> dict[str, Tensor]:
        """Terms whose sum is the objective, in nats per cell.

        The normaliser of an exponential family is no part of ``kl_z``, whose gradient it does not
        change; ``score_matching`` is what fits that prior, and it alone.

        The KL weight is annealed from ``first_weight`` down to 1: early on, a block learns only
        what its covariates explain, which costs nothing. A cell whose covariates are hidden from
        the encoder alone follows their prior and does not move it: it lies between the
        environments that it could come from, and would pull their priors together.
        """
        kl_weight = self.first_weight ** (1 - kl_weight)
        known = self.covariates(cells)
        covariates = self._hidden(known, UNKNOWN if self.hide else 0.0)
        read = self._hidden(covariates)
        blocks, q = self._groups(covariates), self._read(cells, read)
        leads = [
            seen.any(1) | ~block.any(1)
            for seen, block in zip(self._groups(read), blocks, strict=True)
        ]
        z = q.rsample()
        cost = torch.zeros(cells.n_cells, device=z.device)
        for prior, block, lead, mean, scale, z_block in zip(
            (self.invariant, self.spurious),
            blocks,
            leads,
            *(self._halves(values) for values in (q.mean, q.stddev, z)),
            strict=True,
        ):
            kl = prior.cost(Normal(mean, scale, validate_args=False), z_block, block, lead)
            cost = cost + kl * _warming(block, kl_weight)
        p_x = self.decoder(z, cells.library, cells.environment)
        terms = {"reconstruction": -cells.log_prob(p_x).mean(), "kl_z": cost.mean()}
        if self.tc_weight and self.spurious.n_latent:
            tc = self._total_correlation(z, q, known[:, self.n_columns :])
            terms["total_correlation"] = self.tc_weight * kl_weight * tc
        if isinstance(self.invariant, ExponentialPrior):
            z_invariant = z[..., : self.n_invariant]
            loss = self.invariant.score_matching(z_invariant, blocks[0], self.regularization)
            loss = (loss * leads[0]).sum() / leads[0].sum().clamp(min=1)
            terms["score_matching"] = kl_weight * loss
        return terms

    def _total_correlation(self, z: Tensor, q: Normal, domain: Tensor) -> Tensor:
        n_cells, same = torch.tensor(float(self.n_cells)), None
        if self.by_domain and domain.shape[1]:
            common = domain @ domain.T  # of zeros and ones: rows are the same where all are common
            own = common.diagonal()
            same = (common == own) & (common == own[:, None])
            n_cells = n_cells * same.float().mean(1)  # of the domain, from its share of the batch
        return total_correlation(z, q, self.n_invariant, n_cells, same).mean()

    def guide(self, cells: Cells) -> Normal:
        """Posterior q(z | x, covariates)."""
        return self._read(cells, self.covariates(cells))

    def log_joint(self, cells: Cells, z: Tensor, shared: None = None) -> Tensor:
        """Log p(x, z | covariates)."""
        z_invariant, z_spurious = self._halves(z)
        of_invariant, of_spurious = self._groups(self.covariates(cells))
        log_prior = self.invariant.log_prob(z_invariant, of_invariant)
        log_prior = log_prior + self.spurious.log_prob(z_spurious, of_spurious)
        return cells.log_prob(self.decoder(z, cells.library, cells.environment)) + log_prior

    def decode(self, z: Tensor, cells: Cells) -> Distribution:
        """Distribution of expression of states as they are shown."""
        return super().decode(self._unwhitened(z), cells)

    def encode(self, x: Tensor) -> Tensor:
        """Posterior mean of all latents with covariates hidden, (n_cells, n_latent)."""
        mean: Tensor = self.encoder(self.features(x)).mean
        return mean @ self.whitening

    def _unwhitened(self, z: Tensor) -> Tensor:
        return z @ torch.linalg.inv(self.whitening)

    def phases(self, n_epochs: int) -> list[Phase]:
        """One, after which latents get a scale, and responses of treated cells are measured."""
        return [Phase(n_epochs, self.finalise)]

    later_phases = phases

    @torch.no_grad()
    def finalise(self, cells: Cells) -> None:
        """Set what follows from training: the unit of latents, and how far treated cells move."""
        self.eval()
        if self.whitens:
            self.whiten(cells)
        if self.responses.treatments:
            self.responses.measure(self._states(cells))

    def _states(self, cells: Cells) -> Iterator[tuple[Tensor, Tensor]]:
        """Invariant latents, read from expression alone, and their covariates, in minibatches."""
        for batch in cells.minibatches(ENCODE_SIZE, shuffle=False):
            batch = batch.to(self.depth.device)
            mean = self.encoder(self.features(batch.x)).mean
            yield mean[:, : self.n_invariant], self.covariates(batch)[:, : self.n_columns]

    @torch.no_grad()
    def whiten(self, cells: Cells) -> None:
        """Show latents in units of their spread among cells of the same covariates.

        The objective leaves the scale of a latent open, and distances between cells are no better
        than the scales. In each block, latents become the nearest combinations of themselves that
        are uncorrelated and of unit variance around what is linear in the covariates. The variance
        is that of states, not of posterior means, so that latents that say nothing stay small.
        """
        self.eval()
        cells = spaced(cells, N_MEASURED)
        parts = []
        for batch in cells.minibatches(ENCODE_SIZE, shuffle=False):
            batch = batch.to(self.depth.device)
            q = self.encoder(self.features(batch.x))
            parts.append((q.mean, q.variance))
        moments = (torch.cat(part).cpu().double() for part in zip(*parts, strict=True))
        n, of = self.n_columns, self.covariate.cpu()
        part, value = cells.part.cpu(), cells.dosage.cpu()
        first, others = (part < n) * value, (part >= n) * value
        known = (part.clamp(max=n - 1), first, of[:n]), ((part - n).clamp(min=0), others, of[n:])
        blocks = zip(*(self._halves(moment) for moment in moments), known, strict=True)
        maps = (whitening(mean, variance, *columns) for mean, variance, columns in blocks)
        self.whitening.copy_(torch.block_diag(*maps))

    def preference(self, cells: Cells) -> float | None:
        """Total of ``integration_scores`` of invariant latents of training cells."""
        read = self._labelled(cells)
        return None if read is None else read.total(self.n_invariant)

    def doubt(self, cells: Cells) -> str | None:
        """Whether environments are among the invariant latents."""
        read = self._labelled(cells)
        return UNMIXED if read is not None and read.unmixed(self.n_invariant) else None

    @torch.no_grad()
    def _labelled(self, cells: Cells) -> Labelled | None:
        """Latents of training cells, if there are two environments or more."""
        if not self.spurious.n_latent:
            return None
        cells = spaced(cells, N_JUDGED)
        batches = cells.minibatches(ENCODE_SIZE, shuffle=False)
        z = torch.cat([self.encode(batch.to(self.depth.device).x) for batch in batches])
        return Labelled.of(z, *self._groups(self.covariates(cells).to(z)))

    def posterior(self, cells: Cells) -> dict[str, Tensor]:
        """Moments of the guide given the covariates that are known."""
        q = self._read(cells, self.covariates(cells))
        z = q.mean @ self.whitening
        scale = (q.variance @ self.whitening.square()).sqrt()
        return {"z": z, "z_basal": z, "scale": scale}

    def basal_states(self, n_states: int) -> Tensor:
        """Nothing but a place for states, which follow from the covariates."""
        return torch.zeros(n_states, self.encoder.n_latent, device=self.covariate.device)

    def intervene(self, z_basal: Tensor, cells: Cells, *, sampled: bool = False) -> Distribution:
        """Distribution of expression where the covariates of ``cells`` are as they say.

        A block of latents of which no covariate is given stays as it is, and otherwise comes from
        its prior. But invariant latents of control cells that are treated are moved, by what
        moves them in training, and where there are no cells all comes from the priors.
        """
        of_invariant, of_spurious = self._groups(self.covariates(cells))
        if cells.n_genes == 0:
            z = [self.invariant.sample(of_invariant), self.spurious.sample(of_spurious)]
        else:
            z_invariant, z_spurious = self._halves(self._unwhitened(z_basal))
            moved, known = self.responses(of_invariant)
            drawn = _drawn(self.invariant, of_invariant, z_invariant)
            z_invariant = torch.where(known, z_invariant + moved, drawn)
            z = [z_invariant, _drawn(self.spurious, of_spurious, z_spurious)]
        p_x: Distribution = self.decoder(torch.cat(z, -1), cells.library, cells.environment)
        return p_x


def _drawn(prior: GaussianPrior | ExponentialPrior, covariates: Tensor, z: Tensor) -> Tensor:
    """States from the prior where a covariate is given, and these elsewhere."""
    return torch.where(covariates.any(1, keepdim=True), prior.sample(covariates), z)


class _InvariantVAE(PerturbationVAE):
    """What both estimators do."""

    @abstractmethod
    def __init__(self) -> None:
        pass

    _parameter_constraints = PerturbationVAE._parameter_constraints | {
        "invariant": [str, list, tuple, None],
        "hide": [Interval(Real, 0, 1, closed="left")],
        "thinning": [Interval(Real, 0, 1, closed="left")],
        "score_regularization": [Interval(Real, 0, None, closed="left")],
        "n_prior_layers": [Interval(Integral, 1, None, closed="left")],
        "whiten": ["boolean"],
    }

    def _make_design(self):
        return CovariateEncoder(
            invariant=self.invariant, spurious=self.spurious, environment=self.environment
        )

    def _make_module(self, cells):
        design, n_spurious = self.design_, self.n_spurious
        n_columns, n_invariant = len(design.columns_), self.n_latent - n_spurious
        n_first = design.n_invariant_columns_
        if n_invariant < 1:
            raise ValueError(
                f"n_spurious={n_spurious} of n_latent={self.n_latent} latents leaves none that "
                "is invariant: lower n_spurious or raise n_latent"
            )
        if n_spurious == 0 and n_columns > n_first:
            raise ValueError(
                "covariates in `spurious` need spurious latents: raise n_spurious, or name them "
                "in `invariant`, or in `environment` for the decoder"
            )
        if self.prior == "nonfactorized" and n_first == 0:
            raise ValueError(
                "prior='nonfactorized' needs an invariant covariate: name columns in `invariant`, "
                "or set prior='factorized'"
            )
        of_spurious = {design.names_[i] for i in design.covariate_[n_first:]}
        weights = vars(self).get("module_")  # arrays, while a file or a pickle is read
        unmeasured = isinstance(weights, dict) and not len(weights["responses.measured"])
        categories = of_spurious.isdisjoint(design.scales_)
        kind = ExponentialPrior if self.prior == "nonfactorized" else GaussianPrior
        return InvariantModule(
            *self._networks(cells),
            nn.Linear(n_columns, self.n_hidden, bias=False),
            kind(n_first, n_invariant, self.n_prior_layers),
            GaussianPrior(n_columns - n_first, n_spurious, self.n_prior_layers, apart=APART),
            torch.from_numpy(design.covariate_.copy()),
            n_first,
            cells.library,
            tc_weight=self.total_correlation,
            by_domain=self.conditioning == "domain" and categories,
            hide=self.hide,
            thinning=self.thinning,
            regularization=self.score_regularization,
            whiten=self.whiten,
            first_weight=first_weight(cells.n_cells),
            responses=None if unmeasured else responses_of(design, self.control, n_invariant),
        )

    @property
    def _shown(self):
        n_invariant = self.n_latent - self.n_spurious
        return {
            "invariant": slice(n_invariant),
            "spurious": slice(n_invariant, None),
            "all": slice(None),
        }[self.latent]

    @property
    def _n_features_out(self):
        return len(range(self.n_latent)[self._shown])

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """Names of the latents that ``transform`` gives.

        Parameters
        ----------
        input_features : None
            Not used.

        Returns
        -------
        names : ndarray of shape (n_features,) and dtype object
            "invariant0", ... and "spurious0", ...
        """
        check_is_fitted(self)
        n_invariant = self.n_latent - self.n_spurious
        names = [f"invariant{i}" for i in range(n_invariant)]
        names += [f"spurious{i}" for i in range(self.n_spurious)]
        return np.array(names, dtype=object)[self._shown]

    @property
    def covariates_(self) -> list:
        """Names of covariates, the invariant ones first."""
        check_is_fitted(self)
        return list(self.design_.names_)

    def adapt(self, X, A):
        """Refuse: a category that was not in training is read as hidden.

        Parameters
        ----------
        X, A : object
            Not used.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            f"{type(self).__name__} has conditions, not effects, and cannot adapt to new ones: "
            "transform reads cells of unknown covariates; to learn new categories, fit with them"
        )

    def log_normaliser(self, A) -> pd.DataFrame:
        """Log normaliser of the nonfactorized prior, as ``score`` uses it.

        Parameters
        ----------
        A : DataFrame of shape (n_designs, n_columns) or array-like of shape (n_designs,)
            Covariates.

        Returns
        -------
        estimates : DataFrame of shape (n_designs, 2)
            ``log_normaliser``, nats, by importance sampling with 2,000 samples, and its
            ``standard_error``, half of whose square biases the bound. Zeros if factorized.
        """
        check_is_fitted(self)
        cells = self._designs(A, None)
        with self._inference():
            known = self.module_.covariates(cells.to(self.module_.device))
            if self.prior == "factorized":
                estimates = torch.zeros(2, cells.n_cells)
            else:
                of_invariant = known[:, : self.module_.n_columns]
                estimates = torch.stack(self.module_.invariant.log_normaliser(of_invariant))
        columns = ["log_normaliser", "standard_error"]
        return pd.DataFrame(estimates.T.cpu().numpy(), columns=columns)

    def log_likelihood(self, X, Z, A=None) -> np.ndarray:
        """Log-likelihood of cells given latent states, log p(x | z).

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Expression.
        Z : array-like of shape (n_cells, n_latent) or (n_candidates, n_cells, n_latent)
            All latents of each cell, the invariant ones first, as ``posterior`` gives them.
        A : DataFrame of shape (n_cells, n_columns), default=None
            Needed for the columns in ``environment``, if there are any.

        Returns
        -------
        log_likelihood : ndarray of shape (n_cells,) or (n_candidates, n_cells)
            Nats, summed over genes.
        """
        check_is_fitted(self)
        check_same_cells(X, Z, ("X", "Z"))
        X = self._expression(X, A)
        Z = read_matrix(Z, "Z", dtype=np.float32, allow_nd=True)
        if Z.shape[-2:] != (X.shape[0], self.n_latent):
            raise ValueError(
                f"Z has shape {Z.shape}, expected (..., {X.shape[0]}, {self.n_latent}): a state "
                "of all latents for each cell"
            )
        environment = self.design_.environments(A) if self.environment is not None else None
        cells = Cells.untreated(X, environment)
        parts = []
        with self._inference():
            for index in torch.arange(X.shape[0]).split(ENCODE_SIZE):
                z = torch.from_numpy(Z[..., index.numpy(), :]).to(self.module_.device)
                some = cells.take(index).to(self.module_.device)
                parts.append(some.log_prob(self.module_.decode(z, some)))
        return torch.cat(parts, -1).cpu().numpy()

    def _designs(self, A, library_size):
        if isinstance(A, str):
            A = [A]
        columns, named = list(getattr(A, "columns", ())), {*self.covariates_}
        if columns and (named | {*as_list(self.environment)}).isdisjoint(columns):
            raise ValueError(
                f"A has none of the covariates {listed(self.covariates_, 20)}; its columns are "
                f"{listed(columns, 20)}"
            )
        self.design_.transform(A, unseen="error")
        return super()._designs(A, library_size)


@with_shared_parameters
class InVAE(_InvariantVAE):
    """Invariant VAE: latents of biology, and of what differs between environments.

    Parameters
    ----------
    {n_latent} Both blocks together.
    invariant : str, list of str or None, default=None
        Columns of the design, such as the cell type or a treatment, whose relation to expression
        is the same in all environments; None takes the labels of a design that is no frame. At
        least one of the two groups is needed. Floats are continuous, all else categories.
    spurious : str, list of str or None, default=None
        Columns of the design with covariates of environments, such as the site.
    prior : {"nonfactorized", "factorized"}, default="nonfactorized"
        Prior of invariant latents given their covariates: an exponential family with neural
        sufficient statistics, fitted by score matching, or a normal distribution.
    n_spurious : int, default=1
        Number of spurious latents, the last ones; 0 leaves it to ``environment`` in the decoder.
    total_correlation : float, default=1.0
        Weight of the total correlation between the two blocks, estimated over minibatches.
    conditioning : {"domain", "none"}, default="domain"
        Whether that is taken within each environment, as in the paper, or over all cells, as
        released and wherever a spurious covariate is continuous.
    {prior_parameters}
    latent : {"invariant", "spurious", "all"}, default="invariant"
        Latents that ``transform`` gives.
    {whiten}
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    covariates_ : list of str
        Names of covariates, the invariant ones first.
    {shared_attributes}

    See Also
    --------
    NFIVAE : All latents and covariates in one block.
    skpert.metrics.integration_scores : Whether biology is kept and environments are lost.

    Notes
    -----
    ``InVAE(prior="factorized", n_spurious=0)`` is the iVAE of the paper: all covariates are then
    ``invariant``.

    Over ``n_epochs_kl_warmup`` epochs the weight of the KL is annealed from 30 down to 1 where the
    covariates of a block are known: each block then learns first what these explain. From below,
    environments can end up among the invariant latents. For less than 600 training cells the
    weight starts lower, and at 1 for 300 or less: of few cells with few counts, latents would not
    recover from a large one.

    Unknown covariates are hidden: a column that the design lacks, a missing value, and, but for
    predictions, a new category. ``sep`` and ``perturbation`` have no meaning here.

    ``predict_intervention(design, X)`` answers for these cells in another environment, if the
    design has a column of ``spurious``: their invariant latents stay, the spurious ones are drawn
    from its prior. If the design has a column of ``invariant`` with a category called ``control``,
    X are control cells: the state that the encoder reads from each is moved as far as states of
    treated cells of training, of the same other categories, are from those of their controls on
    average. What the cells have of their own stays, such as what is particular to a donor of whom
    training had no cell, or controls only. With other columns of ``invariant``, and without X,
    states are drawn from the prior of the design, an answer about a population.

    References
    ----------
    .. [1] Aliee, Kapl, Hediyeh-Zadeh and Theis, Conditionally invariant representation learning
       for disentangling cellular heterogeneity, 2023, arXiv 2307.00558.

    Examples
    --------
    >>> from skpert import InVAE
    >>> from skpert.datasets import make_invariant
    >>> cells = make_invariant(20, random_state=0)
    >>> model = InVAE(4, invariant=["cell_type", "condition"], spurious="batch", max_epochs=2,
    ...               random_state=0).fit(cells.X, cells.obs)
    >>> model.transform(cells.X).shape
    (240, 3)
    >>> model.get_feature_names_out().tolist()
    ['invariant0', 'invariant1', 'invariant2']
    """

    _parameter_constraints = _InvariantVAE._parameter_constraints | {
        "spurious": [str, list, tuple, None],
        "prior": [StrOptions({"nonfactorized", "factorized"})],
        "n_spurious": [Interval(Integral, 0, None, closed="left")],
        "total_correlation": [Interval(Real, 0, None, closed="left")],
        "conditioning": [StrOptions({"domain", "none"})],
        "latent": [StrOptions({"invariant", "spurious", "all"})],
    }

    def __init__(
        self,
        n_latent: int = 10,
        *,
        invariant: str | list[str] | None = None,
        spurious: str | list[str] | None = None,
        prior: str = "nonfactorized",
        n_spurious: int = 1,
        total_correlation: float = 1.0,
        conditioning: str = "domain",
        hide: float = 0.5,
        thinning: float = 0.95,
        score_regularization: float = 0.0,
        n_prior_layers: int = 1,
        latent: str = "invariant",
        whiten: bool = True,
        n_hidden: int = 128,
        n_layers: int = 1,
        dropout: float = 0.1,
        batch_norm: bool = True,
        likelihood: str = "negative_binomial",
        control="control",
        sep: str | None = "+",
        perturbation: str = "perturbation",
        environment: str | list[str] | None = None,
        layer: str | None = None,
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 1e-2,
        schedule: str = "one_cycle",
        weight_decay: float = 1e-6,
        adam_epsilon: float = 1e-8,
        max_gradient_norm: float | None = None,
        n_epochs_kl_warmup: int | str = "auto",
        validation_fraction: float = 0.1,
        patience: int | None = None,
        n_init: int = 1,
        n_particles: int = 100,
        device: str = "auto",
        memory: str = "auto",
        checkpoint=None,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int | str = "auto",
    ) -> None:
        self._store(locals())


@with_shared_parameters
class NFIVAE(_InvariantVAE):
    """Identifiable VAE with a nonfactorized prior: all latents depend on all covariates.

    The baseline NF-iVAE of the inVAE paper, which is ``InVAE(n_spurious=0)``.

    Parameters
    ----------
    {n_latent}
    invariant : str, list of str or None, default=None
        Columns of the design with all covariates, of biology and of environments. With a design
        of labels in place of a frame None takes these.
    {prior_parameters}
    {whiten}
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    covariates_ : list of str
        Names of covariates.
    {shared_attributes}

    See Also
    --------
    InVAE : With a block of latents for environments.

    References
    ----------
    .. [1] Lu, Wu, Hernandez-Lobato and Schoelkopf, Invariant causal representation learning for
       out-of-distribution generalization, ICLR 2022.

    Examples
    --------
    >>> from skpert import NFIVAE
    >>> from skpert.datasets import make_invariant
    >>> cells = make_invariant(20, random_state=0)
    >>> model = NFIVAE(4, invariant=["cell_type", "condition", "batch"], max_epochs=2,
    ...                random_state=0).fit(cells.X, cells.obs)
    >>> model.transform(cells.X).shape
    (240, 4)
    """

    spurious = None
    prior = "nonfactorized"
    n_spurious = 0
    total_correlation = 0.0
    conditioning = "none"
    latent = "all"

    def __init__(
        self,
        n_latent: int = 10,
        *,
        invariant: str | list[str] | None = None,
        hide: float = 0.5,
        thinning: float = 0.95,
        score_regularization: float = 0.0,
        n_prior_layers: int = 1,
        whiten: bool = True,
        n_hidden: int = 128,
        n_layers: int = 1,
        dropout: float = 0.1,
        batch_norm: bool = True,
        likelihood: str = "negative_binomial",
        control="control",
        sep: str | None = "+",
        perturbation: str = "perturbation",
        environment: str | list[str] | None = None,
        layer: str | None = None,
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 1e-2,
        schedule: str = "one_cycle",
        weight_decay: float = 1e-6,
        adam_epsilon: float = 1e-8,
        max_gradient_norm: float | None = None,
        n_epochs_kl_warmup: int | str = "auto",
        validation_fraction: float = 0.1,
        patience: int | None = None,
        n_init: int = 1,
        n_particles: int = 100,
        device: str = "auto",
        memory: str = "auto",
        checkpoint=None,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int | str = "auto",
    ) -> None:
        self._store(locals())
