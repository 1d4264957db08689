"""Responses of a decoder along its latents, and integrated gradients of decoder and encoder."""

import numpy as np
import torch

N_NODES = 8  # of the Gauss-Legendre rule along a path


def response(decode, z, latent, step):
    """Mean slope of what is decoded between half a step behind and ahead, (n_genes,)."""
    half = torch.zeros_like(z[0])
    half[latent] = step / 2
    return (decode(z + half) - decode(z - half)).mean(0) / step


def decoder_gradients(decode, z, latents):
    """Slope of the attributions of what is decoded on each latent, (len(latents), n_genes).

    Paths are straight, from the mean state to each state. The derivatives of all genes by one
    latent are those of a weighted sum of genes, by the weights.
    """
    centre = z.mean(0)
    weight = (z - centre).square()
    gradient = []
    for place, share in _nodes():
        on_path = (centre + place * (z - centre)).requires_grad_()
        with torch.enable_grad():
            decoded = decode(on_path)
            of_genes = torch.zeros_like(decoded[0]).requires_grad_()
            (of_z,) = torch.autograd.grad((decoded @ of_genes).sum(), on_path, create_graph=True)
            sums = [(weight * of_z)[:, latent].sum() for latent in latents]
            rows = [torch.autograd.grad(row, of_genes, retain_graph=True)[0] for row in sums]
        gradient.append(share * torch.stack(rows))
    total = weight.sum(0)[latents][:, None]
    return torch.where(total > 0, torch.stack(gradient).sum(0) / total, 0)


def encoder_gradients(encode, x, latents):
    """Slope of the attributions of each latent on what is read of genes, (len(latents), n_genes).

    Paths are straight, from the mean of ``x`` to each row of it.
    """
    centre = x.mean(0)
    weight = (x - centre).square()
    gradient = x.new_zeros(len(latents), x.shape[1])
    for place, share in _nodes():
        on_path = (centre + place * (x - centre)).requires_grad_()
        with torch.enable_grad():
            z = encode(on_path)
            for i, latent in enumerate(latents):
                more = i + 1 < len(latents)
                (of_z,) = torch.autograd.grad(z[:, latent].sum(), on_path, retain_graph=more)
                gradient[i] += share * (weight * of_z).sum(0)
    total = weight.sum(0)
    return torch.where(total > 0, gradient / total, 0)


def _nodes():
    """Places on a path from 0 to 1, and their weights, which sum to 1."""
    places, weights = np.polynomial.legendre.leggauss(N_NODES)
    return zip(((places + 1) / 2).tolist(), (weights / 2).tolist(), strict=True)
