r"""SQL functions that read Prometheus' selectors: the same language, and the same refusals, as `config/selector.py`.

A selector is data to them: it is taken apart and compared, never executed. All are IMMUTABLE, so that PostgreSQL reads
a selector when it plans, and finds the metric by index.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from aggregator.config.pattern import MAXIMUM_REPETITIONS
from aggregator.config.selector import EXAMPLE
from aggregator.storage.tables import SCHEMA

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

# Name, operator and value of each condition, one after the other, those on the metric's name first; the metric's name
# is label __name__. An expression is given as PostgreSQL needs it, anchored.
_MATCHERS = r"""
CREATE OR REPLACE FUNCTION {schema}.selector_matchers(selector text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    space constant text := '^(?:\s|#[^\n]*)*';
    remaining text := substr(selector, length(substring(selector FROM space)) + 1);
    name text := substring(remaining FROM '^[a-zA-Z_:][a-zA-Z0-9_:]*');
    operator text;
    part text;
    value text;
    is_quoted boolean;
    is_name_given boolean := name IS NOT NULL;
    is_limited boolean := is_name_given;
    names text[] := '{}';
    others text[] := '{}';
    fault text;
BEGIN
    IF selector IS NULL THEN
        RAISE EXCEPTION 'the selector is NULL; write one, as in %', {example} USING ERRCODE = '22023';
    END IF;
    <<reading>>
    BEGIN
        IF name IS NOT NULL THEN
            names := ARRAY['__name__', '=', name];
            remaining := substr(remaining, length(name) + 1);
            remaining := substr(remaining, length(substring(remaining FROM space)) + 1);
        ELSIF left(remaining, 1) <> '{' THEN
            fault := 'expected a metric name or {, as in ' || {example};
            EXIT reading;
        END IF;
        IF left(remaining, 1) = '{' THEN
            remaining := substr(remaining, 2);
            remaining := substr(remaining, length(substring(remaining FROM space)) + 1);
            WHILE left(remaining, 1) <> '}' LOOP
                part := substring(remaining FROM '^[a-zA-Z_][a-zA-Z0-9_]*');
                is_quoted := part IS NULL;
                name := part;
                IF is_quoted THEN
                    part := substring(remaining FROM {quoted});
                    IF part IS NULL THEN
                        fault := CASE WHEN left(remaining, 1) IN ('"', '''', '`') THEN 'this quote is not closed'
                            ELSE 'expected a label name, as in ' || {example} END;
                        EXIT reading;
                    END IF;
                    name := {schema}.selector_unquote(part);
                END IF;
                remaining := substr(remaining, length(part) + 1);
                remaining := substr(remaining, length(substring(remaining FROM space)) + 1);
                IF is_quoted AND left(remaining, 1) IN (',', '}') THEN
                    IF name = '' THEN
                        fault := 'a metric name cannot be empty';
                        EXIT reading;
                    END IF;
                    operator := '=';
                    value := name;
                    name := '__name__';
                ELSE
                    operator := substring(remaining FROM '^(?:!=|=~|!~|=(?!=))');
                    IF operator IS NULL THEN
                        fault := 'expected =, !=, =~ or !~ after the label name, as in ' || name || '="value"';
                        EXIT reading;
                    END IF;
                    remaining := substr(remaining, length(operator) + 1);
                    remaining := substr(remaining, length(substring(remaining FROM space)) + 1);
                    part := substring(remaining FROM {quoted});
                    IF part IS NULL THEN
                        fault := CASE WHEN left(remaining, 1) IN ('"', '''', '`') THEN 'this quote is not closed'
                            ELSE 'expected a value in quotes, as in ' || {example} END;
                        EXIT reading;
                    END IF;
                    value := {schema}.selector_unquote(part);
                    remaining := substr(remaining, length(part) + 1);
                    remaining := substr(remaining, length(substring(remaining FROM space)) + 1);
                    IF operator IN ('=~', '!~') THEN
                        value := '^(?:' || {schema}.selector_pattern(value) || ')$';
                    END IF;
                END IF;
                IF name = '__name__' THEN
                    names := names || ARRAY[name, operator, value];
                    IF is_name_given THEN
                        is_name_given := NULL;
                    END IF;
                ELSE
                    others := others || ARRAY[name, operator, value];
                END IF;
                is_limited := is_limited OR CASE operator WHEN '=' THEN value <> '' WHEN '!=' THEN value = ''
                    WHEN '=~' THEN '' !~ value ELSE '' ~ value END;
                IF left(remaining, 1) = ',' THEN
                    remaining := substr(remaining, 2);
                    remaining := substr(remaining, length(substring(remaining FROM space)) + 1);
                ELSIF left(remaining, 1) <> '}' THEN
                    fault := 'expected , or } after a condition';
                    EXIT reading;
                END IF;
            END LOOP;
            remaining := substr(remaining, 2);
            remaining := substr(remaining, length(substring(remaining FROM space)) + 1);
        END IF;
        IF remaining <> '' THEN
            fault := 'expected nothing more; a selector is a name and conditions, as in ' || {example};
        ELSIF is_name_given IS NULL THEN
            fault := 'the metric name is set twice; leave one out';
        ELSIF NOT is_limited THEN
            fault := 'this would match every series; add a condition that refuses an empty value, as in ' || {example};
        END IF;
    EXCEPTION WHEN raise_exception THEN
        fault := sqlerrm;
    END;
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'selector ''%'', column %: %', selector, length(selector) - length(remaining) + 1, fault
            USING ERRCODE = '22023';
    END IF;
    RETURN names || others;
END
$$
"""

# Only the usual form is looked at first: it costs a hundredth of reading the whole.
_METRIC = r"""
CREATE OR REPLACE FUNCTION {schema}.selector_metric(selector text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    metric text := substring(selector FROM '^\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{|$)');
    matchers text[];
BEGIN
    IF metric IS NULL THEN
        matchers := {schema}.selector_matchers(selector);
        IF matchers[1] = '__name__' AND matchers[2] = '=' THEN
            metric := matchers[3];
        END IF;
    END IF;
    RETURN metric;
END
$$
"""

# The conditions that are left once the metric has been found by its name.
_CONDITIONS = r"""
CREATE OR REPLACE FUNCTION {schema}.selector_conditions(selector text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    matchers text[];
BEGIN
    IF selector ~ '^\s*[a-zA-Z_:][a-zA-Z0-9_:]*\s*$' THEN
        RETURN '{}';
    END IF;
    matchers := {schema}.selector_matchers(selector);
    IF matchers[1] = '__name__' AND matchers[2] = '=' THEN
        RETURN matchers[4:];
    END IF;
    RETURN matchers;
END
$$
"""

_MATCHES = r"""
CREATE OR REPLACE FUNCTION {schema}.selector_matches(conditions text[], metric text, labels jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    value text;
BEGIN
    FOR place IN 1 .. cardinality(conditions) BY 3 LOOP
        value := CASE conditions[place] WHEN '__name__' THEN metric ELSE coalesce(labels ->> conditions[place], '') END;
        IF NOT (CASE conditions[place + 1]
            WHEN '=' THEN value = conditions[place + 2]
            WHEN '!=' THEN value <> conditions[place + 2]
            WHEN '=~' THEN value ~ conditions[place + 2]
            ELSE value !~ conditions[place + 2]
        END) THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END
$$
"""

_ALL = (_UNQUOTE, _LITERAL, _ESCAPE, _BRACKET_MEMBER, _PATTERN, _MATCHERS, _METRIC, _CONDITIONS, _MATCHES)
_WORDS = {
    "{schema}": SCHEMA,
    "{maximum_repetitions}": str(MAXIMUM_REPETITIONS),
    "{example}": "$example$" + EXAMPLE + "$example$",
    "{quoted}": r"""'^(?:"(?:[^"\\]|\\.)*"|''(?:[^''\\]|\\.)*''|`[^`]*`)'""",
}


def create_selector_functions(connection: Connection) -> None:
    """Make or renew the functions; the caller holds the publisher's lock."""
    for statement in _ALL:
        for word, meaning in _WORDS.items():
            statement = statement.replace(word, meaning)  # noqa: PLW2901 - filled in step by step
        connection.execute(text(statement.replace(":", "\\:")))


def selected_series(selector: str, *, of: str = "") -> str:
    """SQL: the condition that a view's row is of a series that the SQL expression `selector` means.

    `of`: the view's alias with a dot. Uses index series_metric_idx wherever the selector names one metric.
    """
    metric, conditions = f"{SCHEMA}.selector_metric({selector})", f"{SCHEMA}.selector_conditions({selector})"
    return (
        f"({of}metric = {metric} OR {metric} IS NULL) AND ({conditions} = '{{}}'"
        f" OR {SCHEMA}.selector_matches({conditions}, {of}metric, {of}labels))"
    )
