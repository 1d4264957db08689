"""A line on standard error that says how far a training is, in a terminal or in Jupyter."""

import multiprocessing
import os
import sys
import textwrap
import threading
import time

from tqdm.std import tqdm

WIDTH = 80  # columns at most
SOON = 2.0  # seconds after which the pace of a training is known
LONG = 5.0  # seconds, at least, of a training of which it is worth to see how far it is
LONGEST_BAR = 20  # columns
EVERY = 0.1  # seconds between two drawings
MANY = (  # callers whose fits are some of many, or a part of something else
    *("joblib.parallel", "joblib._dask", "sklearn.model_selection", "sklearn.ensemble"),
    *("skpert.model_selection", "skpert.inspection", "skpert.reporting"),
)


class Bar(tqdm):
    """A bar of tqdm that starts no thread."""

    monitor_interval = 0


class Line:
    """A heading, a line that is drawn again and again, and a last line.

    The heading appears as soon as it is known how long the training takes, or after ``LONG``
    seconds in which no epoch has ended.

    Parameters
    ----------
    heading : callable
        ``heading(seconds)``: text of the heading; seconds that the training takes, None if that
        is not known.
    total : int
        Number of epochs.
    live : bool
        Whether there is a line that moves. Without, heading and last line are all.
    before : str, default="first epoch"
        What happens until the first epoch has ended.
    """

    def __init__(self, heading, total, *, live, before="first epoch"):
        self.heading, self.total, self.live, self.before = heading, total, live, before
        self.stream, self.lock = sys.stderr, threading.RLock()
        self.begun, self.bar, self.drawn = False, None, -float("inf")
        self.timer = threading.Timer(LONG, self._begin_late)
        self.timer.daemon = True
        self.timer.start()

    def begin(self, seconds=None):
        """Write the heading, if it is not there."""
        with self.lock:
            if not self.begun:
                self.begun = True
                lines = textwrap.fill(
                    self.heading(seconds), width(self.stream), subsequent_indent="  "
                )
                self.stream.write(lines + "\n")
                self.stream.flush()

    def draw(self, epoch, before, after):
        """Draw the line: a text, a bar that shows how many epochs are done, another text."""
        now = time.monotonic()
        with self.lock:
            if not self.live or (now - self.drawn < EVERY and epoch < self.total):
                return
            columns = width(self.stream)
            room = min(max(columns - len(before) - len(after) - 4, 1), LONGEST_BAR)
            form = f"{before} |{{bar:{room}}}| {after}"
            if self.bar is None:  # it is drawn as it begins; 24: not to ask a terminal for rows
                place = {"leave": False, "file": self.stream, "ncols": columns, "nrows": 24}
                self.bar = Bar(total=self.total, initial=epoch, bar_format=form, **place)
            else:
                self.bar.n, self.bar.bar_format, self.bar.ncols = epoch, form, columns
                self.bar.refresh()
            self.drawn = now

    def hide(self):
        """Leave the place of the line to others until it is drawn again."""
        self.timer.cancel()
        with self.lock:
            if self.bar is not None:
                self.bar.close()
            self.bar, self.drawn = None, -float("inf")

    def end(self, text):
        """Write the last line in its place."""
        self.hide()
        self.begin()
        self.stream.write(text + "\n")
        self.stream.flush()

    def _begin_late(self):
        with self.lock:
            if self.begun:
                return
            self.begin()
            self.draw(0, self.before, "time left is not yet known")


def line_wanted(verbose):
    """How a fit shows its progress: with a "live" line, in two "lines", or not at all, None."""
    if isinstance(verbose, str):  # "auto"
        return "live" if _is_watched() else None
    if not verbose or sys.stderr is None:
        return None
    return "live" if _is_watched() else "lines"


def width(stream):
    """Columns for a line on this stream, of which the last one stays empty."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (AttributeError, OSError, ValueError):
        columns = 0
    return min(columns or WIDTH, WIDTH) - 1


def spoken(seconds):
    """A time in the unit that suits it."""
    for unit, size in (("s", 1), ("min", 60)):
        if seconds < 90 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.1f} h"


def _is_watched():
    """Whether a terminal or a notebook shows this fit, which is none of many."""
    try:
        live = sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")
    except (AttributeError, ValueError):  # none, a substitute, or closed
        return False
    own = multiprocessing.current_process().name == "MainProcess"  # not a worker's
    main = threading.current_thread() is threading.main_thread()
    return live and own and main and os.environ.get("TERM") != "dumb" and not _is_one_of_many()


def _is_one_of_many():
    """Whether a search, an evaluation or joblib called: a single job leaves no other trace."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(MANY):
            return True
        frame = frame.f_back
    return False
