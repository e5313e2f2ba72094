"""Pretrains a small backbone that knows defocus before it sees a lab's beads, on microscopes that are simulated.

What is learnt is not z itself, which means something else under every microscope, but features from which a linear
readout tells z once it has seen four beads: see `losses.FewShotLoss` and `episodes`.
"""

import contextlib
import csv
import dataclasses
import json
import multiprocessing
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import threadpoolctl

import resnet_zclass as rz
from resnet_zclass.command import command
from resnet_zclass.cores import count_cores
from resnet_zclass.episodes import CROP_PX, N_QUERIES, N_SUPPORT, simulate_episodes
from resnet_zclass.errors import InputError
from resnet_zclass.files import check_output, read_json, whole_file
from resnet_zclass.opts import PretrainOptions, require
from resnet_zclass.ranges import check_range

N_CROPS = N_SUPPORT + N_QUERIES  # of an episode
TOGETHER = 8  # microscopes whose episodes are mixed in a batch
TEST_MICROSCOPES, TEST_EPISODES = 24, 4
TRAIN, TEST = 0, 1  # what is drawn for which
RECIPE_FILE, HISTORY_FILE, STATE_FILE = "recipe.json", "history.csv", "epoch_{:04d}.weights.h5"


@command("pretrain")
def main(options: PretrainOptions) -> None:
    """Runs the command: see `--help`."""
    require(options, "save_path")
    if not options.save_path.endswith(".weights.h5"):
        raise InputError(f"--save_path {options.save_path}: give NAME.weights.h5.")
    check_range("epochs", options.epochs, 1)
    if options.microscopes < 1 or options.microscopes % TOGETHER:
        raise InputError(
            f"--microscopes must be a multiple of {TOGETHER}. Received: --microscopes {options.microscopes}."
        )
    check_range("episodes", options.episodes, 1)
    if not options.learning_rate > 0:
        raise InputError(f"--learning_rate must be above 0. Received: --learning_rate {options.learning_rate:g}.")
    save_path = Path(options.save_path)
    check_output(save_path, options.overwrite)
    build(options.model_name, options.stem_stride)  # says now what cannot be
    folder = claim_folder(Path(f"{save_path}.parts"), options)
    try:
        backbone = pretrain(
            folder,
            model_name=options.model_name,
            stem_stride=options.stem_stride,
            epochs=options.epochs,
            microscopes=options.microscopes,
            episodes=options.episodes,
            learning_rate=options.learning_rate,
            processes=options.processes or count_cores(),
            seed=options.seed,
        )
    except KeyboardInterrupt:
        done = len(_read_history(folder))
        raise KeyboardInterrupt(f"the same command goes on from epoch {done + 1} of {options.epochs}.") from None
    save_half(backbone, save_path)
    shutil.copyfile(folder / HISTORY_FILE, f"{save_path}.csv")
    shutil.rmtree(folder)
    print(f"weights: {save_path}, how they were learnt: {save_path}.csv")


def claim_folder(folder: Path, options: PretrainOptions) -> Path:
    """The folder of what is not finished: made, or gone on with if it is of the same recipe.

    Raises:
        InputError: If it is of another.
    """
    recipe = {
        name: value
        for name, value in dataclasses.asdict(options).items()
        if name not in ("save_path", "overwrite", "processes")
    }
    path = folder / RECIPE_FILE
    if path.is_file() and read_json(path) != recipe:
        raise InputError(f"{folder} is of another recipe, see {path}; give the same options, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recipe, indent=1))
    return folder


def build(model_name: str, stem_stride: int) -> Any:
    """The backbone: crops `(N, 32, 32, 1)`, normalised, to features `(N, F)`."""
    return rz.backbones.build_backbone(model_name, (CROP_PX, CROP_PX, 1), stem_stride=stem_stride)


def pretrain(
    folder: Path,
    model_name: str = "ResNet20",
    stem_stride: int = 2,
    epochs: int = 42,
    microscopes: int = 64,
    episodes: int = 32,
    learning_rate: float = 2e-3,
    processes: int = 2,
    seed: int = 0,
):
    """Pretrains a backbone; goes on from the last whole epoch that `folder` holds.

    Args:
        folder: Folder that exists, of the state and of `history.csv`: `epoch,loss,val_loss`, losses as of
            `FewShotLoss`, on microscopes that no epoch has seen before.
        model_name: Backbone, as of `backbones.build_backbone`.
        stem_stride: As there.
        epochs: int >= 1.
        microscopes: New ones in every epoch, a multiple of 8.
        episodes: Of each.
        learning_rate: Of Adam, from which half a cosine leads down to 0.
        processes: That simulate.
        seed: Of weights, microscopes and all that is drawn.

    Returns:
        The backbone, as of `build`.

    Raises:
        InputError: If what the folder holds is damaged.
    """
    keras = rz.backend.keras
    keras.utils.set_random_seed(seed)
    backbone = build(model_name, stem_stride)
    steps = microscopes // TOGETHER * episodes
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
    backbone.compile(keras.optimizers.Adam(rate), rz.losses.FewShotLoss(N_SUPPORT, N_CROPS))
    backbone.optimizer.build(backbone.trainable_variables)
    history = _read_history(folder)
    if history:
        path = folder / STATE_FILE.format(len(history))
        try:
            backbone.load_weights(path)
        except Exception as error:  # Keras and h5py raise what they like
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path} is damaged ({reason}); remove {folder} to begin anew.") from error
        print(f"{folder}: going on from epoch {len(history) + 1}.")
    with _start_pool(processes) as pool:
        test_set = next(_simulate_epochs(pool, seed, TEST, [0], TEST_MICROSCOPES, TEST_EPISODES))
        todo = range(len(history), epochs)
        for epoch, train_set in zip(
            todo, _simulate_epochs(pool, seed, TRAIN, todo, microscopes, episodes), strict=True
        ):
            losses = backbone.fit(
                *train_set,
                batch_size=TOGETHER * N_CROPS,
                shuffle=False,
                validation_data=test_set,
                initial_epoch=epoch,
                epochs=epoch + 1,
                verbose=1 if sys.stdout.isatty() else 2,
            ).history
            history.append({"epoch": epoch + 1} | {name: values[0] for name, values in losses.items()})
            save_weights(backbone, folder / STATE_FILE.format(epoch + 1))
            _write_history(folder, history)
            (folder / STATE_FILE.format(epoch)).unlink(missing_ok=True)
    return backbone


def save_weights(backbone, path: Path, change: Callable[[Path], None] = lambda path: None) -> None:
    """Writes weights, with those of its optimizer, if it has one; the file has its name when it is whole."""
    partial = path.with_name(f".partial.{path.name}")  # Keras wants .weights.h5 at the end
    backbone.save_weights(partial)
    change(partial)
    partial.replace(path)


def save_half(backbone, path: Path) -> None:
    """Writes the weights of a backbone in 16 bits, without its optimizer: half the size, and as good."""
    save_weights(rz.backend.keras.Model(backbone.inputs, backbone.outputs), path, _halve)


def _halve(path: Path) -> None:
    with h5py.File(path) as file:
        arrays: dict[str, np.ndarray] = {}
        file.visititems(lambda name, item: arrays.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    with h5py.File(path, "w") as file:  # anew: what is removed from an HDF5 file leaves a hole
        for name, values in arrays.items():
            file.create_dataset(name, data=values.astype(np.float16), compression="gzip")


def _simulate_epochs(
    pool: ProcessPoolExecutor, seed: int, purpose: int, epochs: Sequence[int], microscopes: int, episodes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Crops and z of epoch after epoch, while the next one is being simulated; batches mix `TOGETHER` microscopes."""

    def start(epoch: int) -> list:
        return [pool.submit(simulate_episodes, (seed, purpose, epoch, i), episodes) for i in range(microscopes)]

    waiting = [start(epoch) for epoch in epochs[:1]]
    for epoch in epochs:
        waiting += [start(epoch + 1)] if epoch + 1 in epochs else []
        parts = [job.result() for job in waiting.pop(0)]
        yield tuple(_mix(np.stack(arrays)) for arrays in zip(*parts, strict=True))


def _mix(values: np.ndarray) -> np.ndarray:
    """From `(microscopes, episodes, crops, ...)` to `(N, ...)`: a batch holds one episode of each of several."""
    microscopes, episodes, crops = values.shape[:3]
    grouped = values.reshape(microscopes // TOGETHER, TOGETHER, episodes, crops, *values.shape[3:])
    return grouped.transpose(0, 2, 1, *range(3, grouped.ndim)).reshape(-1, *values.shape[3:])


@contextlib.contextmanager
def _start_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")  # a fork would share TensorFlow's threads, which are not there
    pool = ProcessPoolExecutor(processes, context, initializer=_prepare_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C nobody waits for another epoch


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says what Ctrl-C means
    threadpoolctl.threadpool_limits(1)  # there are as many processes as cores


def _read_history(folder: Path) -> list[dict[str, str]]:
    path = folder / HISTORY_FILE
    try:
        return list(csv.DictReader(path.open(newline=""))) if path.is_file() else []
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error}); remove {folder} to begin anew.") from error


def _write_history(folder: Path, history: list[dict]) -> None:
    with whole_file(folder / HISTORY_FILE) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


if __name__ == "__main__":
    sys.exit(main())
