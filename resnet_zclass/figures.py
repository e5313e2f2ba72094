"""Every picture the package draws, in one style: labelled units, colours that colour-blind readers can tell apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

from resnet_zclass.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

matplotlib = lazy.load("matplotlib")

# Okabe & Ito, Color Universal Design, 2008.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GRAY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#777777"
)  # fmt: skip
STYLE = {
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


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Saves a figure whole, in the format of the path's suffix."""
    with whole_file(path) as partial:
        figure.savefig(partial)


def draw_curves(history: dict[str, list[float]], path: str | Path, title: str = "") -> None:
    """Draws loss and accuracy over the epochs, training and validation.

    Args:
        history: Lists of one number per epoch: `loss`, `accuracy`, and the same starting `val_`.
        path: PNG to write.
        title: Title.
    """
    with style():
        figure = new_figure(7.0, 2.8)
        for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for prefix, words, colour in (("", "training", BLUE), ("val_", "validation", ORANGE)):
                values = history.get(prefix + name, [])
                axes.plot(np.arange(1, len(values) + 1), values, color=colour, marker=".", label=words)
            axes.set(xlabel="epoch", ylabel=name)
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(0, 1.02)
        axes.legend(loc="lower right")
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        save_figure(figure, path)


def draw_confusion(confusion: np.ndarray, names: Sequence[str], path: str | Path) -> None:
    """Draws a confusion matrix `(K, K)` as shares of each true class."""
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    with style():
        side = min(3.0 + 0.12 * len(names), 8.0)
        figure = new_figure(side + 0.8, side)
        axes = figure.subplots()
        image = axes.imshow(share, cmap="cividis", vmin=0, vmax=1)
        figure.colorbar(image, label="share of the true class", shrink=0.8)
        every = -(-len(names) // 20)
        ticks = np.arange(0, len(names), every)
        axes.set_xticks(ticks, [names[i] for i in ticks], rotation=90)
        axes.set_yticks(ticks, [names[i] for i in ticks])
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.spines[:].set_visible(False)
        save_figure(figure, path)


def draw_plane_errors(
    per_class: dict[str, np.ndarray], names: Sequence[str], z_um: np.ndarray | None, path: str | Path
) -> None:
    """Draws how far predicted planes lie from the true one, plane by plane.

    Args:
        per_class: What `metrics.per_class_metrics` returns.
        names: Names of the classes.
        z_um: z of every class in um, if known; gives the horizontal axis.
        path: PNG to write.
    """
    known = z_um is not None
    x = np.asarray(z_um, float) if known else np.arange(len(names))
    step_um = float(np.median(np.diff(x))) if known else 1.0
    unit = "um" if known else "planes"
    with style():
        figure = new_figure(7.0, 2.8)
        left, right = figure.subplots(1, 2)
        bias, spread = (per_class[f"{key}_planes"] * step_um for key in ("bias", "spread"))
        left.axhline(0, color=GRAY, linewidth=0.8)
        left.errorbar(x, bias, yerr=spread, color=BLUE, marker=".", linestyle="none", capsize=2)
        left.set(title="mean error, bars: standard deviation", ylabel=f"predicted - true ({unit})")
        right.plot(x, per_class["recall"], color=BLUE, marker=".")
        right.set(title="share of right planes", ylabel="recall", ylim=(0, 1.02))
        for axes in (left, right):
            axes.set_xlabel(f"true z ({unit if known else 'class'})")
        save_figure(figure, path)


SPLIT_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN, "mixed": PURPLE}
REFUSED_COLOURS = (RED, SKY, "#F0E442", PURPLE, "#FFFFFF", "#882255", "#000000")


def draw_overview(
    path: str | Path,
    fields: "Sequence[tuple[str, np.ndarray, DataFrame]]",
    montage: np.ndarray,
    bead_names: Sequence[str],
    plane_names: Sequence[str],
    counts: "DataFrame",
    max_fields: int = 2,
) -> None:
    """Draws what a set was made of: fields with their beads, crops plane by plane, and the number of crops.

    Args:
        path: PNG to write.
        fields: of each field its name, an image `(H, W)`, and its beads: a table of `y`, `x` in px, `reason`
            (empty if the bead is used) and `kind` (its split, or the reason in words).
        montage: array `(beads, planes, H, W)`, NaN where there is no crop.
        bead_names: one per row of the montage.
        plane_names: one per column of the montage.
        counts: table of crops, one row per class, one column per split.
        max_fields: number of fields to draw at most.
    """
    crop_px = montage.shape[-1]
    with style():
        figure = new_figure(11.0, 7.6)
        sides = figure.subfigures(1, 2, width_ratios=[1.0, 1.25]) if fields else [None, figure]
        if fields:
            _draw_fields(sides[0], fields[:max_fields], len(fields), crop_px)
        top, bottom = sides[1].subfigures(2, 1, height_ratios=[2.4, 1.0])
        _draw_montage(top, montage, bead_names, plane_names)
        _draw_counts(bottom, counts)
        save_figure(figure, path)


def _draw_fields(figure: "Figure", fields: Sequence[tuple], n_fields: int, crop_px: int) -> None:
    height, width = fields[0][1].shape
    shape = (1, len(fields)) if height > 1.3 * width else (len(fields), 1)
    all_axes = np.ravel(figure.subplots(*shape))
    reasons = sorted({kind for _, _, beads in fields for kind in beads.loc[beads["reason"] != "", "kind"]})
    refused = dict(zip(reasons, REFUSED_COLOURS, strict=False))
    handles = {}
    for axes, (name, image, beads) in zip(all_axes, fields, strict=True):
        low, high = np.percentile(image, [1, 99.8])
        axes.imshow(np.sqrt(np.clip((image - low) / max(high - low, 1e-12), 0, 1)), cmap="gray", vmin=0, vmax=1)
        for kind, part in beads.groupby("kind"):
            if kind in refused:
                marker = axes.plot(part["x"], part["y"], "x", color=refused[kind], markersize=4, markeredgewidth=1)[0]
            else:
                marker = _draw_boxes(axes, part, crop_px, SPLIT_COLOURS[kind])
            handles[kind] = marker
        axes.set(title=name if len(name) < 40 else f"...{name[-37:]}", xlabel="x (px)", ylabel="y (px)")
    order = [kind for kind in (*SPLIT_COLOURS, *refused) if kind in handles]
    title = "boxes: crops of used beads; crosses: refused"
    if n_fields > len(fields):
        title += f" ({len(fields)} of {n_fields} fields)"
    small = {"ncols": 2, "fontsize": 7, "title_fontsize": 7, "columnspacing": 1.0, "handlelength": 1.5}
    shade = {"frameon": True, "facecolor": "#AAAAAA", "edgecolor": "none"}
    figure.legend([handles[kind] for kind in order], order, title=title, loc="outside lower left", **small, **shade)


def _draw_boxes(axes: "Axes", beads: "DataFrame", crop_px: int, colour: str) -> object:
    from matplotlib.patches import Rectangle

    for y, x in beads[["y", "x"]].to_numpy():
        corner = (x - crop_px / 2, y - crop_px / 2)
        box = axes.add_patch(Rectangle(corner, crop_px, crop_px, fill=False, edgecolor=colour, linewidth=1.2))
    return box


def _draw_montage(figure: "Figure", montage: np.ndarray, bead_names: Sequence[str], plane_names: Sequence[str]) -> None:
    n_beads, n_planes, height, width = montage.shape
    gap = max(1, width // 16)
    canvas = np.full((n_beads * (height + gap) - gap, n_planes * (width + gap) - gap), np.nan)
    for row, bead in enumerate(montage):
        low, high = np.nanpercentile(bead, [5, 99.9])
        shown = np.sqrt(np.clip((bead - low) / max(high - low, 1e-12), 0, 1))
        for column, crop in enumerate(shown):
            top, left = row * (height + gap), column * (width + gap)
            canvas[top : top + height, left : left + width] = crop
    axes = figure.subplots()
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks(np.arange(n_planes) * (width + gap) + width / 2, plane_names, fontsize=7)
    names = [name if len(name) < 22 else f"...{name[-19:]}" for name in bead_names]
    axes.set_yticks(np.arange(n_beads) * (height + gap) + height / 2, names, fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(title="crops, each row with its own contrast", xlabel="class (plane, upwards in z)", ylabel="bead")


def _draw_counts(figure: "Figure", counts: "DataFrame") -> None:
    axes = figure.subplots()
    below = np.zeros(len(counts))
    for split in counts:
        axes.bar(np.arange(len(counts)), counts[split], bottom=below, color=SPLIT_COLOURS[split], label=split)
        below += counts[split].to_numpy()
    ticks = np.arange(0, len(counts), -(-len(counts) // 13))
    axes.set_xticks(ticks, counts.index[ticks], fontsize=7)
    axes.set(xlabel="class", ylabel="crops", xlim=(-0.6, len(counts) - 0.4))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
