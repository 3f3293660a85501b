"""What a text in Markdown is made of: names that stay text, lists, tables, code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# what would be formatting, HTML, a table's border, a formula, a mention or a link; the last two are links as well
_MEANT = re.compile(r"([\\`*_{}\[\]<>#|~&$@^]|:(?=\S)|(?<=www)\.)", re.IGNORECASE)


def escape(name: object) -> str:
    """Any name as text in a line of Markdown; line breaks and control signs are shown by their codes."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(name))
    return _MEANT.sub(r"\\\1", shown).strip() or "(no name)"


def bullet_list(entries: Mapping[str, str]) -> str:
    """A list of names in bold and what is said of them."""
    return "\n".join(f"- **{name}:** {text}" for name, text in entries.items())


def table(rows: Sequence[Sequence]) -> str:
    """A table whose first row is its head; shares with three digits, names as they come."""
    head, *body = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join([head, "|---|" + "---:|" * (len(rows[0]) - 1), *body])


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def code(language: str, text: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.strip()}\n```"
