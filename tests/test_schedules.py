import math

import pytest

from resnet_zclass.errors import InputError
from resnet_zclass.schedules import SCHEDULES, check_schedule, cosine_decay, plan_rates, smooth_decay

PLANNED = [name for name, build in SCHEDULES.items() if build is not None]


def planned(schedule, epochs=40, **options):
    rates = plan_rates(schedule, options.pop("learning_rate", 0.3), epochs, **options)
    return [rates(epoch) for epoch in range(epochs)]


def test_the_cosine_starts_at_the_rate_and_falls_towards_zero():
    rates = [cosine_decay(0.3, epochs=10)(epoch) for epoch in range(11)]
    assert rates[0] == pytest.approx(0.3)
    assert rates[5] == pytest.approx(0.15)
    assert rates[10] == pytest.approx(0.0, abs=1e-12)
    assert sorted(rates, reverse=True) == rates


def test_without_floor_and_warm_up_a_plan_is_the_plain_function():
    assert planned("cosine") == [cosine_decay(0.3, 40)(epoch) for epoch in range(40)]
    assert planned("smooth", lr_decay=0.9) == [smooth_decay(0.3, 0.9)(epoch) for epoch in range(40)]
    assert planned("smooth", lr_decay=0.9) == [0.3 * 0.9**epoch for epoch in range(40)]


def test_the_smooth_schedule_stops_at_the_floor():
    rates = planned("smooth", learning_rate=1.0, lr_decay=0.5, floor=0.1)
    assert rates[:5] == [1.0, 0.5, 0.25, 0.125, 0.1]
    assert set(rates[5:]) == {0.1}


def test_the_cosine_ends_at_the_floor():
    rates = plan_rates("cosine", 0.3, epochs=40, floor=0.1)
    assert rates(20) == pytest.approx(0.2)
    assert rates(40) == pytest.approx(0.1)
    assert rates(39) == pytest.approx(0.1 + 0.2 * math.sin(math.pi / 80) ** 2)


def test_every_cycle_is_half_a_cosine_from_a_lower_peak():
    rates = planned("cyclic", learning_rate=1.0, lr_decay=0.8, cycle_epochs=10, floor=0.02)
    for cycle in range(4):
        peak = 0.8**cycle
        expected = [0.02 + (peak - 0.02) * math.cos(math.pi * place / 20) ** 2 for place in range(10)]
        assert rates[10 * cycle : 10 * cycle + 10] == pytest.approx(expected)


def test_a_peak_below_the_floor_is_the_floor():
    assert planned("cyclic", learning_rate=1.0, lr_decay=0.1, cycle_epochs=10, floor=0.5)[10:] == [0.5] * 30


@pytest.mark.parametrize("schedule", PLANNED)
def test_the_warm_up_is_a_straight_line_and_the_schedule_starts_after_it(schedule):
    rates = planned(schedule, epochs=44, learning_rate=1.0, warmup_epochs=4, floor=0.01)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == planned(schedule, epochs=40, learning_rate=1.0, floor=0.01)


@pytest.mark.parametrize("schedule", PLANNED)
def test_no_rate_is_below_the_floor_or_above_the_learning_rate(schedule):
    rates = planned(schedule, lr_decay=0.3, floor=0.07, warmup_epochs=9)
    assert min(rates) >= 0.07
    assert max(rates) == pytest.approx(0.3)


def test_a_plateau_has_no_plan():
    assert plan_rates("plateau", 0.3, 40) is None


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"floor": 0.4}, "--min_learning_rate"),
        ({"floor": -0.1}, "--min_learning_rate"),
        ({"floor": math.nan}, "--min_learning_rate"),
        ({"lr_decay": 0.0}, "--lr_decay"),
        ({"lr_decay": 1.1}, "--lr_decay"),
        ({"cycle_epochs": 0}, "--cycle_epochs"),
        ({"warmup_epochs": 40}, "--warmup_epochs"),
        ({"warmup_epochs": -1}, "--warmup_epochs"),
        ({"schedule": "plateau", "warmup_epochs": 3}, "--warmup_epochs"),
        ({"schedule": "linear"}, "--schedule"),
    ],
)
def test_what_makes_no_schedule_is_refused_by_the_name_of_its_option(wrong, named):
    options = {"schedule": "smooth", "learning_rate": 0.3, "epochs": 40} | wrong
    for check in (check_schedule, plan_rates):
        with pytest.raises(InputError, match=named) as caught:
            check(**options)
        assert "\n" not in str(caught.value)


def test_the_ends_of_what_is_allowed_are_allowed():
    ends = dict(lr_decay=1.0, floor=0.3, cycle_epochs=1, warmup_epochs=39)
    assert check_schedule("cyclic", 0.3, 40, **ends) is None
    rates = plan_rates("cyclic", 0.3, 40, **ends)
    assert [rates(epoch) for epoch in range(40)] == [0.3] * 40  # the floor is the rate
