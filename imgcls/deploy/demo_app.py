"""The demo page: predict one image or many with a trained model, and flag wrong predictions."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from imgcls.config.inference_options import DemoOptions
from imgcls.data import decoding
from imgcls.deploy import demo_model
from imgcls.errors import ImageError, OptionError
from imgcls.evaluation import calibration
from imgcls.report import html_page
from imgcls.system import cpu

os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}  # no telemetry
try:
    import gradio as gr
    from gradio import processing_utils
except ImportError as error:
    raise OptionError("Expected gradio for the page, got none. Install it: pip install gradio") from error

_UPLOADS = tempfile.TemporaryDirectory(prefix="imgcls-demo-", ignore_cleanup_errors=True)
os.environ["GRADIO_TEMP_DIR"] = _UPLOADS.name  # uploaded files are deleted when the process ends

log = logging.getLogger(__name__)

MAX_UPLOAD_BYTES, MAX_ROWS = 50 * 2**20, 1_000
HOUR, DAY = 3_600, 86_400  # seconds
PORTS = range(7860, 7960)
LAUNCH = {"max_file_size": MAX_UPLOAD_BYTES, "footer_links": [], "ssr_mode": False, "quiet": True}

_html = functools.partial(gr.HTML, css_template=html_page.asset("demo.css"), apply_default_css=False)


class DemoPage(gr.Blocks):
    """A gradio app with the model that it shows, which launches with the settings of the demo."""

    def __init__(self, demo: demo_model.DemoModel):
        super().__init__(title=demo.name, delete_cache=(HOUR, DAY))
        self.demo = demo

    def launch(self, *args: Any, **kwargs: Any) -> tuple:
        """Show the page, see `gradio.Blocks.launch`."""
        return super().launch(*args, **{**LAUNCH, **kwargs})


def build_app(
    run: str,
    *,
    flag_into: str | Path | None = None,
    min_precision: float = calibration.MIN_PRECISION,
    batch_size: int = 16,
) -> DemoPage:
    """The page of a run folder, a model folder or a Hub id; its `launch` shows it.

    flag_into: folder for images with wrong predictions; None removes that part of the page. Raises what
    `demo_model.load_demo_model` raises.
    """
    demo = demo_model.load_demo_model(run, min_precision, batch_size)
    with DemoPage(demo) as page:
        _html(heading(demo))
        with gr.Tab("One picture"):
            _single_image_tab(demo, demo_model.examples(run), flag_into)
        with gr.Tab("Many pictures"):
            _many_images_tab(demo)
    return page


def run_demo(options: DemoOptions) -> None:
    """Build the page, print its address, and serve it until the process is interrupted or terminated."""
    flag_into = None if options.flag_into == "none" else options.flag_into or demo_model.flagged_folder(options.run)
    page = build_app(
        options.run, flag_into=flag_into, min_precision=options.min_precision, batch_size=options.batch_size
    )
    print(serve(page, options.host, options.port, options.share), flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # otherwise uploaded files would remain
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        log.info("stopped")
        stop(page)


def serve(page: DemoPage, host: str, port: int | None, share: bool) -> str:
    """Show the page in the background; returns its address.

    Raises OptionError for a host or port that cannot be used, and when gradio gives no public link.
    """
    with contextlib.redirect_stdout(sys.stderr):  # gradio prints problems with a link
        page.launch(server_name=host, server_port=_free_port(host, port), share=share, prevent_thread_lock=True)
    if share and not page.share_url:
        page.close(verbose=False)
        raise OptionError("Expected a public link from gradio's server, got none. Remove --share, or set --host.")
    return str(page.share_url or page.local_url)


def stop(page: DemoPage) -> None:
    """Close the page; a prediction of many images ends after the batches in progress."""
    page.demo.closing.set()
    page.close(verbose=False)


def _free_port(host: str, port: int | None) -> int:
    for candidate in [port] if port else PORTS:
        try:
            with socket.create_server((host, candidate)):
                return candidate
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OptionError(
                    f"Expected an address to listen on, got {host}, port {candidate}: {error}. Set --host or --port."
                ) from error
    raise OptionError(f"Expected a free port, got {port or 'none of 100'}, which is in use. Set another --port.")


def _single_image_tab(
    demo: demo_model.DemoModel, examples: Sequence[tuple[str, str]], flag_into: str | Path | None
) -> None:
    with gr.Row():
        with gr.Column():
            picture = gr.Image(type="filepath", label="Picture", height=320, buttons=[])
            if examples:
                _examples(examples, picture)
        with gr.Column():
            output = _html(min_height=40)
            if flag_into is not None:
                _flag(demo, picture, flag_into)
    # gradio's own method opens the file, and encodes images again that are not RGB
    picture.preprocess = lambda payload: payload and payload.path  # pyright: ignore[reportAttributeAccessIssue]

    def answer(path: str | None) -> str:
        return answer_text(demo, path) if path else ""

    picture.change(answer, picture, output, concurrency_limit=cpu.available_cores())


def _examples(examples: Sequence[tuple[str, str]], picture: gr.Image) -> None:
    thumbnails = [
        {"index": index, "label": label, "encoded": html_page.thumbnail(path)}
        for index, (path, label) in enumerate(examples)
    ]
    readable = [example for example in thumbnails if example["encoded"]]
    row = _html(
        html_page.render("demo_examples.html", examples=readable), js_on_load=html_page.asset("demo_examples.js")
    )

    def choose(event: gr.EventData) -> str:
        return processing_utils.save_file_to_cache(examples[event.index][0], picture.GRADIO_CACHE)

    row.select(choose, None, picture, queue=False, api_visibility="private")


def _flag(demo: demo_model.DemoModel, picture: gr.Image, root: str | Path) -> None:
    with gr.Accordion("Wrong answer?", open=False):
        # names of folders need not be valid Unicode
        classes = [name.encode(errors="backslashreplace").decode() for name in demo.formatter.classes]
        label = gr.Dropdown(classes, value=None, label="Right class, or a new one", allow_custom_value=True)
        button = gr.Button("The answer is wrong")
    note = _html()

    def flag(path: str | None, correct: str | None) -> str:
        return flagged_text(path, correct, root)

    button.click(flag, [picture, label], note)
    picture.change(lambda: ("", None), None, [note, label], queue=False, api_visibility="private")


def _many_images_tab(demo: demo_model.DemoModel) -> None:
    files = gr.File(file_count="multiple", label="Pictures", height=200)
    # gradio's own method creates an empty file for each, and loses the original names
    files.preprocess = _paths_and_names  # pyright: ignore[reportAttributeAccessIssue]
    button = gr.Button("Answer", variant="primary")
    output = _html(min_height=40)
    csv = gr.File(label="The same as CSV", interactive=False)

    def answer_many(uploads: list, progress: gr.Progress = gr.Progress()) -> tuple[str, str | None]:  # noqa: B008
        if not uploads:
            return error_text("Expected pictures, got none. Choose some first."), None
        out = Path(tempfile.mkdtemp(dir=csv.GRADIO_CACHE), "answers.csv")
        rows = demo.answer_all(uploads, out, functools.partial(progress, unit="pictures"))
        return rows_text(rows), str(out)

    button.click(answer_many, files, [output, csv], concurrency_limit=1)  # each call uses all cores


def _paths_and_names(uploads: Iterable[Any] | None) -> list[tuple[str, str]]:
    """Path on this machine and original name of each uploaded file."""
    return [(upload.path, upload.orig_name or Path(upload.path).name) for upload in uploads or ()]


def heading(demo: demo_model.DemoModel) -> str:
    """HTML: name and classes of the model, and which predictions are marked unsure."""
    return html_page.render(
        "demo_heading.html", name=demo.name, classes=demo.formatter.classes, threshold=demo.threshold_text
    )


def answer_text(demo: demo_model.DemoModel, path: str) -> str:
    """HTML: the most probable classes of an image, whether the prediction is unsure, and a heat map."""
    try:
        row, heat_map = demo.answer(path)
    except ImageError as error:
        return error_text(f"{Path(path).name} cannot be read: {decoding.short_reason(error)}.")
    if row["error"]:
        return error_text(f"No answer for {Path(path).name}: {row['error']}.")
    classes = [(row["predicted"], row["confidence"])]
    classes += [(row[f"predicted_{k}"], row[f"confidence_{k}"]) for k in range(2, demo.formatter.top_k + 1)]
    threshold = demo.threshold_text if row["unsure"] else None
    return html_page.render("demo_answer.html", classes=classes, threshold=threshold, heat_map=heat_map)


def rows_text(rows: Sequence[dict]) -> str:
    """HTML: a table of predictions and errors, cut after MAX_ROWS."""
    return html_page.render("demo_rows.html", rows=rows[:MAX_ROWS], total=len(rows))


def flagged_text(path: str | None, label: str | None, root: str | Path) -> str:
    """HTML: where a flagged image was saved, or why it was not."""
    if not path:
        return error_text("Expected a picture, got none. Choose one first.")
    try:
        folder = demo_model.save_flagged(path, label or "", root)
    except ImageError as error:
        return error_text(f"Not saved: {decoding.short_reason(error)}.")
    except OptionError as error:
        return error_text(f"Not saved. {error}")
    except OSError as error:
        return error_text(f"Not saved in {root}: {error.strerror}.")
    return html_page.render("demo_message.html", text=f"Saved in {folder}", is_error=False)


def error_text(text: str) -> str:
    """HTML for an error."""
    return html_page.render("demo_message.html", text=text, is_error=True)
