import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from resnet_zclass.backend import keras
from resnet_zclass.callbacks import (
    CHECKPOINT_FILE,
    CURVES_FILE,
    HISTORY_FILE,
    BestCheckpoint,
    ValidationScores,
    build_callbacks,
    check_monitor,
    read_score,
)
from resnet_zclass.errors import InputError
from resnet_zclass.schedules import plan_rates


def tiny_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    return model


def saved_value(path):
    return float(keras.saving.load_model(path).get_weights()[0][0, 0])


@pytest.mark.parametrize(("monitor", "best"), [("val_loss", 1), ("val_accuracy", 2)])
def test_the_checkpoint_is_the_epoch_with_the_best_monitor(monitor, best, tmp_path):
    model = tiny_model()
    callback = BestCheckpoint(model, tmp_path / "best.keras", monitor)
    logs = [
        {"val_loss": 3, "val_accuracy": 0.1},
        {"val_loss": 1, "val_accuracy": 0.2},
        {"val_loss": 2, "val_accuracy": 0.3},
    ]
    for epoch, log in enumerate(logs):
        model.set_weights([np.full((2, 1), epoch, "float32")])
        callback.on_epoch_end(epoch, log)
    assert saved_value(tmp_path / "best.keras") == best


def test_the_checkpoint_can_be_of_another_model_than_the_fitted_one(tmp_path):
    fitted, whole = tiny_model(), tiny_model()
    whole.set_weights([np.full((2, 1), 7.0)])
    fitted.fit(
        np.ones((4, 2)), np.ones((4, 1)), verbose=0, callbacks=[BestCheckpoint(whole, tmp_path / "b.keras", "loss")]
    )
    assert saved_value(tmp_path / "b.keras") == 7.0


def test_a_nan_is_never_the_best(tmp_path):
    BestCheckpoint(tiny_model(), tmp_path / "b.keras", "loss").on_epoch_end(0, {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("floor", "second_rate"), [(0.0, 0.02), (0.05, 0.05)])
def test_the_plateau_cuts_the_rate_to_a_fifth_and_patience_ends_the_round(floor, second_rate, tmp_path):
    model = tiny_model()
    (tmp_path / "round").mkdir()
    callbacks = build_callbacks(tmp_path / "round", model, monitor="loss", patience=4, floor=floor)
    nothing = np.zeros((4, 2)), np.zeros((4, 1))  # the loss is 0 from the first epoch and never gets better
    model.optimizer.learning_rate = 0.1
    history = model.fit(*nothing, epochs=30, verbose=0, callbacks=callbacks).history
    assert len(history["loss"]) == 5
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0.1, second_rate, second_rate], rtol=1e-5)


@pytest.mark.parametrize(("monitor", "has_validation"), [("val_acc", True), ("f1", True), ("val_loss", False)])
def test_a_monitor_that_will_not_be_there_is_refused_at_once(monitor, has_validation):
    with pytest.raises(InputError, match=f"--monitor.*{monitor}"):
        check_monitor(monitor, has_validation)


@pytest.mark.parametrize("monitor", ["val_samples_f1", "val_micro_f1"])
def test_only_images_with_several_labels_have_an_f1_of_images_or_labels(monitor):
    check_monitor(monitor, has_validation=True, several=True)
    with pytest.raises(InputError, match="val_accuracy"):
        check_monitor(monitor, has_validation=True, several=False)
    for several in (False, True):
        check_monitor("val_macro_f1", has_validation=True, several=several)


class SquaredError(keras.losses.Loss):
    """A loss that Keras cannot find by name when a file is loaded."""

    def call(self, targets, probabilities):
        return keras.ops.mean(keras.ops.square(targets - probabilities), axis=-1)


def classifier(activation="softmax", n_classes=3):
    """A classifier with its head as a model within it, as the package builds them."""
    keras.utils.set_random_seed(0)
    inputs, features = keras.Input((4,)), keras.Input((5,))
    head = keras.Model(features, keras.layers.Dense(n_classes, activation=activation)(features), name="head")
    return keras.Model(inputs, head(keras.layers.Dense(5, activation="relu")(inputs)), name="classifier")


def labelled(n, several=False, n_classes=3):
    rng = np.random.default_rng(n)
    inputs = rng.normal(size=(n, 4)).astype("float32")
    scores = inputs @ np.random.default_rng(0).normal(size=(4, n_classes))
    targets = scores > 0 if several else np.eye(n_classes)[scores.argmax(axis=1)]
    return inputs, targets.astype("float32")


def fit_watched(folder, several, monitor, loss, epochs=12, **options):
    """Fits a wrapper of a classifier, as a round does; returns the classifier, the wrapper and Keras' history."""
    folder.mkdir(parents=True)
    model = classifier("sigmoid" if several else "softmax")
    fitted = keras.Model(model.input, model.output)
    fitted.compile(keras.optimizers.Adam(0.3), loss, metrics=["accuracy"])
    inputs, targets = labelled(41, several)
    scores = ValidationScores(inputs, targets, loss, several, batch_size=8)
    callbacks = build_callbacks(folder, model, monitor, validation=scores, **options)
    return model, fitted, fitted.fit(*labelled(64, several), epochs=epochs, verbose=0, callbacks=callbacks).history


def test_scores_of_one_label_are_those_of_keras_and_scikit_learn(tmp_path):
    loss = keras.losses.CategoricalCrossentropy()
    _, fitted, history = fit_watched(tmp_path / "r", False, "val_loss", loss, epochs=3)
    inputs, targets = labelled(41)
    evaluated = fitted.evaluate(inputs, targets, batch_size=8, verbose=0, return_dict=True)
    assert history["val_loss"][-1] == pytest.approx(evaluated["loss"], abs=1e-6)
    assert history["val_accuracy"][-1] == pytest.approx(evaluated["accuracy"], abs=1e-6)
    predicted = fitted.predict(inputs, verbose=0).argmax(axis=1)
    expected = sklearn.metrics.f1_score(targets.argmax(axis=1), predicted, average="macro")
    assert history["val_macro_f1"][-1] == pytest.approx(expected, abs=1e-6)
    assert 0.1 < expected < 1
    assert "val_micro_f1" not in history


def test_scores_of_several_labels_are_those_of_keras_and_scikit_learn(tmp_path):
    loss = keras.losses.BinaryCrossentropy()
    _, fitted, history = fit_watched(tmp_path / "r", True, "val_samples_f1", loss, epochs=3)
    inputs, targets = labelled(41, several=True)
    evaluated = fitted.evaluate(inputs, targets, batch_size=8, verbose=0, return_dict=True)
    assert history["val_loss"][-1] == pytest.approx(evaluated["loss"], abs=1e-6)
    predicted = fitted.predict(inputs, verbose=0) >= 0.5
    some = targets.any(axis=1) | predicted.any(axis=1)
    for average, chosen in (("macro", slice(None)), ("micro", slice(None)), ("samples", some)):
        expected = sklearn.metrics.f1_score(targets[chosen], predicted[chosen], average=average)
        assert history[f"val_{average}_f1"][-1] == pytest.approx(expected, abs=1e-6)
        assert 0.1 < expected < 1
    right = sklearn.metrics.accuracy_score(targets, predicted)
    assert history["val_accuracy"][-1] == pytest.approx(right, abs=1e-6)


def test_a_loss_per_image_is_averaged(tmp_path):
    by_mean = fit_watched(tmp_path / "a", False, "val_loss", keras.losses.CategoricalCrossentropy(), epochs=2)
    by_image = fit_watched(tmp_path / "b", False, "val_loss", keras.losses.categorical_crossentropy, epochs=2)
    np.testing.assert_allclose(by_mean[2]["val_loss"], by_image[2]["val_loss"], rtol=1e-5)


def test_targets_of_another_length_than_the_inputs_are_refused():
    with pytest.raises(ValueError, match="one length"):
        ValidationScores(np.zeros((3, 4)), np.zeros((2, 3)), keras.losses.CategoricalCrossentropy())


@pytest.mark.parametrize(("several", "monitor"), [(False, "val_macro_f1"), (True, "val_samples_f1")])
def test_checkpoint_and_early_stop_go_by_the_f1_of_the_history(several, monitor, tmp_path):
    folder = tmp_path / "round"
    _, _, history = fit_watched(folder, several, monitor, SquaredError(), patience=3, epochs=60)
    table = pd.read_csv(folder / HISTORY_FILE)
    np.testing.assert_allclose(table[monitor], history[monitor])
    best = int(table[monitor].argmax())
    assert len(table) == best + 1 + 3 < 60
    inputs, targets = labelled(41, several)
    saved = keras.saving.load_model(folder / CHECKPOINT_FILE)
    scores = ValidationScores(inputs, targets, SquaredError(), several)
    scores.set_model(saved)
    logs = {}
    scores.on_epoch_end(0, logs)
    assert logs[monitor] == pytest.approx(table[monitor][best], abs=1e-6)
    assert logs["val_loss"] == pytest.approx(table["val_loss"][best], abs=1e-6)
    assert abs(table["val_loss"] - table["val_loss"][best]).nsmallest(2).iloc[1] > 1e-5  # no other epoch is like it


def test_every_later_callback_sees_the_scores(tmp_path, capsys):
    model, (inputs, targets) = classifier(), labelled(20)
    model.compile("sgd", "categorical_crossentropy")
    seen = []
    later = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs)))
    scores = ValidationScores(inputs, targets, keras.losses.CategoricalCrossentropy())
    history = model.fit(inputs, targets, epochs=2, verbose=2, callbacks=[scores, later]).history
    assert [log["val_macro_f1"] for log in seen] == history["val_macro_f1"]
    assert capsys.readouterr().out.count("val_macro_f1: ") == 2  # the line of each epoch


def test_the_fitted_wrapper_shares_its_weights_with_the_model_that_is_saved(tmp_path):
    before = classifier().get_weights()
    model, fitted, _ = fit_watched(tmp_path / "r", False, "loss", SquaredError(), epochs=2)
    assert not model.compiled
    for old, new, fitted_weight in zip(before, model.get_weights(), fitted.get_weights(), strict=True):
        np.testing.assert_array_equal(new, fitted_weight)
        assert not np.array_equal(old, new)


def test_the_planned_rates_are_those_of_the_fit(tmp_path):
    rates = plan_rates("cyclic", 0.1, epochs=6, lr_decay=0.5, floor=0.01, cycle_epochs=2, warmup_epochs=2)
    loss = keras.losses.CategoricalCrossentropy()
    _, _, history = fit_watched(tmp_path / "r", False, "loss", loss, epochs=6, rates=rates)
    np.testing.assert_allclose(history["learning_rate"], [rates(epoch) for epoch in range(6)], rtol=1e-6)
    assert (tmp_path / "r" / CURVES_FILE).read_bytes()[:4] == b"\x89PNG"


def test_a_model_that_gives_no_numbers_is_never_the_best():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    scores = ValidationScores(
        np.ones((6, 4), "float32"), np.eye(3)[[0, 1, 2] * 2], keras.losses.CategoricalCrossentropy()
    )
    scores.set_model(model)
    logs = {}
    scores.on_epoch_end(0, logs)
    assert np.isnan([logs["val_loss"], logs["val_accuracy"], logs["val_macro_f1"]]).all()


class Steps(keras.callbacks.Callback):
    """Sets the only weight to a value of its own in every epoch, and says how good that is."""

    def __init__(self, values):
        super().__init__()
        self._values = values

    def on_epoch_end(self, epoch, logs=None):
        self.model.set_weights([np.full((1, 1), self._values[epoch], "float32")])
        logs["val_loss"] = abs(self._values[epoch] - 3)


def fit_steps(values, *callbacks):
    crop = keras.Input((1,))
    model = keras.Model(crop, keras.layers.Dense(1, use_bias=False)(crop))
    model.compile("sgd", "mse", jit_compile=False)
    return model, [Steps(values), *(callback(model) for callback in callbacks)]


def test_a_best_model_that_waits_is_written_when_asked_and_at_the_end(tmp_path):
    path, seen = tmp_path / "best.keras", []

    class Ask(keras.callbacks.Callback):
        def __init__(self, best):
            super().__init__()
            self._best = best

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                self._best.write_best()
                self._best.write_best()
            seen.append((read_score(path), float(self.model.get_weights()[0][0, 0])))

    model, callbacks = fit_steps([1, 2, 5, 2.5, 9], lambda model: BestCheckpoint(model, path, "val_loss", waits=True))
    model.fit(np.ones((1, 1)), np.ones((1, 1)), epochs=5, verbose=0, callbacks=[*callbacks, Ask(callbacks[-1])])
    assert seen == [(None, 1), (None, 2), (1.0, 5), (1.0, 2.5), (1.0, 9)]  # what is fitted goes on from where it was
    assert read_score(path) == 0.5
    assert keras.models.load_model(path, compile=False).get_weights()[0][0, 0] == 2.5
    assert model.get_weights()[0][0, 0] == 9


def test_tensorboard_gets_the_augmented_images_and_the_confusion(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from resnet_zclass.callbacks import TensorBoardPictures
    from resnet_zclass.gallery import draw_augmented

    draw_augmented(np.zeros((1, 2, 4, 4, 1), "uint8"), tmp_path / "augmented.png")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="softmax")])
    targets = np.eye(3, dtype="float32")
    scores = ValidationScores(np.ones((3, 2), "float32"), targets, keras.losses.categorical_crossentropy)
    pictures = TensorBoardPictures(tmp_path, scores, tmp_path / "augmented.png")
    model.compile("sgd", "categorical_crossentropy")
    model.fit(np.ones((3, 2)), targets, epochs=2, verbose=0, callbacks=[scores, pictures])
    assert scores.confusion.sum() == 3
    events = EventAccumulator(str(tmp_path / "pictures"), size_guidance={"tensors": 0}).Reload()
    found = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    assert {tag.split("/")[0] for tag in found} == {"augmented images", "confusion of split val"}
    for tensors in found.values():
        assert tensors[0].tensor_proto.string_val[2].startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["augmented.png", "pictures"]
