import numpy as np
import pytest

from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError
from resnet_zclass.stems import ADAPTATIONS, adapt_channels, adapt_stem, measure_preprocessing

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 3, 3, 8)).astype("float32")
GRAY = RNG.uniform(-1, 1, (2, 12, 12, 1)).astype("float32")


def respond(kernel, images):
    """What a real Keras convolution with this kernel makes of images."""
    layer = keras.layers.Conv2D(kernel.shape[3], kernel.shape[:2], use_bias=False)
    layer.build(images.shape)
    layer.set_weights([kernel])
    return np.asarray(layer(images.astype("float32")))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_sum_answers_a_gray_image_as_the_rgb_stem_did(n):
    rgb = respond(KERNEL, np.repeat(GRAY, 3, axis=3))
    np.testing.assert_allclose(respond(adapt_stem(KERNEL, n, "sum"), np.repeat(GRAY, n, axis=3)), rgb, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_mean_tile_and_copy_follow_their_closed_forms(n):
    images = RNG.uniform(-1, 1, (2, 12, 12, n)).astype("float32")
    by_channel = np.stack(  # of image channel c through RGB channel k
        [[respond(KERNEL[:, :, k : k + 1], images[..., c : c + 1]) for k in range(3)] for c in range(n)]
    )
    copied = sum(by_channel[c, c % 3] for c in range(n))
    np.testing.assert_allclose(respond(adapt_stem(KERNEL, n, "copy"), images), copied, atol=1e-5)
    np.testing.assert_allclose(respond(adapt_stem(KERNEL, n, "tile"), images), copied * 3 / n, atol=1e-5)
    mean = by_channel.sum(0).mean(0)
    np.testing.assert_allclose(respond(adapt_stem(KERNEL, n, "mean"), images), mean, atol=1e-5)


def test_zero_sees_the_first_three_channels_as_before_and_no_other():
    images = RNG.uniform(-1, 1, (2, 12, 12, 5))
    adapted = respond(adapt_stem(KERNEL, 5, "zero"), images)
    np.testing.assert_allclose(adapted, respond(KERNEL, images[..., :3]), atol=1e-5)
    images[..., 3:] = 9
    np.testing.assert_array_equal(respond(adapt_stem(KERNEL, 5, "zero"), images), adapted)


@pytest.mark.parametrize("how", ["tile", "copy", "zero"])
def test_three_channels_stay_as_they_are(how):
    np.testing.assert_array_equal(adapt_stem(KERNEL, 3, how), KERNEL)
    np.testing.assert_array_equal(adapt_channels([1, 2, 3], 3, how), [1, 2, 3])


@pytest.mark.parametrize("how", ADAPTATIONS)
def test_adapted_kernels_keep_their_type_and_the_original(how):
    before = KERNEL.copy()
    adapted = adapt_stem(KERNEL, 4, how)
    assert (adapted.dtype, adapted.shape) == (KERNEL.dtype, (3, 3, 4, 8))
    adapted[...] = 0
    np.testing.assert_array_equal(KERNEL, before)


def test_constants_follow_their_channel():
    assert adapt_channels([1, 2, 6], 5, "tile").tolist() == [1, 2, 6, 1, 2]
    assert adapt_channels([1, 2, 6], 2, "copy").tolist() == [1, 2]
    assert adapt_channels([1, 2, 6], 4, "zero").tolist() == [1, 2, 6, 1]
    assert adapt_channels([1, 2, 6], 2, "sum").tolist() == adapt_channels([1, 2, 6], 2, "mean").tolist() == [3, 3]


def test_what_cannot_be_adapted_is_refused():
    for how, n in (("zero", 2), ("zero", 1), ("average", 4), ("sum", 0)):
        with pytest.raises(InputError, match=f"--stem.*Received: {n if how in ADAPTATIONS else how}"):
            adapt_stem(KERNEL, n, how)
    with pytest.raises(InputError, match=r"\(3, 3, 4, 8\)"):
        adapt_stem(adapt_stem(KERNEL, 4, "tile"), 4, "tile")


@pytest.mark.parametrize("family", ["vgg16", "mobilenet", "densenet", "convnext"])  # caffe, tf, torch, none at all
def test_the_measured_preprocessing_is_the_genuine_one(family):
    preprocess = getattr(keras.applications, family).preprocess_input
    order, scale, offset = measure_preprocessing(preprocess)
    images = RNG.uniform(0, 255, (2, 4, 4, 3))
    np.testing.assert_allclose((images * scale + offset)[..., list(order)], preprocess(images.copy()), atol=1e-10)
    assert order == ((2, 1, 0) if family == "vgg16" else (0, 1, 2))


def test_a_preprocessing_that_mixes_channels_is_refused():
    with pytest.raises(InputError, match="mixes channels"):
        measure_preprocessing(lambda x: x @ np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]))
