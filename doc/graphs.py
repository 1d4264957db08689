"""The graphs of variables on the pages of the models, and the figure of which model to use.

``python doc/graphs.py`` writes them. Circles are random variables, grey ones are observed, and
names without a circle are parameters. A dashed arrow is the encoder.
"""

from math import hypot
from pathlib import Path

FOLDER = Path(__file__).parent / "_static"
WIDTH, HEIGHT, RADIUS = 440, 210, 19  # pixels, as of all sizes here

# name of a variable: kind, place; a name is a letter, or a letter and what stands below it
SVAE = {
    "a": ("observed", 60, 65),
    "s": ("latent", 170, 65),
    "z": ("latent", 275, 65),
    "x": ("observed", 385, 65),
    "α": ("parameter", 40, 165),
    "π": ("parameter", 105, 165),
    "γ": ("latent", 170, 165),
    "μ": ("parameter", 235, 165),
    "θ": ("parameter", 350, 165),
    "l": ("observed", 410, 165),
}
SAMS = {
    "a": ("observed", 50, 105),
    "s": ("latent", 155, 105),
    "z": ("latent", 270, 105),
    "x": ("observed", 385, 105),
    "π": ("parameter", 50, 30),
    "m": ("latent", 120, 30),
    "e": ("latent", 190, 30),
    "σ": ("parameter", 255, 30),
    "z_b": ("latent", 270, 183),
    "θ": ("parameter", 350, 183),
    "l": ("observed", 410, 183),
}
SCCVAE = {
    "f": ("observed", 50, 30),
    "S": ("latent", 150, 30),
    "c": ("parameter", 100, 105),
    "B": ("parameter", 270, 30),
    "u": ("latent", 235, 105),
    "x": ("observed", 385, 105),
    "z": ("latent", 235, 183),
    "σ": ("parameter", 385, 183),
}
INVAE = {
    "d": ("observed", 60, 50),
    "e": ("observed", 60, 160),
    "z_I": ("latent", 180, 50),
    "z_S": ("latent", 180, 160),
    "x": ("observed", 310, 105),
    "θ": ("parameter", 395, 60),
    "l": ("observed", 395, 150),
}
GRAPHS = {
    "svae": (
        SVAE,
        "a-s s-z z-x α-π π-γ γ-s μ-s θ-x l-x",
        ("x", "z", "q(z | x)"),
        "Perturbation a chooses a shift s, the mask gamma times mu; s moves z, and z makes x",
    ),
    "sams": (
        SAMS,
        "a-s s-z z-x π-m m-s σ-e e-s z_b-z θ-x l-x",
        ("x", "z", "q(z | x, s)"),
        "Dosages a add masks m times embeddings e to a shift s of the basal state",
    ),
    "sccvae": (
        SCCVAE,
        "f-S S-u c-u B-u z-u u-x σ-x",
        ("x", "u", "q(u | x)"),
        "Features f give a shift S, which penetrance c and graph B carry to modules u",
    ),
    "invae": (
        INVAE,
        "d-z_I e-z_S z_I-x z_S-x θ-x l-x",
        None,
        "Covariates d give the invariant block of z, covariates e the spurious one",
    ),
}
# question, models, and the baselines that they have to beat
CHOICES = [
    ("Which processes does each perturbation move?", "SVAEPlus", "VAE"),
    ("What do unmeasured combinations do?", "SAMSVAE", "AdditiveEffects, InteractionRidge"),
    ("What does a perturbation never measured do?", "SCCVAE", "BilinearRidge, PerturbedMean"),
    ("Which types are there, without the batch?", "InVAE", "PCA"),
    ("Are effects broad, as of many drugs?", "IVAE", "VAE, AdditiveEffects"),
    ("What do doses do?", "SAMSVAE", "AdditiveEffects"),
]
STYLE = """
svg.graph .edge { stroke: var(--pst-color-text-muted, #59636e); stroke-width: 1.5; fill: none; }
svg.graph .guide { stroke-dasharray: 4 3; }
svg.graph .head { fill: var(--pst-color-text-muted, #59636e); }
svg.graph circle { stroke: var(--pst-color-text-base, #1f2328); stroke-width: 1.5; }
svg.graph .latent { fill: var(--pst-color-background, #ffffff); }
svg.graph .observed { fill: var(--pst-color-border, #c9ced6); }
svg.graph text { fill: var(--pst-color-text-base, #1f2328); text-anchor: middle; }
svg.graph .name { font: italic 18px Georgia, "Times New Roman", serif; }
svg.graph .box { fill: var(--pst-color-surface, #f3f4f6); }
svg.graph .box { stroke: var(--pst-color-border, #c9ced6); }
svg.graph .question { font: 600 15px system-ui, sans-serif; text-anchor: start; }
svg.graph .model { font: 600 14px ui-monospace, Menlo, Consolas, monospace; text-anchor: start; }
svg.graph .beside { font: 13px system-ui, sans-serif; text-anchor: start; }
svg.graph .note { font: italic 13px Georgia, "Times New Roman", serif; }
"""


def label(name, x, y):
    """Name of a variable at its place."""
    letter, _, index = name.partition("_")
    below = f'<tspan dy="4" font-size="12">{index}</tspan>' if index else ""
    return f'<text class="name" x="{x}" y="{y + 6}">{letter}{below}</text>'


def edge(start, end):
    """Arrow from the rim of one variable to that of another."""
    (_, x0, y0), (_, x1, y1) = start, end
    length = hypot(x1 - x0, y1 - y0)
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    first, last = (12 if kind == "parameter" else RADIUS for kind in (start[0], end[0]))
    last += 4  # for the tip
    points = f"M{x0 + first * dx:.1f} {y0 + first * dy:.1f}"
    points += f" L{x1 - last * dx:.1f} {y1 - last * dy:.1f}"
    return f'<path class="edge" marker-end="url(#head)" d="{points}"/>'


def guide(start, end, text):
    """Dashed arc of the encoder, above the arrow that it answers."""
    (_, x0, y), (_, x1, _) = start, end
    top, middle = y - RADIUS - 2, (x0 + x1) / 2
    arc = f"M{x0 - 8} {top} Q{middle} {top - 34} {x1 + 10} {top - 1}"
    path = f'<path class="edge guide" marker-end="url(#head)" d="{arc}"/>'
    return f'{path}<text class="note" x="{middle}" y="{top - 22}">{text}</text>'


def graph(name):
    """The SVG of one model as a text."""
    nodes, edges, encoder, what = GRAPHS[name]
    marker = f"head-{name}"
    lines = [
        f'<svg class="graph" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{what}">',
        f"<style>{STYLE}</style>",
        f'<defs><marker id="{marker}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>',
    ]
    drawn = [edge(*(nodes[end] for end in pair.split("-"))) for pair in edges.split()]
    if encoder:
        drawn.append(guide(nodes[encoder[0]], nodes[encoder[1]], encoder[2]))
    lines += [line.replace("#head", f"#{marker}") for line in drawn]
    for variable, (kind, x, y) in nodes.items():
        if kind != "parameter":
            lines.append(f'<circle class="{kind}" cx="{x}" cy="{y}" r="{RADIUS}"/>')
        lines.append(label(variable, x, y))
    return "\n".join([*lines, "</svg>", ""])


def choice():
    """The SVG of which model answers which question, as a text."""
    row, gap = 64, 10
    height = len(CHOICES) * (row + gap)
    lines = [
        f'<svg class="graph" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'role="img" aria-label="Which model for which question; the table below says the same">',
        f"<style>{STYLE}</style>",
    ]
    for number, (question, model, baselines) in enumerate(CHOICES):
        y = number * (row + gap) + 1
        beside = 60 + 9 * len(model)
        lines += [
            f'<rect class="box" x="1" y="{y}" width="{WIDTH - 2}" height="{row}" rx="6"/>',
            f'<text class="question" x="14" y="{y + 25}">{question}</text>',
            f'<path class="edge" d="M16 {y + 36} v10 h16 m-5 -5 l6 5 l-6 5"/>',
            f'<text class="model" x="42" y="{y + 51}">{model}</text>',
            f'<text class="beside" x="{beside}" y="{y + 51}">beside {baselines}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def pictures():
    """Text of each file that this module writes, by its name."""
    drawn = {f"graph_{model}.svg": graph(model) for model in GRAPHS}
    return drawn | {"which_model.svg": choice()}


if __name__ == "__main__":
    for file, drawing in pictures().items():
        (FOLDER / file).write_text(drawing, encoding="utf-8")
