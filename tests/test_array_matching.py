"""Every array finds its variable, whatever was frozen; what fits in several ways is refused."""

import numpy as np
import pytest

from resnet_zclass.array_matching import Branch, Leaf, Slot, leaves_of, order_arrays
from resnet_zclass.errors import InputError
from resnet_zclass.keras_h5 import StoredArray


def dense(name, n=2, m=2, **kwargs):
    return Leaf(name, (Slot("kernel", (n, m)), Slot("bias", (m,))), **kwargs)


def norm(name, n=2, **kwargs):
    return Leaf(
        name,
        (Slot("gamma", (n,)), Slot("beta", (n,))),
        (Slot("moving_mean", (n,)), Slot("moving_variance", (n,))),
        **kwargs,
    )


def write(children, frozen, whole=(), suffix=""):
    """Lists arrays as Keras 2 does: `frozen` layers, and `whole` nested models, are among the others."""

    def split(child):
        if isinstance(child, Branch):
            parts = [split(part) for part in child.children]
            first, late = ([a for part in side for a in part] for side in zip(*parts, strict=True))
            return ([], first + late) if child.name in whole else (first, late)
        name = [StoredArray(f"{child.name}{suffix}/{s.variable}:0", np.zeros(s.shape)) for s in child.slots]
        n = len(child.trainable)
        return ([], name) if child.name in frozen else (name[:n], name[n:])

    parts = [split(child) for child in children]
    return [a for first, _ in parts for a in first] + [a for _, late in parts for a in late]


def expected_names(children, suffix=""):
    return [f"{leaf.name}{suffix}/{slot.variable}:0" for leaf in leaves_of(children) for slot in leaf.slots]


def names_of(arrays):
    return [array.name for array in arrays]


@pytest.mark.parametrize("seed", range(30))
def test_any_choice_of_frozen_layers_and_models_is_undone(seed):
    random = np.random.default_rng(seed)
    base = Branch("base", (dense("a"), norm("b"), Branch("deep", (dense("c"), norm("d"))), dense("e")))
    children = (dense("first"), base, norm("f"), dense("g"), dense("last"))
    frozen = {leaf.name for leaf in leaves_of(children) if random.random() < 0.4}
    whole = {name for name in ("base", "deep") if random.random() < 0.4}
    suffix = random.choice(["", "_1", "_12"])
    stored = write(children, frozen, whole, suffix)
    assert names_of(order_arrays(children, stored)) == expected_names(children, suffix)


def test_arrays_without_names_are_placed_by_shape_where_only_one_way_fits():
    children = (
        dense("dense", 3, 4, is_auto_named=True),
        norm("norm", 4, is_auto_named=True),
        dense("dense_1", 4, 5, is_auto_named=True),
    )
    other = (dense("dense_7", 3, 4), norm("norm_3", 4), dense("dense_8", 4, 5))
    for frozen in ((), ("dense_7",), ("norm_3", "dense_8")):
        stored = write(other, frozen)
        assert names_of(order_arrays(children, stored, is_own=False)) == expected_names(other)
    with pytest.raises(InputError, match="Without a partner"):
        order_arrays(children, stored)  # the file's own model has the file's names


def test_equal_shapes_without_names_are_refused():
    children = tuple(dense(f"dense_{i}", is_auto_named=True) for i in range(3))
    stored = write(tuple(dense(f"dense_{i}") for i in (7, 8, 9)), ("dense_8",))
    with pytest.raises(InputError, match="several ways"):
        order_arrays(children, stored, is_own=False)


def test_a_number_that_keras_counted_in_another_session_is_no_evidence():
    children = (dense("dense", is_auto_named=True), dense("dense_1", is_auto_named=True))
    stored = write((dense("dense_1"), dense("dense_2")), ())  # `dense_2` is not `dense`, nor `dense_1` itself
    with pytest.raises(InputError, match="several ways"):
        order_arrays(children, stored, is_own=False)
    same = write((dense("dense"), dense("dense_1")), ("dense",))
    assert names_of(order_arrays(children, same, is_own=False)) == expected_names(children)


def test_flags_decide_between_names_that_fit_twice():
    # Copies of `h` and `h_1` may both be called `h_1_...` or be the layer itself.
    twins = (StoredArray("h_1/kernel:0", np.zeros((2, 2))), StoredArray("h_1_1/kernel:0", np.ones((2, 2))))
    kernel = (Slot("kernel", (2, 2)),)
    assert names_of(order_arrays((Leaf("h", kernel), Leaf("h_1", kernel)), twins)) == ["h_1/kernel:0", "h_1_1/kernel:0"]
    three = [StoredArray(f"h_{i}/kernel:0", np.full((2, 2), i)) for i in (1, 2)]
    frozen_first = (Leaf("h", kernel, is_frozen=True), Leaf("h", kernel))
    assert names_of(order_arrays(frozen_first, three)) == ["h_2/kernel:0", "h_1/kernel:0"]
    with pytest.raises(InputError, match="several ways"):
        order_arrays(frozen_first, three, is_own=False)


def test_layers_with_given_names_are_found_in_any_order():
    children = (dense("x", 2, 2), dense("y", 2, 2), dense("dense", 2, 3, is_auto_named=True))
    stored = write((dense("y"), dense("x"), dense("dense_4", 2, 3)), ())
    found = order_arrays(children, stored, is_own=False)
    assert names_of(found)[::2] == ["x/kernel:0", "y/kernel:0", "dense_4/kernel:0"]


def test_both_sides_are_listed():
    with pytest.raises(InputError) as error:
        order_arrays((dense("a"), dense("b", 2, 5)), write((dense("a"), dense("c", 2, 4)), ()))
    assert "b/kernel (2, 5)" in str(error.value) and "c/kernel (2, 4)" in str(error.value)
    assert "a/kernel" not in str(error.value)
    with pytest.raises(InputError, match="do not fit"):
        order_arrays((dense("a"),), write((dense("a"), dense("b")), ()))


def test_a_depthwise_kernel_is_found_under_its_old_name():
    leaf = Leaf("conv", (Slot("kernel", (3, 3, 4, 1)),))
    stored = [StoredArray("conv/depthwise_kernel:0", np.zeros((3, 3, 4, 1)))]
    assert order_arrays((leaf,), stored) == stored


def test_layers_of_names_with_slashes_are_found():
    leaf = dense("conv1_bn")
    for path in ("conv1/bn", "conv1/bn_1"):
        stored = [StoredArray(f"{path}/{slot.variable}:0", np.zeros(slot.shape)) for slot in leaf.slots]
        assert order_arrays((leaf,), stored) == stored


def test_many_models_beside_each_other():
    children = tuple(Branch(f"m{i}", (dense(f"d{i}"), norm(f"n{i}"))) for i in range(12))
    stored = write(children, ("d3", "n4"), ("m1", "m7", "m11"))
    assert names_of(order_arrays(children, stored)) == expected_names(children)


def test_two_layers_of_one_name_in_two_models():
    children = (Branch("a", (dense("h"),)), Branch("b", (dense("h"),)))
    stored = [
        StoredArray(f"{path}/{v}:0", np.zeros(s))
        for path in ("h", "h_1")
        for v, s in (("kernel", (2, 2)), ("bias", (2,)))
    ]
    with pytest.raises(InputError, match="several ways"):  # `h_1` may be the copy of either
        order_arrays(children, stored)


def test_names_that_are_the_same_only_in_part_are_no_evidence():
    """BatchNormalizations that another session counted from elsewhere on."""
    children = tuple(norm(f"norm_v1_{i}") for i in (2, 3, 4))
    stored = write(tuple(norm(f"norm_v1_{i}") for i in (1, 2, 3)), ())
    found = order_arrays(children, stored, is_own=False)
    assert names_of(found) == expected_names(tuple(norm(f"norm_v1_{i}") for i in (1, 2, 3)))
    frozen = write(tuple(dense(f"x_{i}") for i in (1, 2, 3)), ("x_2",))
    with pytest.raises(InputError, match="several ways"):
        order_arrays(tuple(dense(f"x_{i}") for i in (2, 3, 4)), frozen, is_own=False)


def test_deep_nests_take_no_time_and_hopeless_ones_are_given_up():
    children = tuple(Branch(f"b{i}", tuple(dense(f"b{i}d{j}") for j in range(60))) for i in range(4))
    stored = write(children, ("b0d7", "b3d9"), ("b1", "b2"))
    assert names_of(order_arrays(children, stored)) == expected_names(children)
    many = tuple(dense(f"dense_{i}", is_auto_named=True) for i in range(700))
    with pytest.raises(InputError, match=r"several ways|too many ways"):
        order_arrays(many, write(tuple(dense(f"dense_{i + 1000}") for i in range(700)), ("dense_1003",)), is_own=False)


def test_wrapped_layers_are_known_by_the_name_of_the_wrapper():
    slots = tuple(Slot(v, (2,)) for v in ("kernel", "bias", "kernel", "bias"))
    paths = ("forward_lstm/kernel", "forward_lstm/bias", "backward_lstm/kernel", "backward_lstm/bias")
    stored = [StoredArray(f"bidirectional_1/{path}:0", np.zeros(2)) for path in paths]
    assert order_arrays((Leaf("bidirectional", slots),), stored) == stored
