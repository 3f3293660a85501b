"""The loopback Hub's rules for the metadata at the top of a README.md."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

_FRONT_MATTER = re.compile(r"\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_ONE_OR_MANY = (str, [str])
_COLOURS = frozenset(("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"))
_MODEL_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_RESULT = {
    "task": {"type": str, "name?": str},
    "dataset": {"type": str, "name": str, "config?": str, "split?": str, "revision?": str},
    "metrics": [{"type": str, "value": object, "name?": str, "config?": str}],
    "source?": {"url": str, "name?": str},
}
# Keys that end in "?" may be missing; a list is an array of its one element, a tuple a choice.
_CARD = {
    "license?": _ONE_OR_MANY,
    "language?": _ONE_OR_MANY,
    "datasets?": _ONE_OR_MANY,
    "metrics?": _ONE_OR_MANY,
    "tags?": [str],
    "pipeline_tag?": str,
    "library_name?": str,
}
_CARDS = {
    "model": _CARD
    | {
        "base_model?": (_MODEL_ID, [_MODEL_ID]),
        "widget?": [object],
        "model-index?": [{"name": str, "results": [_RESULT]}],
    },
    "dataset": _CARD,
    "space": _CARD
    | {
        "sdk?": frozenset(("gradio", "docker", "static", "streamlit")),
        "colorFrom?": _COLOURS,
        "colorTo?": _COLOURS,
        "short_description?": re.compile(r".{,60}", re.DOTALL),
    },
}


def card_problems(content: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings on the metadata at the top of a README.md; kind: "model", "dataset" or "space"."""
    match = _FRONT_MATTER.match(content)
    if match is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if metadata is None:
        return [], ["empty or missing yaml metadata in repo card"]
    return list(_problems(metadata, _CARDS[kind], "")), []


def _problems(value, spec, where: str) -> Iterator[str]:
    """Where `value` is not as `spec` demands; `where` names it, "" the whole."""
    if isinstance(spec, tuple):
        problems = [list(_problems(value, choice, where)) for choice in spec]
        # The fault within an array is more precise than that it is not a string.
        yield from () if [] in problems else problems[isinstance(value, list)]
    elif isinstance(spec, dict):
        if not isinstance(value, dict):
            yield f'"{where or "metadata"}" must be of type object'
            return
        for key, inner in spec.items():
            name = key.removesuffix("?")
            path = f"{where}.{name}" if where else name
            if name in value:
                yield from _problems(value[name], inner, path)
            elif name == key:
                yield f'"{path}" is required'
    elif isinstance(spec, list):
        if not isinstance(value, list):
            yield f'"{where}" must be an array'
            return
        for number, element in enumerate(value):
            yield from _problems(element, spec[0], f"{where}[{number}]")
    elif isinstance(spec, frozenset):
        if not (isinstance(value, str) and value in spec):
            yield f'"{where}" must be one of [{", ".join(sorted(spec))}]'
    elif isinstance(spec, re.Pattern):
        if not (isinstance(value, str) and spec.fullmatch(value)):
            yield f'"{where}" with value "{value}" is not valid'
    elif not isinstance(value, spec):
        yield f'"{where}" must be a string'
