"""The SQL functions that people call: quantiles of sketches and of histograms; plain SQL and PL/pgSQL, no extension.

They read no table: whoever may read the views may call them.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from aggregator.rollups.sketch import KEY_OF_INFINITY, KEY_OF_ONE, LARGEST_LOG, LOG_CENTRE, LOG_GAMMA, SMALLEST_LOG
from aggregator.storage.sealed_reading import element_functions
from aggregator.storage.tables import SCHEMA

# A type has no CREATE OR REPLACE; the caller lets nobody else do this at the same time.
_SKETCH_TYPE = """
DO $$
BEGIN
    IF to_regtype('{schema}.series_sketch') IS NULL THEN
        CREATE TYPE {schema}.series_sketch AS (keys integer[], counts integer[], min float8, max float8);
    END IF;
END
$$
"""

# The same as `rollups.sketch.values_of`. A product of halves: exp() may raise for a result that is subnormal.
_SKETCH_VALUE = """
CREATE OR REPLACE FUNCTION {schema}.sketch_value(key integer) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN key = 0 THEN 0
        WHEN abs(key) >= {infinity} THEN sign(key) * float8 'Infinity'
        ELSE sign(key) * exp({half_of_logarithm}) * exp({half_of_logarithm})
    END
$$
"""
_HALF_OF_LOGARITHM = (
    f"greatest(least((abs(key) - {KEY_OF_ONE}) * float8 '{LOG_GAMMA!r}' - float8 '{LOG_CENTRE!r}',"
    f" float8 '{LARGEST_LOG!r}'), float8 '{SMALLEST_LOG!r}') / 2"
)

# The same as `rollups.sketch.quantile`: the nearest rank, as percentile_disc has it, kept between min and max.
_SKETCH_QUANTILE = """
CREATE OR REPLACE FUNCTION {schema}.sketch_quantile(q float8, sketches {schema}.series_sketch[]) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    WITH added AS (
        SELECT key, sum(count) AS count
        FROM (SELECT unnest(one.keys) AS key, unnest(one.counts) AS count FROM unnest(sketches) AS one) AS entries
        GROUP BY key
    ), ranked AS (
        SELECT key, sum(count) OVER (ORDER BY key) AS up_to, sum(count) OVER () AS total FROM added
    ), bounds AS (
        SELECT min(one.min) AS low, max(one.max) AS high FROM unnest(sketches) AS one
    )
    SELECT CASE
        WHEN bounds.low IS NULL OR q = 'NaN' THEN NULL
        WHEN q < 0 THEN '-Infinity'
        WHEN q > 1 THEN 'Infinity'
        ELSE least(greatest({schema}.sketch_value(
            (SELECT min(key) FROM ranked WHERE up_to >= greatest(1, ceil(q * total)))
        ), bounds.low), bounds.high)
    END
    FROM bounds
    WHERE q IS NOT NULL
$$
"""

# As above; keys of one sketch ascend and differ, and a loop over a few dozen of them costs less than a query.
_ONE_SKETCH_QUANTILE = """
CREATE OR REPLACE FUNCTION {schema}.sketch_quantile(q float8, sketch {schema}.series_sketch) RETURNS float8
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    counts integer[] := sketch.counts;
    total bigint := 0;
    part integer;
    place integer := 0;
    up_to bigint := 0;
    rank float8;
BEGIN
    IF q IS NULL OR q = 'NaN' OR counts IS NULL THEN
        RETURN NULL;
    ELSIF q < 0 THEN
        RETURN '-Infinity';
    ELSIF q > 1 THEN
        RETURN 'Infinity';
    END IF;
    FOREACH part IN ARRAY counts LOOP
        total := total + part;
    END LOOP;
    rank := greatest(1, ceil(q * total));
    WHILE up_to < rank LOOP
        place := place + 1;
        up_to := up_to + counts[place];
    END LOOP;
    RETURN least(greatest({schema}.sketch_value(sketch.keys[place]), sketch.min), sketch.max);
END
$$
"""

# The state is (q, bound, increase, bound, increase, ...): a bound stands at an even place. What Prometheus cannot read
# as a number is left out, as there; so is what PostgreSQL might refuse as too large or too small for a float8.
_ADD_BUCKET = """
CREATE OR REPLACE FUNCTION {schema}.histogram_quantile_add(state float8[], q float8, le text, increase float8)
RETURNS float8[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    bound float8;
    place integer;
BEGIN
    IF le = '+Inf' THEN
        bound := 'Infinity';
    ELSIF le ~ '^[+-]?([0-9]{{1,20}}[.]?[0-9]{{0,20}}|[.][0-9]{{1,20}})([eE][+-]?([0-2]?[0-9])?[0-9])?$'
        OR lower(le) ~ '^[+-]?inf(inity)?$' THEN
        bound := le;
    ELSE
        RETURN state;
    END IF;
    place := array_position(state, bound, 2);
    IF place % 2 = 0 AND increase <= 1e300 THEN
        state[place + 1] := state[place + 1] + increase;
        RETURN state;
    ELSIF increase IS NULL OR increase = 'NaN' THEN
        RETURN state;
    ELSIF state IS NULL THEN
        RETURN ARRAY[q, bound, least(increase, 1e300)];
    END IF;
    WHILE place % 2 = 1 LOOP
        place := array_position(state, bound, place + 1);
    END LOOP;
    IF place IS NULL THEN
        RETURN state || ARRAY[bound, least(increase, 1e300)];
    END IF;
    state[place + 1] := state[place + 1] + least(increase, 1e300);
    RETURN state;
END
$$
"""

# Prometheus 3, promql/quantile.go, BucketQuantile; docs/statistics.md describes it step by step.
_HISTOGRAM_QUANTILE = """
CREATE OR REPLACE FUNCTION {schema}.histogram_quantile_of(state float8[]) RETURNS float8
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    q float8 := state[1];
    bounds float8[];
    counts float8[];
    size integer;
    rank float8;
    place integer := 1;
    below float8 := 0;
BEGIN
    IF state IS NULL OR q = 'NaN' THEN
        RETURN NULL;
    ELSIF q < 0 THEN
        RETURN '-Infinity';
    ELSIF q > 1 THEN
        RETURN 'Infinity';
    END IF;
    SELECT array_agg(state[i] ORDER BY state[i]), array_agg(state[i + 1] ORDER BY state[i]), count(*)
    INTO bounds, counts, size
    FROM generate_series(2, cardinality(state), 2) AS i;
    IF bounds[size] <> 'Infinity' OR size < 2 THEN
        RETURN NULL;
    END IF;
    FOR i IN 2 .. size LOOP
        IF counts[i] < counts[i - 1]
            OR counts[i] - counts[i - 1] < 1e-12 * (abs(counts[i]) + abs(counts[i - 1])) THEN
            counts[i] := counts[i - 1];
        END IF;
    END LOOP;
    rank := q * counts[size];
    IF counts[size] = 0 THEN
        RETURN NULL;
    END IF;
    WHILE place < size AND counts[place] < rank LOOP
        place := place + 1;
    END LOOP;
    IF place = size THEN
        RETURN bounds[size - 1];
    ELSIF place = 1 AND bounds[1] <= 0 THEN
        RETURN bounds[1];
    ELSIF place > 1 THEN
        below := counts[place - 1];
        RETURN bounds[place - 1]
            + (bounds[place] - bounds[place - 1]) * ((rank - below) / (counts[place] - below));
    ELSIF counts[1] = 0 THEN
        RETURN NULL;
    END IF;
    RETURN bounds[1] * (rank / counts[1]);
END
$$
"""

_HISTOGRAM_AGGREGATE = """
CREATE OR REPLACE AGGREGATE {schema}.histogram_quantile(q float8, le text, increase float8) (
    SFUNC = {schema}.histogram_quantile_add, STYPE = float8[], FINALFUNC = {schema}.histogram_quantile_of,
    PARALLEL = SAFE
)
"""

_ALL = (
    _SKETCH_TYPE,
    _SKETCH_VALUE,
    _SKETCH_QUANTILE,
    _ONE_SKETCH_QUANTILE,
    _ADD_BUCKET,
    _HISTOGRAM_QUANTILE,
    _HISTOGRAM_AGGREGATE,
)


def create_functions(connection: Connection) -> None:
    """Make or renew the functions, which views and readers use; the caller holds the publisher's lock."""
    for statement in _ALL:
        filled = statement.format(
            schema=SCHEMA,
            infinity=KEY_OF_INFINITY,
            half_of_logarithm=_HALF_OF_LOGARITHM,
        )
        connection.execute(text(filled.replace(":", "\\:")))
    for statement in element_functions():
        connection.execute(text(statement.replace(":", "\\:")))
