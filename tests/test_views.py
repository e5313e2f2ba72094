import numpy as np
import pytest

from resnet_zclass.augment import build_augment
from resnet_zclass.errors import InputError
from resnet_zclass.views import list_views

CROPS = np.random.default_rng(0).integers(0, 4000, (40, 6, 6, 2)).astype("uint16")


@pytest.mark.parametrize(("strengths", "n"), [({}, 1), ({"flip": True}, 4), ({"turn": True}, 4),
                                              ({"flip": True, "turn": True}, 8)])  # fmt: skip
def test_all_views_are_those_of_augmentation_and_are_chosen_alike(strengths, n):
    augment = build_augment(**strengths)
    views = list_views(strengths | {"shift_px": 0, "thin": 1.0, "camera_offset": 100.0}, augment, CROPS.shape[1:], 3)
    assert len(views) == n
    assert views.drawn == ()
    made = np.stack([make(CROPS, None) for make in views.make], axis=1)
    assert len({made[0, view].tobytes() for view in range(n)}) == n
    numbers = views.draw(np.random.default_rng(7), CROPS.shape)
    np.testing.assert_array_equal(made[np.arange(40), numbers], augment(CROPS, np.random.default_rng(7)))
    assert set(numbers) == set(range(n))


def test_views_of_crops_that_are_not_square():
    strengths = {"flip": True}
    views = list_views(strengths, build_augment(**strengths), (4, 6, 1), 3)
    assert len({make(np.arange(24).reshape(1, 4, 6, 1), None).tobytes() for make in views.make}) == 4
    with pytest.raises(InputError, match="square"):
        list_views({"turn": True}, build_augment(turn=True), (4, 6, 1), 3)


def test_drawn_views_stand_for_what_has_no_end():
    strengths = {"flip": True, "shift_px": 2, "thin": 0.5, "camera_offset": 100.0, "contrast": 0.0}
    views = list_views(strengths, build_augment(**strengths), CROPS.shape[1:], 5)
    assert len(views) == 5
    assert views.drawn == ("shift_px", "thin")
    numbers = views.draw(np.random.default_rng(0), (1000, 6, 6, 2))
    assert np.bincount(numbers, minlength=5).min() > 150
