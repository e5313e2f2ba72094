"""Pretraining: that it goes on as if it had not stopped, and that what ships knows microscopes it never saw."""

from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

import resnet_zclass as rz
from resnet_zclass import pretrain
from resnet_zclass.episodes import N_SUPPORT, simulate_episodes

TINY = {"model_name": "ResNet8", "microscopes": 8, "episodes": 1, "processes": 1}


def draw_noise(seed, n):
    rng = np.random.default_rng(seed)
    shape = (n, pretrain.N_CROPS)
    return rng.standard_normal((*shape, 32, 32, 1)).astype(np.float16), rng.uniform(-1, 1, (*shape, 1))


@pytest.fixture
def quick(monkeypatch):
    """Noise instead of microscopes, made in threads."""
    monkeypatch.setattr(pretrain, "simulate_episodes", draw_noise)
    monkeypatch.setattr(pretrain, "_start_pool", ThreadPoolExecutor)
    monkeypatch.setattr(pretrain, "TEST_MICROSCOPES", 8)


@pytest.mark.slow
def test_a_pretraining_that_was_interrupted_goes_on_as_if_it_had_not(quick, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    expected = pretrain.pretrain(whole, epochs=3, **TINY).get_weights()
    write = pretrain._write_history

    def write_and_stop(folder, history):
        write(folder, history)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain, "_write_history", write_and_stop)
        pretrain.pretrain(broken, epochs=3, **TINY)
    for mine, theirs in zip(pretrain.pretrain(broken, epochs=3, **TINY).get_weights(), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    assert (broken / "history.csv").read_text().splitlines()[0] == "epoch,loss,val_loss"
    assert len((broken / "history.csv").read_text().splitlines()) == 4


def test_who_interrupts_is_told_how_to_go_on(quick, tmp_path, monkeypatch, capsys):
    write = pretrain._write_history

    def write_and_stop(folder, history):
        write(folder, history)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "_write_history", write_and_stop)
    words = ["--model_name", "ResNet8", "--microscopes", "8", "--episodes", "1", "--epochs", "3"]
    assert pretrain.main(["--save_path", str(tmp_path / "a.weights.h5"), *words]) == 130
    assert "goes on from epoch 2 of 3" in capsys.readouterr().err
    assert not (tmp_path / "a.weights.h5").exists()


def test_batches_mix_microscopes_and_keep_episodes_whole():
    microscopes, episodes, crops = np.meshgrid(np.arange(16), np.arange(3), np.arange(5), indexing="ij")
    mixed = [pretrain._mix(part).reshape(-1, 8, 5) for part in (microscopes, episodes, crops)]
    for batch, (whose, which, order) in enumerate(zip(*mixed, strict=True)):
        assert (whose == whose[:, :1]).all() and len(set(whose[:, 0])) == 8
        assert (which == which[0, 0]).all() and (order == np.arange(5)).all()
        assert set(whose[:, 0]) == set(range(8 * (batch // 3), 8 * (batch // 3) + 8))


@pytest.mark.slow
def test_the_command_writes_weights_that_train_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "TEST_MICROSCOPES", 8)
    monkeypatch.setattr(pretrain, "TEST_EPISODES", 1)
    path = tmp_path / "own.weights.h5"
    words = ["--save_path", path, "--model_name", "ResNet8", "--epochs", 1, "--microscopes", 8, "--episodes", 1]
    assert pretrain.main([str(word) for word in words]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["own.weights.h5", "own.weights.h5.csv"]
    model = rz.models.build_classifier((24, 24, 1), 5, model_name="ResNet8", weights=str(path), scaling="set")
    with h5py.File(path) as file:
        stored = [item for item in _datasets(file) if item.ndim == 4]
        assert {item.dtype for item in stored} == {np.dtype(np.float16)}
        kernel = model.get_layer("backbone").get_layer("conv1_conv").kernel.numpy()
        assert any(np.array_equal(item[()].astype(np.float32), kernel) for item in stored if item.shape == kernel.shape)
    assert pretrain.main([str(word) for word in words]) == 2
    assert "exists already" in capsys.readouterr().err


def _datasets(group):
    for item in group.values():
        yield from _datasets(item) if isinstance(item, h5py.Group) else [item]


@pytest.mark.parametrize(
    "words, named",
    [
        ([], "--save_path is missing"),
        (["--save_path", "a.h5"], "give NAME.weights.h5"),
        (["--save_path", "a.weights.h5", "--microscopes", "12"], "multiple of 8"),
        (["--save_path", "a.weights.h5", "--epochs", "0"], "--epochs"),
    ],
)
def test_bad_options_are_named(words, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrain.main(words) == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_recipe_does_not_go_on_with_what_is_there(tmp_path, capsys):
    options = rz.options.PretrainOptions(save_path="a.weights.h5")
    pretrain.claim_folder(tmp_path / "a", options)
    pretrain.claim_folder(tmp_path / "a", options)
    with pytest.raises(rz.errors.InputError, match="another recipe"):
        pretrain.claim_folder(tmp_path / "a", rz.options.PretrainOptions(save_path="a.weights.h5", seed=1))


def test_features_of_psf_tell_z_under_microscopes_that_they_never_saw():
    crops, z = (np.concatenate(parts) for parts in zip(*(simulate_episodes((7, i), 2) for i in range(6)), strict=True))
    crops, z = crops.reshape(-1, 32, 32, 1).astype(np.float32), z.reshape(-1, 1)
    loss = rz.losses.FewShotLoss(N_SUPPORT, pretrain.N_CROPS)
    told = {}
    for weights in ("psf", "none"):
        model = rz.models.build_classifier((32, 32, 1), 2, weights=weights, stem_stride=2, scaling="set")
        told[weights] = float(loss(z, model.get_layer("backbone").predict(crops, verbose=0)))
    assert told["psf"] < 0.7 < 0.9 < told["none"]


@pytest.mark.parametrize(
    "change, named",
    [
        ({"model_name": "ResNet14"}, "--model_name ResNet20"),
        ({"stem_stride": 1}, "--stem_stride 2"),
        ({"scaling": "image"}, "--scaling set"),
        ({"stabilise": False}, "--stabilise True"),
        ({"crop_shape": (32, 32, 3)}, "one channel"),
    ],
)
def test_psf_is_refused_where_it_does_not_fit(change, named):
    fitting = {"crop_shape": (32, 32, 1), "n_classes": 3, "stem_stride": 2, "scaling": "set", "weights": "psf"}
    rz.models.build_classifier(**fitting)
    with pytest.raises(rz.errors.InputError, match=named):
        rz.models.build_classifier(**fitting | change)
