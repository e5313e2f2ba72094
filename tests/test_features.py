import numpy as np
import pytest

import resnet_zclass as rz
from resnet_zclass import features
from resnet_zclass.augment import build_augment
from resnet_zclass.backend import keras
from resnet_zclass.features import Extractor, StoredFeatures, build_extractor, extract_features, store_features
from resnet_zclass.models import build_classifier
from resnet_zclass.options import TrainOptions
from resnet_zclass.pack import Subset
from resnet_zclass.views import list_views

CROPS = np.random.default_rng(0).poisson(200, (30, 16, 16, 1)).astype("uint16")
TARGETS = np.eye(3, dtype="float32")[np.arange(30) % 3]
STRENGTHS = {"flip": True, "turn": True}


class Losses(keras.callbacks.Callback):
    """Keeps what every epoch said."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append([logs["loss"], logs["val_loss"]])


def build(name="ResNet8", im_size=None):
    keras.utils.set_random_seed(0)
    model = rz.models.build_classifier((16, 16, 1), 3, name, im_size=im_size, hidden=8)
    rz.models.apply_freeze(model, "head_only")
    return model


def mean_and_spread(crops):
    """Something simple that features may be, `(n, 2)`."""
    flat = crops.reshape(len(crops), -1).astype("float32")
    return np.stack([flat[:, 0], flat.std(axis=1)], axis=1)


SIMPLE = Extractor("simple", mean_and_spread, 2)


def test_training_on_stored_views_is_training_through_the_frozen_backbone():
    """All flips and turns, three epochs: every epoch draws the view of each crop that augmentation would have made."""
    order = np.r_[np.arange(24), 3, 3, 7]  # some crops more often
    fit = rz.opts.pick(TrainOptions(batch_size=8, optimizer="adam"), *rz.train.FIT_OPTIONS)
    round_ = rz.rounds.Round("origin_model", "head_only", 3, 0.01)
    augment, curves = build_augment(**STRENGTHS), []
    for stored in (True, False):
        model, losses = build(), Losses()
        sets = (Subset(CROPS, order), TARGETS[order]), (Subset(CROPS, np.arange(24, 30)), TARGETS[24:])

        def callbacks(validation, losses=losses, **_):
            return [validation, losses]

        if stored:
            views = list_views(STRENGTHS, augment, (16, 16, 1), 4)
            rz.rounds.fit_head(model, *sets[0], sets[1], round_, callbacks, fit, views)
        else:
            rz.rounds.fit_round(model, *sets[0], sets[1], round_, callbacks, fit, augment=augment)
        curves.append(losses.seen)
    assert len(curves[0]) == 3
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)


def test_a_view_is_picked_for_every_crop():
    views = list_views(STRENGTHS, build_augment(**STRENGTHS), (16, 16, 1), 4)
    stored = store_features(SIMPLE, Subset(CROPS, np.array([4, 2, 4])), views, seed=0)
    assert (len(stored), stored.shape, stored.values.shape) == (3, (3, 2), (2, 8, 2))
    rows = stored[np.array([0, 1, 2, 0])]
    picked = stored.pick(rows, np.random.default_rng(3))
    seen = build_augment(**STRENGTHS)(CROPS[[4, 2, 4, 4]], np.random.default_rng(3))
    np.testing.assert_allclose(picked, mean_and_spread(seen), rtol=1e-6)
    assert picked.dtype == np.float32


def test_drawn_views_differ_also_between_the_times_that_a_crop_comes():
    augment = build_augment(shift_px=3)
    views = list_views({"shift_px": 3}, augment, (16, 16, 1), 3)
    crops = np.arange(256).reshape(1, 16, 16, 1).astype("uint16")
    stored = store_features(SIMPLE, Subset(crops, np.zeros(4, int)), views, seed=0)
    assert stored.values.shape == (4, 3, 2)
    assert len(np.unique(stored.values[:, :, 0])) > 6
    again = store_features(SIMPLE, Subset(crops, np.zeros(4, int)), views, seed=0)
    np.testing.assert_array_equal(stored.values, again.values)
    other = store_features(SIMPLE, Subset(crops, np.zeros(4, int)), views, seed=1)
    assert not np.array_equal(stored.values, other.values)


def test_large_features_lie_on_the_disk_and_leave_nothing(monkeypatch, tmp_path):
    views = list_views(STRENGTHS, build_augment(**STRENGTHS), (16, 16, 1), 4)
    crops = Subset(CROPS, np.arange(30))
    in_memory = store_features(SIMPLE, crops, views, 0, tmp_path)
    monkeypatch.setattr(features, "MAX_IN_MEMORY_BYTES", 100)
    on_disk = store_features(SIMPLE, crops, views, 0, tmp_path)
    assert isinstance(on_disk.values, np.memmap)
    assert not isinstance(in_memory.values, np.memmap)
    np.testing.assert_array_equal(in_memory.values, on_disk.values)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("worth", [0, 10**9])
def test_features_are_those_of_the_backbone_whatever_computes_them(monkeypatch, worth):
    pytest.importorskip("openvino")
    monkeypatch.setattr(features, "WORTH_CONVERTING", worth)
    model = build("ResNet50", im_size=32)
    extractor = build_extractor(model, 30, batch_size=8)
    assert extractor.name == ("Keras" if worth else "OpenVINO")
    found = extract_features(extractor, Subset(CROPS, np.arange(30)))
    expected = rz.models.feature_extractor(model).predict(CROPS, verbose=0)
    assert found.shape == (30, extractor.n_features)
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_a_batch_of_stored_features_has_one_view_a_crop():
    values = np.arange(12, dtype="float32").reshape(2, 2, 3)
    views = list_views({"flip": 1}, build_augment(flip=True), (4, 4, 1), 4)
    stored = StoredFeatures(np.repeat(values, 2, axis=1), np.array([1, 0]), views)
    data = rz.batches.training_batches(stored, np.eye(2, dtype="float32"), 2, 0, stored.pick)
    features_, targets = next(iter(data))
    assert features_.shape == (2, 3)
    first = {tuple(row) for row in values[:, :, 0].astype(int)}
    assert first == {(0, 3), (6, 9)}
    for row, target in zip(features_.numpy(), targets.numpy(), strict=True):
        assert row[0] in ((6, 9) if target[0] else (0, 3))


def test_features_of_16_bits_are_not_converted_and_come_in_32(monkeypatch):
    monkeypatch.setattr(features, "WORTH_CONVERTING", 0)
    model = build_classifier((16, 16, 1), 3, model_name="ResNet8", mixed_precision="bfloat16")
    extractor = build_extractor(model, n_images=4, batch_size=4)
    assert extractor.name == "Keras"
    assert extractor.run(np.zeros((4, 16, 16, 1), "uint16")).dtype == np.float32
