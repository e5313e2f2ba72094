"""What a run calls unlike its training set: crops of a stack that hold no bead, two beads or something else.

`python -m benchmarks.unlike_crops STACK.tif RUN --picture unlike.png` takes a run that was trained on beads of the
stack (8-bit crops) and shows, of every kind of crop, how many are called unlike (score above 1), and eight of them.
"""

import argparse
from pathlib import Path

import numpy as np
import scipy

import resnet_zclass as rz
from benchmarks.measure import report
from resnet_zclass.figures import new_figure, save_figure, style

N_SHOWN, N_EMPTY, NEAR_PLANES = 8, 200, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    run = rz.runs.read_run(arguments.run)
    kinds = cut_kinds(rz.images.read_stack(arguments.stack).planes, run)
    scores = {kind: run.familiar.score(crops) for kind, crops in kinds.items()}
    report(
        "unlike_crops",
        [{"crops": kind, "n": len(some), "called unlike": float((some > 1).mean())} for kind, some in scores.items()],
    )
    if arguments.picture:
        draw(kinds, scores, arguments.picture)


def cut_kinds(planes: np.ndarray, run: "rz.runs.Run") -> dict[str, np.ndarray]:
    """Crops `(n, H, W, 1)` of every kind, within 0.7 um of the focus where they hold a bead."""
    crop_px, rng = run.crop_shape[0], np.random.default_rng(0)
    beads = rz.beads.find_beads(planes, crop_px)
    data = run.read_own_set()
    near = np.abs(data.items.label.astype(int)) <= NEAR_PLANES
    single = data.crops[np.flatnonzero(near & (data.items.split == "test"))]
    if not len(single):
        single = data.crops[np.flatnonzero(near & (data.items.split == "val"))]
    focus = float(beads.focus[beads.reason == ""].median())
    kinds = {"one bead, as trained on": single}
    for kind, reason in (("a neighbour in the crop", "neighbour"), ("clump", "clump")):
        chosen = beads[beads.reason.isin([reason, rz.beads.REASONS[reason]])]
        kinds[kind] = cut(planes, focus, chosen[["y", "x"]].to_numpy(), crop_px)
    height, width = planes.shape[1:]
    places = rng.uniform(crop_px, [height - crop_px, width - crop_px], (20 * N_EMPTY, 2))
    far = scipy.spatial.distance.cdist(places, beads[["y", "x"]]).min(axis=1) > 1.5 * crop_px
    kinds["no bead"] = cut(planes, focus, places[far][: N_EMPTY // 5], crop_px)
    kinds["saturated"] = np.minimum(single.astype(int) * 20, 255).astype("uint8")
    half = crop_px // 4
    kinds["magnified twice"] = single[:, half:-half, half:-half].repeat(2, axis=1).repeat(2, axis=2)
    return {kind: crops for kind, crops in kinds.items() if len(crops)}


def cut(planes: np.ndarray, focus: float, places: np.ndarray, crop_px: int) -> np.ndarray:
    """Crops of every place in every second plane near the focus."""
    height, width = planes.shape[1:]
    inside = ((places > crop_px / 2) & (places < np.array([height, width]) - crop_px / 2 - 1)).all(axis=1)
    chosen = planes[round(focus) - NEAR_PLANES : round(focus) + NEAR_PLANES + 1 : 2]
    crops = rz.beads.cut_crops(chosen, *places[inside].T, crop_px)
    return crops.reshape(-1, crop_px, crop_px, 1)


def draw(kinds: dict[str, np.ndarray], scores: dict[str, np.ndarray], path: Path) -> None:
    """Draws eight crops of every kind, each with its score."""
    rng = np.random.default_rng(1)
    with style():
        figure = new_figure(9.0, 1.25 * len(kinds))
        all_axes = figure.subplots(len(kinds), N_SHOWN, squeeze=False)
        for row, (kind, crops) in zip(all_axes, kinds.items(), strict=True):
            chosen = rng.choice(len(crops), min(N_SHOWN, len(crops)), replace=False)
            for axes in row:
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            for axes, k in zip(row, chosen, strict=False):
                axes.imshow(np.sqrt(crops[k, ..., 0].astype(float)), cmap="gray")
                is_unlike = scores[kind][k] > 1
                axes.set_xlabel(f"{scores[kind][k]:.1f}", color=rz.figures.RED if is_unlike else rz.figures.INK)
            share = (scores[kind] > 1).mean()
            row[0].set_ylabel(f"{kind}\n{share:.0%} unlike", rotation=0, ha="right", va="center")
        save_figure(figure, path)


if __name__ == "__main__":
    main()
