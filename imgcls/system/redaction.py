"""Removes what must not leave this machine with a model: access tokens, and the folders that paths lead through."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

import markupsafe

TOKEN_OPTION = "--hub_token"
PATH_OPTIONS = ("--data", "--model", "--output_dir", "--exclude", "--config", "--run", "--resume_from_checkpoint")
_EMBEDDED_IMAGE = re.compile(r"(base64,[A-Za-z0-9+/=]+)")


def redact_arguments(argv: Sequence[str]) -> list[str]:
    """The arguments of a command without tokens; of paths only the last name stays.

    `--name=value` becomes two arguments.
    """
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    result, previous = [], ""
    for word in words:
        option = "--" + word[2:].replace("-", "_") if word.startswith("--") else ""
        if TOKEN_OPTION not in (option, previous):
            result.append(basename(word) if previous in PATH_OPTIONS else word)
        previous = option
    return result


def redact_command(text: str) -> str:
    """A stored command line without tokens and folders: earlier versions may have stored them."""
    words = shlex.split(text)
    script = next((i for i, word in enumerate(words) if word.startswith("scripts/")), len(words) - 1) + 1
    return shlex.join([*words[:script], *redact_arguments(words[script:])])


def basename(value: str) -> str:
    """The last name of a path; what is not a path on this disk, such as a Hub id, is returned as it is."""
    path = Path(value)
    is_path = value.startswith(("/", "~", ".", "\\")) or "\\" in value or value.count("/") > 1 or path.exists()
    if not is_path:
        return value
    if path.exists() and path.resolve() == Path.home():
        return "~"
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1].strip(".") or path.resolve().name


def redact(text: str, paths: Collection[str]) -> str:
    """An HTML page in which each of these paths, and every path below it, starts with its last name.

    A path is replaced in plain, HTML-escaped and shell-quoted form, but not inside a longer name or an embedded image.
    """
    replacements = {}
    for path in paths:
        name = "~" if Path(path) == Path.home() else Path(path).name
        for form in (path, shlex.quote(path)):
            escaped = (html.escape(form), html.escape(form, quote=False), str(markupsafe.escape(form)))
            replacements |= dict.fromkeys((form, *escaped), name)
    if not replacements:
        return text
    longest_first = "|".join(re.escape(form) for form in sorted(replacements, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w./~-])({longest_first})(?![\w-])")
    parts = _EMBEDDED_IMAGE.split(text)
    parts[::2] = [pattern.sub(lambda match: html.escape(replacements[match[1]]), part) for part in parts[::2]]
    return "".join(parts)
