import numpy as np
import pytest
from drawn import draw_crops

from resnet_zclass.baseline import fit_baseline
from resnet_zclass.pixels import measure_pixels, stabilise_variance


def predict_baseline(crops, truth, others, n_classes):
    return fit_baseline(crops, truth, n_classes)(others)


@pytest.fixture(scope="module")
def halves():
    crops, labels = draw_crops(n_classes=4, n_per_class=60)
    crops = crops[..., None]
    return crops[::2], labels[::2], crops[1::2], labels[1::2]


def test_planes_that_differ_are_told_apart(halves):
    crops, labels, others, truth = halves
    probabilities = predict_baseline(crops, labels, others, 4)
    assert (probabilities.argmax(axis=1) == truth).mean() > 0.9
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_labels_without_meaning_give_chance(halves):
    crops, labels, others, truth = halves
    shuffled = np.random.default_rng(0).permutation(labels)
    assert (predict_baseline(crops, shuffled, others, 4).argmax(axis=1) == truth).mean() < 0.5


def test_a_class_that_was_never_seen_has_probability_zero(halves):
    crops, labels, others, _ = halves
    probabilities = predict_baseline(crops[labels != 1], labels[labels != 1], others, 4)
    assert (probabilities[:, 1] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_inputs_stay_as_they_are(halves):
    crops, labels, others, _ = halves
    before = crops.copy(), others.copy()
    predict_baseline(crops, labels, others, 4)
    np.testing.assert_array_equal(crops, before[0])
    np.testing.assert_array_equal(others, before[1])


@pytest.mark.parametrize("shape", [(70, 70), (10, 200), (130, 64)])
def test_crops_of_any_shape_are_taken(shape):
    rng = np.random.default_rng(0)
    crops = rng.poisson(np.repeat([5.0, 50.0], 10)[:, None, None, None], (20, *shape, 1)).astype("uint16")
    labels = np.repeat([0, 1], 10)
    assert (predict_baseline(crops, labels, crops, 2).argmax(axis=1) == labels).all()


def test_the_root_of_poisson_counts_has_even_noise():
    rng = np.random.default_rng(0)
    spread = [stabilise_variance(rng.poisson(mean, 20000) + 100, 100.0).std() for mean in (20, 200, 2000)]
    np.testing.assert_allclose(spread, 0.5, rtol=0.05)


def test_the_offset_is_that_of_the_darkest_pixels():
    crops = 100 + np.random.default_rng(0).poisson(20, (50, 16, 16, 1))
    assert 105 <= measure_pixels(crops.astype("uint16")).offset <= 112


def test_several_labels_are_told_one_by_one(halves):
    crops, labels, others, truth = halves
    targets, wanted = (np.stack([of > 0, of > 2, of < 0], axis=1).astype("float32") for of in (labels, truth))
    probabilities = predict_baseline(crops, targets, others, 3)
    assert ((probabilities > 0.5) == wanted).mean() > 0.9
    assert not probabilities[:, 2].any()  # a class that no image has


def test_crops_are_read_part_by_part_with_the_same_result(halves, monkeypatch):
    crops, labels, others, _ = halves
    whole = predict_baseline(crops, labels, others, 4)
    monkeypatch.setattr("resnet_zclass.pixels.MAX_BYTES", 4096)
    np.testing.assert_allclose(predict_baseline(crops, labels, others, 4), whole, atol=1e-9)
