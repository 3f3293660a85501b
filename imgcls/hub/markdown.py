"""Markdown from templates: filters that keep every name text, and numbers in one form."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import CardData

from imgcls.storage import atomic_file

TEMPLATES = Path(__file__).parent / "templates"
# Formatting, HTML, a table's border, formulas, mentions, links; the last two also start links.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$@^]|:(?=\S)|(?<=www)\.)", re.IGNORECASE)


def escape(value: object) -> str:
    """Any name as text within a line of Markdown; line breaks and control characters become their escape codes."""
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
    return _SPECIAL.sub(r"\\\1", printable).strip() or "(no name)"


def decimals(value: float | None, digits: int = 3) -> str:
    """A number with this many digits after the point; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def code_block(text: str, language: str) -> str:
    """A fenced block of code; the fence is longer than any row of backticks in the text."""
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def code_span(text: str) -> str:
    """A name as code within a line."""
    ticks = "`" * (_longest_ticks(text) + 1)
    return f"{ticks}{text}{ticks}"


def _longest_ticks(text: str) -> int:
    return max((len(ticks) for ticks in re.findall("`+", text)), default=0)


def render(template: str, **context: Any) -> str:
    """A template of hub/templates as text. Raises `jinja2.UndefinedError` for a value that is missing.

    jinja2's autoescape knows HTML only, so whatever a template prints ends in one of FILTERS; a test holds that.
    """
    return _ENVIRONMENT.get_template(template).render(context)


FILTERS = {
    "md": escape,
    "decimals": decimals,
    "count": lambda value: f"{value:,}",
    "general": lambda value: f"{value:g}",
    "percent": lambda value, digits=0: f"{value:.{digits}%}",
    "file_size": atomic_file.format_bytes,
    "code": code_block,
    "code_span": code_span,
    "quoted": lambda text: json.dumps(text, ensure_ascii=False),  # a string of Python
    "shell": shlex.quote,
    "yaml": CardData.to_yaml,
}
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
)
_ENVIRONMENT.filters |= FILTERS
