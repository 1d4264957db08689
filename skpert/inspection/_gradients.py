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

    Paths are straight, from the mean state to each state. Forward mode takes the derivatives of
    all genes by one latent at once.
    """
    centre = z.mean(0)
    return torch.stack([_of_latent(decode, z, centre, latent) for latent in latents])


def _of_latent(decode, z, centre, latent):
    direction = torch.zeros_like(z)
    direction[:, latent] = 1
    weight = (z[:, latent] - centre[latent]).square()[:, None]
    total = weight.sum()
    gradient = 0
    for place, share in _nodes():
        on_path = centre + place * (z - centre)
        derivative = torch.func.jvp(decode, (on_path,), (direction,))[1]
        gradient = gradient + share * (weight * derivative).sum(0)
    return gradient / total if total > 0 else torch.zeros_like(gradient)


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
                of_z = torch.autograd.grad(z[:, latent].sum(), on_path, retain_graph=more)[0]
                gradient[i] += share * (weight * of_z).sum(0)
    total = weight.sum(0)
    return torch.where(total > 0, gradient / total, 0)


def _nodes():
    """Places on a path from 0 to 1, and their weights, which sum to 1."""
    places, weights = np.polynomial.legendre.leggauss(N_NODES)
    return zip(((places + 1) / 2).tolist(), (weights / 2).tolist(), strict=True)
