"""The classifier: normalisation + backbone + head, three named parts of one Keras model that takes raw crops.

The parts are made of Keras' own layers alone, so a saved model loads with plain Keras.
"""

import collections
import difflib
import re
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py

from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError
from resnet_zclass.pixels import Pixels

# Mean and spread (0..255) that normalised crops are given before a keras.applications backbone's own scaling,
# near those of the photographs its ImageNet weights saw.
IMAGENET_MEAN, IMAGENET_SPREAD = 118.0, 58.0


def build_classifier(
    crop_shape: tuple[int, int, int],
    n_classes: int,
    model_name: str = "ResNet20",
    weights: str = "none",
    im_size: int | None = None,
    scaling: str = "image",
    stabilise: bool = True,
    pixels: Pixels = Pixels(),  # noqa: B008 - frozen
    hidden: int = 1024,
    stem_stride: int = 1,
) -> keras.Model:
    """Builds a classifier of raw crops.

    Args:
        crop_shape: `(height, width, channels)` of a raw crop, in pixels.
        n_classes: int >= 2.
        model_name: `ResNet{6n+2}` of He et al. 2016 for small images, else a name of `keras.applications`.
        weights: Weights of the backbone: `"imagenet"`, `"none"`, or the path of a `.weights.h5` or `.h5` file of the
            backbone, or of a `.keras` file that this function built.
        im_size: Side in pixels to which crops are resized; None leaves them.
        scaling: `"image"`: to mean 0, spread 1 of each crop; `"set"`: to those of the training set; `"range"`: the
            range of the training set to 0..255, and from there as the backbone's ImageNet weights want it.
        stabilise: Take the square root of what lies above the camera's offset first (not with `"range"`).
        pixels: What `measure_pixels` says of the training set.
        hidden: Units of the hidden dense layer of the head; 0 for none.
        stem_stride: Stride of the first convolution of a `ResNet{6n+2}`.

    Returns:
        Model `(N, height, width, channels)` -> probabilities `(N, n_classes)` with layers named `normalisation`,
        `backbone` and `head`.

    Raises:
        InputError: For an unknown model, weights that do not fit or cannot be had, or a crop that is too small.

    >>> model = build_classifier((16, 16, 1), n_classes=3, model_name="ResNet8")
    >>> [layer.name for layer in model.layers[1:]], model.output_shape
    (['normalisation', 'backbone', 'head'], (None, 3))
    """
    channels = crop_shape[2]
    size = (im_size, im_size) if im_size else crop_shape[:2]
    application = None if is_small_resnet(model_name) else find_application(model_name)
    backbone_channels = 3 if application and channels == 1 else channels
    normalisation = build_normalisation(crop_shape, im_size, scaling, stabilise, pixels, application, backbone_channels)
    if application:
        backbone = _build_application(application, model_name, (*size, backbone_channels), weights)
    else:
        depth = int(model_name.removeprefix("ResNet"))
        backbone = build_small_resnet((*size, backbone_channels), depth, stem_stride=stem_stride)
    if weights not in ("none", "imagenet"):
        load_backbone_weights(backbone, weights)
    elif weights == "imagenet" and not application:
        raise InputError(f"--weights imagenet: there are none for {model_name}; choose ResNet50, or --weights none.")
    head = build_head(backbone.output_shape[1], n_classes, hidden)
    crop = keras.Input(crop_shape, name="crop")
    return keras.Model(crop, head(backbone(normalisation(crop))), name=model_name)


def build_normalisation(
    crop_shape: tuple[int, int, int],
    im_size: int | None,
    scaling: str,
    stabilise: bool,
    pixels: Pixels,
    application: types.ModuleType | None,
    out_channels: int,
) -> keras.Model:
    """Raw crops to what the backbone expects: scaling, gray -> RGB, resizing, the application's own scaling."""
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
        x = keras.layers.Rescaling(1 / spread, offset=-mean / spread, name="per_set")(x)
    elif scaling == "range":
        scale = (255.0 if application else 1.0) / (pixels.high - pixels.low)
        x = keras.layers.Rescaling(scale, offset=-pixels.low * scale, name="per_range")(x)
    else:
        raise InputError(f"--scaling must be image, set or range. Received: {scaling}.")
    if application and scaling != "range":
        x = keras.layers.Rescaling(IMAGENET_SPREAD, offset=IMAGENET_MEAN, name="to_imagenet")(x)
    if im_size:
        x = keras.layers.Resizing(im_size, im_size, name="resize")(x)
    if out_channels == 3 and crop_shape[2] == 1:
        x = keras.layers.Concatenate(name="gray_to_rgb")([x, x, x])
    if application:
        x = application.preprocess_input(x)
    return keras.Model(crop, x, name="normalisation")


def build_head(n_features: int, n_classes: int, hidden: int = 1024) -> keras.Model:
    """Dense(`hidden`, relu), if any, and Dense(`n_classes`, softmax) on pooled features `(N, n_features)`."""
    layers = [keras.Input((n_features,), name="features")]
    if hidden:
        layers.append(keras.layers.Dense(hidden, activation="relu", name="hidden"))
    # float32 whatever the policy: probabilities of 16 bits lose the small ones.
    layers.append(
        keras.layers.Dense(
            n_classes, activation="softmax", kernel_initializer="he_normal", dtype="float32", name="probabilities"
        )
    )
    return keras.Sequential(layers, name="head")


def is_small_resnet(model_name: str) -> bool:
    """Whether a name means a `ResNet{6n+2}` for small images rather than one of `keras.applications`.

    >>> is_small_resnet("ResNet20"), is_small_resnet("ResNet50")
    (True, False)
    """
    match = re.fullmatch(r"ResNet(\d+)", model_name)
    if match is None or hasattr(keras.applications, model_name):
        return False
    return 8 <= int(match[1]) <= 1202 and int(match[1]) % 6 == 2  # 1202 layers are the paper's deepest


def build_small_resnet(
    input_shape: tuple[int, int, int], depth: int = 20, width: int = 16, stem_stride: int = 1
) -> keras.Model:
    """The residual net of 6n+2 layers for small images, with pooled features `(N, 4 * width)` as output.

    Three stages of n blocks of two 3x3 convolutions with `width`, 2 `width` and 4 `width` filters, identity
    shortcuts that are strided and padded with zero channels (option A) between stages. A `stem_stride` of 2 halves
    the image at once, which the paper does not.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.

    >>> build_small_resnet((32, 32, 3), depth=20).count_params()  # 0.27 M without the classifier, as in table 6
    270448
    """
    image = keras.Input(input_shape, name="image")
    x = _conv_bn(image, width, stem_stride, name="conv1")
    x = keras.layers.ReLU(name="conv1_relu")(x)
    for stage in range(3):
        for block in range((depth - 2) // 6):
            strides = 2 if stage > 0 and block == 0 else 1
            x = _basic_block(x, width * 2**stage, strides, name=f"conv{stage + 2}_block{block + 1}")
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(image, x, name="backbone")


def _basic_block(x, filters: int, strides: int, name: str):
    y = _conv_bn(x, filters, strides, name=f"{name}_1")
    y = keras.layers.ReLU(name=f"{name}_1_relu")(y)
    y = _conv_bn(y, filters, 1, name=f"{name}_2")
    if strides > 1:
        x = keras.layers.AveragePooling2D(1, strides=strides, name=f"{name}_0_stride")(x)
        missing = filters - x.shape[-1]
        x = keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [missing // 2, missing - missing // 2]])
    x = keras.layers.Add(name=f"{name}_add")([x, y])
    return keras.layers.ReLU(name=f"{name}_out")(x)


def _conv_bn(x, filters: int, strides: int, name: str):
    x = keras.layers.Conv2D(
        filters, 3, strides, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    # Keras' momentum of 0.99 wants hundreds of steps an epoch, which small sets do not have.
    return keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)


def find_application(model_name: str) -> types.ModuleType:
    """The module of `keras.applications` that has `model_name` and the `preprocess_input` its weights want.

    Raises:
        InputError: If there is none.

    >>> find_application("ResNet50").__name__.split(".")[-1]
    'resnet'
    """
    modules = [module for module in vars(keras.applications).values() if isinstance(module, types.ModuleType)]
    for module in modules:
        if callable(getattr(module, model_name, None)) and hasattr(module, "preprocess_input"):
            return module
    names = sorted({name for module in modules for name in vars(module) if name[:1].isupper()})
    near = difflib.get_close_matches(model_name, ["ResNet20", *names], n=3) or ["ResNet20", "ResNet50"]
    raise InputError(
        f"--model_name {model_name} is no ResNet{{6n+2}} and not in keras.applications; is {' or '.join(near)} meant?"
    )


def _build_application(module: types.ModuleType, model_name: str, shape: tuple, weights: str) -> keras.Model:
    try:
        return getattr(module, model_name)(
            include_top=False,
            weights="imagenet" if weights == "imagenet" else None,
            input_shape=shape,
            pooling="avg",
            name="backbone",
        )
    except Exception as error:  # Keras raises a bare Exception when a download fails
        if "URL fetch failure" in str(error):
            raise InputError(
                f"--weights imagenet: the weights of {model_name} cannot be downloaded; put the file named at the end "
                f"of {_url_in(str(error))} into ~/.keras/models, or give --weights FILE."
            ) from error
        raise InputError(f"--model_name {model_name} with images of {shape}: {error}") from error


def _url_in(text: str) -> str:
    return (re.search(r"https?://\S+", text) or ["its address"])[0].rstrip(":")


def load_backbone_weights(backbone: keras.Model, path: str | Path) -> None:
    """Loads weights into a backbone, all of them and no others.

    Args:
        backbone: Model to load into.
        path: `.weights.h5` or `.h5` file of the backbone without top, or a `.keras` classifier of this package.

    Raises:
        InputError: If the file is missing or unreadable, or its arrays are not just those of the backbone.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"--weights: {path} is not there; give imagenet, none or the path of a weights file.")
    wanted = collections.Counter(tuple(weight.shape) for weight in backbone.weights)
    if path.suffix == ".keras":
        source = load_model(path)
        if "backbone" not in {layer.name for layer in source.layers}:
            raise InputError(f"--weights: {path} has no part named backbone.")
        arrays = source.get_layer("backbone").get_weights()
        _check_same_shapes(path, wanted, collections.Counter(array.shape for array in arrays))
        backbone.set_weights(arrays)
        return
    _check_same_shapes(path, wanted, _shapes_in(path))
    try:
        backbone.load_weights(path)
    except Exception as error:
        raise InputError(f"--weights: {path} does not fit the backbone: {error}") from error


def _shapes_in(path: Path) -> collections.Counter:
    shapes: collections.Counter = collections.Counter()

    def visit(name: str, item) -> None:
        if isinstance(item, h5py.Dataset) and "optimizer" not in name:
            shapes[item.shape] += 1

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except OSError as error:
        raise InputError(f"--weights: {path} is not a readable HDF5 file ({error}).") from error
    return shapes


def _check_same_shapes(path: Path, wanted: collections.Counter, found: collections.Counter) -> None:
    if wanted != found:
        missing, extra = wanted - found, found - wanted
        raise InputError(
            f"--weights: {path} does not fit the backbone: {missing.total()} arrays are missing "
            f"(for instance of shape {next(iter(missing), '-')}), {extra.total()} are too many "
            f"(for instance of shape {next(iter(extra), '-')})."
        )


def _stem_only(names: Sequence[str]) -> set[str]:
    return {name for name in names if name.startswith("conv1_") or name in ("conv1", "stem_conv")}


def _last_stage(names: Sequence[str]) -> set[str]:
    stages = [match[0] for name in names if (match := re.match(r"(conv|stage|block)\d+(?=_)", name))]
    if len(set(stages)) < 2:
        raise InputError("--freeze last_stage: this backbone has no numbered stages; give the name of a layer.")
    return set(names[names.index(next(name for name in names if name.startswith(stages[-1] + "_"))) :])


# Which backbone layers are trained, from their names in order. The head always is.
FREEZE_POLICIES: dict[str, Callable[[Sequence[str]], set[str]]] = {
    "none": set,
    "head_only": lambda names: set(),
    "stem_head": _stem_only,
    "last_stage": _last_stage,
}


def apply_freeze(model: keras.Model, policy: str) -> None:
    """Sets which layers of a classifier are trained; compile afterwards.

    Args:
        model: What `build_classifier` returns.
        policy: A name in `FREEZE_POLICIES`, or that of the first backbone layer to train.

    Raises:
        InputError: If it is neither.

    >>> model = build_classifier((16, 16, 1), n_classes=3, model_name="ResNet8")
    >>> apply_freeze(model, "head_only"); [w.path for w in model.trainable_weights][:2]
    ['head/hidden/kernel', 'head/hidden/bias']
    """
    backbone = model.get_layer("backbone")
    names = [layer.name for layer in backbone.layers]
    if policy in FREEZE_POLICIES:
        trained = FREEZE_POLICIES[policy](names)
    elif policy in names:
        trained = set(names[names.index(policy) :])
    else:
        raise InputError(f"--freeze must be {', '.join(FREEZE_POLICIES)} or the name of a layer. Received: {policy}.")
    if not trained and policy != "head_only":
        raise InputError(f"--freeze {policy}: this backbone has no such layers; give the name of the first to train.")
    backbone.trainable = True
    for layer in backbone.layers:
        layer.trainable = layer.name in trained


def feature_extractor(model: keras.Model) -> keras.Model:
    """The classifier without its head: raw crops `(N, H, W, C)` to pooled features `(N, F)`."""
    crop = keras.Input(model.input_shape[1:], name="crop")
    return keras.Model(crop, model.get_layer("backbone")(model.get_layer("normalisation")(crop)), name="features")


def load_model(path: str | Path) -> keras.Model:
    """Loads a `.keras` classifier, in safe mode and uncompiled.

    Raises:
        InputError: If the file is missing or is not a Keras model.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} is not there; is this the folder of a finished run?")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise InputError(f"{path} is not a Keras model that can be loaded: {error}") from error
