"""Simulated screens with known truth, and readers of real ones."""

from ._additive import make_additive_shift
from ._causal import make_causal_shift
from ._contexts import make_context_shift
from ._download import get_data_home
from ._integration import fetch_hematopoiesis, fetch_lung_cancer
from ._invariant import make_invariant
from ._norman import fetch_norman, norman_split
from ._replogle import fetch_replogle_essential, fetch_replogle_filtered
from ._screens import load_screen
from ._sparse import make_sparse_shift

__all__ = [
    "fetch_hematopoiesis",
    "fetch_lung_cancer",
    "fetch_norman",
    "fetch_replogle_essential",
    "fetch_replogle_filtered",
    "get_data_home",
    "load_screen",
    "make_additive_shift",
    "make_causal_shift",
    "make_context_shift",
    "make_invariant",
    "make_sparse_shift",
    "norman_split",
]
