"""Regular expressions: one meaning in RE2, Python and PostgreSQL, or a refusal that says what to write."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config.pattern import compile_pattern, portable_pattern


@pytest.mark.parametrize(
    ("pattern", "same"),
    [
        ("web.*", "web.*"),
        (r"\d+", "[0-9]+"),
        (r"\D", "[^0-9]"),
        (r"[\w.]", r"[0-9A-Za-z_\.]"),
        (r"[[:alpha:]_]", r"[A-Za-z\_]"),
        ("a$", r"a\Z"),
        ("a{", r"a\{"),
        ("[]a]", r"[\]a]"),
        ("[^]a]", r"[^\]a]"),
        ("[a-]", r"[a\-]"),
        (r"\x41\x{e9}", "Aé"),
        ("[a&&b]", r"[a\&\&b]"),
        (r"a\-b", r"a\-b"),
        ("(?:a|b)+?", "(?:a|b)+?"),
    ],
)
def test_what_differs_between_dialects_is_rewritten(pattern: str, same: str) -> None:
    assert portable_pattern(pattern) == same


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [
        ("(?i)web", "[Aa] for either case"),
        ("(?=a)", "lookaround"),
        ("(?P<a>b)", "write (...) or (?:...)"),
        (r"(a)\1", "backreferences cannot be used"),
        (r"\bweb", "write the characters themselves"),
        (r"\pL", "write the characters themselves"),
        ("a**", "nothing to repeat"),
        ("a*+", "nothing to repeat"),
        ("*a", "nothing to repeat"),
        ("^*", "nothing to repeat"),
        ("a{1000}", "at most 255"),
        ("a{3,2}", "min repeat greater than max"),
        ("(a", "missing )"),
        ("a)", "unbalanced"),
        ("[a", "[ at 1 is not closed"),
        ("[z-a]", "bad character range"),
        (r"[\D]", "cannot stand in [...]"),
        (r"[a-\d]", "cannot end in a class"),
        ("[[:wrong:]]", "write the characters"),
        ("a\\", "ends in a backslash"),
        (r"\x00", "no character that a label can hold"),
        (r"\x{d800}", "no character that a label can hold"),
    ],
)
def test_what_cannot_mean_the_same_is_refused_with_a_remedy(pattern: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=re.escape(remedy)):
        portable_pattern(pattern)


def test_digits_are_those_of_ascii_and_a_dot_is_any_character() -> None:
    assert not compile_pattern(r"\d").fullmatch("\u0661")
    assert compile_pattern("a.b").fullmatch("a\nb")
    assert not compile_pattern("a$").fullmatch("a\n")


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=10))
def test_an_escaped_text_matches_itself_and_nothing_else(text: str) -> None:
    escaped = "".join(f"\\{c}" if c.isascii() and not c.isalnum() and c.isprintable() else c for c in text)
    assert compile_pattern(escaped).fullmatch(text)
    assert not compile_pattern(escaped).fullmatch(text + "x")


@given(st.text("ab1_-.^$|()[]{}*+?\\dws,:", max_size=8), st.text("ab1_-.$\n", max_size=4))
def test_any_text_is_either_refused_or_means_the_same_once_rewritten(pattern: str, value: str) -> None:
    try:
        portable = portable_pattern(pattern)
    except ValueError:
        return
    portable_pattern(portable.replace(r"\Z", "$"))  # what was rewritten is still understood
    is_pythons_own = "[" in pattern or "{," in pattern  # Python reads these in its own way
    original = None if is_pythons_own else re.compile(pattern.replace("$", r"\Z"), re.DOTALL | re.ASCII)
    if original is not None:
        assert bool(original.fullmatch(value)) == bool(compile_pattern(pattern).fullmatch(value))
