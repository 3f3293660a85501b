"""Templates: what they print is escaped, and needs nothing but the page itself."""

import re

import jinja2
import pytest
from drawings import photo

from imgcls.report import html_page
from imgcls.report.html_page import Cell

HOSTILE = "<b>\"quoted\" & 'single'\n\u202ertl"


def test_render_escapes_text_and_shows_control_characters():
    page = html_page.render("demo_message.html", text=HOSTILE, is_error=False)
    assert "<bdi>&lt;b&gt;&#34;quoted&#34; &amp; &#39;single&#39;\\n\\u202ertl</bdi>" in page


def test_render_escapes_text_that_no_filter_touches():
    page = html_page.render("demo_heading.html", name="", classes=[], threshold=HOSTILE)
    assert "&lt;b&gt;" in page
    assert "\u202e" not in page


def test_render_refuses_a_missing_value():
    with pytest.raises(jinja2.UndefinedError, match="threshold"):
        html_page.render("demo_heading.html", name="", classes=[])


@pytest.mark.parametrize("template", sorted(html_page.TEMPLATES.glob("*.html")))
def test_templates_mark_nothing_as_safe_and_load_nothing(template):
    text = template.read_text(encoding="utf-8")
    assert "|safe" not in text.replace(" ", "")
    assert "autoescape" not in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)


@pytest.mark.parametrize("name", sorted({p.name for p in html_page.TEMPLATES.iterdir()} - {"__init__.py"}))
def test_asset_loads_nothing(name):
    text = html_page.asset(name)
    assert "http" not in text
    assert "@import" not in text
    assert name.endswith(".html") or "</" not in text  # it can stand in a <style> or <script>


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ("–", -1)),
        (0.12345, ("0.123", 0.12345)),
        (12345, ("12,345", 12345)),
        ("12", ("12", None)),
        (Cell("1.2", 1.23), ("1.2", 1.23)),
    ],
)
def test_table_cell_formats_by_type(value, cell):
    assert html_page.table_cell(value) == cell


def test_table_cell_digits():
    assert html_page.table_cell(6.25, digits=1).text == "6.2"


def test_percent_and_interval():
    assert html_page.percent(0.8734) == "87.3 %"
    assert html_page.interval((0.1, 0.25), digits=2) == "0.10 to 0.25"


def test_visible_leaves_other_scripts_as_they_are():
    assert html_page.visible("été 🐸 שלום\t") == "été 🐸 שלום\\t"


def test_thumbnail_is_small_and_none_for_a_file_that_is_no_image(tmp_path):
    photo(400, 300, 0).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"broken")
    assert html_page.thumbnail(str(tmp_path / "a.jpg")).startswith("/9j/")
    assert html_page.thumbnail(str(tmp_path / "b.jpg")) is None
