r"""SQL functions that read Prometheus' selectors: the same language, and the same refusals, as `config/selector.py`.

A selector is data to them: it is taken apart and compared, never executed. All are IMMUTABLE, so that PostgreSQL reads
a selector when it plans, and finds the metric by index.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from aggregator.config.selector import EXAMPLE
from aggregator.storage.selector_parts import PARTS, WORDS
from aggregator.storage.tables import SCHEMA

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

# The conditions that are left once the metric has been found by its name; `.*`, a dashboard's All, is none.
_CONDITIONS = r"""
CREATE OR REPLACE FUNCTION {schema}.selector_conditions(selector text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    matchers text[];
    conditions text[] := '{}';
BEGIN
    IF selector ~ '^\s*[a-zA-Z_:][a-zA-Z0-9_:]*\s*$' THEN
        RETURN '{}';
    END IF;
    matchers := {schema}.selector_matchers(selector);
    FOR place IN 1 .. cardinality(matchers) BY 3 LOOP
        CONTINUE WHEN place = 1 AND matchers[1] = '__name__' AND matchers[2] = '=';
        CONTINUE WHEN matchers[place + 1] = '=~' AND matchers[place + 2] = '^(?:.*)$';
        conditions := conditions || matchers[place : place + 2];
    END LOOP;
    RETURN conditions;
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

_ALL = (*PARTS, _MATCHERS, _METRIC, _CONDITIONS, _MATCHES)
_WORDS = {
    "{schema}": SCHEMA,
    **WORDS,
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
    # Where there is nothing but a name, PostgreSQL leaves the rest out when it plans.
    return (
        f"({of}metric = {metric} OR {metric} IS NULL)"
        f" AND ({conditions} = '{{}}' OR {SCHEMA}.selector_matches({conditions}, {of}metric, {of}labels))"
    )
