"""HTML pages from the jinja2 templates in templates/: each one file with its pictures inlined, loading nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from imgcls.data import decoding
from imgcls.errors import ImageError

TEMPLATES = Path(__file__).with_name("templates")
THUMBNAIL_PX = 112


class Cell(NamedTuple):
    """A table cell: its text, and the number that it sorts by; None for a cell of text."""

    text: str
    key: float | None = None


def render(template: str, **context) -> str:
    """The HTML of a template. Text in `context` is escaped, and its control characters are shown by their codes."""
    return _environment().get_template(template).render(**context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_printable,
    )
    environment.globals["asset"] = asset
    environment.filters |= {
        "bdi": _isolated,
        "cell": table_cell,
        "interval": interval,
        "number": _number,
        "percent": percent,
    }
    return environment


def _printable(value: object) -> object:
    """Applied to every value that a template prints."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def asset(name: str) -> Markup:
    """A style sheet or script from templates/, to be inlined as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8").rstrip())


def visible(text: str) -> str:
    """The text with line breaks, control and direction characters replaced by their codes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _isolated(value: object) -> Markup:
    """Text in its own direction, so that a right-to-left name leaves the rest of the line unchanged."""
    return Markup("<bdi>{}</bdi>").format(visible(str(value)))


def table_cell(value: object, digits: int = 3) -> Cell:
    """A cell with a number's usual format; None is a missing number, and a Cell stays as it is."""
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell("–", -1)
    if isinstance(value, float):
        return Cell(f"{value:,.{digits}f}", value)
    return Cell(f"{value:,}", value) if isinstance(value, int) else Cell(str(value))


def _number(value: float) -> str:
    return table_cell(value).text


def percent(fraction: float) -> str:
    """A fraction of 0..1 in percent."""
    return f"{100 * fraction:.1f} %"


def interval(ends: Sequence[float], digits: int = 3) -> str:
    """The ends of an interval."""
    low, high = ends
    return f"{low:.{digits}f} to {high:.{digits}f}"


def thumbnail(source: str | bytes, px: int = THUMBNAIL_PX) -> str | None:
    """An image file as a small JPEG in base64; None when it cannot be read.

    source: path or encoded bytes. px: longest side.
    """
    try:
        with decoding.open_image(source) as image:
            pixels = decoding.to_rgb(image, at_least=(px, px))
    except ImageError:
        return None
    pixels.thumbnail((px, px), Image.Resampling.BOX)
    return jpeg(pixels)


def jpeg(pixels: Image.Image) -> str:
    """Pixels as a JPEG in base64."""
    out = io.BytesIO()
    pixels.save(out, "JPEG", quality=75)
    return base64.b64encode(out.getvalue()).decode()
