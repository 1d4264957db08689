"""What a terminal, a notebook and a log show of a fit while it runs."""

import io
import os
import pty
import re
import threading
import time
import warnings
from contextlib import redirect_stderr

import numpy as np
import pytest
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skpert import SAMSVAE, SVAE, VAE, SVAEPlus, _line, _monitor
from skpert._line import Line, spoken, width
from skpert.exceptions import TrainingWarning
from skpert.model_selection import PerturbationKFold, evaluate_perturbations

pytestmark = pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
FAST = {"n_latent": 3, "n_hidden": 8, "n_layers": 1, "max_epochs": 4, "batch_size": 32}
FAST |= {"n_particles": 2, "device": "cpu", "random_state": 0}
A = np.repeat(["control", "P0", "P1", "P2", "P3"], 20)
X = np.random.default_rng(0).poisson(3.0, (100, 20)).astype(np.float32)


class Terminal:
    """A pseudo-terminal; what is written to it is read as it comes."""

    def __init__(self):
        self.master, slave = pty.openpty()
        self.stream, self.parts = os.fdopen(slave, "w", encoding="utf-8"), []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        while True:
            try:
                part = os.read(self.master, 65536)
            except OSError:  # the other end is closed
                return
            if not part:
                return
            self.parts.append(part)

    def __enter__(self):  # within a test, as pytest replaces the stream before each
        self.redirection = redirect_stderr(self.stream)
        self.redirection.__enter__()

    def __exit__(self, *reason):
        self.redirection.__exit__(*reason)

    def text(self):
        """All that was written; nothing can be written after this."""
        self.stream.close()
        self.reader.join()
        return b"".join(self.parts).decode().replace("\r\n", "\n")

    def screen(self):
        """Lines as they stand in the end."""
        lines = []
        for line in self.text().split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        return lines[:-1] if lines[-1] == "" else lines


@pytest.fixture
def terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.delenv("TERM", raising=False)
    yield terminal
    terminal.text()
    os.close(terminal.master)


@pytest.fixture
def every_fit_is_long(monkeypatch):
    """Show the line of a fit however short it is, and each drawing of it."""
    for module, name in [(_monitor, "SOON"), (_monitor, "LONG"), (_line, "EVERY")]:
        monkeypatch.setattr(module, name, 0.0)


def drawn(text):
    """Each drawing of the line."""
    return [part for part in re.split("[\r\n]", text) if "|" in part]


def test_a_long_fit_has_a_heading_a_line_and_a_last_line(terminal, every_fit_is_long):
    with terminal:
        SVAEPlus(**FAST).fit(X, A)
    text = terminal.text()
    heading, last = terminal.screen()
    where = "SVAEPlus: 100 cells, 20 genes, 4 perturbations, cpu, about"
    assert re.fullmatch(rf"{where} \d+ s", heading)
    assert re.fullmatch(r"SVAEPlus: 4 epochs in \d+ s, ELBO -[\d.]+ nats per cell", last)
    lines = drawn(text)
    assert len(lines) == 4
    for number, line in enumerate(lines, 1):
        part = rf"\w+ phase, epoch {number}/4 \|.*\| ELBO -[\d.]+, \d+ s left"
        assert re.fullmatch(part, line)
    assert [line.split()[0] for line in lines] == ["dense", "dense", "sparse", "sparse"]
    assert max(map(len, re.split("[\r\n]", text))) <= 79


def test_restarts_are_numbered_and_patience_is_an_upper_bound(terminal, every_fit_is_long):
    settings = FAST | {"max_epochs": 40, "learning_rate": 0.1, "schedule": "constant"}
    with terminal:
        VAE(n_init=2, patience=2, **settings).fit(X, A)
    text = terminal.text()
    assert ", at most " in text
    assert "training 2/2, epoch  1/40" in text
    assert "epoch 40/40" not in text


def adapted(model, labels=("P4", "P5"), **options):
    return model.adapt(X[60:], np.repeat([*labels, "control"], [15, 15, 10]), **options)


def refined(model):
    return model.refine(X, A)


@pytest.fixture(scope="module")
def fitted():
    models = {"SVAEPlus": SVAEPlus(**FAST), "SAMSVAE": SAMSVAE(**FAST)}
    models["SVAE"] = SVAE(
        **FAST, init="random", edges="learned"
    )  # masks that are trained, in adapt too
    return {name: model.fit(X, A) for name, model in models.items()}


@pytest.mark.parametrize(
    ("name", "method", "options", "what"),
    [
        ("SVAE", adapted, {"sparse": True}, "adapt: 30 cells, 20 genes, 2 new perturbations"),
        ("SAMSVAE", adapted, {}, "adapt: 30 cells, 20 genes, 2 new perturbations"),
        ("SAMSVAE", refined, {}, "refine: 90 cells, 20 genes, 4 perturbations"),
    ],
)
def test_other_methods_that_train_have_one(
    name, method, options, what, terminal, fitted, every_fit_is_long
):
    with terminal:
        model = method(fitted[name], **options)
    text = terminal.text()
    heading, last = terminal.screen()
    assert re.fullmatch(rf"{name}\.{what}, cpu, about \d+ s", heading)
    assert re.fullmatch(
        rf"{name}\.\w+: 4 epochs in \d+ s, (loss|ELBO) -?[\d.]+ nats per cell", last
    )
    lines = drawn(text)
    assert len(lines) == model.n_iter_ == 4
    assert all(f"epoch {number}/4 |" in line for number, line in enumerate(lines, 1))
    assert max(map(len, re.split("[\r\n]", text))) <= 79


def test_several_trainings_of_a_fit_are_one_of_other_methods(terminal, every_fit_is_long):
    model = SAMSVAE(**FAST, n_init=2, verbose=0).fit(X, A).set_params(verbose="auto")
    with terminal:
        refined(model)
    assert "epoch 4/4 |" in drawn(terminal.text())[-1]
    assert "training" not in terminal.text()


@pytest.mark.parametrize("verbose", ["auto", 0, 1])
def test_effects_that_are_not_trained_are_announced_where_it_takes_long(
    verbose, terminal, fitted, monkeypatch
):
    monkeypatch.setattr(_line, "LONG", 0.01)
    model = fitted["SVAEPlus"]._copy().set_params(verbose=verbose)
    extended = type(model.module_).extended

    def slowly(*arguments, **options):
        time.sleep(0.1)
        return extended(*arguments, **options)

    monkeypatch.setattr(type(model.module_), "extended", slowly)
    with terminal:
        adapted(model)
    assert ("new perturbations |" in terminal.text()) is (verbose != 0)
    if verbose:
        heading, last = terminal.screen()
        assert heading == "SVAEPlus.adapt: 30 cells, 20 genes, 2 new perturbations, cpu"
        assert re.fullmatch(r"SVAEPlus\.adapt: \d+ s", last)


@pytest.mark.parametrize("method", [adapted, refined])
def test_other_methods_are_silent_where_they_are_short(method, terminal, fitted):
    with terminal:
        method(fitted["SAMSVAE"])
    assert terminal.text() == ""


def test_what_is_wrong_ends_the_line_of_other_methods(terminal, fitted, monkeypatch):
    monkeypatch.setattr(_line, "LONG", 0.05)
    before = threading.active_count()
    with terminal, pytest.raises(ValueError, match="known"):
        adapted(fitted["SVAEPlus"], ["P0", "P5"])
    assert terminal.text() == ""
    assert threading.active_count() <= before


def test_a_short_fit_shows_nothing(terminal):
    with terminal:
        SVAEPlus(**FAST).fit(X, A)
    assert terminal.text() == ""


@pytest.mark.parametrize("verbose", [0, False])
def test_silence_that_was_asked_for(verbose, terminal, every_fit_is_long):
    with terminal:
        SVAEPlus(**FAST, verbose=verbose).fit(X, A)
    assert terminal.text() == ""


def test_one_shows_the_line_of_a_short_fit_too(terminal):
    with terminal:
        SVAEPlus(**FAST, verbose=1).fit(X, A)
    text = terminal.text()
    assert len(drawn(text)) >= 1
    assert len(terminal.screen()) == 2


def test_without_held_out_cells_the_loss_is_shown(terminal, every_fit_is_long):
    with terminal:
        model = VAE(**FAST, validation_fraction=0).fit(X, A)
    terms = model.history_.iloc[-1].drop("phase").sum()
    assert f"loss {terms:.1f}, " in drawn(terminal.text())[-1]


@pytest.mark.parametrize("verbose", ["auto", 1])
def test_a_log_has_no_line_per_epoch(verbose, capfd, every_fit_is_long):
    VAE(**FAST, verbose=verbose).fit(X, A)
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == (2 if verbose == 1 else 0)
    assert "\r" not in err


def test_a_notebook_counts_as_a_terminal(monkeypatch, every_fit_is_long):
    kind = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    monkeypatch.delenv("TERM", raising=False)
    with redirect_stderr(kind()) as stream:
        VAE(**FAST).fit(X, A)
    assert len(drawn(stream.getvalue())) == 4


@pytest.mark.parametrize("stream", [None, object()])
def test_a_program_without_standard_error(stream):
    with redirect_stderr(stream):
        VAE(**FAST).fit(X, A)


def test_a_simple_terminal_gets_no_line(terminal, monkeypatch, every_fit_is_long):
    monkeypatch.setenv("TERM", "dumb")
    with terminal:
        VAE(**FAST).fit(X, A)
    assert terminal.text() == ""


def searched():
    GridSearchCV(VAE(**FAST), {"n_hidden": [4, 8]}, cv=PerturbationKFold(2)).fit(X, A)


def several():
    Parallel(n_jobs=1)(delayed(clone(VAE(**FAST)).fit)(X, A) for _ in range(2))
    Parallel(n_jobs=2, backend="threading")(delayed(VAE(**FAST).fit)(X, A) for _ in range(2))


def scored():
    cross_val_score(VAE(**FAST), X, A, cv=PerturbationKFold(2))


def evaluated():
    options = {"cv": PerturbationKFold(2), "space": "counts", "metrics": ["response_mse"]}
    evaluate_perturbations({"svae": SVAEPlus(**FAST)}, X, A, random_state=0, **options)


def in_another_thread():
    thread = threading.Thread(target=VAE(**FAST).fit, args=(X, A))
    thread.start()
    thread.join()


@pytest.mark.parametrize("fits", [searched, several, scored, evaluated, in_another_thread])
def test_fits_that_are_some_of_many_are_silent(fits, terminal, every_fit_is_long):
    with terminal:
        fits()
    assert terminal.text() == ""


def test_a_pipeline_is_one_fit(terminal, every_fit_is_long):
    with terminal:
        make_pipeline(FunctionTransformer(), VAE(**FAST)).fit(X, A)
    assert len(drawn(terminal.text())) == 4


def test_the_bar_of_scikit_learn_takes_its_place(terminal, every_fit_is_long):
    callback = pytest.importorskip("sklearn.callback")
    pytest.importorskip("rich")
    with terminal:
        VAE(**FAST).set_callbacks(callback.ProgressBar()).fit(X, A)
    assert not drawn(terminal.text())


def test_ctrl_c_leaves_a_clean_line(terminal, every_fit_is_long, monkeypatch):
    told = _monitor.Monitor.__call__

    def interrupted(self, row):
        stop = told(self, row)
        if row and self.epoch == 2:
            raise KeyboardInterrupt
        return stop

    monkeypatch.setattr(_monitor.Monitor, "__call__", interrupted)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: terminal.stream.write(f"{message}\n")
        with terminal:
            VAE(**FAST).fit(X, A)
    heading, said, last = terminal.screen()
    assert said == "interrupted; the weights of epoch 1 are kept"
    assert last.startswith("VAE: 2 epochs in ")


def test_an_error_leaves_a_clean_line(terminal, every_fit_is_long, monkeypatch):
    told = _monitor.Monitor.__call__

    def broken(self, row):
        told(self, row)
        raise RuntimeError("broken")

    monkeypatch.setattr(_monitor.Monitor, "__call__", broken)
    with pytest.raises(RuntimeError, match="broken"):
        with terminal:
            VAE(**FAST).fit(X, A)
    terminal.stream.write("after\n")
    assert terminal.screen()[1:] == ["after"]


def test_a_diverged_training_is_said_and_the_line_is_gone(terminal, every_fit_is_long):
    with pytest.warns(TrainingWarning), pytest.raises(ValueError, match="epoch"):
        with terminal:
            VAE(**FAST | {"learning_rate": 1e38, "n_init": 2}).fit(X, A)
    assert not drawn(terminal.screen()[-1] if terminal.screen() else "")


def test_a_first_epoch_that_takes_long_is_announced(terminal, monkeypatch):
    monkeypatch.setattr(_line, "LONG", 0.05)
    with terminal:
        line = Line(lambda seconds: f"expected: {seconds}", 3, live=True)
    deadline = time.monotonic() + 10
    while not line.begun and time.monotonic() < deadline:
        time.sleep(0.01)
    line.end("done")
    assert "first epoch |" in terminal.text()
    assert terminal.screen() == ["expected: None", "done"]


def test_a_line_that_is_there_is_not_announced_again(terminal, monkeypatch):
    monkeypatch.setattr(_line, "LONG", 0.05)
    with terminal:
        line = Line(lambda seconds: f"expected: {seconds}", 3, live=True)
    line.begin(7.0)
    line.timer.join(10)
    line.end("done")
    assert terminal.screen() == ["expected: 7.0", "done"]
    assert not drawn(terminal.text())


def test_a_heading_that_is_too_long_is_continued(terminal):
    with terminal:
        line = Line(lambda seconds: "word " * 30, 3, live=True)
    line.begin()
    line.hide()
    first, second = terminal.screen()
    assert len(first) <= 79
    assert second.startswith("  word")


@pytest.mark.parametrize(("columns", "expected"), [(0, 79), (40, 39), (200, 79)])
def test_width_of_terminals(columns, expected, terminal):
    import fcntl
    import struct
    import termios

    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(terminal.stream.fileno(), termios.TIOCSWINSZ, size)
    assert width(terminal.stream) == expected
    assert width(io.StringIO()) == 79


def test_lines_fit_narrow_terminals(terminal, every_fit_is_long, monkeypatch):
    monkeypatch.setattr(_line, "WIDTH", 40)
    with terminal:
        SVAEPlus(**FAST, n_init=2).fit(X, A)
    text = terminal.text()
    assert len(drawn(text)) == 8
    assert max(map(len, drawn(text))) <= 39


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (89.4, "89 s"), (90, "2 min"), (5000, "83 min"), (7200, "2.0 h")],
)
def test_times_have_the_unit_that_suits_them(seconds, text):
    assert spoken(seconds) == text
