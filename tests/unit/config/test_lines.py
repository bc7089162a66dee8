"""The line index: every key of every TOML text is on the line that it is said to be on."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aggregator.config.lines import Path, key_lines, line_of

KEYS = st.one_of(st.from_regex(r"[A-Za-z0-9_-]{1,5}", fullmatch=True), st.text("ab .#=[\"'\\é", min_size=1, max_size=4))
TEXTS = st.text("ab #=[]{},\"'\\", max_size=6)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def scalars(draw: st.DrawFn) -> str:
    text = draw(TEXTS)
    literal = "'" + text.replace("'", "") + "'"
    lines = '"""' + text.replace("\\", "").replace('"', "") + "\n = [x]\n" + '"""'
    raw_lines = "'''" + text.replace("'", "") + "\n[[x]]\n" + "'''"
    plain = draw(st.sampled_from(["1", "true", "1.5e3", "1979-05-27 07:32:00", "0x1F", '""', "'''a''''"]))
    return draw(st.sampled_from([quoted(text), literal, lines, raw_lines, plain]))


values = st.recursive(
    scalars(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: ("array", items)),
        st.dictionaries(KEYS, inner.filter(lambda value: not isinstance(value, tuple)), max_size=2).map(
            lambda table: ("inline", table)
        ),
    ),
    max_leaves=5,
)


class Writer:
    """Writes a document, and notes on which line it has put each key."""

    def __init__(self) -> None:
        self.text = ""
        self.lines: dict[Path, int] = {}

    def note(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def value(self, value: Any, path: Path) -> None:
        if isinstance(value, str):
            self.text += value
        elif value[0] == "array":
            self.text += "["
            for index, element in enumerate(value[1]):
                self.text += "\n  # a comment ]\n"
                self.note((*path, index))
                self.value(element, (*path, index))
                self.text += " ,"
            self.text += "]"
        else:
            self.text += "{ "
            for index, (key, element) in enumerate(value[1].items()):
                self.text += ", " if index else ""
                self.pair(key, element, path)
            self.text += " }"

    def pair(self, key: str, value: Any, path: Path) -> None:
        self.note((*path, key))
        self.text += f"{quoted(key)} = "
        self.value(value, (*path, key))

    def body(self, table: dict[str, Any], path: Path) -> None:
        for key, value in table.items():
            self.pair(key, value, path)
            self.text += "  # why = not\n"


@st.composite
def documents(draw: st.DrawFn) -> Writer:
    writer = Writer()
    writer.body(draw(st.dictionaries(KEYS.map(lambda key: "top" + key), values, max_size=2)), ())
    for index in range(draw(st.integers(0, 2))):
        writer.text += "\n"
        writer.note(("sources",))
        writer.note(("sources", index))
        writer.text += " [[ sources ]] # each\n"
        writer.body(draw(st.dictionaries(KEYS.map(lambda key: "s" + key), values, max_size=3)), ("sources", index))
        writer.note(("sources", index, "in.ner"))
        writer.text += '[sources."in.ner"]\n'
        writer.body(draw(st.dictionaries(KEYS, values, max_size=2)), ("sources", index, "in.ner"))
    return writer


@given(documents())
def test_every_key_is_found_on_its_line(writer: Writer) -> None:
    tomllib.loads(writer.text)
    assert key_lines(writer.text) == writer.lines
    assert key_lines(writer.text.replace("\n", "\r\n")) == writer.lines


def test_dotted_keys_and_nested_arrays_of_tables_are_found() -> None:
    text = 'a . "b".c = 1\n[[x.y]]\nk = 1\n[[x.y.z]]\n[[x.y]]\n[[x.y.z]]\nq = """\n\n""""\n[t]\n'
    lines = key_lines(text)
    assert lines["a", "b", "c"] == 1
    assert lines["x", "y", 0, "k"] == 3
    assert lines["x", "y", 0, "z", 0] == 4
    assert lines["x", "y", 1, "z", 0, "q"] == 7
    assert lines["t",] == 10


def test_a_path_that_is_not_there_has_the_line_of_what_is_nearest_above() -> None:
    lines = key_lines("[[sources]]\n\n[[sources]]\nname = 'a'\n")
    assert line_of(lines, ("sources", 1, "interval")) == 3
    assert line_of(lines, ("tiers", 0)) is None
