"""What is simulated: a microscope, its camera, planes and beads; and the record of it that lies beside the images."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from resnet_zclass import __version__
from resnet_zclass.camera import Camera
from resnet_zclass.errors import InputError
from resnet_zclass.files import read_json
from resnet_zclass.optics import Optics
from resnet_zclass.ranges import check_range

RECORD_NAME, FORMAT = "simulation.json", 1


@dataclasses.dataclass(frozen=True)
class Scene:
    """Beads at planes of known z before a camera.

    Attributes:
        optics: The microscope.
        camera: The camera.
        planes: int >= 2, number of planes, centred on the focus.
        z_step_um: Their distance in um, above 0.
        crop_px: int >= 5, side of a crop in pixels.
        photons: Least and most photons that a bead sends to the camera in one image, above 0.
        background: Least and most background photons per pixel, 0 or more.
        seed: int >= 0, of everything that is drawn.

    Raises:
        InputError: For what cannot be.

    >>> Scene(planes=3, z_step_um=0.5).z_um.tolist()
    [-0.5, 0.0, 0.5]
    >>> Scene(planes=1)
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: --planes must be 2 or more. Received: --planes 1.
    """

    optics: Optics = dataclasses.field(default_factory=Optics)
    camera: Camera = dataclasses.field(default_factory=Camera)
    planes: int = 39
    z_step_um: float = 0.1
    crop_px: int = 32
    photons: tuple[float, float] = (2000.0, 10000.0)
    background: tuple[float, float] = (5.0, 20.0)
    seed: int = 0

    def __post_init__(self):
        check_range("planes", self.planes, 2)
        check_range("crop_px", self.crop_px, 5)
        check_range("seed", self.seed, 0)
        if not (self.z_step_um > 0 and math.isfinite(self.z_step_um)):
            raise InputError(f"--z_step_um must be above 0. Received: --z_step_um {self.z_step_um:g}.")
        if not 0 < self.photons[0] <= self.photons[1] < math.inf:
            raise InputError(f"--photons are least and most, above 0. {_received('photons', self.photons)}")
        if not 0 <= self.background[0] <= self.background[1] < math.inf:
            raise InputError(f"--background is least and most, 0 or more. {_received('background', self.background)}")

    @property
    def z_um(self) -> np.ndarray:
        """Distance of the beads from the focus at every plane in um, array `(planes,)`, upwards."""
        return ((np.arange(self.planes) - (self.planes - 1) / 2) * self.z_step_um).round(9)

    @property
    def labels(self) -> list[str]:
        """Names of the planes as classes: `00`, `01`, ..., as wide as the last one."""
        width = max(2, len(str(self.planes - 1)))
        return [f"{plane:0{width}d}" for plane in range(self.planes)]


def draw_beads(scene: Scene, rng: np.random.Generator, n: int, centre_px: float, shift_px: float) -> np.ndarray:
    """Draws beads: y and x uniform about a centre, photons log-uniform, background uniform.

    Args:
        scene: Gives the ranges of photons and background.
        rng: The generator to draw from.
        n: Number of beads.
        centre_px: The centre, on both axes.
        shift_px: How far off it beads lie at most, on either axis.

    Returns:
        Array `(n, 4)`: y and x in pixels, photons, background in photons per pixel.

    >>> scene = Scene(photons=(100.0, 100.0), background=(5.0, 5.0))
    >>> draw_beads(scene, np.random.default_rng(0), n=1, centre_px=15.5, shift_px=2.0).round(2).tolist()
    [[16.05, 14.58, 100.0, 5.0]]
    """
    yx = centre_px + rng.uniform(-shift_px, shift_px, (n, 2))
    photons = np.exp(rng.uniform(*np.log(scene.photons), n))
    return np.column_stack([yx, photons, rng.uniform(*scene.background, n)])


def write_record(folder: Path, scene: Scene, focus_um: float, options: dict[str, Any], **results: Any) -> None:
    """Writes `simulation.json`: the options, the scene, the focus found on pyotf's z axis, and further results."""
    record = {
        "format": FORMAT,
        "resnet_zclass": __version__,
        "options": options,
        "scene": dataclasses.asdict(scene),
        "focus_um": focus_um,
    } | results
    (folder / RECORD_NAME).write_text(json.dumps(record, indent=1), encoding="utf-8")


def read_scene(folder: str | Path) -> tuple[Scene, float] | None:
    """The scene that a set was simulated from, and its focus on pyotf's z axis in um; None for a measured set.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     write_record(Path(tmp), Scene(planes=3), 0.5, {})
    ...     read_scene(tmp) == (Scene(planes=3), 0.5)
    True
    """
    try:
        record = read_json(Path(folder) / RECORD_NAME)
        facts = {name: tuple(value) if isinstance(value, list) else value for name, value in record["scene"].items()}
        facts |= {"optics": Optics(**facts["optics"]), "camera": Camera(**facts["camera"])}
        return Scene(**facts), float(record["focus_um"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def is_recorded(folder: str | Path, options: dict[str, Any]) -> bool:
    """Whether `folder` holds what was simulated from the same options.

    >>> is_recorded("no/such/folder", {})
    False
    """
    try:
        recorded = read_json(Path(folder) / RECORD_NAME)
        return recorded["options"] == json.loads(json.dumps(options))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _received(name: str, values: tuple[float, float]) -> str:
    return f"Received: --{name} {' '.join(f'{value:g}' for value in values)}."
