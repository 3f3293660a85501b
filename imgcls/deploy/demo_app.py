"""A page on which anyone can try a trained model: one picture, many, and a word when an answer is wrong."""

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
from collections.abc import Sequence
from pathlib import Path

from imgcls.config.inference_options import DemoOptions
from imgcls.data import decoding
from imgcls.deploy import demo_model
from imgcls.errors import ImageError, OptionError
from imgcls.evaluation import calibration
from imgcls.report import html_page
from imgcls.system import cpu

os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}  # nobody is told that the page runs
try:
    import gradio as gr
    from gradio import processing_utils
except ImportError as error:
    raise OptionError("Expected gradio for the page, got none. Install it: pip install gradio") from error

_UPLOADS = tempfile.TemporaryDirectory(prefix="imgcls-demo-", ignore_cleanup_errors=True)
os.environ["GRADIO_TEMP_DIR"] = _UPLOADS.name  # what is uploaded goes with the process

log = logging.getLogger(__name__)

MOST_BYTES, MOST_ROWS = 50 * 2**20, 1_000
HOUR, DAY = 3_600, 86_400  # seconds
PORTS = range(7860, 7960)
LAUNCH = {"max_file_size": MOST_BYTES, "footer_links": [], "ssr_mode": False, "quiet": True}

_html = functools.partial(gr.HTML, css_template=html_page.asset("demo.css"), apply_default_css=False)


def build_app(
    run: str,
    *,
    flag_into: str | Path | None = None,
    min_precision: float = calibration.MIN_PRECISION,
    batch_size: int = 16,
) -> gr.Blocks:
    """The page of a run folder, a model folder or a Hub id; its `launch` shows it.

    flag_into: folder for pictures whose answer is called wrong; None leaves that out. Raises what
    `demo_model.load_demo_model` does.
    """
    shown = demo_model.load_demo_model(run, min_precision, batch_size)
    with gr.Blocks(title=shown.name, delete_cache=(HOUR, DAY)) as blocks:
        _html(heading(shown))
        with gr.Tab("One picture"):
            _one(shown, demo_model.examples(run), flag_into)
        with gr.Tab("Many pictures"):
            _many(shown)
    blocks.launch, blocks.demo_model = functools.partial(blocks.launch, **LAUNCH), shown
    return blocks


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


def serve(blocks: gr.Blocks, host: str, port: int | None, share: bool) -> str:
    """Show the page without waiting; returns its address. Raises OptionError for a host, port or link not to be had."""
    with contextlib.redirect_stdout(sys.stderr):  # gradio prints what goes wrong with a link
        blocks.launch(server_name=host, server_port=_free(host, port), share=share, prevent_thread_lock=True)
    if share and not blocks.share_url:
        blocks.close(verbose=False)
        raise OptionError("Expected a public link from gradio's server, got none. Leave out --share, or give --host.")
    return blocks.share_url or blocks.local_url


def stop(blocks: gr.Blocks) -> None:
    """End the page; what is under way ends with the pictures that it holds."""
    blocks.demo_model.closing.set()
    blocks.close(verbose=False)


def _free(host: str, port: int | None) -> int:
    for candidate in [port] if port else PORTS:
        try:
            with socket.create_server((host, candidate)):
                return candidate
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OptionError(
                    f"Expected an address to listen at, got {host}, port {candidate}: {error}."
                ) from error
    raise OptionError(f"Expected a free port, got {port or 'none of 100'}, which is taken. Give another --port.")


def _one(shown: demo_model.DemoModel, examples: Sequence[tuple[str, str]], flag_into: str | Path | None) -> None:
    with gr.Row():
        with gr.Column():
            picture = gr.Image(type="filepath", label="Picture", height=320, buttons=[])
            if examples:
                _examples(examples, picture)
        with gr.Column():
            said = _html(min_height=40)
            if flag_into is not None:
                _flag(shown, picture, flag_into)
    # gradio's own opens the file, and encodes anew what is not RGB
    picture.preprocess = lambda given: given and given.path

    def answer(path: str | None) -> str:
        return answer_text(shown, path) if path else ""

    picture.change(answer, picture, said, concurrency_limit=cpu.available_cores())


def _examples(examples: Sequence[tuple[str, str]], picture: gr.Image) -> None:
    thumbnails = [
        {"index": index, "label": label, "encoded": html_page.thumbnail(path)}
        for index, (path, label) in enumerate(examples)
    ]
    readable = [example for example in thumbnails if example["encoded"]]
    row = _html(
        html_page.render("demo_examples.html", examples=readable), js_on_load=html_page.asset("demo_examples.js")
    )

    def choose(pressed: gr.EventData) -> str:
        return processing_utils.save_file_to_cache(examples[pressed.index][0], picture.GRADIO_CACHE)

    row.select(choose, None, picture, queue=False, api_visibility="private")


def _flag(shown: demo_model.DemoModel, picture: gr.Image, root: str | Path) -> None:
    with gr.Accordion("Wrong answer?", open=False):
        # names of folders need not be valid Unicode
        known = [name.encode(errors="backslashreplace").decode() for name in shown.formatter.classes]
        name = gr.Dropdown(known, value=None, label="Right class, or a new one", allow_custom_value=True)
        button = gr.Button("The answer is wrong")
    note = _html()

    def flag(path: str | None, right: str | None) -> str:
        return flagged_text(path, right, root)

    button.click(flag, [picture, name], note)
    picture.change(lambda: ("", None), None, [note, name], queue=False, api_visibility="private")


def _many(shown: demo_model.DemoModel) -> None:
    files = gr.File(file_count="multiple", label="Pictures", height=200)
    # gradio's own leaves an empty file behind for each, and forgets what they were called
    files.preprocess = lambda given: [(file.path, file.orig_name or Path(file.path).name) for file in given or ()]
    button = gr.Button("Answer", variant="primary")
    found = _html(min_height=40)
    csv = gr.File(label="The same as CSV", interactive=False)

    def answer_many(given: list, progress=gr.Progress()) -> tuple[str, str | None]:  # noqa: B008
        if not given:
            return refusal("Expected pictures, got none. Choose some first."), None
        out = Path(tempfile.mkdtemp(dir=csv.GRADIO_CACHE), "answers.csv")
        rows = shown.answer_all(given, out, functools.partial(progress, unit="pictures"))
        return rows_text(rows), str(out)

    button.click(answer_many, files, [found, csv], concurrency_limit=1)  # each takes all cores


def heading(shown: demo_model.DemoModel) -> str:
    """HTML: which model this is, what it knows, and how far it can be trusted."""
    return html_page.render(
        "demo_heading.html", name=shown.name, classes=shown.formatter.classes, doubt=shown.threshold_text
    )


def answer_text(shown: demo_model.DemoModel, path: str) -> str:
    """HTML: the likeliest classes of a picture, whether that is sure enough, and what spoke for the first."""
    try:
        row, heat = shown.answer(path)
    except ImageError as error:
        return refusal(f"{Path(path).name} cannot be read: {decoding.short_reason(error)}.")
    if row["error"]:
        return refusal(f"No answer for {Path(path).name}: {row['error']}.")
    classes = [(row["predicted"], row["confidence"])]
    classes += [(row[f"predicted_{k}"], row[f"confidence_{k}"]) for k in range(2, shown.formatter.top_k + 1)]
    doubt = shown.threshold_text if row["unsure"] else None
    return html_page.render("demo_answer.html", classes=classes, doubt=doubt, heat_map=heat)


def rows_text(rows: Sequence[dict]) -> str:
    """HTML: what is said of many pictures, the error of those without an answer; of very many the first."""
    return html_page.render("demo_rows.html", rows=rows[:MOST_ROWS], total=len(rows))


def flagged_text(path: str | None, right: str | None, root: str | Path) -> str:
    """HTML: where a picture went whose answer is wrong, or why it went nowhere."""
    if not path:
        return refusal("Expected a picture, got none. Give one first.")
    try:
        folder = demo_model.save_flagged(path, right or "", root)
    except ImageError as error:
        return refusal(f"Not kept: {decoding.short_reason(error)}.")
    except OptionError as error:
        return refusal(f"Not kept. {error}")
    except OSError as error:
        return refusal(f"Not kept in {root}: {error.strerror}.")
    return html_page.render("demo_message.html", text=f"Saved in {folder}", is_error=False)


def refusal(words: str) -> str:
    """HTML for what cannot be done."""
    return html_page.render("demo_message.html", text=words, is_error=True)
