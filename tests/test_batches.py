import gc
import weakref

import numpy as np
import pytest

from resnet_zclass.augment import build_augment
from resnet_zclass.batches import count_steps, ordered_batches, training_batches

CROPS = np.random.default_rng(0).integers(0, 4000, (23, 8, 8, 1)).astype("uint16")
TARGETS = np.arange(23, dtype="float32")[:, None]


def take(data, n):
    return [(x.copy(), y.copy()) for x, y in data.take(n).as_numpy_iterator()]


def test_an_epoch_holds_every_crop_once_and_the_next_is_in_another_order():
    data, steps = training_batches(CROPS, TARGETS, batch_size=5, seed=0), 5
    batches = take(data, 2 * steps)
    assert [len(x) for x, _ in batches[:steps]] == [4, 5, 4, 5, 5]
    first, second = (np.concatenate([y for _, y in batches[i : i + steps]]).ravel() for i in (0, steps))
    assert sorted(first) == sorted(second) == list(range(23))
    assert first.tolist() != second.tolist()


def test_crops_stay_with_their_targets():
    data = training_batches(CROPS, TARGETS, batch_size=4, seed=0)
    for x, y in take(data, 6):
        np.testing.assert_array_equal(x, CROPS[y.ravel().astype(int)])


def test_identical_seeds_give_identical_batches_and_others_do_not():
    augment = build_augment(flip=True, shift_px=2, thin=0.5)

    def stream(seed):
        return np.concatenate([x for x, _ in take(training_batches(CROPS, TARGETS, 6, seed, augment), 12)])

    np.testing.assert_array_equal(stream(1), stream(1))
    assert (stream(1) != stream(2)).any()


def test_augmentation_inside_the_pipeline_is_that_outside_of_it():
    augment = build_augment(flip=True, shift_px=2)
    data = ordered_batches(CROPS, TARGETS, 10, augment, seed=3)
    expected = [augment(CROPS[i : i + 10], np.random.default_rng([3, i])) for i in (0, 10, 20)]
    for (x, _), wanted in zip(data.as_numpy_iterator(), expected, strict=True):
        np.testing.assert_array_equal(x, wanted)


def test_ordered_batches_keep_order_dtype_and_shape():
    data = ordered_batches(CROPS, TARGETS, 10)
    assert data.element_spec[0].shape.as_list() == [None, 8, 8, 1]
    x = np.concatenate([x for x, _ in data.as_numpy_iterator()])
    assert x.dtype == np.uint16
    np.testing.assert_array_equal(x, CROPS)


def test_every_epoch_draws_augmentation_anew():
    one = CROPS[:1]
    data = training_batches(one, TARGETS[:1], 1, seed=0, augment=build_augment(shift_px=3))
    shown = {x.tobytes() for x, _ in take(data, 12)}
    assert len(shown) > 6


def test_mixed_images_come_with_mixed_targets_and_their_weights():
    crops, targets = np.arange(8.0, dtype="float32").reshape(8, 1, 1, 1), np.eye(8, dtype="float32")

    def mix(batch, target, rng):
        return (batch + batch[::-1]) / 2, (target + target[::-1]) / 2

    data = training_batches(crops, targets, 3, seed=1, mix=mix, weigh=lambda t: t @ np.arange(8.0))
    batches = list(data.take(3).as_numpy_iterator())
    assert [len(weights) for *_, weights in batches] == [2, 3, 3]
    for batch, target, weights in batches:
        np.testing.assert_allclose(target @ np.arange(8.0), batch.ravel(), rtol=1e-6)
        np.testing.assert_allclose(weights, batch.ravel(), rtol=1e-6)
    assert any((target == 0.5).any() for _, target, _ in batches)


@pytest.mark.parametrize("n_replicas", [2, 3, 8])
@pytest.mark.parametrize("batch_size", [9, 150])
def test_replicas_together_see_what_one_device_sees(n_replicas, batch_size):
    crops = np.random.default_rng(0).integers(0, 4000, (301, 8, 8, 1)).astype("uint16")
    targets = np.arange(301, dtype="float32")[:, None]
    settings = (crops, targets, batch_size, 7, build_augment(flip=True, shift_px=2, thin=0.5))
    steps = count_steps(301, batch_size)
    wanted = take(training_batches(*settings), 2 * steps)
    apart = [
        take(training_batches(*settings, replicas=range(r, r + 1), n_replicas=n_replicas), 2 * steps)
        for r in range(n_replicas)
    ]
    in_turn = take(
        training_batches(*settings, replicas=range(n_replicas), n_replicas=n_replicas), 2 * steps * n_replicas
    )
    for step, (x, y) in enumerate(wanted):
        shares = [of_replica[step] for of_replica in apart]
        assert max(len(part) for part, _ in shares) - min(len(part) for part, _ in shares) <= 1
        for own in (shares, in_turn[step * n_replicas : (step + 1) * n_replicas]):
            np.testing.assert_array_equal(np.concatenate([part for part, _ in own]), x)
            np.testing.assert_array_equal(np.concatenate([part for _, part in own]), y)


def test_batches_can_begin_with_a_later_epoch():
    steps = count_steps(23, 5)
    data = training_batches(CROPS, TARGETS, 5, seed=1)
    later = training_batches(CROPS, TARGETS, 5, seed=1, first_epoch=2)
    for (x, y), (x_later, y_later) in zip(take(data, 3 * steps)[2 * steps :], take(later, steps), strict=True):
        np.testing.assert_array_equal(x, x_later)
        np.testing.assert_array_equal(y, y_later)


def test_what_batches_were_made_from_is_let_go(tmp_path):
    crops = Held((8, 4, 4, 1))
    for _ in ordered_batches(crops, np.zeros(8, np.int32), 4):
        pass
    known = weakref.ref(crops)
    del crops
    gc.collect()
    assert known() is None


class Held:
    """Crops that can be watched."""

    dtype = np.dtype("uint16")

    def __init__(self, shape):
        self.shape = shape

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, indices):
        return np.zeros((len(indices), *self.shape[1:]), self.dtype)
