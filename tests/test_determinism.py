"""What a seed decides, it decides in every process, whatever its hashes and threads; another seed decides otherwise."""

import json
import os
import subprocess
import sys

import pytest

DRAWS = """
import hashlib, json, sys
import numpy as np
from resnet_zclass import simulate, splits
from resnet_zclass.batches import training_batches
from resnet_zclass.scene import Scene
from resnet_zclass.optics import Optics, compute_spectra

def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(np.asarray(array)).tobytes() for array in arrays)).hexdigest()

seed = int(sys.argv[1])
groups, labels = [f"bead{i % 40}" for i in range(200)], np.arange(200) % 5
targets = np.random.default_rng(0).random((200, 4)) < 0.3
crops = np.random.default_rng(1).integers(0, 900, (48, 16, 16, 1)).astype("uint16")
scene = Scene(Optics(na=0.5), planes=2, z_step_um=2.0, crop_px=16, seed=seed)
spectra = compute_spectra(scene.optics, scene.z_um, reach_px=10)
batches = training_batches(crops, np.eye(3, dtype="float32")[np.arange(48) % 3], 7, seed=seed, augment=AUGMENT)
print(json.dumps({
    "split by group": digest(splits.split_by_group(groups, seed=seed)),
    "split by label": digest(splits.split_by_group(groups, seed=seed, labels=labels)),
    "split of several labels": digest(splits.split_multi_label(targets, groups, seed=seed)),
    "folds": digest(splits.split_in_folds(groups, 5, seed=seed)),
    "validation": digest(splits.carve_validation(groups, 0.2, seed=seed)[0]),
    "simulated crops": digest(simulate.simulate_crops(scene, spectra, 5, (0.6, 0.2, 0.2), 1.0)[0]),
    "batches of two epochs": digest(*(part for step in batches.take(14) for part in step)),
}))
""".replace("augment=AUGMENT", "augment=lambda batch, rng: np.roll(batch, rng.integers(0, 9, 2), (1, 2))")


def draw(seed, **environment):
    call = [sys.executable, "-c", DRAWS, str(seed)]
    done = subprocess.run(call, env=os.environ | environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def drawn():
    return draw(0, PYTHONHASHSEED="0", OMP_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="1")


def test_a_seed_decides_the_same_in_every_process(drawn):
    assert draw(0, PYTHONHASHSEED="123", OMP_NUM_THREADS="2", TF_NUM_INTRAOP_THREADS="4") == drawn


def test_another_seed_decides_otherwise(drawn):
    other = draw(1)
    assert [name for name in drawn if other[name] == drawn[name]] == []
