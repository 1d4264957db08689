"""Use skpert as it was installed, outside of its checkout; with all extras, as the README does.

``python installed.py README.md`` in an environment that has the package and not the checkout.
"""

import re
import sys
import tempfile
import warnings
from contextlib import chdir
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import skpert

checkout = Path(__file__).resolve().parents[1]
assert not Path(skpert.__file__).is_relative_to(checkout / "skpert"), "this is the checkout"
assert files("skpert").joinpath("py.typed").is_file()

screen = skpert.datasets.make_sparse_shift(
    3, n_cells_per_perturbation=30, n_control_cells=30, n_latent=2, n_genes=50, random_state=0
)
model = skpert.SVAEPlus(n_latent=2, max_epochs=3, random_state=0)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", skpert.exceptions.TrainingWarning)
    model.fit(screen.X, screen.A)
print(skpert.__version__, "without extras: targets of shape", model.targets_.shape)
if find_spec("jinja2") and find_spec("anndata"):
    (code,) = re.findall(r"```python\n(.*?)```", Path(sys.argv[1]).read_text(), re.DOTALL)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        exec(compile(code, "README.md", "exec"), {})
        skpert.as_anndata(model.predict_intervention(["P0"]), ["P0"], model)
    print("with extras: the lines of the README")
