r"""Regular expressions that mean the same in Prometheus (RE2), in Python and in PostgreSQL.

The three dialects agree on most of what people write and differ silently on the rest: `\d` knows every script's digits
in Python, `\b` is a backspace in PostgreSQL, `$` may stand before a last newline in Python. What can be written so
that all agree is rewritten; the rest is refused with what to write instead. As in Prometheus, `.` matches newlines too.
"""

from __future__ import annotations

import re
from functools import lru_cache

#: PostgreSQL refuses a higher number in braces.
MAXIMUM_REPETITIONS = 255

_SHORT_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\f\r "}
_POSIX_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r"\t ",
    "digit": "0-9",
    "lower": "a-z",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_ESCAPE = re.compile(r"\\(?:x(?P<byte>[0-9a-fA-F]{2})|x\{(?P<code>[0-9a-fA-F]{1,6})\}|(?P<letter>.))", re.DOTALL)
_POSIX_CLASS = re.compile(r"\[:(?P<name>\^?[a-z]+):\]")
_REPEAT = re.compile(r"[*+?]|\{(?P<low>\d+)(?:,(?P<high>\d*))?\}")


@lru_cache(maxsize=4_096)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile what `portable_pattern` gives, for use with `fullmatch`: a selector's expressions are anchored.

    Raises ValueError as `portable_pattern` does.
    """
    return re.compile(portable_pattern(pattern), re.DOTALL)


def portable_pattern(pattern: str) -> str:
    """The same expression, written so that Python (with DOTALL) and PostgreSQL read it as RE2 does.

    Raises ValueError that says what is wrong and what to write instead: for an expression that does not compile, and
    for backreferences, lookaround, flags, named groups and escapes that are not understood alike everywhere.
    """
    try:
        portable = _Translation(pattern).whole()
        re.compile(portable)
    except (re.error, ValueError) as error:
        raise ValueError(f"the regular expression {pattern!r} cannot be used: {error}") from None
    return portable


class _Translation:
    """A walk through one expression, from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._position = 0
        #: What a quantifier would apply to now: "nothing", an "atom", a "repeat" (where only `?` may follow).
        self._before = "nothing"

    def whole(self) -> str:
        parts = []
        while self._position < len(self._pattern):
            parts.append(self._next())
        return "".join(parts)

    def _next(self) -> str:
        if repeat := _REPEAT.match(self._pattern, self._position):
            return self._repeat(repeat)
        character = self._pattern[self._position]
        if character == "(":
            return self._open_group()
        self._before = "nothing" if character in "|^$" else "atom"
        if character == "[":
            return self._bracket()
        if character == "\\":
            text, is_class = self._escape()
            return f"[{text}]" if is_class else text
        self._position += 1
        return {"$": r"\Z", "{": r"\{", "}": r"\}", "]": r"\]"}.get(character, character)

    def _repeat(self, repeat: re.Match[str]) -> str:
        text = repeat[0]
        if self._before == "nothing" or (self._before == "repeat" and text != "?"):
            raise ValueError(f"{text} at {repeat.start() + 1} has nothing to repeat; put what it repeats in (...)")
        if max(int(repeat["low"] or 0), int(repeat["high"] or 0)) > MAXIMUM_REPETITIONS:
            raise ValueError(f"{text} is too often; PostgreSQL allows at most {MAXIMUM_REPETITIONS} repetitions")
        self._before = "nothing" if self._before == "repeat" else "repeat"
        self._position = repeat.end()
        return text

    def _open_group(self) -> str:
        self._before = "nothing"
        if self._pattern.startswith("(?:", self._position):
            self._position += 3
            return "(?:"
        if self._pattern.startswith("(?", self._position):
            raise ValueError(
                f"(? at {self._position + 1} is refused, since flags, named groups and lookaround differ between "
                "Prometheus, Python and PostgreSQL; write (...) or (?:...), and [Aa] for either case"
            )
        self._position += 1
        return "("

    def _bracket(self) -> str:
        start = self._position
        self._position += 1
        parts = ["["]
        if self._pattern.startswith("^", self._position):
            self._position += 1
            parts.append("^")
        is_first = True
        while is_first or not self._pattern.startswith("]", self._position):
            if self._position >= len(self._pattern):
                raise ValueError(f"[ at {start + 1} is not closed; add a ]")
            parts.append(self._bracket_item())
            is_first = False
        self._position += 1
        return "".join((*parts, "]"))

    def _bracket_item(self) -> str:
        """One member, or a range such as `a-z`."""
        first, is_class = self._bracket_member()
        rest = self._pattern[self._position : self._position + 2]
        if is_class or len(rest) < 2 or rest[0] != "-" or rest[1] == "]":  # noqa: PLR2004 - a hyphen and what follows
            return first
        self._position += 1
        last, is_class = self._bracket_member()
        if is_class:
            raise ValueError(
                f"a range in [...] cannot end in a class, before {self._position + 1}; write \\- for a hyphen"
            )
        return f"{first}-{last}"

    def _bracket_member(self) -> tuple[str, bool]:
        if posix := _POSIX_CLASS.match(self._pattern, self._position):
            self._position = posix.end()
            if posix["name"] not in _POSIX_CLASSES:
                raise ValueError(f"{posix[0]} is no class that all dialects know; write the characters")
            return _POSIX_CLASSES[posix["name"]], True
        if self._pattern[self._position] == "\\":
            text, is_class = self._escape()
            if text.startswith("[^"):
                raise ValueError("\\D, \\W and \\S cannot stand in [...]; write the characters")
            return text, is_class
        self._position += 1
        return _literal(self._pattern[self._position - 1]), False

    def _escape(self) -> tuple[str, bool]:
        """An escape as text, and whether it is the inside of a class."""
        escape = _ESCAPE.match(self._pattern, self._position)
        if escape is None:
            raise ValueError("it ends in a backslash; write \\\\ for one")
        self._position = escape.end()
        letter = escape["letter"]
        if letter is None:
            return _literal(_character(int(escape["byte"] or escape["code"], 16))), False
        if letter in _SHORT_CLASSES:
            return _SHORT_CLASSES[letter], True
        if letter.lower() in _SHORT_CLASSES:
            return f"[^{_SHORT_CLASSES[letter.lower()]}]", False
        if letter in "tnrfva":
            return "\\" + letter, False
        if not letter.isascii() or letter.isalnum():
            remedy = "backreferences cannot be used" if letter.isdigit() else "write the characters themselves"
            raise ValueError(f"\\{letter} is not understood alike by Prometheus, Python and PostgreSQL; {remedy}")
        return _literal(letter), False


def _character(code: int) -> str:
    is_surrogate = 0xD800 <= code < 0xE000  # noqa: PLR2004 - Unicode's own bounds
    if code == 0 or code > 0x10FFFF or is_surrogate:  # noqa: PLR2004 - as above
        raise ValueError(f"\\x{{{code:x}}} is no character that a label can hold")
    return chr(code)


def _literal(character: str) -> str:
    """A character as itself, in brackets and outside."""
    return (
        "\\" + character if character.isascii() and character.isprintable() and not character.isalnum() else character
    )
