"""Spots of other software: what is read of its tables, and that they come back as they were, with z."""

import math
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from resnet_zclass.beads import cut_crops
from resnet_zclass.errors import InputError
from resnet_zclass.spots import judge_places, read_spots, to_pixels, write_spots

TRACKMATE = (
    "LABEL,ID,TRACK_ID,POSITION_X,POSITION_Y,POSITION_Z,FRAME\n"
    "Label,Spot ID,Track ID,X,Y,Z,Frame\n"
    "Label,Spot ID,Track ID,X,Y,Z,Frame\n"
    ",,,({unit}),({unit}),({unit}),\n"
    "ID5,5,0,3.5,1.25,0,0\n"
    "ID6,6,,4.5,2.5,0,1\n"
)
XML = """<?xml version="1.0" encoding="UTF-8"?>
<TrackMate version="7.0"><Model spatialunits="{unit}" timeunits="sec">
<FeatureDeclarations><SpotFeatures><Feature feature="QUALITY" name="Quality" shortname="Quality" dimension="QUALITY"
 isint="false" /></SpotFeatures></FeatureDeclarations>
<AllSpots nspots="2"><SpotsInFrame frame="0"><Spot ID="5" name="ID5" POSITION_X="3.5" POSITION_Y="1.25"
 POSITION_Z="0.0" FRAME="0" /></SpotsInFrame><SpotsInFrame frame="1"><Spot ID="6" name="ID6" POSITION_X="4.5"
 POSITION_Y="2.5" POSITION_Z="0.0" FRAME="1" /></SpotsInFrame></AllSpots>
<AllTracks><Track TRACK_ID="3"><Edge SPOT_SOURCE_ID="5" SPOT_TARGET_ID="6" /></Track></AllTracks></Model></TrackMate>
"""
TRACKPY = ",y,x,mass,frame,particle\n0,1.25,3.5,100,0,7\n1,2.5,4.5,90,1,7.0\n"
PLAIN = "frame,y,x,track\n0,1.25,3.5,a\n1,2.5,4.5,\n"
PREDICTED = pd.DataFrame({"spot": [1, 0], "z_um": [math.nan, -0.25], "z_um_sd": [math.nan, 0.05]})
PREDICTED["reason"] = ["too near the border", ""]


@pytest.mark.parametrize(
    ("name", "text", "tracks", "unit"),
    [
        ("a.csv", TRACKMATE.format(unit="px"), ["0", ""], None),
        ("a.csv", TRACKMATE.format(unit="micron"), ["0", ""], "um"),
        ("a.csv", TRACKMATE.format(unit="µm"), ["0", ""], "um"),
        ("a.xml", XML.format(unit="pixel"), ["3", "3"], None),
        ("a.xml", XML.format(unit="micron"), ["3", "3"], "um"),
        ("a.csv", TRACKPY, ["7", "7"], None),
        ("a.csv", PLAIN, ["a", ""], None),
    ],
)
def test_every_form_says_the_same(tmp_path, name, text, tracks, unit):
    (tmp_path / name).write_text(text, encoding="utf-8")
    spots = read_spots(tmp_path / name)
    assert spots[["y", "x", "frame"]].to_numpy().tolist() == [[1.25, 3.5, 0], [2.5, 4.5, 1]]
    assert spots.track.tolist() == tracks
    assert set(spots.get("unit", ())) == ({unit} if unit else set())


def test_positions_in_um_become_pixels_where_their_size_is_known(tmp_path):
    (tmp_path / "a.csv").write_text(TRACKMATE.format(unit="micron"))
    spots = read_spots(tmp_path / "a.csv")
    assert to_pixels(spots, 0.25, tmp_path)[["y", "x"]].to_numpy().tolist() == [[5, 14], [10, 18]]
    with pytest.raises(InputError, match="--pixel_um"):
        to_pixels(spots, None, tmp_path)


@pytest.mark.parametrize(
    ("text", "z", "sd", "reason"),
    [
        (TRACKMATE.format(unit="micron"), "POSITION_Z", "Z_SD", "REASON"),
        (TRACKPY, "z_um", "z_um_sd", "reason"),
        (PLAIN, "z_um", "z_um_sd", "reason"),
    ],
)
def test_a_table_comes_back_with_z_and_all_that_it_held(tmp_path, text, z, sd, reason):
    (tmp_path / "a.csv").write_text(text)
    write_spots(tmp_path / "a.csv", tmp_path / "b.csv", PREDICTED)
    before, after = (pd.read_csv(tmp_path / name, dtype=str, keep_default_na=False) for name in ("a.csv", "b.csv"))
    same = [column for column in before if column != z]
    pd.testing.assert_frame_equal(after[same], before[same])
    assert after[[z, sd, reason]].to_numpy()[-2:].tolist() == [["-0.25", "0.05", ""], ["", "", "too near the border"]]
    assert read_spots(tmp_path / "b.csv").equals(read_spots(tmp_path / "a.csv"))
    write_spots(tmp_path / "b.csv", tmp_path / "c.csv", PREDICTED)  # again: no column twice
    assert (tmp_path / "c.csv").read_text() == (tmp_path / "b.csv").read_text()


def test_an_xml_comes_back_with_z_and_trackmate_is_told_of_its_error(tmp_path):
    (tmp_path / "a.xml").write_text(XML.format(unit="micron"))
    write_spots(tmp_path / "a.xml", tmp_path / "b.xml", PREDICTED)
    root = ElementTree.parse(tmp_path / "b.xml").getroot()
    first, second = root.findall(".//Spot")
    assert (first.get("POSITION_Z"), first.get("Z_SD")) == ("-0.25", "0.05")
    assert (second.get("POSITION_Z"), second.get("Z_SD")) == ("0.0", None)
    assert [feature.get("feature") for feature in root.find(".//SpotFeatures")] == ["QUALITY", "Z_SD"]
    assert read_spots(tmp_path / "b.xml").equals(read_spots(tmp_path / "a.xml"))


def test_a_folder_holds_the_spots_of_one_movie_each(tmp_path):
    (tmp_path / "one.csv").write_text(PLAIN)
    (tmp_path / "two.csv").write_text(PLAIN)
    assert read_spots(tmp_path).source.tolist() == ["one", "one", "two", "two"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"holds no \.csv or \.xml"):
        read_spots(tmp_path / "none")


HOSTILE_XML = {
    "bomb": '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]><TrackMate>&c;</TrackMate>',
    "file": '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><TrackMate>&b;</TrackMate>',
}


@pytest.mark.parametrize("kind", HOSTILE_XML)
def test_entities_are_not_read(kind, tmp_path):
    (tmp_path / "a.xml").write_text(HOSTILE_XML[kind])
    with pytest.raises(InputError, match=r"a\.xml is no XML file of TrackMate"):
        read_spots(tmp_path / "a.xml")


def test_what_is_no_file_of_spots_is_named(tmp_path):
    (tmp_path / "a.xml").write_text("<TrackMate")
    with pytest.raises(InputError, match=r"a\.xml is no XML file of TrackMate"):
        read_spots(tmp_path / "a.xml")
    (tmp_path / "b.xml").write_text(XML.format(unit="inch"))
    with pytest.raises(InputError, match="positions in inch"):
        read_spots(tmp_path / "b.xml")


@pytest.mark.parametrize("crop_px", [7, 8])
def test_places_are_judged_as_crops_are_cut(crop_px):
    for y in np.arange(-1, 13, 0.25):
        reason = judge_places(pd.DataFrame({"y": [y], "x": [5.0]}), (12, 12), crop_px)[0]
        try:
            cut_crops(np.zeros((1, 12, 12)), [y], [5.0], crop_px)
            assert reason == ""
        except InputError:
            assert reason == ("too near the border" if -0.5 <= y <= 11.5 else "outside the field")
