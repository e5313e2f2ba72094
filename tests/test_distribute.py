"""Trainings on several devices and by several processes come to what one device comes to."""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from drawn import write_drawn_set

from resnet_zclass import distribute, evaluate, train
from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError
from resnet_zclass.options import TrainOptions
from resnet_zclass.train import scale_rates
from resnet_zclass.workers import share_machine

# Rates that do not blow rounding errors up, 93 training crops in batches of 13 or 14: no share divides evenly.
ARGUMENTS = ["--model_name", "ResNet8", "--hidden", "16", "--epochs", "3", "--batch_size", "14", "--seed", "1"]
ARGUMENTS += ["--optimizer", "adam", "--learning_rate", "1e-4", "--sync_batch_norm", "--no_evaluate"]

ON_DEVICES = """
import sys
from resnet_zclass.backend import tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[1]))
"""
COMMAND = ON_DEVICES + "import resnet_zclass as rz\nsys.exit(getattr(rz, sys.argv[2]).main(sys.argv[3:]))"


def start(n_devices, *words, code=COMMAND, **environment):
    """Starts Python code in a process whose processor counts as `n_devices` devices."""
    command = [sys.executable, "-c", code, str(n_devices), *map(str, words)]
    environment = os.environ | {"TF_NUM_INTRAOP_THREADS": "1"} | environment
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return out


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Runs `one`, `devices` and `workers`, trained alike on one device, on two, and by two processes."""
    folder = tmp_path_factory.mktemp("distributed")
    data = write_drawn_set(folder / "set", n_per_class=44)
    arguments = ["--data_path", data, "--save_logs_path", folder, *ARGUMENTS, "--run_name"]
    on_devices = start(2, "train", *arguments, "devices", "--multiGPU")
    assert train.main([*map(str, arguments), "one"]) == 0
    assert "devices: 2; each trains on 6 to 7 crops of a batch of 14." in finish(on_devices)
    by_workers = start(1, "train", *arguments, "workers", "--workers", "2")
    assert "devices: 2 of 2 workers; each trains on" in finish(by_workers)
    return folder


def read_history(run_path):
    return pd.read_csv(run_path / "fine_tune_model" / "training_history.csv")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["devices", "workers"])
def test_the_training_curve_is_that_of_one_device(logs, name):
    expected, history = read_history(logs / "one"), read_history(logs / name)
    assert len(history) == 3
    for column in ("loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1"):
        np.testing.assert_allclose(history[column], expected[column], atol=1e-4, err_msg=column)


@pytest.mark.parametrize("name", ["devices", "workers"])
def test_the_model_is_that_of_one_device_and_plain(logs, name):
    expected, model = (keras.models.load_model(logs / run / "model.keras") for run in ("one", name))
    for own, wanted in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(own, wanted, atol=2e-3)
    # Keras counts the names of operations up within a process.
    configs = [re.sub(r"_[0-9]+", "", json.dumps(each.get_config())) for each in (model, expected)]
    assert configs[0] == configs[1]
    assert '"synchronized": true' not in configs[0]


def test_workers_leave_no_folder_but_the_run(logs):
    assert {path.name for path in logs.iterdir() if path.is_dir()} == {"set", "one", "devices", "workers"}
    own, other = ({path.name for path in (logs / name).rglob("*")} for name in ("one", "workers"))
    assert {name for name in own ^ other if "tfevents" not in name} == set()


def test_metrics_are_the_same_on_any_number_of_devices(logs, tmp_path):
    processes = [
        start(n, "evaluate", "--load_logs_path", logs / name, "--batch_size", "16", "--split", split, "--multiGPU")
        for n, name, split in ((2, "workers", "test"), (4, "devices", "train"))
    ]
    for process, name, folder, split in zip(
        processes, ("workers", "devices"), ("evaluation", "evaluation_train"), ("test", "train"), strict=True
    ):
        finish(process)
        path = logs / name / folder / "metrics.json"
        several = json.loads(path.read_text())
        assert evaluate.main(["--load_logs_path", str(logs / name), "--split", split]) == 0
        one = json.loads(path.read_text())
        for scores in (several, one):  # the baseline is fitted anew each time, by as many threads as there are
            scores.pop("baseline_loss", None)  # absent where the split is train
        assert one.pop("loss") == pytest.approx(several.pop("loss"), abs=1e-6)
        assert several == one


@pytest.mark.slow
def test_a_lost_worker_ends_the_others_and_the_run_goes_on_to_the_same_end(logs):
    words = ["train", "--data_path", logs / "set", "--save_logs_path", logs, *ARGUMENTS, "--run_name", "killed"]
    chief, worker = (start(1, *words, TF_CONFIG=environment["TF_CONFIG"]) for environment in share_machine(2))
    first_state = logs / "killed" / "fine_tune_model" / "state_000001.npz"
    deadline = time.monotonic() + 120
    while not first_state.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.kill()
    worker.communicate()
    _, err = chief.communicate(timeout=240)
    assert chief.returncode == 1
    assert err.count("error: ") == 1
    assert "has lost another worker" in err
    assert "Traceback" not in err
    saved = read_history(logs / "killed")
    assert 1 <= len(saved) < 3
    finish(start(1, *words, "--workers", "2", "--resume"))
    np.testing.assert_allclose(read_history(logs / "killed"), read_history(logs / "workers"), atol=1e-6)
    ours, theirs = (keras.models.load_model(logs / run / "model.keras") for run in ("killed", "workers"))
    for own, wanted in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, wanted, atol=1e-6)
    assert not list((logs / "killed").rglob("state_*"))


IN_REPLICAS = (
    ON_DEVICES
    + """
import json
import numpy as np
import resnet_zclass as rz
from resnet_zclass.backend import keras
from resnet_zclass.distribute import build_fitted, check_batches, deal_out, predict, use_devices

said = {}
rng = np.random.default_rng(0)
crops = rng.normal(size=(21, 6, 6, 1)).astype("float32")
targets = np.eye(3, dtype="float32")[rng.integers(0, 3, 21)]


def build():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(2, 3, use_bias=False)(image))
    return keras.Model(image, keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(x)))


expected = build().predict(crops, verbose=0)
try:
    with use_devices(True, 5):
        pass
except rz.errors.InputError as error:
    said["too many"] = str(error)
with use_devices(True):
    model = build()
    said["predict"] = [float(abs(predict(model, crops[:n], 8) - expected[:n]).max()) for n in (1, 3, 8, 21)]
    try:
        check_batches(21, 3)
    except rz.errors.InputError as error:
        said["too small"] = str(error)
    fitted = build_fitted(model.inputs, model.outputs)
    fitted.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])

    def make(replicas, n_replicas):
        return rz.batches.training_batches(crops, targets, 21, 0, replicas=replicas, n_replicas=n_replicas)

    fitted.fit(deal_out(make), steps_per_epoch=1, verbose=0)
    strategy, mean = tf.distribute.get_strategy(), model.layers[2].moving_mean

    def values():
        results = strategy.run(lambda: tf.identity(mean.value))
        return [value.numpy().tolist() for value in strategy.experimental_local_results(results)]

    said["before"] = values()
    rz.distribute.average_statistics(fitted)
    said["after"] = values()
    plain = keras.Model(model.inputs, model.outputs)
    plain.compile("sgd", "categorical_crossentropy")
    try:
        plain.fit(tf.data.Dataset.from_tensor_slices((crops, targets)).batch(21), verbose=0)
        said["plain"] = "trained"
    except Exception as error:
        said["plain"] = type(error).__name__
print(json.dumps(said))
"""
)


@pytest.fixture(scope="module")
def said():
    return json.loads(finish(start(4, code=IN_REPLICAS)).splitlines()[-1])


def test_any_number_of_crops_is_predicted_in_order(said):
    assert max(said["predict"]) < 1e-6


def test_statistics_of_batch_normalization_become_the_mean_of_the_devices(said):
    before, after = np.array(said["before"]), np.array(said["after"])
    assert np.ptp(before, axis=0).min() > 1e-4
    np.testing.assert_allclose(after, np.tile(before.mean(axis=0), (4, 1)), rtol=1e-6)


def test_devices_that_are_not_there_and_batches_too_small_to_share_are_refused(said):
    assert said["too many"].startswith("--gpus 5: ")
    assert said["too small"].startswith("--batch_size 3: batches of 3 crops cannot be shared by 4 devices")


def test_keras_itself_still_fails_where_shares_are_unequal(said):
    """Once this fails, that part of `ReplicatedModel` may go."""
    assert said["plain"] == "InvalidArgumentError"


IN_A_CLUSTER = """
import json, os
import numpy as np
from resnet_zclass.backend import keras, tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
try:
    model.fit(np.zeros((8, 4), "float32"), np.zeros((8, 2), "float32"), batch_size=4, verbose=0)
    print("trained")
except Exception as error:
    print(type(error).__name__, str(error)[:200])
os._exit(0)
"""


def test_keras_itself_still_fails_with_several_workers(tmp_path):
    """Once this fails, `fit` of Keras can do it, and `ReplicatedModel` may go (keras-team/keras#20585)."""
    environments = share_machine(2)
    processes = [start(1, code=IN_A_CLUSTER, TF_CONFIG=environment["TF_CONFIG"]) for environment in environments]
    for out in [finish(process) for process in processes]:
        assert "PerReplica" in out


def test_a_keras_that_is_built_otherwise_is_refused(monkeypatch):
    distribute.check_keras()
    monkeypatch.setattr(distribute, "MENDED", ((keras.Model, "_gone"),))
    with pytest.raises(InputError, match=r"has no Model\._gone any more"):
        distribute.check_keras()


def test_a_process_that_has_begun_with_one_gpu_keeps_it(monkeypatch):
    def refuse(*_):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(distribute.tf.config, "list_physical_devices", lambda kind: [f"{kind}:0", f"{kind}:1"])
    monkeypatch.setattr(distribute.tf.config, "get_visible_devices", lambda kind: [f"{kind}:0"])
    monkeypatch.setattr(distribute.tf.config, "set_visible_devices", refuse)
    with distribute.use_devices(False):
        assert distribute.count_replicas() == 1
    with pytest.raises(InputError, match="2 GPUs are asked for"), distribute.use_devices(True):
        pass
    with pytest.raises(InputError, match="--gpus 3: TensorFlow sees 2 here"), distribute.use_devices(True, 3):
        pass


def test_gpus_without_multi_gpu_are_refused():
    with pytest.raises(InputError, match="--gpus 2 says how many"), distribute.use_devices(False, 2):
        pass


def test_a_step_of_slurm_names_its_tasks(monkeypatch):
    variables = {"PROCID": "2", "STEP_NUM_TASKS": "3", "STEP_NODELIST": "n[09-10]", "STEP_TASKS_PER_NODE": "2,1"}
    for name, value in (variables | {"JOB_ID": "70123"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    # 10240 + 70123 * 64 % 20480
    assert distribute.read_slurm() == (("n09:12992", "n09:12993", "n10:12992"), 2)
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    with pytest.raises(InputError, match="STEP_NODELIST"):
        distribute.read_slurm()


def test_learning_rates_follow_the_batch_size_only_if_asked(capsys):
    plain = TrainOptions(batch_size=64, learning_rate=0.01, fine_tune_learning_rate=0.001)
    assert scale_rates(plain) == plain
    assert capsys.readouterr().out == ""
    scaled = scale_rates(TrainOptions(batch_size=64, base_batch_size=16, fine_tune_learning_rate=0.001))
    assert (scaled.learning_rate, scaled.fine_tune_learning_rate) == (0.004, 0.004)
    assert "times 4" in capsys.readouterr().out
