"""Tracks in 3D: smoothing and velocities against simulated truth, and a movie with its spots on the command line."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from drawn import draw_crops, write_drawn_set

from resnet_zclass import predict, train
from resnet_zclass.tracks import smooth_tracks, summarise_tracks

SD, DIFFUSION, DRIFT = 0.1, 0.03, 0.02


@pytest.fixture(scope="module")
def drifting():
    """40 beads that drift and diffuse for 50 frames, some unseen, with errors that differ: table and true z."""
    rng = np.random.default_rng(0)
    rows, truths = [], []
    for track in range(40):
        z = np.cumsum(rng.normal(DRIFT, DIFFUSION, 50))
        sd = rng.uniform(0.5, 1.5, 50) * SD
        seen = np.flatnonzero(rng.random(50) < 0.8)
        measured = (z + sd * rng.standard_normal(50))[seen]
        rows.append(pd.DataFrame({"track": str(track), "frame": seen, "z_um": measured, "z_um_sd": sd[seen]}))
        truths.append(z[seen])
    table = pd.concat(rows, ignore_index=True).assign(file="a.tif", y=5.0, x=lambda t: 0.5 * t.frame)
    return table, np.concatenate(truths)


def test_smoothing_comes_nearer_to_the_truth_and_says_how_near(drifting):
    table, truth = drifting
    smoothed, step_um = smooth_tracks(table)
    before, after = (np.sqrt(np.mean((some.z_um - truth) ** 2)) for some in (table, smoothed))
    assert step_um == pytest.approx(DIFFUSION, rel=0.25)
    assert after < 0.6 * before
    assert np.sqrt(np.mean(((smoothed.z_um - truth) / smoothed.z_um_sd) ** 2)) == pytest.approx(1, abs=0.1)
    assert (smoothed.z_um_sd < table.z_um_sd).all()


def test_a_bead_that_does_not_diffuse_is_fitted_by_a_straight_line():
    rng = np.random.default_rng(1)
    frames = np.arange(30)
    rows = [
        pd.DataFrame({"track": str(k), "frame": frames, "z_um": 0.05 * frames + 0.1 * rng.standard_normal(30)})
        for k in range(20)
    ]
    table = pd.concat(rows, ignore_index=True).assign(z_um_sd=0.1)
    smoothed, step_um = smooth_tracks(table)
    assert step_um < 0.02
    for (_, own), (_, given) in zip(smoothed.groupby("track"), table.groupby("track"), strict=True):
        line = np.polyval(np.polyfit(given.frame, given.z_um, 1), given.frame)
        assert np.abs(own.z_um - line).max() < 0.05


def test_velocities_are_unbiased_and_their_errors_as_stated(drifting):
    table, _ = drifting
    rng = np.random.default_rng(2)
    still = table.assign(z_um=DRIFT * table.frame + table.z_um_sd * rng.standard_normal(len(table)))
    rows = summarise_tracks(still, pixel_um=0.1, frame_s=0.5)
    error = (rows.velocity_z_um_per_s - 2 * DRIFT) / rows.velocity_z_sd_um_per_s
    assert abs(error.mean()) < 3 / np.sqrt(len(rows))
    assert error.std() == pytest.approx(1, abs=0.3)
    np.testing.assert_allclose(rows.velocity_x_um_per_s, 0.1)
    np.testing.assert_allclose(rows.velocity_y_um_per_s, 0, atol=1e-12)


def test_rows_without_track_or_z_are_left_alone(drifting):
    table = drifting[0].iloc[:40].copy()
    table.loc[3, "track"], table.loc[5, "z_um"] = "", np.nan
    smoothed, _ = smooth_tracks(table)
    assert smoothed.z_um[3] == table.z_um[3] and np.isnan(smoothed.z_um[5])
    assert smoothed.z_um[4] != table.z_um[4]


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    """A run, and a folder with a movie of two beads, of which one stands at the border, and its spots."""
    folder = tmp_path_factory.mktemp("movie")
    data = write_drawn_set(folder / "set", n_per_class=30)
    words = ["--data_path", data, "--save_logs_path", folder / "logs", "--model_name", "ResNet8", "--epochs", "3"]
    assert train.main([*map(str, words), "--no_evaluate"]) == 0
    crops, _ = draw_crops(n_per_class=2, seed=7)
    pages = np.full((6, 40, 60), 5, "uint16")
    pages[:, 3:19, 30:46] = crops
    tifffile.imwrite(
        folder / "movie.tif", pages, imagej=True, resolution=(10, 10), metadata={"axes": "TYX", "unit": "um"}
    )
    rows = [f"{frame},{y},{x},{track}" for frame in range(6) for y, x, track in ((10.5, 37.5, 4), (1, 20, 5))]
    (folder / "movie.csv").write_text("\n".join(["frame,y,x,track", *rows]) + "\n")
    return folder


def run_predict(folder, out, *words):
    common = ["--load_logs_path", folder / "logs" / "ResNet8", folder / "movie.tif", "--pred_save_path", out / "p.csv"]
    return predict.main([str(word) for word in [*common, *words]])


def test_a_movie_gives_spots_with_z_tracks_and_a_picture(movie, tmp_path):
    spots = ["--spots", movie / "movie.csv", "--tracks_save_path", tmp_path / "tracks"]
    assert run_predict(movie, tmp_path, *spots, "--frame_s", 0.5) == 0
    table = pd.read_csv(tmp_path / "p.csv", dtype={"label": str}, keep_default_na=False)
    last = ["y", "x", "frame", "track", "spot", "unlike", "reason"]
    assert list(table.columns)[-7:] == last and len(table) == 12
    border = table[table.track == 5]
    assert set(border.reason) == {"too near the border"} and set(border.z_um) == set(border.label) == {""}
    assert set(table[table.track == 4].reason) == {""} and (table.spot == np.arange(12)).all()
    back = pd.read_csv(tmp_path / "tracks" / "movie.csv", keep_default_na=False)
    np.testing.assert_allclose(back.z_um[::2].astype(float), table.z_um[::2].astype(float), atol=1e-5)
    assert set(back.z_um[1::2]) == {""}
    tracks = pd.read_csv(tmp_path / "tracks" / "tracks.csv")
    assert tracks.track.tolist() == [4] and "velocity_z_um_per_s" in tracks and "velocity_y_um_per_s" in tracks
    assert (tmp_path / "tracks" / "tracks.png").stat().st_size > 10_000


def test_a_folder_of_movies_is_predicted_with_a_folder_of_spots(movie, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "movies").mkdir(exist_ok=True), (tmp_path / "spots").mkdir(exist_ok=True)
        (tmp_path / "movies" / f"{name}.tif").write_bytes((movie / "movie.tif").read_bytes())
        (tmp_path / "spots" / f"{name}.csv").write_text((movie / "movie.csv").read_text())
    words = [
        "--load_logs_path",
        movie / "logs" / "ResNet8",
        tmp_path / "movies",
        "--pred_save_path",
        tmp_path / "p.csv",
    ]
    words += ["--spots", tmp_path / "spots", "--tracks_save_path", tmp_path / "tracks", "--smooth"]
    assert predict.main([str(word) for word in words]) == 0
    assert {path.name for path in (tmp_path / "tracks").iterdir()} == {"a.csv", "b.csv", "tracks.csv", "tracks.png"}
    assert len(pd.read_csv(tmp_path / "tracks" / "tracks.csv")) == 2


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--smooth"], "--tracks_save_path"),
        (["--tracks_save_path", "tracks"], "--spots"),
        (["--spots", "plain.csv", "--tracks_save_path", "tracks"], "no column frame"),
        (["--spots", "movie.csv", "--tracks_save_path", "tracks", "--frame_s", "0"], "--frame_s must be above 0"),
        (["--spots", "late.csv"], "frame 6 is beyond"),
        (["--spots", "movie.csv", "--tracks_save_path", "taken"], "exists already"),
    ],
)
def test_what_cannot_be_is_refused_with_nothing_written(movie, tmp_path, monkeypatch, capsys, words, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "movie.csv").write_text((movie / "movie.csv").read_text())
    (tmp_path / "plain.csv").write_text("y,x\n10.5,37.5\n")
    (tmp_path / "late.csv").write_text("frame,y,x\n6,10.5,37.5\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "a.txt").write_text("")
    assert run_predict(movie, tmp_path, *words) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "p.csv").exists() and not (tmp_path / "tracks").exists()


def test_a_movie_with_other_pixels_is_refused_unless_told(movie, tmp_path, capsys):
    crops = movie / "logs" / "ResNet8" / "crops.json"
    facts = crops.read_text()
    try:
        crops.write_text(facts.replace("{", '{"pixel_um": 0.2, ', 1))
        words = ["--spots", movie / "movie.csv"]
        assert run_predict(movie, tmp_path, *words) == 2
        assert "pixels of 0.1 um, the run was trained on 0.2 um" in capsys.readouterr().err
        assert run_predict(movie, tmp_path, *words, "--any_pixel_size") == 0
        assert run_predict(movie, tmp_path, *words, "--pixel_um", 0.2, "--overwrite") == 0
    finally:
        crops.write_text(facts)
