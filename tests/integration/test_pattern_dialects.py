"""Rewritten regular expressions on a real PostgreSQL: the same series as in Python."""

from __future__ import annotations

from contextlib import closing
from itertools import product

import psycopg2

from aggregator.config.pattern import compile_pattern, portable_pattern

PIECES = (
    *(
        "a",
        "b",
        "1",
        "-",
        ".",
        "^",
        "$",
        "|",
        "(",
        ")",
        "(?:",
        "*",
        "+",
        "?",
        "*?",
        "{2}",
        "{1,}",
        "{0,2}",
        "{",
        "}",
        "]",
    ),
    *(
        "[a-c]",
        "[^a]",
        "[]a]",
        "[^]a]",
        "[a-]",
        "[-a]",
        r"[\d_]",
        "[[:alpha:]x]",
        r"[^\s]",
        r"[\w-]",
        r"[a\]b]",
        "[+--]",
    ),
    *(
        "[a&&b]",
        "[a||b]",
        "[~~]",
        "[[a]",
        r"\d",
        r"\w",
        r"\s",
        r"\D",
        r"\.",
        r"\-",
        r"\n",
        r"\x61",
        r"\x{e9}",
        "é",
        "&&",
    ),
)
VALUES = [
    *(
        "",
        "a",
        "b",
        "ab",
        "aa",
        "1",
        "_",
        "-",
        ".",
        "a\n",
        "\n",
        "é",
        "^",
        "[a",
        "a]",
        "&",
        "{",
        "}",
        "a1_",
        "aaa",
        "x",
    ),
    *("|", "]", "[", "~", "\u0661", "ß", " ", "\v", "a-b", "(", ",", "a{", "]]", "&&", "$"),
]
SAME = """
    SELECT array_agg(value ~ ('^(?:' || %s || ')$') ORDER BY place)
      FROM unnest(%s::text[]) WITH ORDINALITY pieces (value, place)
"""


def test_python_and_postgresql_agree_on_every_pair_of_pieces(empty_database_url: str) -> None:
    compared = 0
    with closing(psycopg2.connect(empty_database_url)) as connection, connection.cursor() as cursor:
        for pattern in map("".join, product(PIECES, repeat=2)):
            try:
                portable = portable_pattern(pattern)
            except ValueError:
                continue
            cursor.execute(SAME, (portable, VALUES))
            (found,) = cursor.fetchone() or ([],)
            expected = [compile_pattern(pattern).fullmatch(value) is not None for value in VALUES]
            assert found == expected, (pattern, portable)
            compared += 1
    assert compared > 1_000
