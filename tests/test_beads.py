import numpy as np
import pandas as pd
import pytest
import scipy.optimize
from drawn_stacks import draw_stack, place_grid

from resnet_zclass.beads import cut_crops, find_beads, find_beads_in_page, place_spots
from resnet_zclass.blobs import blob_scales, filter_blobs, find_blobs, find_scale
from resnet_zclass.errors import InputError
from resnet_zclass.focus import fit_focus
from resnet_zclass.images import read_stack
from resnet_zclass.spots import read_spots


def used(beads):
    return beads[beads["reason"] == ""]


def match(beads, places):
    """Row of `beads` nearest to each place, and its distance in px."""
    distance = np.hypot(*(beads[["y", "x"]].to_numpy()[None] - np.asarray(places)[:, None]).transpose(2, 0, 1))
    return distance.argmin(axis=1), distance.min(axis=1)


@pytest.mark.parametrize("width_px", [1.1, 2.0, 3.5])
def test_places_and_foci_are_recovered(width_px):
    places = place_grid(3, 4)
    focus = 10 + 0.02 * places[:, 0] - 0.01 * places[:, 1]
    light = np.geomspace(15000, 75000, len(places))
    stack = draw_stack(places, focus, field_px=(140, 180), photons=light, width_px=width_px, seed=1)
    beads = used(find_beads(stack, crop_px=32))
    assert len(beads) == len(places)
    rows, distance = match(beads, places)
    assert distance.max() < 0.1
    assert np.abs(beads["focus"].to_numpy()[rows] - focus).max() < 0.1


def test_the_answer_does_not_hang_on_offset_gain_or_type():
    places = place_grid(2, 2)
    stack = draw_stack(places, 10.3, field_px=(100, 100), seed=2)
    plain = find_beads(stack, crop_px=32)
    for other in (stack + np.uint16(100), stack * np.float32(1e-4), (stack * 3.0)):
        pd.testing.assert_frame_equal(find_beads(other, 32).drop(columns="peak"), plain.drop(columns="peak"), atol=0.01)


def test_the_stack_is_left_as_it_was():
    stack = draw_stack(place_grid(2, 2), 10, field_px=(100, 100), seed=2)
    before = stack.copy()
    find_beads(stack, 32)
    np.testing.assert_array_equal(stack, before)


def test_each_refused_bead_has_its_reason():
    single = place_grid(4, 4, spacing_px=50)
    border, pair, clump = [[12.0, 100.0]], [[230.0, 60.0], [230.0, 75.0]], [[230.0, 130.0], [230.0, 133.0]]
    dim, two_deep = [[230.0, 180.0]], [[55.0, 230.0], [55.0, 230.0]]
    places = np.concatenate([single, border, pair, clump, dim, two_deep])
    light = np.full(len(places), 20000.0)
    light[21] = 1500
    focus = np.full(len(places), 20.0)
    focus[-2:] = 10, 30
    stack = draw_stack(places, focus, n_planes=41, field_px=(260, 260), photons=light, seed=3)
    beads = find_beads(stack, crop_px=32)
    rows, _ = match(beads, places)
    expected = [""] * 16 + ["border"] + ["neighbour"] * 2 + ["clump"] * 2 + ["dim"] + ["foci"] * 2
    assert beads["reason"].to_numpy()[rows].tolist() == expected


def test_the_least_distance_can_be_set():
    stack = draw_stack([[48.0, 36.0], [48.0, 60.0]], 10, seed=4)
    assert len(used(find_beads(stack, 32))) == 2
    assert len(used(find_beads(stack, 32, min_distance_px=25))) == 0


@pytest.mark.parametrize("level", [0.0, 2.0, 100.0])
def test_noise_alone_holds_no_beads(level):
    stack = np.random.default_rng(5).poisson(level, (30, 128, 128)).astype("uint16")
    assert find_beads(stack, 32).empty
    assert find_beads_in_page(stack[0], 32).empty


@pytest.mark.parametrize("z", [2, 6, 10, 18])
def test_beads_in_one_page_are_found_at_any_defocus(z):
    places = place_grid(3, 3)
    page = draw_stack(places, 10, field_px=(140, 140), photons=20000, widening=0.4, seed=6)[z]
    beads = used(find_beads_in_page(page, 32))
    assert len(beads) == 9
    assert match(beads, places)[1].max() < 1


def test_crops_of_found_beads_fit_the_field():
    rng = np.random.default_rng(7)
    stack = draw_stack(rng.uniform(0, 128, (12, 2)), 10, field_px=(128, 128), seed=7)
    beads = used(find_beads(stack, 31, min_distance_px=0))
    assert cut_crops(stack, beads["y"], beads["x"], 31).shape == (len(beads), 21, 31, 31)


@pytest.mark.parametrize(("crop_px", "first"), [(5, (8, 18)), (4, (9, 19))])
def test_a_crop_holds_the_pixels_of_the_stack_with_the_bead_in_its_middle(crop_px, first):
    stack = np.random.default_rng(8).integers(0, 60000, (3, 30, 40), dtype="uint16")
    crops = cut_crops(stack, [10.4], [20.4], crop_px)
    y, x = first
    np.testing.assert_array_equal(crops[0], stack[:, y : y + crop_px, x : x + crop_px])
    with pytest.raises(InputError, match="does not fit the field of 30 x 40 px"):
        cut_crops(stack, [1.0], [20.0], 5)


@pytest.mark.parametrize("focus", [7.0, 9.37, 12.5])
def test_focus_is_fitted_between_planes(focus):
    z = np.arange(21)
    profile = 5 + 100 / (1 + (0.3 * (z - focus)) ** 2) + np.random.default_rng(9).normal(0, 1, 21)
    assert fit_focus(profile)[0] == pytest.approx(focus, abs=0.1)


def test_the_fit_of_a_focus_goes_by_the_true_slopes(monkeypatch):
    fit = scipy.optimize.curve_fit
    seen = []

    def compare(curve, z, heights, start, jac, **how):
        by_steps = scipy.optimize.approx_fprime(start, lambda unknowns: curve(z, *unknowns), 1e-7)
        np.testing.assert_allclose(jac(z, *start), by_steps, rtol=1e-4, atol=1e-4)
        seen.append(fit(curve, z, heights, start, jac=jac, **how)[0][0])
        return fit(curve, z, heights, start, **how)

    monkeypatch.setattr(scipy.optimize, "curve_fit", compare)
    z = np.arange(41)
    profile = 100 * np.exp(-((z - 17.3) ** 2) / 30) + np.random.default_rng(0).normal(0, 5, 41)
    assert fit_focus(profile)[0] == pytest.approx(seen[0], abs=1e-5)


def test_heights_known_already_change_nothing():
    field = draw_stack(place_grid(3, 3), focus=10, field_px=(150, 150), seed=0).max(axis=0).astype("float32")
    scales = blob_scales(5)
    heights = filter_blobs(field, scales)
    for height, scale in zip(heights, scales, strict=True):
        np.testing.assert_array_equal(filter_blobs(field, [scale])[0], height)
    assert find_scale(field, scales, 16, heights) == find_scale(field, scales, 16)
    for some in (slice(None), slice(1, 2)):
        blobs = find_blobs(field, scales[some], 16)
        assert len(blobs) > 3
        pd.testing.assert_frame_equal(find_blobs(field, scales[some], 16, heights=heights[some]), blobs)


def test_no_focus_where_the_profile_rises_to_an_end():
    assert np.isnan(fit_focus(np.arange(20.0))[0])
    assert np.isnan(fit_focus(np.arange(20.0)[::-1])[0])
    assert np.isnan(fit_focus(np.zeros(20))[0])


def test_given_spots_are_kept_and_judged_by_place_only():
    stack = draw_stack([[30.0, 30.0], [60.0, 60.0]], [8.2, 12.7])
    spots = pd.DataFrame({"y": [60.0, 30.0, 5.0, 50.0], "x": [60.0, 30.0, 50.0, 10.0]})
    beads = place_spots(stack, spots, crop_px=24)
    assert beads["reason"].tolist() == ["", "", "border", "border"]
    assert beads["focus"].to_numpy()[:2] == pytest.approx([12.7, 8.2], abs=0.1)
    with pytest.raises(InputError, match=r"y=99, x=10 lies outside the field of 96 x 96 px"):
        place_spots(stack, pd.DataFrame({"y": [99.0], "x": [10.0]}), crop_px=24)


def test_spots_are_read_from_trackmate(tmp_path):
    rows = ["LABEL,ID,POSITION_X,POSITION_Y,FRAME", "Label,Spot ID,X,Y,Frame", "Label,Spot ID,X,Y,Frame"]
    rows += [",,(pixel),(pixel),", "ID1,1,7.5,3.25,0", "ID2,2,8,4,1"]
    (tmp_path / "spots.csv").write_text("\n".join(rows))
    expected = [{"y": 3.25, "x": 7.5, "frame": 0}, {"y": 4.0, "x": 8.0, "frame": 1}]
    assert read_spots(tmp_path / "spots.csv").to_dict("records") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b\n1,2\n",
        "y,x\n",
        "y,x\n1,two\n",
        "y,x\n1,nan\n",
        "y,x\n1\n",
        "y,x,frame\n1,2,first\n",
        "POSITION_X,POSITION_Y\n",
    ],
)
def test_malformed_spots_are_refused(tmp_path, text):
    (tmp_path / "spots.csv").write_text(text)
    with pytest.raises(InputError, match=r"spots\.csv"):
        read_spots(tmp_path / "spots.csv")


@pytest.mark.shared
def test_the_real_field_is_tilted_smoothly(shared_path):
    beads = used(find_beads(read_stack(shared_path / "beads/confocal_left_71z.tif").planes, crop_px=41))
    assert 30 <= len(beads) <= 36
    assert beads["focus"].between(31, 35).all()
    plane = np.column_stack([beads["y"], beads["x"], np.ones(len(beads))])
    fit, *_ = np.linalg.lstsq(plane, beads["focus"], rcond=None)
    assert np.abs(beads["focus"] - plane @ fit).max() < 0.5


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "n_beads", "focus"),
    [
        ("beads/confocal_4beads_41z.tif", 4, 23.5),
        ("psf/lattice_psf.tif", 1, 29.9),
        ("psf/pyme_psf_astig.tif", 1, 29.3),
        ("psf/widefield_psf-gfp_LZW_original.tif", 1, 16.0),
    ],
)
def test_real_beads_are_found(shared_path, name, n_beads, focus):
    beads = used(find_beads(read_stack(shared_path / name).planes, crop_px=32))
    assert len(beads) == n_beads
    assert beads["focus"].to_numpy() == pytest.approx(focus, abs=0.3)
