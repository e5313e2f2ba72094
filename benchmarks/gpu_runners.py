"""What `gpu_peers` times: a classifier in Keras, whatever its backend, and its like in plain PyTorch.

Frameworks are imported where they are used: a process has one, and the machine with the GPU no TensorFlow.
"""

import inspect
import itertools
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

CROP_PX, N_CLASSES = 32, 39
LOW, HIGH = 100, 4000  # camera counts
BGR_MEAN = (103.939, 116.779, 123.68)  # which ResNet50's normalisation subtracts
LEARNING_RATE = 1e-4


def draw_batches(n_steps: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops `(N, 32, 32, 1)` of uint16 and targets `(N, 39)`."""
    rng = np.random.default_rng(0)
    crops = rng.integers(LOW, HIGH, (n_steps * batch, CROP_PX, CROP_PX, 1)).astype(np.uint16)
    return crops, np.eye(N_CLASSES, dtype=np.float32)[rng.integers(0, N_CLASSES, len(crops))]


class KerasRunner:
    """A classifier in Keras; every part runs `n_windows` of `n_steps` and returns the seconds of each."""

    def __init__(self, folder: Path, px: int, batch: int, precision: str):
        import keras

        self.keras, self.batch = keras, batch
        keras.utils.set_random_seed(0)
        self.model = keras.models.model_from_json((folder / f"{px}_{precision}.json").read_text())
        self.model.compile(
            optimizer=keras.optimizers.RMSprop(LEARNING_RATE), loss="categorical_crossentropy", metrics=["accuracy"]
        )

    def synchronise(self) -> None:
        """Waits for the GPU."""
        if self.keras.backend.backend() == "jax":
            import jax

            jax.block_until_ready([variable.value for variable in self.model.trainable_variables])
        else:
            synchronise_torch()

    def fit(self, n_steps: int, n_windows: int) -> list[float]:
        """Training on batches from the host, shuffled."""
        runner, seconds = self, []

        class Clock(self.keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.start = time.perf_counter()

            def on_epoch_end(self, epoch, logs=None):
                runner.synchronise()
                seconds.append(time.perf_counter() - self.start)

        crops, targets = draw_batches(n_steps, self.batch)
        self.model.fit(crops, targets, batch_size=self.batch, epochs=n_windows, verbose=0, callbacks=[Clock()])
        return seconds

    def resident(self, n_steps: int, n_windows: int) -> list[float]:
        """The training step again and again on one batch on the GPU."""
        windows = self._step_in_jax if self.keras.backend.backend() == "jax" else self._step_in_torch
        return windows(n_steps, n_windows)

    def _step_in_jax(self, n_steps: int, n_windows: int) -> list[float]:
        import jax

        model, seconds = self.model, []
        batches = itertools.repeat(jax.device_put(draw_batches(1, self.batch)))
        kinds = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
        state = model._get_jax_state(**dict.fromkeys(kinds, True), purge_model_variables=True)
        for _ in range(n_windows):
            start = time.perf_counter()
            for _ in range(n_steps):
                _, state = model.train_function(state, batches)
            jax.block_until_ready(state)
            seconds.append(time.perf_counter() - start)
        model._jax_state, model._jax_state_synced = dict(zip(kinds, state, strict=True)), False
        model.jax_state_sync()
        return seconds

    def _step_in_torch(self, n_steps: int, n_windows: int) -> list[float]:
        batch = tuple(map(self.keras.ops.convert_to_tensor, draw_batches(1, self.batch)))
        return time_windows(lambda: self.model.train_function([batch]), n_steps, n_windows)

    def predict(self, n_steps: int, n_windows: int) -> list[float]:
        """Probabilities, from the host to the host."""
        crops, _ = draw_batches(n_steps, self.batch)
        return time_windows(lambda: self.model.predict(crops, batch_size=self.batch, verbose=0), 1, n_windows)

    def describe_layouts(self) -> dict[str, int]:
        """How often every layout of a convolution stands in the training step that XLA made (JAX alone)."""
        import jax

        step = inspect.getclosurevars(self.model.train_function).nonlocals["step_function"]
        state = self.model._get_jax_state(True, True, True, True)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, draw_batches(1, self.batch)))
        return dict(Counter(re.findall(r"dim_labels=([\w>-]+)", step.lower(*shapes).compile().as_text())))


class TorchRunner:
    """torchvision's ResNet50 with this package's normalisation and head; parts as of `KerasRunner`."""

    def __init__(self, folder: Path, px: int, batch: int, precision: str):
        import torch

        torch.manual_seed(0)
        torch._dynamo.reset()  # another size is compiled anew, not for any size
        torch.set_float32_matmul_precision("high")  # TF32 in products as in convolutions
        self.torch, self.batch = torch, batch
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = build_torch_classifier(px).to(self.device, memory_format=torch.channels_last)
        self.call = torch.compile(self.model, dynamic=False)
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16")
        self.optimizer = torch.optim.RMSprop(self.model.parameters(), LEARNING_RATE, alpha=0.9, eps=1e-7)
        self.found = torch.zeros(2, device=self.device)  # sums of loss and of right answers

    def send(self, array: np.ndarray):
        """The array on the GPU."""
        # torch knows uint16 in part only; counts of 12 bits are the same in int16.
        array = array.view(np.int16) if array.dtype == np.uint16 else array
        return self.torch.from_numpy(array).to(self.device, non_blocking=True)

    def step(self, crops, targets) -> None:
        """One step of training."""
        with self.autocast:
            logits = self.call(crops)
        loss = self.torch.nn.functional.cross_entropy(logits.float(), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        right = (logits.argmax(1) == targets.argmax(1)).sum()
        self.found += self.torch.stack([loss.detach(), right])

    def fit(self, n_steps: int, n_windows: int) -> list[float]:
        """Training on batches from the host, shuffled."""
        crops, targets = draw_batches(n_steps, self.batch)
        self.model.train()

        def run_epoch():
            order = np.random.default_rng(0).permutation(len(crops))
            for start in range(0, len(crops), self.batch):
                chosen = order[start : start + self.batch]
                self.step(self.send(crops[chosen]), self.send(targets[chosen]))

        return time_windows(run_epoch, 1, n_windows)

    def resident(self, n_steps: int, n_windows: int) -> list[float]:
        """The training step again and again on one batch on the GPU."""
        self.model.train()
        batch = tuple(map(self.send, draw_batches(1, self.batch)))
        return time_windows(lambda: self.step(*batch), n_steps, n_windows)

    def predict(self, n_steps: int, n_windows: int) -> list[float]:
        """Probabilities, from the host to the host."""
        crops, _ = draw_batches(n_steps, self.batch)
        self.model.eval()

        def run_epoch():
            with self.torch.no_grad(), self.autocast:
                parts = [self.call(self.send(part)) for part in np.split(crops, n_steps)]
            return self.torch.cat(parts).float().softmax(1).cpu().numpy()

        return time_windows(run_epoch, 1, n_windows)


def build_torch_classifier(px: int):
    """Crops `(N, 32, 32, 1)` to logits `(N, 39)`, of the same work as this package's classifier."""
    import torch
    from torch import nn
    from torchvision.models import resnet50

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = resnet50(weights=None)
            for stage in (self.net.layer2, self.net.layer3, self.net.layer4):
                stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
            self.net.fc = nn.Sequential(nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, N_CLASSES))
            self.register_buffer("mean", torch.tensor(BGR_MEAN).reshape(1, 3, 1, 1))

        def forward(self, crops):
            x = (crops.float() - LOW) * (255 / (HIGH - LOW))
            x = nn.functional.interpolate(x.permute(0, 3, 1, 2), (px, px), mode="bilinear", align_corners=False)
            return self.net((x - self.mean).contiguous(memory_format=torch.channels_last))

    return Classifier()


def synchronise_torch() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_windows(run, n_steps: int, n_windows: int) -> list[float]:
    """Seconds of each of some windows of `n_steps` calls, in torch or with results on the host."""
    is_torch, seconds = "torch" in sys.modules, []
    for _ in range(n_windows):
        start = time.perf_counter()
        for _ in range(n_steps):
            run()
        if is_torch:
            synchronise_torch()
        seconds.append(time.perf_counter() - start)
    return seconds
