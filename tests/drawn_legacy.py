"""Small models in the files that Keras 2 and its `multi_gpu_model` wrote, laid out by hand with h5py."""

import json

import h5py
import numpy as np

# (class, settings, variables): a net whose layers have different shapes, and one whose kernels are all alike.
CONVOLUTIONAL = (
    ("Conv2D", {"name": "conv1", "filters": 4, "kernel_size": [3, 3], "padding": "same"},
     {"kernel": (3, 3, 3, 4), "bias": (4,)}),
    ("BatchNormalization", {"name": "bn1", "axis": -1, "epsilon": 0.001},
     {"gamma": (4,), "beta": (4,), "moving_mean": (4,), "moving_variance": (4,)}),
    ("Activation", {"name": "activation_1", "activation": "relu"}, {}),
    ("GlobalAveragePooling2D", {"name": "pool"}, {}),
    ("Dense", {"name": "dense_1", "units": 6, "activation": "relu"}, {"kernel": (4, 6), "bias": (6,)}),
    ("Dense", {"name": "dense_2", "units": 3, "activation": "softmax"}, {"kernel": (6, 3), "bias": (3,)}),
)  # fmt: skip
ALIKE = tuple(
    ("Dense", {"name": f"h{i}", "units": 5, "activation": "tanh"}, {"kernel": (5, 5), "bias": (5,)}) for i in range(4)
)


def input_shape(net):
    return [None, 5] if net[0][0] == "Dense" else [None, 8, 8, 3]


def draw_values(net, seed=0):
    """Values of every variable: `{layer: {variable: array}}`."""
    random = np.random.default_rng(seed)
    return {
        settings["name"]: {v: random.uniform(0.1, 1, shape).astype(np.float32) for v, shape in variables.items()}
        for _, settings, variables in net
        if variables
    }


def functional_config(net, name="model_1", frozen=()):
    """The configuration of a chain of layers as Keras 2.2.4 wrote it."""
    layers = [node("InputLayer", {"name": "input_1", "batch_input_shape": input_shape(net), "sparse": False}, [])]
    for class_name, settings, _ in net:
        settings = settings | {"trainable": settings["name"] not in frozen}
        layers.append(node(class_name, settings, [[[layers[-1]["name"], 0, 0, {}]]]))
    ends = {"input_layers": [["input_1", 0, 0]], "output_layers": [[layers[-1]["name"], 0, 0]]}
    return {"class_name": "Model", "config": {"name": name, "layers": layers, **ends}}


def sequential_config(net, name="sequential_1"):
    """The same as Sequential: no InputLayer, the input's shape on the first layer."""
    layers = [{"class_name": c, "config": settings | {"trainable": True}} for c, settings, _ in net]
    layers[0]["config"] = layers[0]["config"] | {"batch_input_shape": input_shape(net)}
    return {"class_name": "Sequential", "config": {"name": name, "layers": layers}}


def node(class_name, settings, inbound):
    return {"class_name": class_name, "config": settings, "name": settings["name"], "inbound_nodes": inbound}


def parallel_config(template, shape, gpus=2):
    """What `multi_gpu_model` makes of a template: slices, the template called once on each, and their join."""
    name = template["config"]["name"]
    layers = [node("InputLayer", {"name": "input_1", "batch_input_shape": shape, "sparse": False}, [])]
    for i in range(gpus):
        settings = {"name": f"lambda_{i + 1}", "function": ["4wEAAAA=\n", None, None], "function_type": "lambda"}
        settings["arguments"] = {"i": i, "parts": gpus}
        layers.append(node("Lambda", settings, [[["input_1", 0, 0, {}]]]))
    calls = [[[f"lambda_{i + 1}", 0, 0, {}]] for i in range(gpus)]
    layers.append(template | {"name": name, "inbound_nodes": calls})
    joined = [[[name, i + 1, 0, {}] for i in range(gpus)]]
    layers.append(node("Concatenate", {"name": "dense_2", "axis": 0}, joined))
    ends = {"input_layers": [["input_1", 0, 0]], "output_layers": [["dense_2", 0, 0]]}
    return {"class_name": "Model", "config": {"name": "model_9", "layers": layers, **ends}}


def keras_2_order(net, frozen=()):
    """`(layer, variable)` as Keras 2 lists them: what is trained first, then all else, layer by layer."""
    first, late = [], []
    for _, settings, variables in net:
        for variable in variables:
            trained = settings["name"] not in frozen and not variable.startswith("moving")
            (first if trained else late).append((settings["name"], variable))
    return first + late


def write_h5(path, groups, config=None, version="2.2.4", optimizer=True):
    """`groups`: `{layer: [(name, array), ...]}`. With a configuration a whole model, else weights alone."""
    with h5py.File(path, "w") as file:
        target = file
        if config:
            file.attrs["model_config"] = json.dumps(config)
            target = file.create_group("model_weights")
            if optimizer:
                file.create_dataset("optimizer_weights/training/RMSprop/Variable:0", data=np.zeros(3))
        target.attrs["keras_version"], target.attrs["backend"] = version, "tensorflow"
        target.attrs["layer_names"] = np.array([name.encode() for name in groups])
        for name, arrays in groups.items():
            group = target.create_group(name)
            group.attrs["weight_names"] = np.array([array.encode() for array, _ in arrays])
            for array, values in arrays:
                group[array] = values
    return path


def write_parallel(path, net=CONVOLUTIONAL, values=None, gpus=2, frozen=(), suffix="", whole=True, flags=True):
    """A checkpoint of `multi_gpu_model`; `suffix` is what `cpu_relocation` puts behind the names of layers."""
    values = values or draw_values(net)
    template = functional_config(net, frozen=frozen if flags else ())
    arrays = [(f"{layer}{suffix}/{v}:0", values[layer][v]) for layer, v in keras_2_order(net, frozen)]
    groups = {"input_1": [], **{f"lambda_{i + 1}": [] for i in range(gpus)}, "model_1": arrays, "dense_2": []}
    return write_h5(path, groups, parallel_config(template, input_shape(net), gpus) if whole else None)


def predict(net, values, x):
    """The net in plain NumPy."""
    for class_name, settings, _ in net:
        w = values.get(settings["name"], {})
        if class_name == "Conv2D":
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
            x = np.einsum("nhwcij,ijcf->nhwf", windows, w["kernel"]) + w["bias"]
        elif class_name == "BatchNormalization":
            x = (x - w["moving_mean"]) / np.sqrt(w["moving_variance"] + settings["epsilon"]) * w["gamma"] + w["beta"]
        elif class_name == "GlobalAveragePooling2D":
            x = x.mean(axis=(1, 2))
        elif class_name == "Dense":
            x = x @ w["kernel"] + w["bias"]
        x = _ACTIVATIONS[settings.get("activation", "linear")](x)
    return x


_ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "softmax": lambda x: (
        np.exp(x - x.max(1, keepdims=True)) / np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)
    ),
}
