"""Tells the z plane of a fluorescent bead from one 2D image; siblings for other small microscopy images.

Every module can be reached from here, `resnet_zclass.models.load_model(...)`; a module, and with it TensorFlow, is
loaded when it is first used.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "augment",
        "backend",
        "baseline",
        "batches",
        "beads",
        "blobs",
        "callbacks",
        "camera",
        "ceiling",
        "chunks",
        "crops",
        "errors",
        "evaluate",
        "fields",
        "figures",
        "files",
        "focus",
        "images",
        "loader",
        "make_dataset",
        "metrics",
        "models",
        "optics",
        "opts",
        "pack",
        "pixels",
        "predict",
        "progress",
        "runs",
        "scene",
        "simulate",
        "train",
    ],
)
