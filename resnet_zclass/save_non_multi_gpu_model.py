"""Turns a multi-GPU checkpoint of any kind into one plain model for a single device, and proves that it is the same."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import resnet_zclass as rz
from resnet_zclass.command import command
from resnet_zclass.errors import InputError
from resnet_zclass.files import check_output, whole_file
from resnet_zclass.options import SaveNonMultiGpuModelOptions
from resnet_zclass.opts import require

if TYPE_CHECKING:
    from resnet_zclass.checkpoints import Architecture, Plain

# Largest difference of predictions that rounding explains, as far as it is known.
TOLERANCE = 1e-4
N_DRAWN = 8


@command("save_non_multi_gpu_model")
def main(options: SaveNonMultiGpuModelOptions) -> None:
    """Converts the checkpoint named by the options, or prints what it holds."""
    require(options, "weights_path")
    for path in filter(None, (options.weights_path, options.architecture)):
        rz.keras_h5.check_answers(path)
    if options.inspect:
        print("\n".join(rz.inspection.describe(options.weights_path)))
        return
    require(options, "save_path")
    inputs = (options.weights_path, options.architecture, options.check_path)
    check_destination(options.save_path, inputs, options.overwrite)
    stored = _read_check(options.check_path) if options.check_path else None
    architecture = choose_architecture(options)
    plain = rz.checkpoints.open_checkpoint(options.weights_path, architecture, options.modern_names)
    print(f"{options.weights_path}: {', '.join(plain.notes)}")
    print("\n".join(tabulate(plain)))
    print(save_plain(plain, options.save_path, stored))
    print(f"model: {options.save_path}")


def choose_architecture(options: SaveNonMultiGpuModelOptions) -> "Architecture | None":
    """The model that the options name for weights alone; None if they name none.

    Raises:
        InputError: If they name it twice, or by halves.
    """
    named = {name: getattr(options, name) for name in ("model_name", "im_size", "num_class")}
    if options.architecture:
        if any(named.values()):
            raise InputError("--architecture and --model_name both say which model it is; give one of them.")
        return rz.checkpoints.read_architecture(options.architecture, options.modern_names)
    if not any(named.values()):
        return None
    require(options, *named)
    return rz.checkpoints.build_architecture(**named, hidden=options.hidden)


def check_destination(save_path: str | Path, inputs: Sequence[str | Path], overwrite: bool = False) -> None:
    """Raises `InputError` unless a model may be written to `save_path`, which must be none of the `inputs`."""
    if Path(save_path).suffix not in (".keras", ".h5", ".hdf5"):
        raise InputError(f"--save_path must end in .keras, .weights.h5, .h5 or .hdf5. Received: {save_path}.")
    if Path(save_path).resolve() in {Path(path).resolve() for path in inputs if path}:
        raise InputError(f"--save_path {save_path} is what is read; choose another name.")
    check_output(save_path, overwrite)


def tabulate(plain: "Plain") -> list[str]:
    """Lines that say where every layer of the model has its arrays from."""
    rows = []
    for variable, array in zip(plain.variables, plain.arrays, strict=True):
        source, target = (array.old_name or array.name).rpartition("/")[0], variable.path.rpartition("/")[0]
        if rows and rows[-1][:2] == (source, target):
            rows[-1][2].append(variable)
        else:
            rows.append((source, target, [variable]))
    width = max((len(source) for source, _, _ in rows), default=0)
    return [
        f"  {source:<{min(width, 60)}}  ->  {target}: " + ", ".join(f"{v.name} {tuple(v.shape)}" for v in variables)
        for source, target, variables in rows
    ]


def save_plain(plain: "Plain", save_path: str | Path, stored: tuple[list, list] | None = None) -> str:
    """Writes a plain model, reads it back and compares it with the checkpoint; nothing is left if they differ.

    Args:
        plain: What `checkpoints.open_checkpoint` returns.
        save_path: `.keras`, `.weights.h5`, or `.h5` or `.hdf5` for weights in the form of Keras 2.
        stored: Images and predictions, one array for each input and output, to compare with; else images are drawn
            and predicted before and after writing.

    Returns:
        The line that says how they compare.

    Raises:
        InputError: If a weight differs, or predictions differ by more than `TOLERANCE`.
    """
    images, expected = stored or _draw(plain.model)
    with whole_file(save_path) as partial:
        again = _write_and_read(plain, partial, str(save_path).endswith(".weights.h5"))
        written = [variable.numpy() for variable in rz.rebuild.variables_of(again, plain.config)]
        # NumPy's maximum, unlike Python's, is NaN where one is.
        of_weights = np.max([_largest(a, b.values) for a, b in zip(written, plain.arrays, strict=True)], initial=0.0)
        predicted = _predict(again, images)
        shapes = [values.shape for values in predicted]
        if shapes != [values.shape for values in expected]:
            known = [values.shape for values in expected]
            raise InputError(f"--check_path: the model's predictions are of shape {shapes}, those stored of {known}.")
        difference = np.max([_largest(a, b) for a, b in zip(predicted, expected, strict=True)])
        if not (of_weights <= 0 and difference <= TOLERANCE):
            raise InputError(
                f"{save_path}: weights differ by up to {of_weights:.3g}, predictions by up to {difference:.3g} "
                f"(at most {TOLERANCE:g} is rounding); nothing was written."
            )
    digest = rz.rebuild.digest_weights(*(array.values for array in plain.arrays))
    batch = f"{len(images[0])} {'stored' if stored else 'random'} images"
    return (
        f"parity: {len(plain.arrays)} arrays, every one used once, sha256 {digest}; largest difference of weights "
        f"{of_weights:.3g}, of predictions on {batch} {difference:.3g}"
    )


def _write_and_read(plain: "Plain", path: Path, is_weights: bool):
    """Writes the model in the form that the name wants and returns what is read back from the file."""
    if path.suffix == ".keras":
        plain.model.save(path)
        return rz.models.load_model(path)
    again = rz.backend.keras.models.clone_model(plain.model)
    if is_weights:
        named = path.with_name(f"{path.stem}.weights.h5")  # Keras insists on the end of the name
        try:
            plain.model.save_weights(named)
            again.load_weights(named)
            named.replace(path)
        finally:
            named.unlink(missing_ok=True)
        return again
    rz.keras_h5.write_weights(path, rz.rebuild.group_arrays(plain.model, plain.config))
    arrays = rz.rebuild.match_groups(
        rz.rebuild.tree_of(again, plain.config), rz.keras_h5.read_keras_h5(path).weights, is_own=True
    )
    rz.rebuild.fill_model(rz.rebuild.variables_of(again, plain.config), arrays)
    return again


def _draw(model) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    shapes = [[size or 32 for size in tensor.shape[1:]] for tensor in model.inputs]
    images = [rng.uniform(0, 1, (N_DRAWN, *shape)).astype(np.float32) for shape in shapes]
    return images, _predict(model, images)


def _predict(model, images: list[np.ndarray]) -> list[np.ndarray]:
    try:
        outputs = model.predict_on_batch(images if len(images) > 1 else images[0])
    except Exception as error:  # Keras and TensorFlow raise a dozen kinds
        words, wanted = [f"{array.shape} {array.dtype}" for array in images], [tensor.shape for tensor in model.inputs]
        raise InputError(f"the model takes {wanted}; --check_path: its images are {', '.join(words)}.") from error
    return outputs if isinstance(outputs, list) else [outputs]


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    """Largest absolute difference; a NaN beside a NaN is none."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return float(np.abs(np.where(same, 0, np.asarray(a, np.float64) - b)).max(initial=0.0))


def _read_check(path: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    try:
        arrays = rz.arrays.read_arrays(path)
    except InputError as error:
        raise InputError(f"--check_path {error}") from error
    found = [[arrays[k] for k in sorted(arrays) if re.fullmatch(rf"{letter}\d*", k)] for letter in "xy"]
    if not all(found):
        raise InputError(f"--check_path {path} must hold images x and predictions y (x0, x1, y0, y1 for several).")
    return found[0], found[1]


if __name__ == "__main__":
    sys.exit(main())
