"""How good a run is on a split of its data, beside a classical baseline and, for simulated sets, the physical limit."""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lazy_loader as lazy
import numpy as np
from rich.console import Console
from rich.table import Table

import resnet_zclass as rz
from resnet_zclass import figures, metrics
from resnet_zclass.command import command
from resnet_zclass.errors import InputError
from resnet_zclass.files import hash_file, read_json, whole_folder
from resnet_zclass.headlines import describe_scores, list_warnings, tabulate_scores
from resnet_zclass.loader import Dataset
from resnet_zclass.options import EvaluateOptions
from resnet_zclass.opts import require
from resnet_zclass.pack import Subset
from resnet_zclass.predict import name_labels, predict_probabilities
from resnet_zclass.predictions import build_table
from resnet_zclass.provenance import write_record
from resnet_zclass.report import REPORT_FILE, write_report
from resnet_zclass.runs import FOLDS_FILE, MODEL_FILE, Run, hash_data, read_run
from resnet_zclass.splits import SPLITS, shuffle_splits
from resnet_zclass.trust import measure_calibration, measure_trust

pd = lazy.load("pandas")


@dataclasses.dataclass(frozen=True)
class Predicted:
    """Probabilities and what is made of them.

    Attributes:
        probabilities: Float array `(N, K)`.
        thresholds: Probability from which a class is predicted, `(N, K)`; None where images have one label.
    """

    probabilities: np.ndarray
    thresholds: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Predictions for a split and how good they are.

    Attributes:
        truth: Class indices, int array `(N,)`; with several labels per image 0/1 `(N, K)`.
        network: The network's predictions.
        baseline: The classical baseline's; None where there is nothing to train it on.
        scores: What `metrics.json` holds.
    """

    truth: np.ndarray
    network: Predicted
    baseline: Predicted | None
    scores: dict


@command("evaluate")
def main(options: EvaluateOptions) -> None:
    """Evaluates the run named by the options."""
    require(options, "load_logs_path")
    run = read_run(options.load_logs_path)
    own_path = Path(run.options.data_path)
    data_path = Path(options.data_path or own_path)
    if data_path.resolve() == own_path.resolve():
        if (run.path / FOLDS_FILE).is_file():
            raise InputError(
                f"{run.path} is the mean of folds that were trained on all of {own_path}; {FOLDS_FILE} there has the "
                "scores of images that they had not seen, and --data_path names another set."
            )
        data = trained_on = run.read_own_set()
        folder_name = name_evaluation(options.split)
    else:
        data, trained_on = run.read_set(data_path, options.label_table), _read_for_baseline(run)
        other = data_path.resolve()
        folder_name = name_evaluation(options.split, "_".join(other.parts[-2 if other.name in SPLITS else -1 :]))
    if options.compare_random and (data is not trained_on or options.split == "train"):
        raise InputError("--compare_random is for split val or test of the set that the run was trained on.")
    with rz.distribute.use_devices(options.multiGPU, options.gpus):
        views = run.list_views() if options.average_views else (None,)
        evaluate_run(
            run, data, options.split, trained_on, options.batch_size, folder_name, options.compare_random, views
        )


def _read_for_baseline(run: Run) -> Dataset | None:
    """The set a run was trained on, if it is still there as it was."""
    try:
        return run.read_own_set()
    except InputError as error:
        print(f"note: no baseline, because it cannot be trained: {error}")
        return None


def name_evaluation(split: str, other: str = "") -> str:
    """Name of the folder for a split of the run's own set, or of another set of name `other`.

    >>> name_evaluation("test"), name_evaluation("val", "mine")
    ('evaluation', 'evaluation_mine_val')
    """
    return "_".join(["evaluation", *filter(None, (other, "" if split == "test" else split))])


def evaluate_run(
    run: Run,
    data: Dataset,
    split: str,
    trained_on: Dataset | None,
    batch_size: int = 64,
    folder_name: str = "evaluation",
    with_random: bool = False,
    views: Sequence[Callable | None] = (None,),
) -> Evaluation:
    """Evaluates a run on a split, prints the headlines, and writes a folder of the run.

    Args:
        run: A finished run.
        data: The set.
        split: `"train"`, `"val"` or `"test"`.
        trained_on: The set whose split train the run saw; the baseline is trained on the same. None: no baseline.
        batch_size: Crops per step.
        folder_name: Name of the folder to write in that of the run.
        with_random: Whether the baseline is also judged on a random split of `data`.
        views: Ways to see a crop, over which the network's probabilities are averaged.

    Raises:
        InputError: If the set lacks the split, or its classes or crops are not those of the run.
    """
    model = run.load_model()
    indices = check_fits(run, model.input_shape[1:], data, split)
    truth, crops = read_truth(data)[indices], Subset(data.crops, indices)
    again = functools.partial(predict_probabilities, model, batch_size=batch_size, views=views)
    probabilities = again(crops)
    network = Predicted(probabilities, _to_images(run.thresholds, probabilities))
    baseline = None
    if trained_on is not None and split != "train":
        baseline = predict_baseline(trained_on, crops, run.options.seed)
    scores = score(truth, network, baseline, data.is_z, run.z_um)
    if trained_on is not None and split != "train":
        scores |= count_seen(data, indices, trained_on, split)
    scores |= compare_random(data, split, run.options.seed, run.z_um) if with_random else {}
    scores |= {"split": split, "data_path": str(data.path), **(_read_ceiling(data.path) if split == "test" else {})}
    if not data.several:
        val = None
        if trained_on is not None and split != "val" and len(held := trained_on.indices("val")):
            val = (
                trained_on.labels[held],
                predict_probabilities(model, Subset(trained_on.crops, held), batch_size, views),
            )
        scores |= measure_calibration(truth, probabilities, val)
    scores |= measure_trust(run, data, indices, probabilities)
    limits = measure_limits(data, indices, probabilities, run.z_um)
    if limits:
        scores["crlb_um"] = float(np.sqrt(np.average(limits["bound"] ** 2, weights=limits["n"])))
        scores["rmse_to_crlb"] = scores["rmse_z_um"] / scores["crlb_um"]
    folder = run.path / folder_name
    scores = write_evaluation(folder, run, data, indices, probabilities, scores, limits, again)
    print_scores(scores, f"{run.path}, split {split} of {data.path}")
    print(f"figures and tables: {folder}\nto look at: {folder / REPORT_FILE}")
    return Evaluation(truth, network, baseline, scores)


def read_truth(data: Dataset) -> np.ndarray:
    """Class indices of a set, int array `(N,)`, or with several labels per image 0/1 `(N, K)`."""
    return data.targets if data.several else data.labels


def predict_baseline(trained_on: Dataset, crops: Subset, seed: int) -> Predicted:
    """Trains the classical baseline on a set's split train, its thresholds on its split val, and predicts crops."""
    truth = read_truth(trained_on)
    train, val = trained_on.indices("train"), trained_on.indices("val")
    predict = rz.baseline.fit_baseline(Subset(trained_on.crops, train), truth[train], len(trained_on.classes), seed)
    probabilities = predict(crops)
    thresholds = None
    if trained_on.several:
        thresholds = np.full(len(trained_on.classes), 0.5)
        if len(val):
            thresholds = metrics.fit_thresholds(truth[val], predict(Subset(trained_on.crops, val)))
    return Predicted(probabilities, _to_images(thresholds, probabilities))


def compare_random(data: Dataset, split: str, seed: int, z_um: np.ndarray | None = None) -> dict[str, float]:
    """How good the baseline would look if groups (beads, fields, experiments) were torn apart by a random split.

    Args:
        data: The set, split by group.
        split: The split that is judged, and of which the random one has as many images of every class.
        seed: Seed of the draw and of the baseline.
        z_um: z of every class in um, `(K,)`.

    Returns:
        The metrics of `score`, their keys with `baseline_random_` before them.
    """
    if data.items["group"].is_unique:
        print("note: every image is a group of its own, so the split is as random as that of --compare_random.")
    torn = data.with_splits(shuffle_splits(data.items["split"], data.items["label"], seed))
    indices = torn.indices(split)
    predicted = predict_baseline(torn, Subset(torn.crops, indices), seed)
    scores = score(read_truth(torn)[indices], predicted, None, torn.is_z, z_um)
    return {f"baseline_random_{key}": value for key, value in scores.items() if key != "n"}


def _to_images(thresholds: np.ndarray | None, probabilities: np.ndarray) -> np.ndarray | None:
    return None if thresholds is None else np.broadcast_to(thresholds, probabilities.shape)


def score(
    truth: np.ndarray,
    network: Predicted,
    baseline: Predicted | None = None,
    is_z: bool = False,
    z_um: np.ndarray | None = None,
) -> dict:
    """The metrics of predictions, and the same of the baseline's with keys that start `baseline_`.

    Args:
        truth: Class indices, int array `(N,)`; with several labels per image 0/1 `(N, K)`.
        network: The network's predictions.
        baseline: The baseline's.
        is_z: Whether the classes are z planes.
        z_um: z of every class in um, `(K,)`.
    """

    def of(predicted: Predicted) -> dict:
        if predicted.thresholds is not None:
            return metrics.multi_label_metrics(truth, predicted.probabilities, predicted.thresholds)
        scores = metrics.classification_metrics(truth, predicted.probabilities)
        if is_z:
            scores |= metrics.z_metrics(truth, predicted.probabilities.argmax(axis=1), z_um)
        if is_z and z_um is not None:
            scores |= metrics.decoded_z_metrics(truth, predicted.probabilities, z_um)
        return scores

    scores = of(network)
    if baseline is not None:
        scores |= {f"baseline_{key}": value for key, value in of(baseline).items() if key != "n"}
    return scores


def count_seen(data: Dataset, indices: np.ndarray, trained_on: Dataset, split: str) -> dict[str, int]:
    """How many images of a split the run has seen before in some way, which flatters.

    Args:
        data: The set that is evaluated.
        indices: Its images, int array `(N,)`.
        trained_on: The set whose split train the run saw, and whose split val chose its epoch.
        split: The split that is evaluated.

    Returns:
        `n_seen` (the same pixels stand in split train or val, whatever their file is called), `n_near_seen` (all but
        the same, see `duplicates`) and, if it is the set that the run was trained on, `n_groups_seen` (others of
        their group stand there).
    """
    judged, items = data.items.iloc[indices], trained_on.items
    rows = np.flatnonzero(items["split"].isin(["train"] if split == "val" else ["train", "val"]))
    seen = items.iloc[rows]
    same = judged.digest.isin(seen.digest).to_numpy()
    near = rz.duplicates.find_near(Subset(data.crops, indices), Subset(trained_on.crops, rows)) & ~same
    counts = {"n_seen": int(same.sum()), "n_near_seen": int(near.sum())}
    if data is trained_on:
        counts["n_groups_seen"] = int(judged["group"].isin(seen["group"]).sum())
    return counts


def measure_limits(
    data: Dataset, indices: np.ndarray, probabilities: np.ndarray, z_um: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Error of z and its Cramer-Rao bound by plane and brightness, `metrics.limit_table`; empty for a measured set."""
    simulated = rz.scene.read_scene(data.path)
    beads = data.items.iloc[indices]
    if z_um is None or simulated is None or not set(rz.simulate.TRUTH) <= set(beads):
        return {}
    theta, labels = beads[rz.simulate.TRUTH].to_numpy(float), data.labels[indices]
    try:
        bound_um = rz.limit.bound_scene(*simulated, beads.plane.to_numpy(int), theta)
    except InputError as error:
        print(f"note: no bound on z: {error}")
        return {}
    error_um = metrics.decode_z(probabilities, z_um)[0] - np.asarray(z_um)[labels]
    return metrics.limit_table(labels, error_um, bound_um, theta[:, 2])


def write_evaluation(
    folder: Path,
    run: Run,
    data: Dataset,
    indices: np.ndarray,
    probabilities: np.ndarray,
    scores: dict,
    limits: dict[str, np.ndarray],
    predict: Callable[[np.ndarray], np.ndarray],
) -> dict:
    """Writes `metrics.json`, `per_class.csv`, `confusion.csv`, `predictions.csv`, figures and the page, all or none.

    For simulated z sets also `limits.csv` and `limits.png`, from `limits` of `measure_limits`.

    Returns:
        The scores, with `per_class` where images have several labels.
    """
    rows = data.items.iloc[indices][["file", "page"]].to_dict("records")
    predictions = build_table(run, rows, probabilities)
    predictions.insert(2, "true_label", name_labels(data)[indices])
    with whole_folder(folder, overwrite=True, mark="metrics.json") as partial:
        write = _write_several if data.several else _write_single
        scores = scores | write(partial, run, data, read_truth(data)[indices], probabilities)
        (partial / "metrics.json").write_text(to_json(scores) + "\n")
        predictions.to_csv(partial / "predictions.csv", index=False)
        if limits:
            table = pd.DataFrame(limits).rename(columns={key: f"{key}_um" for key in ("rmse", "bias", "bound")})
            table.to_csv(partial / "limits.csv", index=False)
            figures.draw_limits(limits, run.z_um, partial / "limits.png")
        crops, truth = Subset(data.crops, indices), read_truth(data)[indices]
        write_record(partial, model_sha256=hash_file(run.path / MODEL_FILE), data_sha256=hash_data(data))
        write_report(partial, run, scores, predictions[["file", "page"]], truth, probabilities, crops, predict)
    return scores


def to_json(scores: Any) -> str:
    """Scores as JSON, which has no NaN and nothing infinite: both are null.

    >>> to_json({"f1": float("nan")}).split()
    ['{', '"f1":', 'null', '}']
    """

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(part) for key, part in value.items()}
        if isinstance(value, list):
            return [clean(part) for part in value]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return json.dumps(clean(scores), indent=2, allow_nan=False)


def _write_single(folder: Path, run: Run, data: Dataset, labels: np.ndarray, probabilities: np.ndarray) -> dict:
    names = run.class_names
    confusion = metrics.confusion_matrix(labels, probabilities.argmax(axis=1), len(names))
    per_class = metrics.per_class_metrics(confusion)
    if not data.is_z:
        per_class = {key: values for key, values in per_class.items() if not key.endswith("_planes")}
    pd.DataFrame({"label": names, **per_class}).to_csv(folder / "per_class.csv", index=False)
    pd.DataFrame(confusion, index=pd.Index(names, name="true \\ predicted"), columns=names).to_csv(
        folder / "confusion.csv"
    )
    figures.draw_confusion(confusion, names, folder / "confusion.png")
    if data.is_z:
        figures.draw_plane_errors(per_class, names, run.z_um, folder / "error_per_plane.png")
    figures.draw_reliability(rz.calibration.reliability(labels, probabilities), folder / "reliability.png")
    return {}


def _write_several(folder: Path, run: Run, data: Dataset, targets: np.ndarray, probabilities: np.ndarray) -> dict:
    per_class = metrics.per_class_multi_label(targets, probabilities, run.thresholds)
    table = pd.DataFrame({"label": run.class_names, **per_class})
    counts = ["tp", "fp", "fn", "tn"]
    table.drop(columns=counts).to_csv(folder / "per_class.csv", index=False)
    table[["label", *counts]].to_csv(folder / "confusion.csv", index=False)
    figures.draw_class_scores(run.class_names, per_class, folder / "per_class.png")
    return {"per_class": table.set_index("label").drop(columns=counts).to_dict("index")}


def print_scores(scores: dict, title: str) -> None:
    """Prints the headlines: the network's, the baseline's, and the best that physics allows.

    The last for one who knows position and brightness of every bead, and for one who has to find them (unaided).
    """
    print(f"{title}: {scores['n']} images")
    headings, rows = tabulate_scores(scores)
    table = Table()
    table.add_column()
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    print("\n".join(describe_scores(scores)))
    for line in list_warnings(scores):
        print(f"warning: {line}", file=sys.stderr)


def check_fits(run: Run, crop_shape: tuple[int, ...], data: Dataset, split: str) -> np.ndarray:
    """Indices of the split's crops, if they are what the run takes."""
    if list(data.classes.LabelText) != run.class_names:
        raise InputError(f"{data.path} has other classes than the run {run.path}; both lists must be the same.")
    if data.several != (run.thresholds is not None):
        raise InputError(f"{data.path} and the run {run.path}: one has one label per image, the other several.")
    indices = data.indices(split)
    if not len(indices):
        raise InputError(f"--split {split}: {data.path} has no such split.")
    if data.crops.shape[1:] != crop_shape:
        raise InputError(f"{data.path} has crops of {data.crops.shape[1:]}; the run was trained on {crop_shape}.")
    run.check_crops(data.crops.dtype, data.path)
    if not np.allclose(data.classes.z_um, run.classes.z_um, atol=1e-6, equal_nan=True):
        raise InputError(f"{data.path} has its planes at other z than the run {run.path}; the classes mean other z.")
    return indices


def _read_ceiling(data_path: Path) -> dict:
    """The best accuracy physics allows on a simulated set, as metrics; none for a measured one."""
    try:
        ceiling = read_json(data_path / "simulation.json")["ceiling"]
        return {
            prefix + key: float(ceiling[name][key])
            for name, prefix in (("known", "ceiling_"), ("unknown", "ceiling_unknown_"))
            if name in ceiling
            for key in ("accuracy", "within_one")
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return {}


if __name__ == "__main__":
    sys.exit(main())
