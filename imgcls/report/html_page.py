"""What every page is made of: one file without requests, names that stay text, small pictures inlined."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

from imgcls.data import decoding
from imgcls.errors import ImageError

THUMB_PX = 112

STYLE = """
:root { color-scheme: light dark; --line: #8884; --error: #c62828; --warning: #b26a00; --info: #1565c0; --bar: #4f83cc }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem; margin: 0.3rem 0 } h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem }
h3 { font-size: 1rem; margin: 1.2rem 0 0.3rem } p { margin: 0.3rem 0 } bdi { overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% }
td, th { padding: 0.2rem 0.5rem; text-align: left; vertical-align: top }
tr + tr td { border-top: 1px solid var(--line) } th:last-child { width: 60% }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { display: flex; height: 0.9rem; min-width: 8rem } .bar i { background: var(--bar) }
.bar i + i { filter: saturate(0.4) } .bar i + i + i { filter: saturate(0.4) brightness(0.6) }
.tag { font-weight: 600 } .error { color: var(--error) } .warning { color: var(--warning) } .info { color: var(--info) }
.sheet { display: flex; flex-wrap: wrap; gap: 0.4rem } figure { margin: 0; width: 112px }
figure img, figure div { width: 112px; height: 112px; object-fit: contain; background: #8882; display: block }
figure div { display: grid; place-items: center; font-size: 0.75rem; text-align: center }
figcaption { font-size: 0.7rem; line-height: 1.2; max-height: 2.6em; overflow: hidden; overflow-wrap: anywhere }
.group { border-left: 3px solid var(--line); padding-left: 0.5rem; margin: 0.4rem 0 }
.charts { display: flex; flex-wrap: wrap; gap: 2rem } .histogram { display: flex; align-items: flex-end; gap: 1px }
.histogram i { background: var(--bar); width: 12px; min-height: 1px } .axis { font-size: 0.75rem }
.axis { display: flex; justify-content: space-between }
button { font: inherit; font-weight: 600; background: none; border: 0; padding: 0; color: inherit; cursor: pointer;
  text-align: left } .sortable td, .sortable th { white-space: nowrap }
.sortable td bdi { display: inline-block; white-space: normal; overflow-wrap: break-word;
  max-width: 16rem } .wide { overflow-x: auto }
@media print { figure { break-inside: avoid } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable"))
  table.querySelectorAll("thead button").forEach((button, column) => {
    let up = false;
    button.onclick = () => {
      up = !up;
      const body = table.tBodies[0];
      const key = row => { const cell = row.cells[column];
        return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v) };
      [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
        const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return up ? order : -order }).forEach(row => body.append(row));
    };
  });
"""


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """The whole page. title: plain text; parts: HTML; style: added to the page's own."""
    body = "".join(parts)
    script = f"<script>{SCRIPT}</script>" if 'class="sortable"' in body else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{visible(title)}</title><style>{STYLE}{style}</style></head><body>{body}{script}</body></html>\n"
    )


def visible(text: str) -> str:
    """Any name as text of the page: escaped, line breaks and control signs shown by their codes."""
    return html.escape("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


def escape(name: str) -> str:
    """`visible` text that keeps its direction to itself, so that names from right to left leave the line as it is."""
    return f"<bdi>{visible(name)}</bdi>"


def picture(encoded: str | None, instead: str = "changed meanwhile") -> str:
    """A picture of `thumbnail`, or a box that says why there is none."""
    if encoded:
        return f'<img src="data:image/jpeg;base64,{encoded}" alt="" loading="lazy">'
    return f"<div>{escape(instead)}</div>"


def figure(encoded: str | None, caption: str, instead: str = "changed meanwhile") -> str:
    """A picture with a caption of plain text below."""
    return f"<figure>{picture(encoded, instead)}<figcaption>{escape(caption)}</figcaption></figure>"


def table(rows: Sequence[Sequence]) -> str:
    """A table that sorts by a column when its head is pressed; numbers to the right, shares with three digits."""
    head = "".join(f'<th><button type="button">{escape(str(name))}</button></th>' for name in rows[0])
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows[1:])
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(value) -> str:
    if value is None:
        return '<td class="n" data-v="-1">–</td>'
    if isinstance(value, float):
        return f'<td class="n" data-v="{value}">{value:.3f}</td>'
    if isinstance(value, int):
        return f'<td class="n" data-v="{value}">{value:,}</td>'
    return f"<td>{escape(str(value))}</td>"


def thumbnail(source: str | bytes, px: int = THUMB_PX) -> str | None:
    """An image file as a small JPEG in base64; None when it cannot be read any more."""
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
