from pathlib import Path

import pytest


@pytest.fixture
def shared_path():
    """Folder of real images beside the checkout; tests that need it are skipped where it is missing."""
    path = Path(__file__).parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"the real images are not there: {path}")
    return path
