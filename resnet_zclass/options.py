"""What every command can be told: one frozen dataclass of options each, whose docstrings are its `--help`."""

import dataclasses
from typing import Annotated, Any, Literal

import tyro


def _alias(name: str) -> Any:
    return tyro.conf.arg(aliases=[f"--{name}"])


@dataclasses.dataclass(frozen=True)
class SimulateOptions:
    """Simulates fluorescent beads at known z: a labelled set of crops, and stacks to find beads in."""

    data_path: str = ""
    """Folder of the set to write, for instance train_data/NAME."""
    source_path: str = ""
    """Folder of whole stacks (one TIFF per field of view) to write as well; none if empty."""
    planes: int = 39
    """Number of z planes (classes), centred on the focus found."""
    z_step_um: float = 0.1
    """Distance of the planes in um."""
    crop_px: int = 32
    """Side of a crop in pixels."""
    photons: tuple[float, float] = (2000.0, 10000.0)
    """Photons detected from a bead in one image: least and most, drawn log-uniformly."""
    background: tuple[float, float] = (5.0, 20.0)
    """Background photons per pixel: least and most, drawn uniformly."""
    per_class: int = 250
    """Crops per plane, each of a bead of its own."""
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of train, val and test; they sum to 1."""
    shift_px: float = 2.0
    """Beads lie up to this far off the centre of their crop, in x and in y, in pixels."""
    na: float = 1.2
    """Numerical aperture of the objective."""
    wavelength_um: float = 0.6
    """Emission wavelength in um."""
    index: float = 1.33
    """Refractive index of the medium."""
    pixel_um: float = 0.1
    """Size of a pixel in the sample, in um."""
    aberrations: tuple[str, ...] = ("primary spherical=0.7",)
    """Zernike aberrations as "NAME=RADIANS" (rms, Noll). Without any, +z and -z look alike and cannot be told apart."""
    bead_um: float = 0.1
    """Diameter of the beads in um."""
    pinhole_au: float = 0.0
    """Diameter of a confocal microscope's pinhole in Airy units; 0: widefield. --photons are then those in focus."""
    camera_offset: float = 100.0
    """Camera counts without light."""
    camera_gain: float = 1.0
    """Camera counts per detected photon."""
    read_noise: float = 1.0
    """Read noise of the camera in photons (rms)."""
    n_fields: int = 2
    """Stacks to write to --source_path."""
    field_px: int = 512
    """Side of a field of view in pixels, at least 3 crops."""
    beads_per_field: int = 30
    """Beads in a field of view."""
    z_spread_um: float = 0.0
    """Beads of a field lie up to this far above or below the plane of the others, in um."""
    ceiling_crops: int = 260
    """Test crops on which the best possible accuracy with unknown position and brightness is computed; 0: none."""
    seed: int = 0
    """Seed of everything that is drawn."""
    overwrite: bool = False
    """Replace what is there."""


@dataclasses.dataclass(frozen=True)
class MakeDatasetOptions:
    """Makes a labelled set of crops from multi-frame TIFF stacks of beads, or from folders of single images."""

    source_path: tuple[str, ...] = ()
    """TIFF files, or folders of them; with the layout images, folders with one folder per class."""
    data_path: str = ""
    """Folder of the set to write, for instance train_data/NAME."""
    layout: Literal["stack", "class", "images"] = "stack"
    """stack: a TIFF is one field of view, its pages are z planes. class: a TIFF is one z plane, its pages are crops.
    images: a folder per class holds single images, below folders train, val, test or not."""
    channels: tuple[str, ...] = ()
    """Layout images: ends of the names of channel files that make one image, such as _gfp _rfp."""
    crop_px: int | None = None
    """Side of a crop in pixels, default 32; larger pages of the layouts class and images are cut to their middle (with
    images the default is to leave them)."""
    planes: int = 39
    """Number of z planes (classes); in the layout class, the files are the classes."""
    z_step_um: float | None = None
    """Distance of the planes in um; read from the TIFF's metadata if not given."""
    focus: Literal["absolute", "relative"] = "absolute"
    """absolute: a class is a plane of the stack, round the beads' median focus. relative: a class is a distance from
    the bead's own focus, found by a fit of its brightness along z."""
    spots: str = ""
    """CSV of bead positions (columns y,x in pixels, or TrackMate's POSITION_Y, POSITION_X) instead of detection; with
    several stacks also a column source with the file's name."""
    min_distance_px: float | None = None
    """Beads nearer than this to each other are refused; default 0.7 crops."""
    split: Literal["group", "region", "random"] = "group"
    """group: by bead. region: by part of the field of view. random: by image (leaks; for comparison only)."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, val and test; they sum to 1."""
    train_num: int | None = None
    """Training images per class, instead of fractions."""
    val_num: int | None = None
    """Validation images per class, instead of fractions; the rest is test."""
    group_regex: str = ""
    """Regular expression; what it finds in a file's name is the group of all its crops (first bracket, else all)."""
    seed: int = 0
    """Seed of the split; a split that folders make already is kept."""
    dask_scheduler: str = ""
    """Cut stacks (--layout stack) on the workers of Dask: local, for processes on this machine, or the address or file
    of a scheduler. A job that is started again skips stacks that are done; one that fails is reported and left out."""
    dask_workers: int | None = None
    """Processes of --dask_scheduler local; default one per core."""
    overwrite: bool = False
    """Replace what is there."""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Trains a classifier in one or two rounds and evaluates it."""

    data_path: str = "./train_data/demo"
    """Folder of the set: folders train, val, test with a folder per class, or images with a table Id,Target (several
    labels per image). The default one is simulated if it is not there."""
    channels: tuple[str, ...] = ()
    """Ends of the names of channel files that make one image, such as _red _green _blue _yellow."""
    label_table: str = ""
    """Table Id,Target of several labels per image; found by itself in the folder or beside it."""
    class_names: str = ""
    """Table LabelText,LabelInteger for several labels; default classes.csv of the folder; hpa is in the package."""
    group: str = "group"
    """Column of manifest.csv or of the table that says what must not be in two splits or folds."""
    group_regex: str = ""
    """Instead, a regular expression; what it finds in a file's name is the group (first bracket, else all)."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, val and test for several labels, if the table has no column split."""
    val_fraction: float = 0.15
    """Share of the training images to validate on where there is no split val: by group where each class has several,
    else by image."""
    save_logs_path: Annotated[str, _alias("save_checkpoint_path")] = "./logs"
    """Folder of runs."""
    run_name: str = ""
    """Name of this run's folder; default the model's name."""
    model_name: str = "ResNet20"
    """ResNet20 (any 6n+2: ResNet8, ResNet14, ...), CNN, CNN8, ResNet50, or another name of keras.applications."""
    weights: Annotated[str, _alias("weights_path")] = "none"
    """Weights to start from: imagenet, psf (a ResNet20 that knows simulated beads), none, a file of the backbone's, or
    RUN/model.keras to train a run further; its head is kept where the classes are the same."""
    stem: Literal["auto", "none", "rgb", "mean", "zero", "sum", "tile", "copy"] = "auto"
    """How the first convolution takes other than three channels: rgb repeats gray; mean, sum, tile (x 3/N) and copy
    share out the RGB kernel; zero adds channels with no weight yet; none leaves it. auto: rgb for gray, else tile."""
    im_size: int | None = None
    """Side in pixels to which the model resizes crops; default as they are. Larger images are packed at this size."""
    num_class: int | None = None
    """Number of classes; counted from the data if not given, else checked against them."""
    stem_stride: int = 2
    """Stride of the first convolution of the small ResNets: 1 as published, 2 for less than half the time."""
    scaling: Literal["image", "set", "range"] = "set"
    """How pixels are normalised in the model. image: every crop by its own mean and spread. set: by those of the
    training set. range: the training set's range to 0..255 and the backbone's ImageNet scaling."""
    stabilise: bool = True
    """Take the square root of pixels first, which makes photon noise even (scaling image and set)."""
    hidden: tuple[int, ...] = (1024,)
    """Units of the hidden dense layers of the head; 0: none."""
    dropout: float = 0.0
    """Share of features dropped before every dense layer while training."""
    freeze: str = "none"
    """What is trained in round 2: none (nothing frozen), head_only, last_stage, stem_head, or all from a layer on that
    is given by its name or number."""
    epochs: int = 30
    """Epochs of a round at most. Round 1 (backbone frozen) is left out where nothing is pretrained."""
    head_epochs: int | None = None
    """Epochs of round 1, if other than --epochs."""
    batch_size: int = 16
    """Crops per step."""
    loss: str = "crossentropy"
    """crossentropy, focal, asymmetric (several labels), sparse, or another of Keras' losses. For z planes also
    emd (earth mover), cumulative (above or below each plane) and gaussian (z with an error of its own)."""
    focal_gamma: float = 2.0
    """How much the focal loss turns to images that are still wrong."""
    optimizer: str = "rmsprop"
    """Any Keras optimizer by name: rmsprop, adam, adamw, sgd, adadelta, ..."""
    learning_rate: float = 1e-3
    """Learning rate of round 1."""
    fine_tune_learning_rate: float | None = None
    """Learning rate of round 2; default that of round 1."""
    schedule: Literal["plateau", "smooth", "cyclic", "cosine"] = "plateau"
    """plateau: times 0.2 after half the patience without a better monitor. smooth: times --lr_decay every epoch.
    cyclic: cycles of half a cosine, each times --lr_decay lower than the one before. cosine: one half cosine."""
    lr_decay: float = 0.95
    """Factor of the learning rate per epoch (smooth) or per cycle (cyclic)."""
    cycle_epochs: int = 10
    """Epochs of a cycle of the cyclic schedule."""
    min_learning_rate: float = 0.0
    """Floor of the learning rate."""
    warmup_epochs: int = 0
    """Epochs in which the learning rate rises to its value, before the schedule begins (not with plateau)."""
    feature_views: int = 4
    """Round 1, while the backbone is frozen, trains on stored features: of all views that flip and turn make of a crop,
    of which every epoch draws one; with other augmentations of this many drawn views. 0: features are never stored."""
    patience: int = 10
    """Epochs without a better monitor before a round stops."""
    monitor: str = "val_loss"
    """What the best checkpoint, the early stop and the plateau watch: val_loss, val_accuracy, val_macro_f1, loss,
    accuracy; for several labels also val_samples_f1, val_micro_f1."""
    thresholds: Literal["fit", "half"] | None = None
    """Several labels: probability from which a class is predicted. fit (default): for each class the one with the best
    F1 on the split val. half: 0.5."""
    soft_labels: float = 0.0
    """Width in planes of Gaussian soft labels of a z job; 0: plain labels."""
    flip: bool = False
    """Augment: mirror left-right and up-down. Wrong for a PSF that leans to one side with z."""
    turn: bool = False
    """Augment: turn by multiples of 90 degrees. Wrong for an astigmatic PSF, where it swaps +z and -z."""
    shift_px: int = 1
    """Augment: shift by up to this many pixels."""
    rotate_deg: float = 0.0
    """Augment: rotate by up to this many degrees."""
    stretch: float = 0.0
    """Augment: stretch or squeeze each axis by a factor of up to 1 + this."""
    crop: float = 0.0
    """Augment: cut away up to this share of the side and enlarge the rest."""
    brightness: float = 0.0
    """Augment: darken or brighten by a factor of up to 1 -+ this."""
    contrast: float = 0.0
    """Augment: lower or raise the contrast by a factor of up to 1 -+ this."""
    colour: float = 0.0
    """Augment: scale every channel on its own by a factor of up to 1 -+ this."""
    noise: float = 0.0
    """Augment: add noise of up to this times the image's own standard deviation."""
    blur_px: float = 0.0
    """Augment: blur with a Gaussian of up to this standard deviation in pixels. Looks like defocus: not for z."""
    mixup: float = 0.0
    """Augment: overlay pairs of images and their labels (MixUp), with shares drawn from Beta(a, a)."""
    cutmix: float = 0.0
    """Augment: paste parts of other images with their labels (CutMix), with shares drawn from Beta(a, a)."""
    oversample: tuple[str, ...] = ()
    """Rare classes whose images are drawn more often, each time augmented anew."""
    oversample_to: int | None = None
    """Images of a rare class in an epoch; without --oversample every class below is rare. Default: the mean of the
    others."""
    class_weights: Literal["none", "balanced", "effective"] = "none"
    """Weights of classes in the loss: balanced by their counts, or by their effective numbers of images."""
    thin: float | None = None
    """Augment: keep each photon with a probability drawn between this and 1; 1: off. Default 0.3 where pixels are
    integers, which are taken for photons whatever the camera's gain, else off."""
    camera_offset: float | None = None
    """Camera counts without light; default the darkest pixels of the training set."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    deterministic: bool = False
    """Use only deterministic operations."""
    mixed_precision: Literal["none", "bfloat16", "float16"] = "none"
    """Compute the backbone in 16 bits while training, with weights of 32 bits: faster on GPUs and on CPUs that have the
    instructions. bfloat16 where there is a choice. The finished model.keras computes in 32 bits."""
    jit_compile: Literal["auto", "on", "off"] = "auto"
    """Compile the training step with XLA, on one device. auto: on a GPU, and where round 1 trains on stored features;
    other steps begin later on CPUs for it, and are faster for some networks."""
    steps_per_execution: int = 1
    """Training steps between two looks at what has to be done besides, on one device; cut down to what divides the
    steps of an epoch. More than 1 helps small networks on GPUs."""
    profile: bool = False
    """Say at the end of each round where its time went, and write a trace of some steps for TensorBoard's profiler."""
    multiGPU: bool = False  # noqa: N815 - the name it has always had
    """Share every batch among all GPUs of this machine; without it one is used."""
    gpus: int | None = None
    """With --multiGPU: how many GPUs; on several machines: how many of each. Default all."""
    workers: int = 1
    """Train with this many processes on this machine, to try out what several machines do. Those are named by the
    environment: TF_CONFIG, a step of Slurm's srun, or WORKER_HOSTS."""
    join_timeout_s: float = 600
    """How long, in seconds, to wait for other machines before giving up."""
    sync_batch_norm: bool = False
    """Several devices: batch normalisation over the whole batch, rather than over each device's share."""
    base_batch_size: int | None = None
    """Batch size that the learning rates are meant for; they are scaled by --batch_size over it. Default: they are
    taken as given."""
    folds: int = 0
    """Cross-validation: train and test this many times, each on another share of the groups; 0: off. The run's
    model.keras is then the mean of all folds' models, for new images."""
    keep_val: bool = False
    """Cross-validation leaves the split val as it is (a curated one), instead of dealing it out too."""
    preview: bool = False
    """Only draw augmented images, class counts and learning rates into the folder of the run, without training."""
    evaluate: bool = True
    """Evaluate the test split at the end (val where there is none)."""
    resume: bool = False
    """Go on with a run that was interrupted, from its last whole epoch; where nothing is trained yet, begin it."""
    overwrite: bool = False
    """Replace a run that is there."""


@dataclasses.dataclass(frozen=True)
class PretrainOptions:
    """Pretrains a backbone on simulated microscopes, as --weights psf was: in hours; if started again, it goes on."""

    save_path: str = ""
    """File to write, NAME.weights.h5, for train --weights; the losses go into a table beside it."""
    model_name: str = "ResNet20"
    """Backbone, a small one for gray images: ResNet20, ResNet32, CNN, ..."""
    stem_stride: int = 2
    """Stride of the first convolution of the small ResNets."""
    epochs: int = 42
    """Epochs, each on microscopes that were never seen before."""
    microscopes: int = 64
    """Microscopes of an epoch, a multiple of 8."""
    episodes: int = 32
    """Episodes under each microscope: 64 crops of 4 beads and 64 of others."""
    learning_rate: float = 2e-3
    """Learning rate of Adam at the beginning; half a cosine leads down to 0."""
    processes: int | None = None
    """Processes that simulate; default one per core."""
    seed: int = 0
    """Seed of everything that is drawn."""
    overwrite: bool = False
    """Replace what is there."""


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Evaluates a run on a split of its data, beside a classical baseline, and writes a page to look at."""

    load_logs_path: Annotated[str, _alias("load_checkpoint_path")] = ""
    """Folder of the run."""
    data_path: str = ""
    """Folder of the set; default the one the run was trained on."""
    label_table: str = ""
    """Table Id,Target of another set with several labels; found by itself in the folder or beside it."""
    split: Literal["train", "val", "test"] = "test"
    """Split to evaluate."""
    compare_random: bool = False
    """Train and test the baseline also on a random split that tears groups apart, to show what that flatters."""
    average_views: bool = False
    """Average over the views that training took for equal: mirrored (--flip), turned (--turn)."""
    batch_size: int = 64
    """Crops per step."""
    multiGPU: bool = False  # noqa: N815 - the name it has always had
    """Share every batch among all GPUs of this machine; without it one is used."""
    gpus: int | None = None
    """With --multiGPU: how many GPUs. Default all."""


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Writes the page of an evaluated run anew, or one that compares several runs side by side."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders of runs. Of one run the page is written into its evaluation."""
    evaluation: str = "evaluation"
    """Which evaluation of the runs: the name of its folder there."""
    save_path: str = ""
    """With several runs, file to write; default comparison.html."""
    overwrite: bool = False
    """Replace what is there."""


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Predicts the class of new images: one row per image, page or bead."""

    inputs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Images, multi-frame TIFFs, or folders of them."""
    load_logs_path: Annotated[str, _alias("load_checkpoint_path")] = ""
    """Folder of the run."""
    pred_save_path: str = "predictions.csv"
    """CSV file to write. With --dask_scheduler a folder with a part per image: CSV if its name ends in .csv, else
    Parquet."""
    pred_save_name: str = ""
    """NumPy file (N, classes) of the probabilities to write as well."""
    spots: str = ""
    """Bead positions at which to cut crops instead of finding beads: a CSV of y,x in pixels (and frame,track), a table
    of trackpy, or a CSV or XML of TrackMate; or a folder with one of these per movie, of the same stem."""
    tracks_save_path: str = ""
    """With --spots, folder to write: the spots again in their own format with z, displacement and velocity of every
    track (tracks.csv), and a picture in 3D."""
    smooth: bool = False
    """Smooth z along tracks in --tracks_save_path, as of beads that drift and diffuse (Kalman, RTS)."""
    frame_s: float | None = None
    """Time from frame to frame in s, for velocities; default: they are per frame."""
    pixel_um: float | None = None
    """Side of a pixel in um, where images do not say or say wrongly."""
    any_pixel_size: bool = False
    """Predict beads in images with other pixels than those that the run was trained on."""
    average_views: bool = False
    """Average over the views that training took for equal: mirrored (--flip), turned (--turn)."""
    batch_size: int = 64
    """Crops per step."""
    engine: Literal["auto", "keras", "onnx", "litert"] = "auto"
    """What computes: the run's Keras model, or an export of it. auto: the fastest that was found equal to Keras."""
    dask_scheduler: str = ""
    """Predict on the workers of Dask: local, for processes on this machine, or the address or file of a scheduler. A
    job that is started again skips images that are done and tries again those that failed (_job/failed.csv)."""
    dask_workers: int | None = None
    """Processes of --dask_scheduler local; default one per core."""
    overwrite: bool = False
    """Replace what is there."""


@dataclasses.dataclass(frozen=True)
class SaveNonMultiGpuModelOptions:
    """Turns a multi-GPU checkpoint of any kind into one plain model for a single device."""

    weights_path: str = ""
    """Checkpoint: .h5 or .hdf5 of Keras 2 (multi_gpu_model or not), .keras, .weights.h5, a TensorFlow checkpoint or
    SavedModel."""
    save_path: str = ""
    """File to write: NAME.keras, NAME.weights.h5, or NAME.h5 or .hdf5 for weights that Keras 2 reads too."""
    inspect: bool = False
    """Only print what the checkpoint holds."""
    modern_names: bool = False
    """Give the layers of an old ResNet50 (res2a_branch2a) the names they have today (conv2_block1_1_conv)."""
    architecture: str = ""
    """File that says which model weights alone belong to: .json, .keras, or a whole model in .h5 or .hdf5."""
    model_name: str = ""
    """Or: backbone of the model, a name in keras.applications, as the old training scripts built it."""
    im_size: int | None = None
    """With --model_name: side of its images in pixels."""
    num_class: int | None = None
    """With --model_name: number of classes."""
    hidden: tuple[int, ...] = (1024,)
    """With --model_name: units of the dense layers before the last."""
    check_path: str = ""
    """File .npz with images x and the old model's predictions y (x0, x1, y0, y1 for several) to compare with."""
    overwrite: bool = False
    """Replace what is there."""


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Writes a run's classifier in a form that other software runs, and checks there that it predicts the same."""

    load_logs_path: Annotated[str, _alias("load_checkpoint_path")] = ""
    """Folder of the run, or a .keras classifier that belongs to none."""
    format: Literal["onnx", "openvino", "litert", "tf_saved_model", "bioimageio"] = "onnx"
    """What to write. bioimageio: a package of the .keras file and ONNX with tests and documentation, to be shared."""
    save_path: str = ""
    """File to write (a folder with tf_saved_model); default export/ in the folder of the run, where predictions look
    for it."""
    data_path: str = ""
    """Folder of the set on whose crops the export is checked; default the one the run was trained on."""
    int8: bool = False
    """Compute in 8-bit integers, calibrated on validation crops (onnx and litert)."""
    max_accuracy_drop: float = 0.005
    """Accuracy (several labels: F1, mean of classes) that --int8 may cost at most."""
    batch_size: int = 64
    """Crops per step of the Keras model that the export is compared with."""
    title: str = ""
    """bioimageio: name of the model; default that of the run."""
    description: str = ""
    """bioimageio: one sentence on the model; default from its classes."""
    author: tuple[str, ...] = ()
    """bioimageio: authors, each "NAME" or "NAME; AFFILIATION" or "NAME; AFFILIATION; ORCID"."""
    license: str = ""
    """bioimageio: SPDX identifier of the licence under which the model is shared, such as CC-BY-4.0 or MIT."""
    cite: tuple[str, ...] = ()
    """bioimageio: works to cite, each "TEXT; DOI" or "TEXT; URL"."""
    documentation: str = ""
    """bioimageio: Markdown file on how the model was made and what it is for; default from the run."""
    overwrite: bool = False
    """Replace what is there."""


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """Opens a page on this machine to try a run: drop an image, see its planes, z with an error, and a heat map."""

    run: tyro.conf.Positional[str] = ""
    """Folder of the run."""
    port: int = 7860
    """Port of the page, http://127.0.0.1:PORT."""
    max_upload_mb: int = 200
    """Size of a file at most, in MB."""
    engine: Literal["auto", "keras", "onnx", "litert"] = "auto"
    """What computes, as of predict."""
    browser: bool = False
    """Open the page in the browser of this machine."""


@dataclasses.dataclass(frozen=True)
class DoctorOptions:
    """Tells what this machine can do, and what is wrong with a set and how to mend it."""

    data_path: str = ""
    """Folder of the set to examine."""
    channels: tuple[str, ...] = ()
    """As of train: ends of the names of files that make an image together."""
    label_table: str = ""
    """As of train: table Id,Target of a set with several labels per image."""
    class_names: str = ""
    """As of train: table of class names for that set."""
    num_class: int | None = None
    """As of train: number of classes of that set."""
    group: str = "group"
    """As of train: column that says what must not be parted."""
    group_regex: str = ""
    """As of train: what it finds in a file's name is the group."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """As of train: shares of train, val and test of a set that is not split."""
    im_size: int | None = None
    """As of train: side to which images of different sizes are brought."""
    seed: int = 0
    """As of train: seed of the split."""


@dataclasses.dataclass(frozen=True)
class CompletionOptions:
    """Prints a script that lets a shell complete commands, options and their values."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "tcsh"]] = "bash"
    """Which shell."""


COMMANDS: dict[str, type] = {
    "simulate": SimulateOptions,
    "make_dataset": MakeDatasetOptions,
    "pretrain": PretrainOptions,
    "train": TrainOptions,
    "evaluate": EvaluateOptions,
    "report": ReportOptions,
    "predict": PredictOptions,
    "save_non_multi_gpu_model": SaveNonMultiGpuModelOptions,
    "export": ExportOptions,
    "doctor": DoctorOptions,
    "serve": ServeOptions,
    "completion": CompletionOptions,
}
