"""How far a treatment moves cells in latent space, measured beside the controls of their kind."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Responses(nn.Module):
    """Mean latent states of treated cells less those of controls, in each context and in all.

    ``treatments`` are columns of the covariate that has controls, ``control`` the column of
    these, and ``contexts`` columns of categories of other covariates. Without a ``control`` there
    are no treatments.
    """

    moved: Tensor  # (n_treatments, n_contexts + 1, n_latent) the last one in any context
    measured: Tensor  # (n_treatments,) whether there were cells of it, and controls

    def __init__(
        self,
        control: int | None,
        treatments: Sequence[int],
        contexts: Sequence[int],
        n_latent: int,
    ):
        super().__init__()
        self.treatments = [] if control is None else list(treatments)
        self.control = 0 if control is None else self.treatments.index(control)
        self.contexts = list(contexts)
        shape = len(self.treatments), len(self.contexts) + 1
        self.register_buffer("moved", torch.zeros(*shape, n_latent))
        self.register_buffer("measured", torch.zeros(shape[0], dtype=torch.bool))

    @torch.no_grad()
    def measure(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take these states and covariates of cells, both in minibatches.

        A treatment in any context is the mean over the contexts of its cells, so that it does not
        matter which contexts were treated. So is one in a context that lacks cells or controls.
        """
        if not self.treatments:
            return
        total = torch.zeros_like(self.moved, dtype=torch.float64)
        size = total[..., 0].clone()
        for z, covariates in batches:
            treatment, context = self._read(covariates)
            known = treatment.any(1)
            weight = context[known].to(total)
            index = treatment[known].argmax(1)
            size.index_add_(0, index, weight)
            total.index_add_(0, index, weight[..., None] * z[known, None].to(total))
        mean = total / size.clamp(min=1)[..., None]
        moved = mean - mean[self.control]
        weight = torch.where(size[self.control] > 0, size, 0)
        self.measured.copy_(weight[:, -1] > 0)
        inside = weight[:, :-1, None]
        overall = (inside * moved[:, :-1]).sum(1) / inside.sum(1).clamp(min=1)
        overall = torch.where(inside.sum(1) > 0, overall, moved[:, -1])
        moved[:, -1] = overall
        self.moved.copy_(torch.where(weight[..., None] > 0, moved, overall[:, None]))

    def forward(self, covariates: Tensor) -> tuple[Tensor, Tensor]:
        """How far cells move, (n_cells, n_latent), and where that is known, (n_cells, 1)."""
        treatment, context = self._read(covariates)
        alone = ~context[:, :-1].any(1, keepdim=True)
        context = torch.cat([context[:, :-1], alone.to(context)], 1)
        context = context / context.sum(1, keepdim=True)
        known = (treatment * self.measured).any(1, keepdim=True)
        by_context = (treatment @ self.moved.flatten(1)).unflatten(1, self.moved.shape[1:])
        return (context[..., None] * by_context).sum(1), known

    def _read(self, covariates: Tensor) -> tuple[Tensor, Tensor]:
        """Treatment and contexts, these with a last column of ones, (n_cells, n_columns) each."""
        context = covariates[:, self.contexts]
        return covariates[:, self.treatments], torch.cat(
            [context, covariates.new_ones(len(covariates), 1)], 1
        )


def responses_of(design: Any, control: str, n_latent: int) -> Responses:
    """Responses, not measured yet, for the first invariant covariate of an encoder with controls.

    ``design`` is a ``CovariateEncoder``; contexts are categories of its other invariant ones.
    """
    columns = range(design.n_invariant_columns_)
    of = [design.names_[design.covariate_[i]] for i in columns]
    names = [name for name in design.categories_ if control in design.categories_[name]]
    treated = next((name for name in names if name in of), None)
    if treated is None:
        return Responses(None, [], [], n_latent)
    treatments = [i for i in columns if of[i] == treated]
    contexts = [i for i in columns if of[i] != treated and of[i] in design.categories_]
    position = design.categories_[treated].index(control)
    return Responses(treatments[position], treatments, contexts, n_latent)
