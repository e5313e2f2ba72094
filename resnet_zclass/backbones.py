"""Backbones by name: small residual and plain nets for small images, and all of `keras.applications`.

Every backbone takes images `(N, H, W, C)` and gives pooled features `(N, F)`. Names of layers are addresses: they are
the same in every session.
"""

import difflib
import re
import types
import warnings
from collections.abc import Sequence

import numpy as np

from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError
from resnet_zclass.stems import NATURAL_ORDER, adapt_stem, check_adaptation

# Filters of the 3x3 convolutions, one tuple per max pooling.
SMALL_CNNS: dict[str, tuple[tuple[int, ...], ...]] = {
    "CNN": ((16,), (32,), (64,), (128,)),
    "CNN8": ((32, 32), (64, 64), (128, 128)),  # eight layers with a head of two
}

# Of the moving averages of batch normalisation: Keras' 0.99 wants hundreds of steps an epoch, which small sets do not
# have; until the averages have caught up, validation is far worse than training.
BN_MOMENTUM = 0.9

# Smallest images in pixels, where that is not Keras' own minimum. InceptionResNetV2 was used on 139 px by the authors
# of jobs like these; Keras' 75 px leave it a single position to pool.
MIN_SIZES = {"InceptionResNetV2": 139}


def build_backbone(
    model_name: str,
    input_shape: tuple[int, int, int],
    is_imagenet: bool = False,
    stem_stride: int = 1,
) -> keras.Model:
    """Builds a backbone.

    Args:
        model_name: `ResNet{6n+2}`, a name in `SMALL_CNNS`, or one of `keras.applications`.
        input_shape: `(height, width, channels)` in pixels.
        is_imagenet: Whether a backbone of `keras.applications` gets its ImageNet weights.
        stem_stride: Stride of the first convolution of a `ResNet{6n+2}`.

    Returns:
        Model named `backbone`.

    Raises:
        InputError: For an unknown name, an image that is too small, or weights that cannot be had.

    >>> build_backbone("CNN", (32, 32, 4)).output_shape
    (None, 128)
    """
    if is_application(model_name):
        _check_size(model_name, input_shape, MIN_SIZES.get(model_name, 0))
        return _build_application(model_name, input_shape, is_imagenet)
    if is_imagenet:
        raise InputError(f"--weights imagenet: there are none for {model_name}; choose ResNet50, or --weights none.")
    if model_name in SMALL_CNNS:
        _check_size(model_name, input_shape, 2 ** len(SMALL_CNNS[model_name]))
        return build_small_cnn(input_shape, SMALL_CNNS[model_name])
    return build_small_resnet(input_shape, int(model_name.removeprefix("ResNet")), stem_stride=stem_stride)


def is_application(model_name: str) -> bool:
    """Whether a name means a network of `keras.applications` rather than a small one of this module.

    Raises:
        InputError: If it means neither.

    >>> is_application("ResNet20"), is_application("CNN"), is_application("ResNet50")
    (False, False, True)
    """
    if is_small_resnet(model_name) or model_name in SMALL_CNNS:
        return False
    find_application(model_name)
    return True


def resolve_stem(stem: str, model_name: str, in_channels: int) -> str:
    """How the first convolution of a backbone takes images of `in_channels` channels.

    Args:
        stem: `"auto"`: gray is repeated to RGB for a network of `keras.applications`, three channels are taken as
            RGB, and any other number as `"tile"`; a name in `stems.ADAPTATIONS`; or what this function returned.
        model_name: As of `build_backbone`.
        in_channels: Channels of a crop.

    Returns:
        `"rgb"`: gray is repeated to RGB; `"none"`: the stem is as it was; else how it is adapted.

    Raises:
        InputError: If `stem` is unknown or does not suit `in_channels`, or `model_name` is unknown.

    >>> [resolve_stem("auto", "ResNet50", n) for n in (1, 3, 4)], resolve_stem("sum", "ResNet50", 1)
    (['rgb', 'none', 'tile'], 'sum')
    """
    if stem in ("rgb", "none"):
        suits = in_channels == 1 if stem == "rgb" else in_channels == 3 or not is_application(model_name)
        if not suits:
            raise InputError(f"--stem {stem} does not suit {in_channels} channels; give auto.")
        return stem
    if stem != "auto":
        check_adaptation(stem, in_channels)
        return "none" if in_channels == 3 and stem in ("tile", "copy", "zero") else stem
    if in_channels == 1:
        return "rgb" if is_application(model_name) else "none"
    return "none" if in_channels == 3 else "tile"


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
    x = _conv_bn_relu(image, width, stem_stride, name="conv1")
    for stage in range(3):
        for block in range((depth - 2) // 6):
            strides = 2 if stage > 0 and block == 0 else 1
            x = _basic_block(x, width * 2**stage, strides, name=f"conv{stage + 2}_block{block + 1}")
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(image, x, name="backbone")


def _basic_block(x, filters: int, strides: int, name: str):
    y = _conv_bn_relu(x, filters, strides, name=f"{name}_1")
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
    return keras.layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)


def _conv_bn_relu(x, filters: int, strides: int, name: str):
    return keras.layers.ReLU(name=f"{name}_relu")(_conv_bn(x, filters, strides, name))


def build_small_cnn(input_shape: tuple[int, int, int], filters: Sequence[Sequence[int]]) -> keras.Model:
    """A plain convolutional net: 3x3 convolutions with batch norm and relu, in stages that end with a max pooling.

    Nothing is dropped between stages: batch normalisation would take the averages of thinned-out features for those of
    whole ones (Li et al., Understanding the Disharmony between Dropout and Batch Normalization, CVPR 2019).

    Args:
        input_shape: `(height, width, channels)`; each side at least 2 to the power of the number of stages.
        filters: Filters of the convolutions, one sequence per stage.

    Returns:
        Model named `backbone` that gives the averages of the last stage `(N, filters[-1][-1])`.

    >>> [layer.name for layer in build_small_cnn((8, 8, 1), [[4]]).layers[1:]]
    ['conv1_1_conv', 'conv1_1_bn', 'conv1_1_relu', 'conv1_pool', 'avg_pool']
    """
    image = x = keras.Input(input_shape, name="image")
    for stage, widths in enumerate(filters, start=1):
        for number, width in enumerate(widths, start=1):
            x = _conv_bn_relu(x, width, 1, name=f"conv{stage}_{number}")
        x = keras.layers.MaxPooling2D(name=f"conv{stage}_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(image, x, name="backbone")


def find_application(model_name: str) -> types.ModuleType:
    """The module of `keras.applications` that has `model_name` and the `preprocess_input` its weights want.

    Raises:
        InputError: If there is none.

    >>> find_application("ResNet50").__name__.split(".")[-1]
    'resnet'
    """
    build = getattr(keras.applications, model_name, None)
    if isinstance(build, types.FunctionType):
        return getattr(keras.applications, build.__module__.rsplit(".", 1)[-1])
    names = [name for name, value in vars(keras.applications).items() if isinstance(value, types.FunctionType)]
    near = difflib.get_close_matches(model_name, ["ResNet20", *SMALL_CNNS, *names], n=3) or ["ResNet20", "ResNet50"]
    raise InputError(
        f"--model_name {model_name} is no ResNet{{6n+2}}, none of {', '.join(SMALL_CNNS)} and not in "
        f"keras.applications; is {' or '.join(near)} meant?"
    )


def _build_application(model_name: str, shape: tuple[int, int, int], is_imagenet: bool) -> keras.Model:
    image = keras.Input(shape, name="image")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This model usually expects 1 or 3 input channels")
            net = getattr(keras.applications, model_name)(
                include_top=False,
                weights="imagenet" if is_imagenet else None,
                input_shape=shape,
                input_tensor=image,
                pooling="avg",
            )
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise _say_why(error, model_name, shape) from error
    for layer in flat_layers(net):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = min(layer.momentum, BN_MOMENTUM)
    # Not by the application's own `name`: some look for their weights under it.
    return _with_stable_names(keras.Model(net.inputs[0], net.outputs[0], name="backbone"))


def _say_why(error: Exception, model_name: str, shape: tuple[int, int, int]) -> InputError:
    if "URL fetch failure" in str(error):
        address = (re.search(r"https?://\S+", str(error)) or ["its address"])[0].rstrip(":")
        return InputError(
            f"--weights imagenet: the weights of {model_name} cannot be downloaded; put the file named at the end "
            f"of {address} into ~/.keras/models, or give --weights FILE."
        )
    if smallest := re.search(r"size must be at least (\d+)", str(error)):
        return _too_small(model_name, shape, int(smallest[1]))
    if shape[2] not in (1, 3):
        return InputError(f"--model_name {model_name} does not take images of {shape[2]} channels; choose ResNet50.")
    return InputError(f"--model_name {model_name} with images of {shape}: {error}")


def _check_size(model_name: str, shape: tuple[int, int, int], smallest: int) -> None:
    if min(shape[:2]) < smallest:
        raise _too_small(model_name, shape, smallest)


def _too_small(model_name: str, shape: tuple[int, int, int], smallest: int) -> InputError:
    return InputError(
        f"--model_name {model_name} wants images of {smallest} px or more. Received: {min(shape[:2])} px; "
        f"give --im_size {smallest}."
    )


def _with_stable_names(net: keras.Model) -> keras.Model:
    """The same net with the names of a fresh session: Keras counts unnamed layers on from earlier models.

    A net with any such layers is always copied, so that random numbers drawn afterwards do not depend on what was
    built before.
    """
    numbered = {operation.name: numbers for operation in net.operations if (numbers := _count_of(operation))}
    first: dict[str, int] = {}
    for prefix, count in numbered.values():
        first[prefix] = min(count, first.get(prefix, count))
    if not numbered:
        return net
    copies = []

    def copy(operation):
        config = operation.get_config()
        if operation.name in numbered:
            prefix, count = numbered[operation.name]
            config["name"] = f"{prefix}_{count - first[prefix]}" if count > first[prefix] else prefix
        copies.append((operation, type(operation).from_config(config)))
        return copies[-1][1]

    image = keras.Input(net.input_shape[1:], name="image")
    renamed = keras.models.clone_model(net, clone_function=copy, input_tensors=image)
    for old, new in copies:
        if isinstance(old, keras.Layer):
            new.set_weights(old.get_weights())
    return renamed


def _count_of(operation) -> tuple[str, int] | None:
    """`("conv2d", 17)` for a Conv2D that Keras named `conv2d_17`, `("conv2d", 0)` for `conv2d`, None for others."""
    prefix, count = re.fullmatch(r"(.+?)(?:_(\d+))?", operation.name).groups()
    is_automatic = prefix.replace("_", "") == type(operation).__name__.lower()
    return (prefix, int(count or 0)) if is_automatic else None


def find_stem(backbone: keras.Model) -> keras.layers.Conv2D:
    """The first convolution of a backbone.

    Raises:
        InputError: If there is none among its layers.

    >>> find_stem(build_small_resnet((16, 16, 1), depth=8)).name
    'conv1_conv'
    """
    for layer in flat_layers(backbone):
        if isinstance(layer, keras.layers.Conv2D) and layer.groups == 1:
            return layer
    raise InputError("--stem: this backbone has no convolution; leave --stem auto.")


def flat_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model, with those of models within it in their place.

    >>> [layer.name for layer in flat_layers(build_small_cnn((8, 8, 1), [[4]]))][:2]
    ['image', 'conv1_1_conv']
    """
    nested = (flat_layers(layer) if hasattr(layer, "layers") else [layer] for layer in model.layers)
    return [layer for layers in nested for layer in layers]


def transplant(rgb: keras.Model, backbone: keras.Model, how: str, order: Sequence[int] = NATURAL_ORDER) -> None:
    """Copies the weights of a backbone of RGB images into its twin of any channels, the stem kernel adapted.

    Args:
        rgb: Backbone to copy.
        backbone: Backbone to copy into, whose arrays but the stem kernel are of the same shapes.
        how: A name in `stems.ADAPTATIONS`.
        order: RGB channels that the inputs of `rgb` are. Those of the twin are in their natural order.

    Raises:
        InputError: If more than the stem kernel differs.
    """
    if any(isinstance(layer, keras.layers.Normalization) for layer in flat_layers(rgb)):
        raise InputError(
            f"--stem {how}: this backbone has statistics of RGB within, so its weights do not take images of "
            f"{backbone.input_shape[-1]} channels; choose ResNet50, or --weights none."
        )
    arrays = rgb.get_weights()
    stem = next(i for i, weight in enumerate(rgb.weights) if weight is find_stem(rgb).kernel)
    kernel = np.empty_like(arrays[stem])
    kernel[:, :, list(order)] = arrays[stem]
    arrays[stem] = adapt_stem(kernel, backbone.input_shape[-1], how)
    if [array.shape for array in arrays] != [tuple(weight.shape) for weight in backbone.weights]:
        raise InputError(f"--stem {how}: more than the first convolution of this backbone depends on the channels.")
    backbone.set_weights(arrays)
