"""Names that are Markdown, HTML or YAML stay text; nothing is printed by a template without a filter."""

import json
import shlex

import jinja2
import pytest
from jinja2 import nodes
from markdown_it import MarkdownIt

from imgcls.hub import markdown

NAMES = [
    "a|b", "<script>alert(1)</script>", "*bold* _and_ ~~gone~~", "`code`", "[link](http://x.y)", "![i](u)", "# head",
    "$x^2$", "@someone", "http://example.org", "www.example.org", "a&amp;b", "back\\slash", "1. list", "- list", "قطة",
    "{{ x }}", "a: b", ":smile:", "'\"", "---", "a\\", "**", "~", "^",
]  # fmt: skip


def parse(text):
    """What a reader sees of a paragraph, and the kinds of tokens in it."""
    (inline,) = [
        t for t in MarkdownIt("gfm-like", {"linkify": False}).enable("table").parse(text) if t.type == "inline"
    ]
    return "".join(t.content for t in inline.children), {t.type for t in inline.children}


@pytest.mark.parametrize("name", NAMES)
def test_escape_keeps_a_name_as_text(name):
    text, kinds = parse(f"called {markdown.escape(name)}.")
    assert text == f"called {name}."
    assert kinds <= {"text", "text_special"}


def test_escape_breaks_links_invisibly():
    assert markdown.escape("http://a.b www.a.b") == "http\\://a.b www\\.a.b"


def test_escape_shows_line_breaks_and_control_characters():
    assert markdown.escape("a\nb\u202ec\x00") == "a\\\\nb\\\\u202ec\\\\x00"
    assert markdown.escape(" ") == "(no name)"


def test_escape_keeps_the_cells_of_a_table():
    rows = "\n".join(f"| {markdown.escape(name)} | {i} |" for i, name in enumerate(NAMES))
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(f"| class | n |\n|---|---:|\n{rows}\n")
    assert sum(t.type == "tr_open" for t in tokens) == len(NAMES) + 1
    cells = [t.content for t in tokens if t.type == "inline"]
    assert cells[1::2] == ["n", *map(str, range(len(NAMES)))]


def test_decimals_rounds_and_shows_none_as_a_dash():
    assert markdown.decimals(0.5) == "0.500"
    assert markdown.decimals(1234.56, 1) == "1234.6"
    assert markdown.decimals(None) == "–"


@pytest.mark.parametrize("text", ["python x.py", "a ``` b\n```\n# head", "`````"])
def test_code_block_holds_any_text(text):
    (token,) = MarkdownIt().parse(markdown.code_block(text, "bash"))
    assert (token.type, token.info, token.content) == ("fence", "bash", f"{text}\n")


@pytest.mark.parametrize("name", ["learning_rate", "*a*", "a `` b"])
def test_code_span_holds_a_name(name):
    assert parse(markdown.code_span(name)) == (name, {"code_inline"})


def test_filters_write_numbers_and_quote_words():
    template = jinja2.Environment()
    template.filters |= markdown.FILTERS
    text = template.from_string("{{ 1234 | count }} {{ 3.0 | general }} {{ 0.256 | percent }} {{ 0.256 | percent(1) }}")
    assert text.render() == "1,234 3 26% 25.6%"
    name = 'it\'s "x" é'
    assert json.loads(markdown.FILTERS["quoted"](name)) == name
    assert shlex.split(markdown.FILTERS["shell"](name)) == [name]


def unfiltered(source):
    """Expressions that a template prints and that do not end in one of our filters, other than constants and macros."""
    environment = jinja2.Environment()
    environment.filters |= markdown.FILTERS
    tree = environment.parse(source)
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}

    def is_safe(node):
        if isinstance(node, nodes.CondExpr):
            return is_safe(node.expr1) and (node.expr2 is None or is_safe(node.expr2))
        if isinstance(node, nodes.Call):
            return isinstance(node.node, nodes.Name) and node.node.name in macros
        filters = {*markdown.FILTERS, "urlencode", "length"}
        return isinstance(node, nodes.TemplateData | nodes.Const) or (
            isinstance(node, nodes.Filter) and node.name in filters
        )

    return [node for output in tree.find_all(nodes.Output) for node in output.nodes if not is_safe(node)]


@pytest.mark.parametrize("file", sorted(markdown.TEMPLATES.iterdir()), ids=lambda file: file.name)
def test_templates_print_through_filters_only(file):
    assert unfiltered(file.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source", ["{{ x }}", "{{ x | upper }}", "{{ x if y }}", "{% for a in b %}{{ a.b }}{% endfor %}"]
)
def test_unfiltered_expressions_are_noticed(source):
    assert len(unfiltered(source)) == 1


def test_render_refuses_a_missing_value():
    with pytest.raises(jinja2.UndefinedError):
        markdown.render("space_card.md", model="a/b")
