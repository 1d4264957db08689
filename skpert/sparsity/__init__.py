"""Which latents a perturbation moves: masks, embeddings, effects, sparse axes, and edges."""
