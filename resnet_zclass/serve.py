"""A page to try a run in the browser: drop an image, see its planes, z with an error, and what was looked at."""

import contextlib
import dataclasses
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import resnet_zclass as rz
from resnet_zclass.command import command
from resnet_zclass.errors import InputError
from resnet_zclass.extras import need
from resnet_zclass.options import ServeOptions
from resnet_zclass.predictions import build_table, tell_no_bead
from resnet_zclass.runs import Run, read_run

if TYPE_CHECKING:
    from pandas import DataFrame

HOST = "127.0.0.1"  # seen by this machine alone
MOST_CROPS = 2000  # of one file
SHOWN = ["page", "y", "x", "label", "probability", "z_um", "z_um_sd", "unlike"]


@command("serve")
def main(options: ServeOptions) -> None:
    """Opens the page of the run named by the options, until Ctrl-C."""
    if not options.run:
        raise InputError("the folder of a run is missing: serve RUN.")
    run = read_run(options.run)
    if run.options.channels:
        raise InputError(f"{run.path} reads an image from several files, one per channel; serve takes one file.")
    with served(run, options.port, options.max_upload_mb, options.engine, options.browser) as (_, url):
        print(f"{run.path}: {url} (Ctrl-C ends it)", flush=True)
        while True:  # Gradio's own wait swallows Ctrl-C
            time.sleep(1)


@contextlib.contextmanager
def served(
    run: Run, port: int | None, max_upload_mb: int = 200, engine: str = "auto", browser: bool = False
) -> Iterator[tuple[Any, str]]:
    """Yields the page of a run, which is served while the block runs, and its address.

    Raises:
        InputError: If the port is taken.
    """
    # Nothing is sent anywhere.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="resnet_zclass_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build_page(run, Path(folder), engine)
        try:
            _, url, _ = page.launch(
                server_name=HOST,
                server_port=port,
                max_file_size=max_upload_mb * 2**20,
                inbrowser=browser,
                theme=plain_theme(),
                share=False,
                allowed_paths=[],
                footer_links=[],
                run_history=False,
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise InputError(f"--port {port} is taken or not allowed; choose another.") from error
        try:
            yield page, url
        finally:
            page.close(verbose=False)


def plain_theme() -> Any:
    """A theme that fetches no fonts."""
    themes = need("gradio", extra="serve").themes
    return themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


@dataclasses.dataclass(frozen=True)
class Examined:
    """What was found in one file.

    Attributes:
        table: The table of predictions, one row per crop.
        crops: Array `(N, H, W, C)`.
        probabilities: Array `(N, K)`.
        is_cut: Whether there were more than `MOST_CROPS`.
    """

    table: "DataFrame"
    crops: np.ndarray
    probabilities: np.ndarray
    is_cut: bool


def examine_file(run: Run, path: str | Path, predict: Callable[[np.ndarray], np.ndarray]) -> Examined:
    """Predicts the pages, or the beads, of one file, `MOST_CROPS` of them at most.

    Args:
        run: A finished run.
        path: An image or a TIFF.
        predict: Function of crops that returns probabilities.

    Raises:
        InputError: If it cannot be read, does not suit the run, or shows no bead.
    """
    images = rz.predictions.find_images(run, [path])
    rows: list[dict] = []
    crops: list[np.ndarray] = []
    with contextlib.closing(rz.stream.read_crops(run, images, None, "")) as parts:
        for some, pixels in rz.stream.batch_crops(parts, 64):
            rows += some
            crops.append(pixels)
            if len(rows) > MOST_CROPS:
                break
    if not rows:
        raise tell_no_bead([Path(path).name])
    pixels = np.concatenate(crops)[:MOST_CROPS]
    probabilities = predict(pixels)
    kept = [row | {"file": Path(path).name} for row in rows[: len(pixels)]]
    if run.familiar:
        kept = [row | {"unlike": score} for row, score in zip(kept, run.familiar.score(pixels), strict=True)]
    return Examined(build_table(run, kept, probabilities), pixels, probabilities, len(rows) > MOST_CROPS)


def draw_answer(run: Run, found: Examined, k: int, predict: Callable[[np.ndarray], np.ndarray], path: Path) -> None:
    """Draws crop `k`, where its class was read off, and its probabilities with z and its error."""
    heat = rz.heat_maps.occlude(predict, found.crops[k], int(found.probabilities[k].argmax()))
    row = found.table.iloc[k]
    z = (float(row.z_um), float(row.z_um_sd)) if run.z_um is not None else None
    rz.gallery.draw_answer(found.crops[k], heat, found.probabilities[k], run.class_names, run.z_um, z, path)


def build_page(run: Run, folder: Path, engine: str = "auto") -> Any:
    """The page, a `gradio.Blocks`, that keeps its files in a folder."""
    gr = need("gradio", extra="serve")
    name, model_path = rz.engines.choose_engine(run.path, engine)
    predict = rz.engines.load_engine(name, model_path)
    number = itertools.count()

    def answer(found: Examined, k: int) -> str:
        path = folder / f"answer_{next(number)}.png"
        draw_answer(run, found, k, predict, path)
        return str(path)

    def examine(path: str | None) -> tuple:
        if path is None:
            return None, None, None, None, ""
        if not Path(path).resolve().is_relative_to(folder.resolve()):
            raise gr.Error("only files that were dropped here are read")
        try:
            found = examine_file(run, path, predict)
        except InputError as error:
            raise gr.Error(str(error).replace(f"{Path(path).parent}{os.sep}", "")) from error
        csv_path = folder / f"predictions_{next(number)}.csv"
        found.table.to_csv(csv_path, index=False)
        columns = [column for column in SHOWN if column in found.table]
        cut = f", of which the first {MOST_CROPS:,} are shown" if found.is_cut else ""
        words = f"{len(found.table):,} images or beads{cut}. Press a row to see it."
        return (
            found,
            found.table[columns].astype({"probability": float}).round(3),
            answer(found, 0),
            str(csv_path),
            words,
        )

    def select(found: Examined | None, event: gr.SelectData) -> str | None:
        return None if found is None else answer(found, event.index[0])

    title = f"{run.path.resolve().name}: {len(run.classes)} classes"
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"# {_plain(title)}")
        found = gr.State(None)
        file = gr.File(label="A TIFF, or a crop as an image", file_types=["image", ".tif", ".tiff"], type="filepath")
        words = gr.Markdown()
        alt = "The image, where its class was read off, and its probabilities"
        picture = gr.Image(label=alt, show_label=False, type="filepath", interactive=False, buttons=["download"])
        table = gr.Dataframe(label="predictions", interactive=False)
        download = gr.File(label="all of it as CSV", interactive=False)
        file.change(examine, file, [found, table, picture, download, words], api_name=False)
        table.select(select, found, picture, api_name=False)
    return page


def _plain(text: str) -> str:
    r"""Text that Markdown shows to the letter.

    >>> print(_plain("a_b<c>"))
    a\_b&lt;c&gt;
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()#+-.!|" else letter for letter in text)


if __name__ == "__main__":
    sys.exit(main())
