"""Files as they come: whole, cut off, altered, or something else."""

import pandas as pd
from scipy import sparse

from . import forms

PAGE = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body></body></html>"
DAMAGE = {
    "cut": lambda content, rng: content[: rng.integers(len(content))],
    "empty": lambda content, rng: b"",
    "altered": lambda content, rng: _altered(content, rng),
    "a part twice": lambda content, rng: content[: rng.integers(len(content))] + content,
    "a part missing": lambda content, rng: _without_part(content, rng),
    "a page": lambda content, rng: PAGE,
    "noise": lambda content, rng: rng.bytes(200),
    "zeros": lambda content, rng: bytes(len(content)),
}


def _altered(content, rng):
    changed = bytearray(content)
    changed[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return bytes(changed)


def _without_part(content, rng):
    start, end = sorted(rng.integers(len(content), size=2))
    return content[:start] + content[end + 1 :]


def table(X, A, separator, transposed):
    """Delimited text of a screen."""
    cells = forms.frame(X, index=forms.cell_names(len(X)))
    cells.insert(0, "perturbation", A)
    return (cells.T if transposed else cells).to_csv(sep=separator).encode()


def h5ad(X, A, folder):
    """Content of an AnnData file."""
    path = folder / "written.h5ad"
    forms.adata(sparse.csr_matrix(X), labels=pd.Categorical(A)).write_h5ad(path)
    return path.read_bytes()


def gene_sets(rng):
    """Text of gene sets, with what editors and spreadsheets leave in them."""
    lines = []
    for number in range(rng.integers(1, 5)):
        genes = rng.choice(
            ["TP53", "JAK2", "SEPT2", " MYC", '"KLF1"', "", "é"], rng.integers(0, 5)
        )
        lines.append("\t".join([f"SET{number // 2}", "about", *genes]))
    if rng.integers(2):
        lines.insert(rng.integers(len(lines) + 1), rng.choice(["", "# comment", "\t\t"]))
    text = rng.choice(["\n", "\r\n"]).join(lines) + "\n"
    return text.encode(rng.choice(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
