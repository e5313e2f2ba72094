"""One device, several of one machine, or those of several machines: the only file that knows `tf.distribute`.

What builds, fits or runs a model stands inside `with use_devices(...)`. There the functions of this module ask
TensorFlow for the strategy in force, so that nothing else need know of it; without one they are plain Keras.
"""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np

from resnet_zclass.backend import keras, tf
from resnet_zclass.batches import count_steps, ordered_batches, own_errors, share
from resnet_zclass.cluster import Cluster, give_up_after
from resnet_zclass.errors import InputError, LostWorkerError

_CHUNK = 1 << 22  # numbers that are sent at a time
# What of Keras' insides is mended here; a version without them may no longer need it, or need something else.
MENDED = (
    (keras.Model, "_symbolic_build"),
    (keras.Model, "_maybe_symbolic_build"),
    (keras.layers.BatchNormalization, "_moments"),
)
_LOST = (  # what TensorFlow raises at the workers that are left, depending on where the other one went
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
)


def read_slurm() -> tuple[tuple[str, ...], int]:
    """Addresses of the tasks of a step of Slurm's `srun`, and the number of this one.

    Slurm itself gives every task its GPUs (`--gpus-per-task`); ports differ from job to job.

    Raises:
        InputError: If Slurm's variables are not complete.
    """
    try:
        per_node = os.environ["SLURM_STEP_TASKS_PER_NODE"]
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            # Neighbouring jobs on a node get ports of their own, for up to 64 tasks there.
            port_base=10240 + int(os.environ.get("SLURM_JOB_ID", 0)) * 64 % 20480,
            gpus_per_node=max(int(word.partition("(")[0]) for word in per_node.split(",")),
            gpus_per_task=1,  # a place for every task, whether or not there are GPUs
            auto_set_gpu=False,
        )
        addresses = tuple(resolver.cluster_spec().as_dict()["worker"])
        return addresses, resolver.get_task_info()[1]
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the variables of this step of Slurm cannot be read ({error}); name the workers in WORKER_HOSTS."
        ) from error


@contextlib.contextmanager
def use_devices(
    several: bool = False, gpus: int | None = None, cluster: Cluster | None = None, timeout_s: float = 900
) -> Iterator[None]:
    """Runs the block on one device, on several of this machine, or on those of a cluster.

    Args:
        several: Whether to use more than one device of this machine, if there is no cluster.
        gpus: How many of each machine; None: all there are.
        cluster: Workers of which this process is one; must be given before TensorFlow does anything.
        timeout_s: How long a worker waits for the others at a step before it gives up.

    Raises:
        InputError: If there are fewer devices.
        LostWorkerError: If another worker of the cluster is gone.
    """
    devices = _choose_devices(several or cluster is not None, gpus, several)
    if len(devices) > 1 or cluster:
        check_keras()
    if cluster is None:
        with contextlib.nullcontext() if len(devices) == 1 else tf.distribute.MirroredStrategy(devices).scope():
            yield
        return
    try:
        with _join(cluster, timeout_s).scope():
            yield
            share_rows(np.zeros(1, np.float32))  # nobody leaves before all are done
    except _LOST as error:
        raise LostWorkerError(
            f"{cluster.name(cluster.index)} has lost another worker, which is gone or does not answer "
            f"({type(error).__name__}); start all workers again with --resume."
        ) from error


def check_keras() -> None:
    """Raises `InputError` if this version of Keras is not one that several devices can be used with."""
    for owner, name in MENDED:
        if not hasattr(owner, name):
            raise InputError(
                f"Keras {keras.__version__} has no {owner.__name__}.{name} any more, which training on several devices "
                "builds on; install keras<3.16, or use one device."
            )


def _choose_devices(all_gpus: bool, gpus: int | None, several: bool) -> list[str]:
    """Makes the devices that are to be used the only visible ones, if it can still be done; returns their names."""
    if gpus is not None and not all_gpus:
        raise InputError(f"--gpus {gpus} says how many devices --multiGPU is to use; give both.")
    physical = tf.config.list_physical_devices("GPU")
    if physical:
        wanted = (gpus or len(physical)) if all_gpus else 1
        if wanted > len(physical):
            raise InputError(f"--gpus {gpus}: TensorFlow sees {len(physical)} here.")
        with contextlib.suppress(RuntimeError):  # TensorFlow is at work already and keeps those it has
            tf.config.set_visible_devices(physical[:wanted], "GPU")
        if wanted > len(tf.config.get_visible_devices("GPU")):
            raise InputError(f"{wanted} GPUs are asked for, but this process has begun with fewer; start another.")
        return [f"GPU:{i}" for i in range(wanted)]
    # Without GPUs a process may have split its CPU into several devices, to try things out.
    n_cpus = len(tf.config.get_logical_device_configuration(tf.config.list_physical_devices("CPU")[0]) or [None])
    if several and (n_cpus == 1 or (gpus or 1) > n_cpus):
        asked = "--multiGPU" if gpus is None else f"--gpus {gpus}"
        raise InputError(f"{asked}: TensorFlow sees no GPU here; leave it out, or try --workers 2 to see how it works.")
    return [f"CPU:{i}" for i in range((gpus or n_cpus) if several else 1)]


def _join(cluster: Cluster, timeout_s: float) -> tf.distribute.Strategy:
    """The strategy of this worker of a cluster."""
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=timeout_s)
    name = cluster.name(cluster.index)
    with give_up_after(timeout_s, f"{name} has lost another worker before all had joined"):
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
        except tf.errors.UnknownError as error:
            raise InputError(f"{name}: TensorFlow cannot serve there ({error}).") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # TensorFlow would merely take note of it
    return strategy


def _workers() -> tuple[int, int]:
    """Number of this process among those of the strategy, and how many there are."""
    resolver = tf.distribute.get_strategy().cluster_resolver if tf.distribute.has_strategy() else None
    if resolver is None:
        return 0, 1
    return resolver.task_id, len(resolver.cluster_spec().as_dict()["worker"])


def count_workers() -> int:
    """Processes that train together.

    >>> count_workers()
    1
    """
    return _workers()[1]


def is_chief() -> bool:
    """Whether this process is the one that writes what lasts.

    >>> is_chief()
    True
    """
    return _workers()[0] == 0


def count_replicas() -> int:
    """Devices that share every batch.

    >>> count_replicas()
    1
    """
    return tf.distribute.get_strategy().num_replicas_in_sync


def check_batches(n_crops: int, batch_size: int) -> None:
    """Says how batches are shared; raises `InputError` if a device would go without a crop."""
    n_replicas = count_replicas()
    if n_replicas == 1:
        return
    smallest = n_crops // count_steps(n_crops, batch_size)
    if smallest < n_replicas:
        raise InputError(
            f"--batch_size {batch_size}: batches of {smallest} crops cannot be shared by {n_replicas} devices; give a "
            "larger one, or fewer devices."
        )
    n_workers = _workers()[1]
    machines = f" of {n_workers} workers" if n_workers > 1 else ""
    least, most = smallest // n_replicas, -(-min(batch_size, n_crops) // n_replicas)
    each = str(most) if least == most else f"{least} to {most}"
    print(f"devices: {n_replicas}{machines}; each trains on {each} crops of a batch of {batch_size}.")


class ReplicatedModel(keras.Model):
    """A model that `fit` trains on the replicas of a strategy as one device would on the whole batch.

    Three things differ from `keras.Model` (3.13 to 3.15):

    - Replicas may have unequal shares of a batch. Keras takes the mean of the replicas' mean gradients and losses; here
      they are weighted by the crops of each, so that every crop counts the same.
    - Before the first step Keras reduces a batch of several replicas outside of them, which fails with several workers
      (keras-team/keras#20585) and with unequal shares; here it is told what a batch looks like.
    - Keras reduces what a step returns along an axis that scalars do not have, which fails with several workers; here
      the replicas agree on the loss themselves, and the other numbers of a step are those of the first replica here.

    Args:
        inputs: As `keras.Model` takes them.
        outputs: Likewise, one.
        sync_batch_norm: Whether BatchNormalization takes its statistics of the whole batch, rather than each replica's.
    """

    def __init__(self, inputs: list, outputs: list, sync_batch_norm: bool = False):
        super().__init__(inputs, outputs)
        self._sync_batch_norm = sync_batch_norm

    def train_step(self, data):
        """One step of one replica."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        replica = tf.distribute.get_replica_context()
        own = tf.cast(tf.shape(y)[0], tf.float32)
        mean_share = replica.all_reduce(tf.distribute.ReduceOp.MEAN, own)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            # Keras divides by the number of replicas, as if all had the same share; gradients are added up.
            loss = self.compute_loss(x, y, y_pred, sample_weight, training=True) * (own / mean_share)
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, weights), weights, strict=True))
        # Of the whole batch and therefore the same at all workers: what stops a training must stop it everywhere.
        self._loss_tracker.update_state(replica.all_reduce(tf.distribute.ReduceOp.SUM, loss), sample_weight=mean_share)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def make_train_function(self, force=False):
        """What `fit` calls at every step."""
        if self.train_function is None or force:
            strategy = self.distribute_strategy

            @tf.function(reduce_retracing=True)
            def step(iterator):
                with _synchronised(self, self._sync_batch_norm):  # read while the step is traced
                    return strategy.run(self.train_step, args=(next(iterator),))

            self.train_function = lambda iterator: keras.tree.map_structure(_of_first_replica, step(iterator))
        return self.train_function

    def make_predict_function(self, force=False):
        """What `predict` of this module calls with the values of all replicas."""
        if self.predict_function is None or force:
            strategy = self.distribute_strategy

            @tf.function(reduce_retracing=True)
            def step(values):
                return strategy.run(lambda x: self(x, training=False), args=(values,))

            self.predict_function = step
        return self.predict_function

    @functools.cached_property
    def average_statistics(self) -> Callable[[], None]:
        """Gives all replicas the mean of what each has counted: the moving statistics of BatchNormalization."""
        counted = [v for v in self.non_trainable_variables if keras.backend.is_float_dtype(v.dtype)]

        def of_replica():
            values = [tf.identity(variable.value) for variable in counted]
            means = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, values)
            for variable, mean in zip(counted, means, strict=True):
                variable.assign(mean)

        @tf.function
        def average():
            if counted:
                self.distribute_strategy.run(of_replica)

        return average

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        specs = [tf.TensorSpec(end[0].shape, end[0].dtype) for end in (self.inputs, self.outputs)]
        self._symbolic_build(data_batch=tuple(specs))


def _of_first_replica(value):
    return tf.distribute.get_strategy().experimental_local_results(value)[0]


@contextlib.contextmanager
def _synchronised(model: keras.Model, wanted: bool) -> Iterator[None]:
    """Lets BatchNormalization take its statistics of the batches of all replicas, within the block.

    Keras' own way (`synchronized=True`) takes the difference of two means, of squares and squared, in which the
    variance of features that hardly vary drowns, and sends three messages per layer rather than two.
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    layers = layers if wanted else []
    try:
        for layer in layers:
            moments = functools.partial(_moments_of_all, axes=layer._reduction_axes)
            object.__setattr__(layer, "_moments", moments)  # Keras would look for variables in it
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "_moments")


def _moments_of_all(inputs: tf.Tensor, mask: None, axes: list[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance of the inputs of all replicas, as `tf.nn.moments` takes them of those of one."""
    if mask is not None:
        raise ValueError(f"--sync_batch_norm is for images without a mask. Received: mask={mask}.")
    replica = tf.distribute.get_replica_context()
    x = tf.cast(inputs, tf.float32)
    own_mean = tf.reduce_mean(x, axes)
    own = tf.cast(tf.size(x) / tf.size(own_mean), tf.float32)
    sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.concat([own_mean * own, own[None]], 0))
    mean, n = sums[:-1] / sums[-1], sums[-1]
    squares = tf.reduce_sum(tf.math.squared_difference(x, tf.stop_gradient(mean)), axes)
    variance = replica.all_reduce(tf.distribute.ReduceOp.SUM, squares) / n
    return tf.cast(mean, inputs.dtype), tf.cast(variance, inputs.dtype)


def build_fitted(inputs: list, outputs: list, sync_batch_norm: bool = False) -> keras.Model:
    """The model to be fitted between inputs and outputs of a built one, for the strategy in force."""
    if not tf.distribute.has_strategy():
        return keras.Model(inputs, outputs)
    return ReplicatedModel(inputs, outputs, sync_batch_norm)


def average_statistics(model: keras.Model) -> None:
    """Gives all replicas that a model is fitted on the same statistics of BatchNormalization."""
    if isinstance(model, ReplicatedModel):
        model.average_statistics()


def deal_out(make: Callable[[range, int], tf.data.Dataset]) -> tf.data.Dataset:
    """Endless batches for `fit`, each dealt out to the replicas.

    Args:
        make: Called with the numbers of the replicas of this process and that of all of them; returns batches of
            theirs in turn, see `batches.training_batches`.
    """
    if not tf.distribute.has_strategy():
        return make(range(1), 1)
    worker, n_workers = _workers()
    n = count_replicas()
    own = range(worker * n // n_workers, (worker + 1) * n // n_workers)

    def make_endless(_) -> tf.data.Dataset:  # an end would be asked for at all workers before every step
        return make(own, n).apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))

    return tf.distribute.get_strategy().distribute_datasets_from_function(make_endless)


@own_errors()
def predict(
    model: keras.Model,
    crops: np.ndarray,
    batch_size: int,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    seed: int = 0,
    verbose: int | str = 0,
) -> np.ndarray:
    """What a model makes of crops, in their order; every replica does its share, and every process gets all of it.

    Args:
        model: Model with one input and one output, built within the strategy in force.
        crops: Array `(N, ...)`, or anything indexed like it.
        batch_size: Crops per step of a process.
        augment: Function of a batch and a generator, if they are to be augmented first.
        seed: Seed of the augmentation.
        verbose: As `keras.Model.predict` takes it.
    """
    if not len(crops):
        return np.zeros((0, *model.output_shape[1:]), model.outputs[0].dtype)
    worker, n_workers = _workers()
    unused = np.zeros(len(crops), np.int32)
    data = ordered_batches(crops, unused, batch_size, augment, seed, worker, n_workers)
    if not tf.distribute.has_strategy():
        return model.predict(data, verbose=verbose)
    strategy = tf.distribute.get_strategy()
    n_local = count_replicas() // n_workers

    shell = model if isinstance(model, ReplicatedModel) else ReplicatedModel(model.inputs, model.outputs)
    run = shell.make_predict_function()
    own = []
    for batch, _ in data:
        filled = tf.concat([batch, *[batch[:1]] * (n_local - len(batch))], axis=0)  # no replica without a crop
        results = strategy.experimental_local_results(run(_of_replicas(filled, worker * n_local, n_local)))
        own.append(np.concatenate([result.numpy() for result in results])[: len(batch)])
    if n_workers == 1:
        return np.concatenate(own)
    start, stop = share(count_steps(len(crops), batch_size), worker, n_workers)
    together = np.zeros((len(crops), *model.output_shape[1:]), model.outputs[0].dtype)
    if own:
        together[start * batch_size : stop * batch_size] = np.concatenate(own)
    return share_rows(together)


def _of_replicas(batch: tf.Tensor, first: int, n_local: int) -> tf.distribute.DistributedValues:
    """A batch as the replicas of this process take it, of which `first` has the lowest number."""
    parts = [batch[slice(*share(len(batch), i, n_local))] for i in range(n_local)]
    strategy = tf.distribute.get_strategy()
    return strategy.experimental_distribute_values_from_function(
        lambda context: parts[context.replica_id_in_sync_group - first]
    )


def share_rows(array: np.ndarray) -> np.ndarray:
    """The sum of an array over all processes: where each has set rows of its own and the others none, all rows."""
    if _workers()[1] == 1:
        return array
    strategy = tf.distribute.get_strategy()
    n_local = count_replicas() // _workers()[1]

    def of_replica(x):
        context = tf.distribute.get_replica_context()
        is_first = context.replica_id_in_sync_group % n_local == 0  # the others of this process hold the same
        return context.all_reduce(tf.distribute.ReduceOp.SUM, x if is_first else tf.zeros_like(x))

    @tf.function
    def add_up(part):
        return strategy.experimental_local_results(strategy.run(of_replica, args=(part,)))[0]

    return add_up(tf.convert_to_tensor(array)).numpy()


def share_bytes(data: bytes) -> bytes:
    """What the chief has, at every process.

    >>> share_bytes(b"alone")
    b'alone'
    """
    if _workers()[1] == 1:
        return data
    length = int(share_rows(np.array([len(data) if is_chief() else 0]))[0])
    numbers = np.zeros(-(-length // 4), np.int32)  # sums of int32 are exact, whatever the bits mean
    if is_chief():
        numbers.view(np.uint8)[:length] = np.frombuffer(data, np.uint8)
    parts = [share_rows(numbers[i : i + _CHUNK]) for i in range(0, len(numbers), _CHUNK)]
    return np.concatenate(parts).tobytes()[:length] if parts else b""
