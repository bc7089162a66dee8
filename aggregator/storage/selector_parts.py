r"""SQL functions for the parts of a selector: quoted strings, and regular expressions as PostgreSQL needs them.

The same language, and the same refusals, as `config/quoting.py` and `config/pattern.py`.
"""

from __future__ import annotations

from aggregator.config.pattern import MAXIMUM_REPETITIONS

#: What is filled in, beside the schema.
WORDS = {"{maximum_repetitions}": str(MAXIMUM_REPETITIONS)}

# The same as `config.quoting.unquote`; escapes are bytes, which must be UTF-8 together.
_UNQUOTE = r"""
CREATE OR REPLACE FUNCTION {schema}.selector_unquote(quoted text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    quote constant text := left(quoted, 1);
    remaining text := substr(quoted, 2, length(quoted) - 2);
    bytes bytea := '';
    plain text;
    escape text;
    code bigint;
BEGIN
    IF quote = '`' THEN
        RETURN remaining;
    ELSIF strpos(remaining, chr(10)) > 0 THEN
        RAISE EXCEPTION 'a newline cannot stand in a quoted string; write \n';
    ELSIF strpos(remaining, '\') = 0 THEN
        RETURN remaining;
    END IF;
    WHILE remaining <> '' LOOP
        plain := substring(remaining FROM '^[^\\]*');
        bytes := bytes || convert_to(plain, 'UTF8');
        remaining := substr(remaining, length(plain) + 1);
        CONTINUE WHEN remaining = '';
        escape := substring(
            remaining FROM '^\\(?:x[0-9a-fA-F]{2}|[0-7]{3}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)');
        remaining := substr(remaining, length(escape) + 1);
        IF escape IN ('\''', '\"') THEN
            IF escape <> '\' || quote THEN
                RAISE EXCEPTION '% is needed only between %...%; write %',
                    escape, right(escape, 1), right(escape, 1), right(escape, 1);
            END IF;
            bytes := bytes || convert_to(quote, 'UTF8');
        ELSIF escape ~ '^\\[abfnrtv\\]$' THEN
            bytes := bytes || decode(
                substr('07080c0a0d090b5c', strpos('abfnrtv\', right(escape, 1)) * 2 - 1, 2), 'hex');
        ELSIF escape ~ '^\\(x|[0-7]{3})' AND length(escape) = 4 THEN
            IF escape ~ '^\\x' THEN
                code := ('x' || substr(escape, 3))::bit(8)::integer;
            ELSE
                code := substr(escape, 2, 1)::integer * 64 + substr(escape, 3, 1)::integer * 8
                    + substr(escape, 4, 1)::integer;
            END IF;
            IF code = 0 OR code > 255 THEN
                RAISE EXCEPTION '% is no byte that a label can hold', escape;
            END IF;
            bytes := bytes || decode(lpad(to_hex(code), 2, '0'), 'hex');
        ELSIF length(escape) > 2 THEN
            code := ('x' || lpad(substr(escape, 3), 16, '0'))::bit(64)::bigint;
            IF code = 0 THEN
                RAISE EXCEPTION '% is no byte that a label can hold', escape;
            ELSIF code > 1114111 OR code BETWEEN 55296 AND 57343 THEN
                RAISE EXCEPTION '% is no character that a label can hold', escape;
            END IF;
            bytes := bytes || convert_to(chr(code::integer), 'UTF8');
        ELSE
            RAISE EXCEPTION '% is no escape; write \%, or put the string in `...`', escape, escape;
        END IF;
    END LOOP;
    BEGIN
        RETURN convert_from(bytes, 'UTF8');
    EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
        RAISE EXCEPTION 'the escapes of a string give bytes that are not UTF-8';
    END;
END
$$
"""

# The same as `config.pattern.portable_pattern`, but for `$`, which PostgreSQL understands as RE2 does.
_PATTERN = r"""
CREATE OR REPLACE FUNCTION {schema}.selector_pattern(pattern text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    remaining text := pattern;
    portable text := '';
    before text := 'nothing';  -- what a quantifier would apply to: nothing, an atom, or a repeat
    part text;
    in_bracket text;           -- what has been read of [...]; NULL outside
    opened integer;
BEGIN
    IF pattern ~ '^(?:[A-Za-z0-9_/ :-]|\.[*+]?|\|)*$' THEN
        RETURN pattern;
    END IF;
    WHILE remaining <> '' LOOP
        part := substring(remaining FROM '^(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})');
        IF part IS NOT NULL THEN
            IF before = 'nothing' OR (before = 'repeat' AND part <> '?') THEN
                RAISE EXCEPTION '% at % has nothing to repeat; put what it repeats in (...)',
                    part, length(pattern) - length(remaining) + 1;
            ELSIF greatest(substring(part FROM '^\{([0-9]+)')::numeric, substring(part FROM ',([0-9]+)')::numeric)
                > {maximum_repetitions} THEN
                RAISE EXCEPTION '% is too often; PostgreSQL allows at most {maximum_repetitions} repetitions', part;
            END IF;
            before := CASE before WHEN 'repeat' THEN 'nothing' ELSE 'repeat' END;
            portable := portable || part;
            remaining := substr(remaining, length(part) + 1);
        ELSIF left(remaining, 1) = '(' THEN
            before := 'nothing';
            part := CASE WHEN left(remaining, 3) = '(?:' THEN '(?:' ELSE '(' END;
            IF part = '(' AND left(remaining, 2) = '(?' THEN
                RAISE EXCEPTION USING MESSAGE = format(
                    '(? at %s is refused, since flags, named groups and lookaround differ between Prometheus, '
                    'Python and PostgreSQL; write (...) or (?:...), and [Aa] for either case',
                    length(pattern) - length(remaining) + 1);
            END IF;
            portable := portable || part;
            remaining := substr(remaining, length(part) + 1);
        ELSIF left(remaining, 1) = '[' THEN
            before := 'atom';
            opened := length(pattern) - length(remaining) + 1;
            in_bracket := CASE WHEN left(remaining, 2) = '[^' THEN '[^' ELSE '[' END;
            remaining := substr(remaining, length(in_bracket) + 1);
            portable := portable || in_bracket;
            LOOP
                IF remaining = '' THEN
                    RAISE EXCEPTION '[ at % is not closed; add a ]', opened;
                END IF;
                SELECT m.portable, m.remaining, m.kind INTO part, remaining, in_bracket
                FROM {schema}.selector_bracket_member(remaining) AS m;
                portable := portable || part;
                IF in_bracket = 'character' AND remaining ~ '^-[^]]' THEN
                    SELECT m.portable, m.remaining, m.kind INTO part, remaining, in_bracket
                    FROM {schema}.selector_bracket_member(substr(remaining, 2)) AS m;
                    IF in_bracket <> 'character' THEN
                        RAISE EXCEPTION 'a range in [...] cannot end in a class, before %; write \- for a hyphen',
                            length(pattern) - length(remaining) + 1;
                    END IF;
                    portable := portable || '-' || part;
                END IF;
                EXIT WHEN left(remaining, 1) = ']';
            END LOOP;
            remaining := substr(remaining, 2);
            portable := portable || ']';
        ELSIF left(remaining, 1) = '\' THEN
            before := 'atom';
            SELECT CASE e.kind WHEN 'class' THEN '[' || e.portable || ']' ELSE e.portable END, e.remaining
            INTO part, remaining FROM {schema}.selector_escape(remaining) AS e;
            portable := portable || part;
        ELSE
            part := left(remaining, 1);
            before := CASE WHEN part IN ('|', '^', '$') THEN 'nothing' ELSE 'atom' END;
            portable := portable || CASE WHEN part IN ('{', '}', ']') THEN '\' || part ELSE part END;
            remaining := substr(remaining, 2);
        END IF;
    END LOOP;
    PERFORM '' ~ portable;
    RETURN portable;
EXCEPTION
    WHEN invalid_regular_expression OR raise_exception THEN
        RAISE EXCEPTION 'the regular expression ''%'' cannot be used: %', pattern, sqlerrm;
END
$$
"""

_ESCAPE = r"""
CREATE OR REPLACE FUNCTION {schema}.selector_escape(given text, OUT portable text, OUT remaining text, OUT kind text)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    escape text := substring(given FROM '^\\(?:x[0-9a-fA-F]{2}|x\{[0-9a-fA-F]{1,6}\}|.)');
    letter text := substr(escape, 2);
    code integer;
BEGIN
    IF escape IS NULL THEN
        RAISE EXCEPTION 'it ends in a backslash; write \\ for one';
    END IF;
    remaining := substr(given, length(escape) + 1);
    kind := 'character';
    IF length(letter) > 1 THEN
        code := ('x' || lpad(translate(letter, 'x{}', ''), 8, '0'))::bit(32)::integer;
        IF code = 0 OR code > 1114111 OR code BETWEEN 55296 AND 57343 THEN
            RAISE EXCEPTION '\x{%} is no character that a label can hold', to_hex(code);
        END IF;
        portable := {schema}.selector_literal(chr(code));
    ELSIF letter IN ('d', 'w', 's') THEN
        kind := 'class';
        portable := CASE letter WHEN 'd' THEN '0-9' WHEN 'w' THEN '0-9A-Za-z_' ELSE '\t\n\f\r ' END;
    ELSIF letter IN ('D', 'W', 'S') THEN
        kind := 'negated class';
        portable := CASE letter WHEN 'D' THEN '[^0-9]' WHEN 'W' THEN '[^0-9A-Za-z_]' ELSE '[^\t\n\f\r ]' END;
    ELSIF letter IN ('t', 'n', 'r', 'f', 'v', 'a') THEN
        portable := escape;
    ELSIF ascii(letter) > 127 OR letter ~ '[0-9A-Za-z]' THEN
        RAISE EXCEPTION '% is not understood alike by Prometheus, Python and PostgreSQL; %', escape,
            CASE WHEN letter ~ '[0-9]' THEN 'backreferences cannot be used'
                ELSE 'write the characters themselves' END;
    ELSE
        portable := {schema}.selector_literal(letter);
    END IF;
END
$$
"""

_BRACKET_MEMBER = r"""
CREATE OR REPLACE FUNCTION {schema}.selector_bracket_member(
    given text, OUT portable text, OUT remaining text, OUT kind text)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    posix text := substring(given FROM '^\[:\^?[a-z]+:\]');
BEGIN
    IF given = '' THEN
        RAISE EXCEPTION '[ is not closed; add a ]';
    ELSIF posix IS NOT NULL THEN
        kind := 'class';
        remaining := substr(given, length(posix) + 1);
        portable := CASE substr(posix, 3, length(posix) - 4)
            WHEN 'alnum' THEN '0-9A-Za-z' WHEN 'alpha' THEN 'A-Za-z' WHEN 'blank' THEN '\t ' WHEN 'digit' THEN '0-9'
            WHEN 'lower' THEN 'a-z' WHEN 'space' THEN '\t\n\v\f\r ' WHEN 'upper' THEN 'A-Z'
            WHEN 'word' THEN '0-9A-Za-z_' WHEN 'xdigit' THEN '0-9A-Fa-f' END;
        IF portable IS NULL THEN
            RAISE EXCEPTION '% is no class that all dialects know; write the characters', posix;
        END IF;
    ELSIF left(given, 1) = '\' THEN
        SELECT e.portable, e.remaining, e.kind INTO portable, remaining, kind
        FROM {schema}.selector_escape(given) AS e;
        IF kind = 'negated class' THEN
            RAISE EXCEPTION '\D, \W and \S cannot stand in [...]; write the characters';
        END IF;
    ELSE
        kind := 'character';
        portable := {schema}.selector_literal(left(given, 1));
        remaining := substr(given, 2);
    END IF;
END
$$
"""

_LITERAL = r"""
CREATE OR REPLACE FUNCTION {schema}.selector_literal(one text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN ascii(one) BETWEEN 32 AND 126 AND one !~ '[0-9A-Za-z]' THEN '\' ELSE '' END || one
$$
"""

#: In the order in which one calls the other.
PARTS = (_UNQUOTE, _LITERAL, _ESCAPE, _BRACKET_MEMBER, _PATTERN)
