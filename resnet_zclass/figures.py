"""Charts, and the style of every picture: labelled units, colours that colour-blind readers can tell apart."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

from resnet_zclass.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

matplotlib = lazy.load("matplotlib")

# Okabe & Ito, Color Universal Design, 2008.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GRAY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#777777"
)  # fmt: skip
INK = "#222222"  # of text and axes
SPLIT_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN, "mixed": PURPLE}
# Scores of validation predictions, and how they are called in pictures.
SCORES = {
    "accuracy": "accuracy",
    "macro_f1": "F1, mean of classes",
    "samples_f1": "F1, mean of images",
    "micro_f1": "F1, all labels pooled",
}
STYLE = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "svg.hashsalt": "resnet_zclass",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.1,
    "savefig.dpi": 150,
}


def new_figure(width_in: float, height_in: float) -> "Figure":
    """An empty figure in the package's style, without the global state of pyplot. Use within `style()`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasAgg(figure)
    return figure


def style():
    """Context in which figures are drawn and saved."""
    return matplotlib.rc_context(STYLE)


def escape(name: str) -> str:
    r"""A name as matplotlib shows it to the letter: dollars would begin a formula.

    >>> print(escape("a$b"))
    a\$b
    """
    return name.replace("$", r"\$")


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Saves a figure whole, in the format of the path's suffix."""
    with whole_file(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in scripts that the font lacks
        is_svg = partial.suffix == ".svg"
        figure.savefig(partial, transparent=is_svg, metadata={"Date": None} if is_svg else None)


def save_chart(figure: "Figure", path: str | Path) -> None:
    """Saves a chart as the PNG `path` for the screen, and as SVG beside it for print and pages."""
    save_figure(figure, path)
    save_figure(figure, Path(path).with_suffix(".svg"))


def draw_curves(
    history: Mapping[str, Sequence[float]],
    path: str | Path,
    title: str = "",
    score: str = "accuracy",
    best_epoch: int | None = None,
) -> None:
    """Draws loss, a score and the learning rate over the epochs, training and validation.

    Epochs are numbered from 1 in the picture, as on the screen.

    Args:
        history: Lists of one number per epoch: `loss`, `accuracy`, `macro_f1`, ..., the same starting `val_`, and
            `learning_rate`. What is missing is not drawn.
        path: PNG or SVG to write.
        title: Title.
        score: What the second panel shows, a name in `SCORES`.
        best_epoch: Index of the epoch to mark, if any.
    """
    with style():
        figure = new_figure(9.6, 3.0)
        panels = figure.subplots(1, 3)
        for axes, name in zip(panels, ("loss", score), strict=False):
            _draw_history(axes, history, name)
            axes.set_ylabel(SCORES.get(name, name))
        if _spans_decades(panels[0]):
            panels[0].set_yscale("log")
        panels[1].set_ylim(0, 1.02)
        _draw_rates(panels[2], history.get("learning_rate", []))
        for axes in panels:
            if best_epoch is not None:
                axes.axvline(best_epoch + 1, color=GRAY, linewidth=0.8, linestyle="--", label="best epoch", zorder=0)
            _number_epochs(axes, len(history.get("loss", [])))
        handles, words = panels[0].get_legend_handles_labels()
        figure.legend(handles, words, loc="outside lower center", ncols=len(words))
        figure.suptitle(escape(title), x=0.01, ha="left", fontsize=10)
        save_figure(figure, path)


def _draw_history(axes: "Axes", history: Mapping[str, Sequence[float]], name: str) -> None:
    for prefix, words, colour in (("", "training", BLUE), ("val_", "validation", ORANGE)):
        values = history.get(prefix + name, [])
        axes.plot(np.arange(1, len(values) + 1), values, color=colour, marker=_dot(len(values)), label=words)


def _draw_rates(axes: "Axes", rates: Sequence[float]) -> None:
    """Learning rates as steps on a log axis; a rate of 0 has no place on it and leaves a gap."""
    rates = np.asarray(rates, float)
    positive = np.where(rates > 0, rates, np.nan)
    axes.plot(np.arange(1, len(rates) + 1), positive, color=GREEN, marker=_dot(len(rates)), drawstyle="steps-mid")
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter("")
    if np.isfinite(positive).any():
        axes.set_ylim(np.nanmin(positive) / 4, np.nanmax(positive) * 4)
    axes.set_ylabel("learning rate")


def _dot(n_epochs: int) -> str:
    """A dot per epoch, as long as they can be told apart."""
    return "." if n_epochs <= 50 else ""


def _number_epochs(axes: "Axes", n_epochs: int) -> None:
    axes.set(xlabel="epoch", xlim=(0.4, max(n_epochs, 1) + 0.6))
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def _spans_decades(axes: "Axes") -> bool:
    """Whether lines are positive and run over more than a factor of 50, which a plain axis hides."""
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    values = values[np.isfinite(values)]
    return len(values) > 0 and values.min() > 0 and values.max() > 50 * values.min()


def draw_confusion(confusion: np.ndarray, names: Sequence[str], path: str | Path) -> None:
    """Draws a confusion matrix `(K, K)` as shares of each true class."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    with style():
        figure = new_figure(4.2, 3.5)
        axes = figure.subplots()
        image = axes.imshow(share, cmap="cividis", vmin=0, vmax=1)
        figure.colorbar(image, label="share of the true class", shrink=0.8)
        every = -(-len(names) // 14)
        ticks = np.arange(0, len(names), every)
        axes.set_xticks(ticks, [escape(names[i]) for i in ticks], rotation=90)
        axes.set_yticks(ticks, [escape(names[i]) for i in ticks])
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.spines[:].set_visible(False)
        save_chart(figure, path)


def draw_plane_errors(
    per_class: dict[str, np.ndarray], names: Sequence[str], z_um: np.ndarray | None, path: str | Path
) -> None:
    """Draws how far predicted planes lie from the true one, plane by plane.

    Args:
        per_class: What `metrics.per_class_metrics` returns.
        names: Names of the classes.
        z_um: z of every class in um, if known; gives the horizontal axis.
        path: PNG to write; an SVG is written beside it.
    """
    known = z_um is not None
    x = np.asarray(z_um, float) if known else np.arange(len(names))
    step_um = float(np.median(np.diff(x))) if known else 1.0
    unit = "um" if known else "planes"
    with style():
        figure = new_figure(3.6, 4.6)
        upper, lower = figure.subplots(2, 1)
        bias, spread = (per_class[f"{key}_planes"] * step_um for key in ("bias", "spread"))
        upper.axhline(0, color=GRAY, linewidth=0.8)
        upper.errorbar(x, bias, yerr=spread, color=BLUE, marker=".", linestyle="none", capsize=2)
        upper.set(title="mean error, bars: standard deviation", ylabel=f"predicted - true ({unit})")
        lower.plot(x, per_class["recall"], color=BLUE, marker=".")
        lower.set(title="share of right planes", ylabel="recall", ylim=(0, 1.02))
        for axes in (upper, lower):
            axes.set_xlabel(f"true z ({unit if known else 'class'})")
        save_chart(figure, path)


def draw_reliability(table: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Draws how often the network is right beside how sure it is.

    Args:
        table: What `calibration.reliability` returns.
        path: PNG to write; an SVG is written beside it.
    """
    with style():
        figure = new_figure(3.6, 3.4)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8)
        axes.plot(table["confidence"], table["accuracy"], color=BLUE, marker=".")
        for n, x, y in zip(table["n"], table["confidence"], table["accuracy"], strict=True):
            axes.annotate(f"{n}", (x, y), (4, 4 if y < 0.5 else -9), textcoords="offset points", fontsize=7)
        axes.set(title="numbers: images", xlabel="confidence", ylabel="share right")
        axes.set(xlim=(0, 1.08), ylim=(0, 1.05), xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
        save_chart(figure, path)


def draw_limits(limits: Mapping[str, np.ndarray], z_um: np.ndarray, path: str | Path) -> None:
    """Draws error and bias of z, plane by plane, beside the Cramer-Rao bound, for every level of brightness.

    Args:
        limits: What `metrics.limit_table` returns, in um.
        z_um: z of every class in um, array `(K,)`.
        path: PNG to write; an SVG is written beside it.
    """
    with style():
        figure = new_figure(3.6, 5.0)
        upper, lower = figure.subplots(2, 1)
        lower.axhline(0, color=GRAY, linewidth=0.8)
        for level, colour in zip(np.unique(limits["level"]), (BLUE, ORANGE, GREEN), strict=False):
            chosen = limits["level"] == level
            z = np.asarray(z_um)[limits["plane"][chosen]]
            words = f"{np.average(limits['photons'][chosen], weights=limits['n'][chosen]):,.0f}"
            upper.plot(z, limits["rmse"][chosen], ".", color=colour, label=words)
            upper.plot(z, limits["bound"][chosen], color=colour, linewidth=1)
            lower.plot(z, limits["bias"][chosen], ".", color=colour)
        worst = max(float(np.max(limits["rmse"])), 1e-6)
        upper.set(title="RMS error; lines: the bound", ylabel="um", ylim=(0, 1.15 * worst))  # the bound may be infinite
        lower.set(title="mean error", ylabel="decoded - true (um)")
        for axes in (upper, lower):
            axes.set_xlabel("true z (um)")
        figure.legend(loc="outside upper center", ncols=3, title="photons", title_fontsize=9)
        save_chart(figure, path)


def draw_class_counts(
    names: Sequence[str],
    counts: Mapping[str, Sequence[int]],
    drawn: Sequence[int] | None,
    path: str | Path,
) -> None:
    """Draws the number of images of every class, one panel per split.

    Args:
        names: Names of the K classes.
        counts: K numbers of images for each split (`train`, `val`, `test`).
        drawn: How often the K classes are drawn in an epoch of training, where that is not as often as they are
            there; drawn as an outline in the panel of `train`.
        path: PNG to write; an SVG is written beside it.
    """
    is_skewed = any(np.max(numbers) > 50 * max(1, np.min(numbers)) for numbers in counts.values())
    with style():
        figure = new_figure(3.2 + 2.0 * len(counts), 1.5 + 0.19 * len(names))
        panels = np.atleast_1d(figure.subplots(1, len(counts), sharey=True))
        for axes, (split, numbers) in zip(panels, counts.items(), strict=True):
            _draw_counts(axes, split, np.asarray(numbers), drawn if split == "train" else None)
            if is_skewed:  # on a plain axis rare classes would be gone beside common ones
                axes.set_xscale("symlog", linthresh=1)
                axes.set_xlim(0, 8 * axes.get_xlim()[1])
                axes.set_xticks([0, *10 ** np.arange(np.log10(axes.get_xlim()[1]))])
                axes.minorticks_off()
        if drawn is not None:
            figure.legend(loc="outside upper right")
        _name_rows(panels[0], names)
        save_chart(figure, path)


def _draw_counts(axes: "Axes", split: str, numbers: np.ndarray, drawn: Sequence[int] | None) -> None:
    rows = np.arange(len(numbers))
    axes.barh(rows, numbers, color=SPLIT_COLOURS.get(split, PURPLE), height=0.75)
    words, ends = [f"{number}" for number in numbers], numbers
    if drawn is not None:
        axes.barh(rows, drawn, facecolor="none", edgecolor=RED, height=0.75, label="drawn in an epoch of training")
        words = [word if n == m else f"{word}, drawn {m}" for word, n, m in zip(words, numbers, drawn, strict=True)]
        ends = np.maximum(numbers, drawn)
    for row, (word, end) in enumerate(zip(words, ends, strict=True)):
        axes.annotate(word, (end, row), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set(title=split, xlabel="images", xlim=(0, (1.2 if drawn is None else 1.6) * max(1, ends.max())))
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=4)
    axes.tick_params(axis="y", length=0)


def draw_class_scores(names: Sequence[str], scores: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Draws F1, precision and recall of every class, the class with most images on top.

    Args:
        names: Names of the K classes.
        scores: Arrays `(K,)` `f1`, `precision`, `recall` in 0..1 (NaN where there is none) and `n`, images per class.
        path: PNG to write; an SVG is written beside it.
    """
    order = np.argsort(-np.asarray(scores["n"]), kind="stable")
    f1, precision, recall, n = (np.asarray(scores[key])[order] for key in ("f1", "precision", "recall", "n"))
    rows = np.arange(len(names))
    with style():
        figure = new_figure(7.0, 1.2 + 0.19 * len(names))
        axes = figure.subplots()
        axes.barh(rows, np.nan_to_num(f1), color=SKY, height=0.75, label="F1")
        axes.plot(precision, rows, "|", color=RED, markersize=7, markeredgewidth=1.8, label="precision")
        axes.plot(recall, rows, "o", color=BLUE, markersize=3.5, label="recall")
        for row, (value, number) in enumerate(zip(f1, n, strict=True)):
            words = f"{value:.2f}" if np.isfinite(value) else "no F1"
            axes.annotate(f"{words}   n = {number}", (1.03, row), va="center", fontsize=7, annotation_clip=False)
        axes.set(xlabel="score", xlim=(0, 1.02))
        axes.tick_params(axis="y", length=0)
        handles, words = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], words[::-1], loc="outside upper right", ncols=3)
        _name_rows(axes, [names[k] for k in order])
        save_chart(figure, path)


def _name_rows(axes: "Axes", names: Sequence[str], longest: int = 40) -> None:
    """Names the rows of a chart of horizontal bars from the top; long names lose their middle."""
    words = [name if len(name) <= longest else f"{name[: longest - 18]}...{name[-15:]}" for name in names]
    axes.set_yticks(np.arange(len(names)), [escape(word) for word in words], fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)


def draw_rate_plan(rounds: Sequence[tuple[str, Sequence[float]]], path: str | Path) -> None:
    """Draws the planned learning rate of every epoch, one panel per round.

    Args:
        rounds: Name of each round and its learning rates, none where the schedule is `plateau`.
        path: PNG to write; an SVG is written beside it.
    """
    with style():
        figure = new_figure(1.0 + 3.4 * len(rounds), 2.8)
        panels = np.atleast_1d(figure.subplots(1, len(rounds)))
        for axes, (name, rates) in zip(panels, rounds, strict=True):
            axes.set(title=name, xlabel="epoch", ylabel="learning rate")
            if len(rates):
                _draw_rates(axes, rates)
                _number_epochs(axes, len(rates))
            else:
                words = "plateau:\ndepends on the results"
                axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=GRAY)
                axes.set(xticks=[], yticks=[])
        save_chart(figure, path)
