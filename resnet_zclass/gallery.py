"""Pictures of images: fields with their beads, crops plane by plane, augmented views."""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnet_zclass.figures import PURPLE, RED, SKY, SPLIT_COLOURS, escape, new_figure, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

AUGMENTED_FILE = "augmented.png"
REFUSED_COLOURS = (RED, SKY, "#F0E442", PURPLE, "#FFFFFF", "#882255", "#000000")


def draw_overview(
    path: str | Path,
    fields: "Sequence[tuple[str, np.ndarray, DataFrame]]",
    montage: np.ndarray,
    bead_names: Sequence[str],
    plane_names: Sequence[str],
    counts: "DataFrame",
    max_fields: int = 2,
    axis_names: tuple[str, str] = ("bead", "class (plane, upwards in z)"),
) -> None:
    """Draws what a set was made of: fields with their beads, crops class by class, and the number of crops.

    Args:
        path: PNG to write.
        fields: of each field its name, an image `(H, W)`, and its beads: a table of `y`, `x` in px, `reason`
            (empty if the bead is used) and `kind` (its split, or the reason in words).
        montage: array `(beads, planes, H, W)`, NaN where there is no crop.
        bead_names: one per row of the montage.
        plane_names: one per column of the montage.
        counts: table of crops, one row per class, one column per split.
        max_fields: number of fields to draw at most.
        axis_names: what the rows and the columns of the montage are.
    """
    crop_px = montage.shape[-1]
    with style():
        figure = new_figure(11.0, 7.6)
        sides = figure.subfigures(1, 2, width_ratios=[1.0, 1.25]) if fields else [None, figure]
        if fields:
            _draw_fields(sides[0], fields[:max_fields], len(fields), crop_px)
        top, bottom = sides[1].subfigures(2, 1, height_ratios=[2.4, 1.0])
        _draw_montage(top, montage, bead_names, plane_names, axis_names)
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
        axes.set(title=escape(name if len(name) < 40 else f"...{name[-37:]}"), xlabel="x (px)", ylabel="y (px)")
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


def _draw_montage(
    figure: "Figure",
    montage: np.ndarray,
    bead_names: Sequence[str],
    plane_names: Sequence[str],
    axis_names: tuple[str, str],
) -> None:
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
    axes.set_xticks(np.arange(n_planes) * (width + gap) + width / 2, [escape(name) for name in plane_names], fontsize=7)
    names = [escape(name if len(name) < 22 else f"...{name[-19:]}") for name in bead_names]
    axes.set_yticks(np.arange(n_beads) * (height + gap) + height / 2, names, fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(title="crops, each row with its own contrast", xlabel=axis_names[1], ylabel=axis_names[0])


def _draw_counts(figure: "Figure", counts: "DataFrame") -> None:
    axes = figure.subplots()
    below = np.zeros(len(counts))
    for split in counts:
        axes.bar(np.arange(len(counts)), counts[split], bottom=below, color=SPLIT_COLOURS[split], label=split)
        below += counts[split].to_numpy()
    ticks = np.arange(0, len(counts), -(-len(counts) // 13))
    axes.set_xticks(ticks, [escape(str(name)) for name in counts.index[ticks]], fontsize=7)
    axes.set(xlabel="class", ylabel="crops", xlim=(-0.6, len(counts) - 0.4))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")


# Colours in which the channels of an image that is not gray or RGB are added up, by their number.
CHANNEL_COLOURS = {
    2: ((0, 1, 0), (1, 0, 1)),
    4: ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)),
}


def draw_augmented(sheet: np.ndarray, path: str | Path, title: str = "", heads: Sequence[str] | None = None) -> None:
    """Draws images beside augmented views of them, one row each.

    Args:
        sheet: array `(n, 1 + views, H, W, C)` of any pixel type; the first of a row is the image as it is.
        path: PNG to write.
        title: Title.
        heads: Names of the columns; by default the first is the original and others are views of it.
    """
    n, n_columns, height, width, _ = sheet.shape
    gap = max(1, width // 16)
    canvas = np.ones((n * (height + gap) - gap, n_columns * (width + gap) - gap, 3))
    for row, images in enumerate(sheet):
        for column, image in enumerate(show_colours(images)):
            top, left = row * (height + gap), column * (width + gap)
            canvas[top : top + height, left : left + width] = image
    cell_in = min(1.3, 11.0 / n_columns)
    with style():
        figure = new_figure(cell_in * n_columns + 0.4, cell_in * n * height / width + 0.8)
        axes = figure.subplots()
        axes.imshow(canvas, interpolation="nearest")
        heads = heads or ["original", *(f"view {k}" for k in range(1, n_columns))]
        axes.set_xticks(np.arange(n_columns) * (width + gap) + width / 2, [escape(head) for head in heads])
        axes.tick_params(length=0, labelleft=False, labelbottom=False, labeltop=True)
        axes.spines[:].set_visible(False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        save_figure(figure, path)


def show_colours(images: np.ndarray) -> np.ndarray:
    """Images of any number of channels and pixel type as RGB for the screen.

    One channel is gray, three are RGB; others are added up in a colour each. 8-bit RGB is shown as it is. Anything
    else is stretched from its 1st to its 99.8th percentile over all the images: RGB as a whole, so that its
    colours stay, other channels one by one.

    Args:
        images: array `(n, H, W, C)`.

    Returns:
        float array `(n, H, W, 3)` in 0..1.

    >>> show_colours(np.array([0, 100, 200], "uint16").reshape(1, 1, 3, 1))[0, 0].round(1).tolist()
    [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]]
    """
    n_channels = images.shape[-1]
    if n_channels == 3 and images.dtype == np.uint8:
        return images / 255.0
    low, high = np.nanpercentile(images, [1, 99.8], axis=None if n_channels == 3 else (0, 1, 2))
    stretched = np.clip((np.nan_to_num(images) - low) / np.maximum(high - low, 1e-12), 0, 1)
    if n_channels in (1, 3):
        return np.broadcast_to(stretched, (*stretched.shape[:3], 3))
    return np.clip(stretched @ np.array(_channel_colours(n_channels), float), 0, 1)


def _channel_colours(n_channels: int) -> Sequence[tuple[float, float, float]]:
    if n_channels in CHANNEL_COLOURS:
        return CHANNEL_COLOURS[n_channels]
    return [colorsys.hsv_to_rgb(k / n_channels, 1.0, 1.0) for k in range(n_channels)]


def draw_heat_maps(
    images: np.ndarray, maps: np.ndarray, names: Sequence[str], path: str | Path, per_row: int = 3
) -> None:
    """Draws images, each beside how much the probability of its class falls where a part is covered.

    Args:
        images: array `(n, H, W, C)` of any pixel type.
        maps: array `(n, H, W)`, as of `heat_maps.occlude`.
        names: one per image.
        path: PNG to write.
        per_row: images in a row at most.
    """
    n_columns = min(per_row, len(images))
    n_rows = -(-len(images) // n_columns)
    strongest = max(float(np.abs(maps).max()), 1e-3)
    with style():
        figure = new_figure(2.9 * n_columns + 0.8, 1.6 * n_rows + 0.2)
        all_axes = figure.subplots(n_rows, 2 * n_columns, squeeze=False)
        for axes in all_axes.flat:
            axes.set_axis_off()
        shown = None
        for k, (image, heat, name) in enumerate(zip(images, maps, names, strict=True)):
            left, right = all_axes[k // n_columns, 2 * (k % n_columns) :][:2]
            left.imshow(show_colours(image[None])[0], interpolation="nearest")
            left.set_title(escape(name if len(name) < 22 else f"{name[:19]}..."), fontsize=8)
            shown = right.imshow(heat, cmap="PuOr_r", vmin=-strongest, vmax=strongest)
        figure.colorbar(shown, ax=all_axes, label="fall of the probability", shrink=min(1.0, 1.6 / n_rows + 0.3))
        save_figure(figure, path)


def draw_answer(
    image: np.ndarray,
    heat: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    z_um: np.ndarray | None,
    z: tuple[float, float] | None,
    path: str | Path,
) -> None:
    """Draws an image, where its class was read off, and its probabilities; of planes with z and its error.

    Args:
        image: array `(H, W, C)` of any pixel type.
        heat: array `(H, W)`, as of `heat_maps.occlude`.
        probabilities: array `(K,)`.
        names: of the K classes.
        z_um: z of the classes in um, if known.
        z: z and its standard deviation in um, if known.
        path: PNG to write.
    """
    with style():
        figure = new_figure(9.6, 3.0)
        left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.6])
        left.imshow(show_colours(image[None])[0], interpolation="nearest")
        left.set_title("image")
        strongest = max(float(np.abs(heat).max()), 1e-3)
        shown = middle.imshow(heat, cmap="PuOr_r", vmin=-strongest, vmax=strongest)
        middle.set_title("fall of the probability if covered", fontsize=8)
        figure.colorbar(shown, ax=middle, shrink=0.8)
        for axes in (left, middle):
            axes.set_axis_off()
        x = np.arange(len(names)) if z_um is None else np.asarray(z_um, float)
        width = 0.8 * (float(np.median(np.diff(x))) if len(x) > 1 else 1.0)
        right.bar(x, probabilities, width=width, color=SKY)
        if z is None:
            every = -(-len(names) // 14)
            right.set_xticks(x[::every], [escape(name) for name in names[::every]], rotation=90, fontsize=7)
        else:
            right.errorbar(z[0], 1.03, xerr=z[1], color=RED, marker="o", markersize=4, capsize=3, clip_on=False)
            right.set_title(f"z = {z[0]:.3f} +- {z[1]:.3f} um", color=RED)
            right.set_xlabel("z (um)")
        right.set(ylabel="probability", ylim=(0, 1.08))
        save_figure(figure, path)
