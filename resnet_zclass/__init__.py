"""Tells the z plane of a fluorescent bead from one 2D image; siblings for other small microscopy images.

Every module can be reached from here, `resnet_zclass.models.load_model(...)`; a module, and with it TensorFlow, is
loaded when it is first used.
"""

import os as _os
import pathlib as _pathlib
import signal as _signal
import sys as _sys

import lazy_loader as _lazy

if _pathlib.Path(getattr(_sys, "argv", [""])[0]).name in ("-m", "resnet-zclass"):
    # A command is starting: until its `main()` looks after Ctrl-C, leave quietly instead of with a traceback.
    _signal.signal(_signal.SIGINT, lambda *_: (_os.write(2, b"interrupted\n"), _os._exit(130)))

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "array_matching",
        "augment",
        "backbones",
        "backend",
        "baseline",
        "batches",
        "beads",
        "bioimageio_package",
        "blobs",
        "callbacks",
        "camera",
        "ceiling",
        "channels",
        "checkpoints",
        "chunks",
        "classifier",
        "cluster",
        "command",
        "crop_jobs",
        "crops",
        "dask_jobs",
        "decimals",
        "distribute",
        "engines",
        "errors",
        "evaluate",
        "export",
        "export_formats",
        "extras",
        "fields",
        "figures",
        "files",
        "focus",
        "folds",
        "freezing",
        "gallery",
        "gather",
        "groups",
        "growing",
        "images",
        "imbalance",
        "inspection",
        "job_folder",
        "keras_h5",
        "labels",
        "live",
        "loader",
        "losses",
        "make_dataset",
        "metrics",
        "mixing",
        "models",
        "old_configs",
        "optics",
        "options",
        "opts",
        "pack",
        "pixels",
        "predict",
        "predict_jobs",
        "predictions",
        "prepare",
        "preview",
        "progress",
        "quantise",
        "quiet",
        "ranges",
        "rebuild",
        "resize",
        "resnet_names",
        "resumption",
        "rounds",
        "runs",
        "save_non_multi_gpu_model",
        "scene",
        "schedules",
        "simulate",
        "sorted_crops",
        "splits",
        "stems",
        "stream",
        "stripping",
        "tf_checkpoints",
        "tiffs",
        "train",
        "training_state",
        "tree",
        "warp",
        "workers",
    ],
)
