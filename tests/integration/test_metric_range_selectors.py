"""Selectors in SQL mean what they mean in Python: the same conditions, the same refusals, the same series."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import psycopg2.extensions
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aggregator.config.pattern import portable_pattern
from aggregator.config.selector import Matcher, Operator, Selector, parse_selector
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.storage.engine import make_engine
from aggregator.storage.selector_functions import create_selector_functions
from tests.databases import create_database, drop_database
from tests.effort import examples

Session = psycopg2.extensions.connection
LABEL_NAMES = st.sampled_from(["job", "instance", "a", "my.label", "_x9", "__name__"])
TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8)
PIECES = (
    *("a", "1", "-", ".", "^", "$", "|", "(", ")", "(?:", "(?i)", "*", "+", "?", "{2}", "{1,}", "{300}", "{", "}", "]"),
    *("[a-c]", "[^a]", "[]a]", "[", "[a-", r"[\d_]", "[[:alpha:]x]", "[[:no:]]", r"[^\s]", r"[a\]b]", r"\d", r"\W"),
    *(r"\.", r"\-", r"\n", r"\x61", r"\x{e9}", r"\x00", "\\", r"\1", r"\b", "é", "&&", "web.*"),
)
PATTERNS = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
#: Texts that are nearly selectors.
PLAIN = ("up", "{", "}", "job", "=", "!=", "=~", "!~", '"a"', "'b'", '"', "`c`", ",", " ", "#x\n", "9", "__name__")
ESCAPED = (
    r'"\n"',
    r'"\x41\101"',
    r'"\xc3\xa9"',
    r'"\xff"',
    r'"\."',
    r"'\"'",
    r'"\u00e9"',
    r'"\ud800"',
    '""',
    '"(a|b)"',
)
SCRAPS = st.lists(st.sampled_from(PLAIN + ESCAPED), max_size=9).map("".join)


@st.composite
def matchers(draw: st.DrawFn) -> Matcher:
    op: Operator = draw(st.sampled_from(["=", "!=", "=~", "!~"]))
    return Matcher(draw(LABEL_NAMES), op, draw(PATTERNS if "~" in op else TEXTS))


SELECTORS = st.builds(
    lambda name, found: str(Selector((Matcher("__name__", "=", name), *found))),
    st.one_of(st.sampled_from(["up", "node:load:1"]), TEXTS.filter(bool)),
    st.lists(matchers(), max_size=3),
)


@pytest.fixture(scope="module")
def session(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[Session]:
    """A session on a database that has the functions."""
    url = create_database(postgres_server, "selectors", template=migrated_template)
    engine = make_engine(url, application="test")
    with engine.begin() as connection:
        create_selector_functions(connection)
    engine.dispose()
    with closing(psycopg2.connect(url)) as connected:
        connected.autocommit = True
        yield connected
    drop_database(postgres_server, "selectors")


def value_of(session: Session, statement: str, *values: object) -> object:
    with session.cursor() as cursor:
        cursor.execute(statement, values)
        (found,) = cursor.fetchone() or (None,)
    return found


def in_python(text: str) -> list[str] | str:
    """Name, operator and value of each condition; or the error."""
    try:
        selector = parse_selector(text)
    except ValueError as error:
        return str(error)
    return [part for one in selector.matchers for part in (one.name, one.op, _as_stored(one))]


def _as_stored(matcher: Matcher) -> str:
    if "~" not in matcher.op:
        return matcher.value
    return f"^(?:{portable_pattern(matcher.value)})$".replace(r"\Z", "$")


def in_sql(session: Session, text: str) -> object:
    """The same from PostgreSQL."""
    try:
        return value_of(session, "SELECT aggregator.selector_matchers(%s)", text)
    except psycopg2.errors.InvalidParameterValue as error:
        return str(error.diag.message_primary)


@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=st.one_of(SELECTORS, SCRAPS, SELECTORS.map(lambda whole: whole[:-1])))
@example(text="")
@example(text="{}")
@example(text=r'x{a="\"\\\n\x41\101é\xc3\xa9\U0001F600"}')
@example(text='{"my.metric", "my.label"="x"}')
@example(text='x{__name__="y"}')
@example(text='x{a=~"a)(b"}')
def test_any_text_is_read_alike_or_refused_at_the_same_place(session: Session, text: str) -> None:
    expected, found = in_python(text), in_sql(session, text)
    if isinstance(expected, list):
        assert found == expected
    else:
        assert isinstance(found, str), found
        assert found.rpartition("column ")[2].partition(":")[0] == expected.rpartition("column ")[2].partition(":")[0]


SERIES = [
    (metric, labels)
    for metric in ("up", "node:load:1")
    for labels in ({}, {"job": "a"}, {"job": "ab", "instance": "web1"}, {"a": "", "_x9": "é"}, {"my.label": "1"})
]


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=SELECTORS)
def test_the_same_series_match(session: Session, text: str) -> None:
    try:
        selector = parse_selector(text)
    except ValueError:
        return
    statement = """
        SELECT array_agg((metric = aggregator.selector_metric(%s) OR aggregator.selector_metric(%s) IS NULL)
                AND aggregator.selector_matches(aggregator.selector_conditions(%s), metric, labels) ORDER BY place)
        FROM unnest(%s::text[], %s::jsonb[]) WITH ORDINALITY AS series (metric, labels, place)
    """
    metrics, labels = [metric for metric, _ in SERIES], [json.dumps(one) for _, one in SERIES]
    found = value_of(session, statement, text, text, text, metrics, labels)
    assert found == [selector.matches(metric, one) for metric, one in SERIES]
