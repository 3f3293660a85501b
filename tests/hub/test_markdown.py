"""Names that are Markdown, HTML or YAML stay text."""

import pytest
from markdown_it import MarkdownIt

from imgcls.hub import markdown

NAMES = [
    "a|b", "<script>alert(1)</script>", "*bold* _and_ ~~gone~~", "`code`", "[link](http://x.y)", "![i](u)", "# head",
    "$x^2$", "@someone", "http://example.org", "www.example.org", "a&amp;b", "back\\slash", "1. list", "- list", "قطة",
    "{{ x }}", "a: b", ":smile:", "'\"", "---", "a\\", "**", "~", "^",
]  # fmt: skip


def shown(text):
    """What a reader sees of a paragraph, and the kinds of tokens that it is made of."""
    (inline,) = [
        t for t in MarkdownIt("gfm-like", {"linkify": False}).enable("table").parse(text) if t.type == "inline"
    ]
    return "".join(t.content for t in inline.children), {t.type for t in inline.children}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_as_it_is(name):
    seen, kinds = shown(f"called {markdown.escape(name)}.")
    assert seen == f"called {name}."
    assert kinds <= {"text", "text_special"}


def test_links_are_broken_without_a_change_to_the_eye():
    assert markdown.escape("http://a.b www.a.b") == "http\\://a.b www\\.a.b"


def test_line_breaks_and_control_signs_are_shown():
    assert markdown.escape("a\nb\u202ec\x00") == "a\\\\nb\\\\u202ec\\\\x00"
    assert markdown.escape(" ") == "(no name)"


def test_a_table_keeps_its_cells_whatever_the_names():
    rows = [["class", "n", "share"], *([markdown.escape(name), 1200, 0.5] for name in NAMES), ["all", None, 1.0]]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown.table(rows))
    assert sum(t.type == "tr_open" for t in tokens) == len(rows)
    cells = [t.content for t in tokens if t.type == "inline"]
    assert len(cells) == 3 * len(rows)
    assert cells[-3:] == ["all", "–", "1.000"]
    assert cells[4:6] == ["1,200", "0.500"]
