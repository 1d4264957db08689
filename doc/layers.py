"""The picture of the layers, made of ``setup.cfg`` and of the first sentence of each module.

``python doc/layers.py`` writes it.
"""

import ast
import re
from configparser import ConfigParser
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = Path(__file__).parent / "_static" / "layers.svg"
ON_THE_WAY = {"models", "module", "base", "_training", "_data"}  # from fit to loss_terms
WIDTH, LEFT, PAD, GAP = 380, 30, 8, 8  # pixels, as of all sizes here
LETTER, LINE, CHIP = (
    8,
    19,
    26,
)  # width of a letter of a name, heights of a line and of a box

# Colours are those of the theme, light or dark; without one, dark on white.
STYLE = """
.layers { font-family: system-ui, sans-serif; fill: var(--pst-color-text-base, #1f2328); }
.layers .paper { fill: var(--pst-color-background, #ffffff); }
.layers .layer { fill: var(--pst-color-surface, #f3f4f6); }
.layers .layer { stroke: var(--pst-color-border, #c9ced6); }
.layers .chip { fill: var(--pst-color-background, #ffffff); }
.layers .chip { stroke: var(--pst-color-border, #c9ced6); }
.layers .name { font: 600 13px ui-monospace, Menlo, Consolas, monospace; }
.layers .what { font-size: 12px; }
.layers .way { fill: var(--pst-color-primary, #0a7d91); }
.layers .arrow { stroke: var(--pst-color-text-muted, #59636e); stroke-width: 1.5; fill: none; }
"""


def layers():
    """Names of the modules of each layer, top first, as import-linter's contract has them."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    rows = config["importlinter:contract:layers"]["layers"].split("\n")
    named = [re.findall(r"(?:skpert\.)?(\w+)", row) for row in rows]
    found = [[name for name in row if source(name) is not None] for row in named]
    return [row for row in found if row]


def source(name):
    """File of a module or of a package; None where there is none."""
    files = ROOT / "skpert" / f"{name}.py", ROOT / "skpert" / name / "__init__.py"
    return next((file for file in files if file.exists()), None)


def sentence(name):
    """First line of the documentation of a module."""
    first = ast.get_docstring(ast.parse(source(name).read_text())).split("\n")[0]
    return first.replace("`", "").rstrip(".")


def text(x, y, kind, content):
    """A line of text, whose lower edge is at y."""
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(content)}</text>'


def chip(name, x, y):
    """Box of a module at this corner, which says what it is for, and its width."""
    dot = 14 if name in ON_THE_WAY else 0
    width = LETTER * len(name) + dot + 2 * PAD
    size = f'width="{width}" height="{CHIP}" rx="4"'
    lines = [
        f"<g><title>{escape(sentence(name))}</title>",
        f'<rect class="chip" x="{x}" y="{y}" {size}/>',
        text(x + PAD + dot, y + 18, "name", name),
    ]
    if dot:
        lines.append(f'<circle class="way" cx="{x + PAD + 4}" cy="{y + 13}" r="4"/>')
    return ["".join([*lines, "</g>"])], width


def layer(names, top):
    """Lines of SVG of one layer, and where it ends."""
    lines, x, y = [], LEFT + PAD, top + PAD
    for name in names:
        width = chip(name, x, y)[1]
        if x > LEFT + PAD and x + width > WIDTH - PAD:
            x, y = LEFT + PAD, y + CHIP + PAD
        lines += chip(name, x, y)[0]
        x += width + PAD
    height = y + CHIP + PAD - top
    size = f'width="{WIDTH - LEFT - 1}" height="{height}" rx="6"'
    return [f'<rect class="layer" x="{LEFT}" y="{top}" {size}/>', *lines], top + height


def picture():
    """The SVG as a text."""
    lines, y = [], 2 * LINE
    for names in layers():
        rows, y = layer(names, y + GAP)
        lines += rows
    height, x = y + GAP, LEFT / 2
    head = [
        f'<svg class="layers" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'width="100%" style="max-width: 480px" role="img" aria-label="Layers of the package">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
        text(LEFT, LINE - 4, "what", "A module imports from below only."),
        f'<circle class="way" cx="{LEFT + 4}" cy="{2 * LINE - 9}" r="4"/>',
        text(LEFT + 14, 2 * LINE - 5, "what", "on the way from fit to loss_terms"),
        f'<path class="arrow" d="M{x} {3 * LINE} V{y - 4} m-6 -9 l6 9 l6 -9"/>',
    ]
    return "\n".join([*head, *lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture())
