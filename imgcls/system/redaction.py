"""What must not leave this machine with a model: tokens, and where on it things lie."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

SECRET = "--hub_token"
PATH_OPTIONS = ("--data", "--model", "--output_dir", "--exclude", "--config", "--run", "--resume_from_checkpoint")
_PICTURES = re.compile(r"(base64,[A-Za-z0-9+/=]+)")


def command_words(argv: Sequence[str]) -> list[str]:
    """Options of a command line, `--name=value` in two words, without tokens, of paths the last names alone."""
    pairs = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    found, before = [], ""
    for word in pairs:
        option = "--" + word[2:].replace("-", "_") if word.startswith("--") else ""
        if option != SECRET and before != SECRET:
            found.append(basename(word) if before in PATH_OPTIONS else word)
        before = option
    return found


def command(text: str) -> str:
    """A command as it was kept, which may hold more than `command_words` lets through."""
    words = shlex.split(text)
    script = next((i for i, word in enumerate(words) if word.startswith("scripts/")), len(words) - 1) + 1
    return shlex.join([*words[:script], *command_words(words[script:])])


def basename(value: str) -> str:
    """A path's last name; what is no path on this disk, such as a Hub id, stays."""
    path = Path(value)
    is_path = value.startswith(("/", "~", ".", "\\")) or "\\" in value or value.count("/") > 1 or path.exists()
    if not is_path:
        return value
    if path.exists() and path.resolve() == Path.home():
        return "~"
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1].strip(".") or path.resolve().name


def redact(text: str, paths: Collection[str]) -> str:
    """An HTML page in which each of these paths, and what lies below it, begins with its last name alone.

    A path is found as it is, as HTML and as a shell writes it; not inside a longer name, and not in pictures.
    """
    forms = {}
    for path in paths:
        name = "~" if Path(path) == Path.home() else Path(path).name
        for form in (path, shlex.quote(path)):
            forms[form] = forms[html.escape(form)] = forms[html.escape(form, quote=False)] = name
    if not forms:
        return text
    longest_first = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    whole = re.compile(rf"(?<![\w./~-])({longest_first})(?![\w-])")
    parts = _PICTURES.split(text)
    parts[::2] = [whole.sub(lambda match: html.escape(forms[match[1]]), part) for part in parts[::2]]
    return "".join(parts)
