"""Text of strangers made fit for a line: of a log, of a table on a terminal, of a status."""

from __future__ import annotations


def on_one_line(text: str) -> str:
    r"""The text with everything that a terminal or a reader of lines would obey written out, such as \n and \x1b.

    Also the signs that turn the direction of writing or cannot be seen: what is shown is what is there.
    """
    return text if text.isprintable() else "".join(one if one.isprintable() else _written_out(one) for one in text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
