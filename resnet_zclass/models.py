"""The classifier: normalisation + backbone + head, three named parts of one Keras model that takes raw crops.

The parts are made of Keras' own layers alone, so a saved model loads with plain Keras.
"""

import collections
import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from resnet_zclass.backbones import (
    build_backbone,
    find_application,
    find_stem,
    is_application,
    resolve_stem,
    transplant,
)
from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError
from resnet_zclass.freezing import FREEZE_POLICIES, apply_freeze
from resnet_zclass.keras_h5 import check_sizes, find_datasets, open_h5
from resnet_zclass.memory import check_archive
from resnet_zclass.pixels import Pixels
from resnet_zclass.stems import NATURAL_ORDER, adapt_channels, is_adapted, measure_preprocessing

__all__ = [
    "FREEZE_POLICIES",
    "apply_freeze",
    "build_classifier",
    "build_head",
    "build_normalisation",
    "feature_extractor",
    "load_backbone_weights",
    "load_head_weights",
    "load_model",
    "resolve_stem",
]

# Mean and spread (0..255) that normalised crops are given before a keras.applications backbone's own scaling,
# near those of the photographs its ImageNet weights saw.
IMAGENET_MEAN, IMAGENET_SPREAD = 118.0, 58.0

# What `pretrain` made with its defaults, on simulated microscopes, and the only classifiers that it fits.
PSF = "psf"
PSF_FILE = Path(__file__).parent / "weights" / "psf.weights.h5"
PSF_FITS = {"model_name": "ResNet20", "stem_stride": 2, "stem": "none", "scaling": "set", "stabilise": True}

# The layer that scales channels for an adapted stem; where there is none, the stem of three channels is as it was.
TO_STEM = "to_stem"


def build_classifier(
    crop_shape: tuple[int, int, int],
    n_classes: int,
    model_name: str = "ResNet20",
    weights: str = "none",
    im_size: int | None = None,
    scaling: str = "image",
    stabilise: bool = True,
    pixels: Pixels = Pixels(),  # noqa: B008 - frozen
    hidden: int | Sequence[int] = (1024,),
    stem_stride: int = 1,
    stem: str = "auto",
    dropout: float = 0.0,
    several: bool = False,
    mixed_precision: str = "none",
) -> keras.Model:
    """Builds a classifier of raw crops.

    Args:
        crop_shape: `(height, width, channels)` of a raw crop, in pixels.
        n_classes: int >= 2, or >= 1 where an image may have several.
        model_name: `ResNet{6n+2}` of He et al. 2016 for small images, `CNN`, `CNN8`, or a name of
            `keras.applications`.
        weights: Weights of the backbone: `"imagenet"`, `"psf"` (ResNet20 and gray crops; see `pretrain`), `"none"`, or
            the path of a `.weights.h5` or `.h5` file of the backbone, or of a `.keras` file that this function built.
        im_size: Side in pixels to which crops are resized; None leaves them.
        scaling: `"image"`: to mean 0, spread 1 of each crop; `"set"`: to those of the training set; `"range"`: the
            range of the training set to 0..255, and from there as the backbone's ImageNet weights want it.
        stabilise: Take the square root of what lies above the camera's offset first (not with `"range"`).
        pixels: What `measure_pixels` says of the training set.
        hidden: Units of the hidden dense layers of the head; zeros are left out.
        stem_stride: Stride of the first convolution of a `ResNet{6n+2}`.
        stem: How the first convolution takes the crop's channels; see `resolve_stem`.
        dropout: Share of values dropped before every dense layer.
        several: Whether an image may belong to several classes: each gets a probability of its own.
        mixed_precision: `"bfloat16"` or `"float16"`: what backbone and hidden layers compute in, with variables of 32
            bits. Pixels are always normalised and probabilities made in 32 bits.

    Returns:
        Model `(N, height, width, channels)` -> probabilities `(N, n_classes)` with layers named `normalisation`,
        `backbone` and `head`.

    Raises:
        InputError: For an unknown model, weights that do not fit or cannot be had, or a crop that is too small.

    >>> model = build_classifier((16, 16, 1), n_classes=3, model_name="ResNet8")
    >>> [layer.name for layer in model.layers[1:]], model.output_shape
    (['normalisation', 'backbone', 'head'], (None, 3))
    """
    stem = resolve_stem(stem, model_name, crop_shape[2])
    if weights == PSF:
        _check_psf(
            crop_shape[2],
            model_name=model_name,
            stem_stride=stem_stride,
            stem=stem,
            scaling=scaling,
            stabilise=stabilise,
        )
        weights = str(PSF_FILE)
    size = (im_size, im_size) if im_size else crop_shape[:2]
    build = functools.partial(build_backbone, model_name, stem_stride=stem_stride)
    normalisation = build_normalisation(crop_shape, im_size, scaling, stabilise, pixels, model_name, stem)
    with _computing_in(mixed_precision):
        backbone = build(
            input_shape=(*size, 3 if stem == "rgb" else crop_shape[2]),
            is_imagenet=weights == "imagenet" and not is_adapted(stem),
        )
        head = build_head(backbone.output_shape[1], n_classes, hidden, dropout, several)
    order = _measure_application(model_name)[0] if is_application(model_name) else NATURAL_ORDER
    build_rgb = functools.partial(build, input_shape=(*size, 3))
    if weights == "imagenet" and is_adapted(stem):
        transplant(build_rgb(is_imagenet=True), backbone, stem, order)
    elif weights not in ("none", "imagenet"):
        load_backbone_weights(backbone, weights, stem, order, build_rgb)
    crop = keras.Input(crop_shape, name="crop")
    return keras.Model(crop, head(backbone(normalisation(crop))), name=model_name)


def _check_psf(in_channels: int, **values: object) -> None:
    """Raises `InputError` unless the weights `psf` suit the crops and what is built."""
    if in_channels != 1:
        raise InputError(f"--weights psf is for crops of one channel; these have {in_channels}.")
    for name, value in values.items():
        if value != PSF_FITS[name]:
            raise InputError(f"--weights psf wants --{name} {PSF_FITS[name]}. Received: --{name} {value}.")


@contextlib.contextmanager
def _computing_in(mixed_precision: str) -> Iterator[None]:
    """Layers built within the block compute in 16 bits, unless this is `"none"`."""
    before = keras.config.dtype_policy()
    try:
        if mixed_precision != "none":
            keras.config.set_dtype_policy(f"mixed_{mixed_precision}")
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build_normalisation(
    crop_shape: tuple[int, int, int],
    im_size: int | None = None,
    scaling: str = "image",
    stabilise: bool = True,
    pixels: Pixels = Pixels(),  # noqa: B008 - frozen
    model_name: str = "ResNet20",
    stem: str = "none",
) -> keras.Model:
    """Raw crops to what the backbone expects: scaling, gray -> RGB, the application's own scaling, resizing.

    Arguments as of `build_classifier`, but `stem` as `resolve_stem` returns it.

    >>> build_normalisation((16, 16, 1), im_size=32, model_name="ResNet50", stem="rgb").output_shape
    (None, 32, 32, 3)
    """
    application = is_application(model_name)
    crop = keras.Input(crop_shape, name="crop")
    x = crop
    if stabilise and scaling != "range":
        x = keras.ops.sqrt(keras.ops.maximum(x - pixels.offset, 0.0))
    if scaling == "image":
        x = keras.layers.LayerNormalization(axis=(1, 2, 3), epsilon=1e-10, center=False, scale=False, name="per_crop")(
            x
        )
    elif scaling == "set":
        mean, spread = (pixels.root_mean, pixels.root_spread) if stabilise else (pixels.mean, pixels.spread)
        x = _rescale(x, 1 / np.array(spread), -np.array(mean) / spread, name="per_set")
    elif scaling == "range":
        low, high = np.array(pixels.low), np.array(pixels.high)
        scale = (255.0 if application else 1.0) / (high - low)
        x = _rescale(x, scale, -low * scale, name="per_range")
    else:
        raise InputError(f"--scaling must be image, set or range. Received: {scaling}.")
    if application and scaling != "range":
        x = keras.layers.Rescaling(IMAGENET_SPREAD, offset=IMAGENET_MEAN, name="to_imagenet")(x)
    if stem == "rgb":
        x = keras.layers.Concatenate(name="gray_to_rgb")([x, x, x])
    if application:
        x = _preprocess(x, model_name, stem)
    if im_size:  # last, so that all else, which is linear, is done at crop size
        x = keras.layers.Resizing(im_size, im_size, name="resize")(x)
    return keras.Model(crop, x, name="normalisation")


def _preprocess(x, model_name: str, stem: str):
    """The application's own scaling. An adapted stem gets it per channel, and its channels in their own order."""
    if not is_adapted(stem):
        return find_application(model_name).preprocess_input(x)
    _, scale, offset = _measure_application(model_name)
    adapted = (adapt_channels(values, x.shape[-1], stem) for values in (scale, offset))
    return _rescale(x, *adapted, name=TO_STEM)


def _measure_application(model_name: str) -> tuple:
    return measure_preprocessing(find_application(model_name).preprocess_input)


def _rescale(x, scale: np.ndarray, offset: np.ndarray, name: str):
    return keras.layers.Rescaling(scale.tolist(), offset=offset.tolist(), name=name)(x)


def build_head(
    n_features: int,
    n_classes: int,
    hidden: int | Sequence[int] = (1024,),
    dropout: float = 0.0,
    several: bool = False,
) -> keras.Model:
    """Dense layers (`hidden` units, relu) and Dense(`n_classes`) on pooled features `(N, n_features)`.

    Arguments as of `build_classifier`.

    >>> [layer.name for layer in build_head(8, 3, hidden=(16, 4), dropout=0.5).layers]
    ['hidden_dropout', 'hidden', 'hidden_2_dropout', 'hidden_2', 'probabilities_dropout', 'probabilities']
    """
    units = [n for n in ([hidden] if isinstance(hidden, int) else hidden) if n]
    layers = []
    for number, n in enumerate(units, start=1):
        name = "hidden" if number == 1 else f"hidden_{number}"
        layers.append(keras.layers.Dense(n, activation="relu", name=name))
    activation = "sigmoid" if several else "softmax"
    # float32 whatever the policy: probabilities of 16 bits lose the small ones.
    layers.append(
        keras.layers.Dense(
            n_classes, activation=activation, kernel_initializer="he_normal", dtype="float32", name="probabilities"
        )
    )
    if dropout:
        pairs = ((keras.layers.Dropout(dropout, name=f"{layer.name}_dropout"), layer) for layer in layers)
        layers = [layer for pair in pairs for layer in pair]
    return keras.Sequential([keras.Input((n_features,), name="features"), *layers], name="head")


def load_backbone_weights(
    backbone: keras.Model,
    path: str | Path,
    stem: str = "none",
    order: Sequence[int] = NATURAL_ORDER,
    build_rgb: Callable[[], keras.Model] | None = None,
) -> None:
    """Loads weights into a backbone, all of them and no others; with a `stem` also those of its RGB twin.

    Args:
        backbone: Model to load into.
        path: `.weights.h5` or `.h5` file of the backbone without top, or a `.keras` classifier of this package.
        stem: What `resolve_stem` returns. Adapted stems are taken from RGB weights, unless the file's is adapted.
        order: RGB channels that the inputs of the RGB twin are, as of `measure_preprocessing`.
        build_rgb: Builds the RGB twin; wanted where a stem is to be adapted.

    Raises:
        InputError: If the file is missing or unreadable, or its arrays are not just those of the backbone.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"--weights: {path} is a folder; give {path / 'model.keras'} or another file.")
    if not path.is_file():
        raise InputError(f"--weights: {path} is not there; give imagenet, psf, none or the path of a weights file.")
    source = load_model(path) if path.suffix == ".keras" else None
    found = _shapes_of(_part_of(source, "backbone", path)) if source else _shapes_in(path)
    in_channels = backbone.input_shape[-1]
    is_natural = source is not None and TO_STEM in _names_of(_part_of(source, "normalisation", path))
    if is_adapted(stem) and (found != _shapes_of(backbone) or (in_channels == 3 and not is_natural)):
        rgb = build_rgb()
        _fill(rgb, path, source, found)
        transplant(rgb, backbone, stem, order)
        return
    _fill(backbone, path, source, found)
    if is_natural and in_channels == 3 and not is_adapted(stem):
        kernel = find_stem(backbone).kernel
        kernel.assign(kernel.numpy()[:, :, list(order)])


def _fill(backbone: keras.Model, path: Path, source: keras.Model | None, found: collections.Counter) -> None:
    wanted = _shapes_of(backbone)
    if wanted != found:
        missing, extra = wanted - found, found - wanted
        if missing.total() == extra.total() == 1 and source:
            raise InputError(
                f"--weights: {path} was trained on images of {find_stem(source.get_layer('backbone')).kernel.shape[2]} "
                "channels; give images of as many, or weights of an RGB model, which can be adapted."
            )
        raise InputError(
            f"--weights: {path} does not fit the backbone: {missing.total()} arrays are missing "
            f"(for instance of shape {next(iter(missing), '-')}), {extra.total()} are too many "
            f"(for instance of shape {next(iter(extra), '-')})."
        )
    try:
        if source:
            backbone.set_weights(source.get_layer("backbone").get_weights())
        else:
            backbone.load_weights(path)
    except Exception as error:
        raise InputError(f"--weights: {path} does not fit the backbone: {error}") from error


def _part_of(model: keras.Model, name: str, path: Path) -> keras.Model:
    if name not in _names_of(model):
        raise InputError(f"--weights: {path} has no part named {name}.")
    return model.get_layer(name)


def _names_of(model: keras.Model) -> set[str]:
    return {layer.name for layer in model.layers}


def _shapes_of(model: keras.Model) -> collections.Counter:
    return collections.Counter(tuple(weight.shape) for weight in model.weights)


def _shapes_in(path: Path) -> collections.Counter:
    try:
        with open_h5(path) as file:
            datasets = {name: item for name, item in find_datasets(file).items() if "optimizer" not in name}
            check_sizes(datasets, path, kinds="fiubV")
            return collections.Counter(item.shape for item in datasets.values())
    except InputError as error:
        raise InputError(f"--weights: {error}") from error


def load_head_weights(model: keras.Model, path: str | Path) -> bool:
    """Loads the head of a `.keras` classifier into that of another, if the arrays of both are of the same shapes.

    Args:
        model: What `build_classifier` returns.
        path: File of weights, of any kind.

    Returns:
        Whether they were loaded; else the head is left as it is, as it is for files that hold a backbone alone.

    Raises:
        InputError: If the file is a `.keras` file that cannot be read or is no classifier of this package.
    """
    if Path(path).suffix != ".keras":
        return False
    head, theirs = model.get_layer("head"), _part_of(load_model(path), "head", Path(path))
    if [weight.shape for weight in head.weights] != [weight.shape for weight in theirs.weights]:
        return False
    head.set_weights(theirs.get_weights())
    return True


def load_model(path: str | Path) -> keras.Model:
    """Loads a `.keras` classifier, in safe mode and uncompiled.

    Raises:
        InputError: If the file is missing or is not a Keras model.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} is not there; is this the folder of a finished run?")
    check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what damaged files make libraries say before they fail
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise InputError(f"{path} is not a Keras model that can be loaded: {error}") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{path} holds a {type(model).__name__}, not a model.")
    return model


def average_models(models: Sequence[keras.Model]) -> keras.Model:
    """One classifier that gives the mean of the probabilities of several of the same crops and classes.

    >>> models = [build_classifier((16, 16, 1), n_classes=3, model_name="ResNet8") for _ in range(2)]
    >>> average_models(models).output_shape
    (None, 3)
    """
    crop = keras.Input(models[0].input_shape[1:], name="crop")
    members = []
    for number, model in enumerate(models):
        model.name = f"{model.name}_{number}"  # layers of a model want names of their own
        members.append(model(crop))
    return keras.Model(crop, keras.layers.Average(name="mean")(members), name=models[0].name.removesuffix("_0"))


def feature_extractor(model: keras.Model) -> keras.Model:
    """The classifier without its head: raw crops `(N, H, W, C)` to pooled features `(N, F)`."""
    crop = keras.Input(model.input_shape[1:], name="crop")
    return keras.Model(crop, model.get_layer("backbone")(model.get_layer("normalisation")(crop)), name="features")
