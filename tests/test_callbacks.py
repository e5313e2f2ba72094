import numpy as np
import pytest

from resnet_zclass.backend import keras
from resnet_zclass.callbacks import BestCheckpoint, LiveCurves, build_callbacks, check_monitor, cosine_decay
from resnet_zclass.errors import InputError


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


def test_the_cosine_starts_at_the_rate_and_falls_towards_zero():
    rates = [cosine_decay(0.3, epochs=10)(epoch) for epoch in range(11)]
    assert rates[0] == pytest.approx(0.3)
    assert rates[5] == pytest.approx(0.15)
    assert rates[10] == pytest.approx(0.0, abs=1e-12)
    assert sorted(rates, reverse=True) == rates


def test_the_plateau_cuts_the_rate_to_a_fifth_and_patience_ends_the_round(tmp_path):
    model = tiny_model()
    (tmp_path / "round").mkdir()
    callbacks = build_callbacks(tmp_path / "round", model, monitor="loss", patience=4, learning_rate=0.1)
    nothing = np.zeros((4, 2)), np.zeros((4, 1))  # the loss is 0 from the first epoch and never gets better
    model.optimizer.learning_rate = 0.1
    history = model.fit(*nothing, epochs=30, verbose=0, callbacks=callbacks).history
    assert len(history["loss"]) == 5
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0.1, 0.02, 0.02], rtol=1e-5)


def test_live_curves_are_drawn_every_epoch(tmp_path):
    callback = LiveCurves(tmp_path / "live.png", "title")
    sizes = []
    for epoch in range(3):
        callback.on_epoch_end(epoch, {"loss": 1.0 / (epoch + 1), "accuracy": 0.3 * epoch})
        sizes.append((tmp_path / "live.png").read_bytes())
    assert sizes[0][:8] == b"\x89PNG\r\n\x1a\n"
    assert len(set(sizes)) == 3


@pytest.mark.parametrize(("monitor", "has_validation"), [("val_acc", True), ("f1", True), ("val_loss", False)])
def test_a_monitor_that_will_not_be_there_is_refused_at_once(monitor, has_validation):
    with pytest.raises(InputError, match=f"--monitor.*{monitor}"):
        check_monitor(monitor, has_validation)
