"""What software and what machine this is; learnt without loading TensorFlow."""

import importlib.metadata
import platform
from pathlib import Path

from resnet_zclass import __version__
from resnet_zclass.cores import count_cores
from resnet_zclass.memory import read_memory_gb

PACKAGES = (
    "tensorflow", "keras", "numpy", "scipy", "scikit-learn", "scikit-image", "pandas", "tifffile", "imagecodecs",
    "h5py", "onnxruntime", "openvino", "ai-edge-litert",
)  # fmt: skip


def describe_environment() -> dict[str, str]:
    """Names and values: this package, Python, the system, the processor, memory, and versions of what is installed.

    >>> describe_environment()["resnet_zclass"] == __version__
    True
    """
    return {
        "resnet_zclass": __version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processor": f"{_name_processor()}, {count_cores()} cores",
        "memory": f"{read_memory_gb():.0f} GB",
    } | read_versions()


def read_versions() -> dict[str, str]:
    """Versions of the packages that results depend on, of those that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _name_processor() -> str:
    """Name of the processor, from Linux's own table where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
