from pathlib import Path

import pytest


@pytest.fixture
def shared_path():
    """Folder of real images beside the checkout; tests that need it are skipped where it is missing."""
    path = Path(__file__).parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"the real images are not there: {path}")
    return path


@pytest.fixture(scope="session")
def drawn_run(tmp_path_factory):
    """A finished run on drawn beads; not to be changed."""
    from drawn_runs import train_drawn_run  # loads TensorFlow, which few tests need

    return train_drawn_run(tmp_path_factory.mktemp("drawn_run"))


@pytest.fixture(scope="session")
def several_run(tmp_path_factory):
    """A run of several labels per image; not to be changed."""
    from drawn_runs import write_several_run

    return write_several_run(tmp_path_factory.mktemp("several_run"))
