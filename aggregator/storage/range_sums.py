"""SQL that puts rollups and samples together: sums that PostgreSQL does not refuse, and squared deviations."""

from __future__ import annotations

from aggregator.storage.tables import SCHEMA

#: Sums stay clear of what PostgreSQL refuses: beyond it a double is divided by `_SCALE` before it is added.
_LARGE = "1e300"
_SCALE = "1e10"
_LARGEST_SCALED = "1.7e298"

# Pairwise, Chan, Golub and LeVeque 1979, as `rollups.merge`: state is count, mean and m2. What would leave the range of
# doubles, or is unknown, makes the result so too.
COMBINED_M2 = (
    f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.combined_m2_add(state float8[], count bigint, sum float8, m2 float8)
RETURNS float8[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    mean float8;
    distance float8;
    together float8 := state[1] + count;
BEGIN
    IF sum IS NULL OR m2 IS NULL OR abs(sum) > 8e307 OR m2 > 1e300 OR state[3] = 'NaN' THEN
        RETURN ARRAY[together, 0, 'NaN'];
    END IF;
    mean := CASE WHEN abs(sum) < 1e-300 THEN 0 ELSE sum / count END;
    IF state[1] = 0 THEN
        RETURN ARRAY[count, mean, m2];
    END IF;
    distance := mean - state[2];
    IF abs(distance) > 1e140 THEN
        RETURN ARRAY[together, 0, 'NaN'];
    ELSIF abs(distance) < 1e-140 THEN
        RETURN ARRAY[together, state[2], state[3] + m2];
    END IF;
    RETURN ARRAY[
        together, state[2] + distance * (count / together),
        state[3] + m2 + distance * distance * (state[1] * (count / together))];
END
$$
""",
    f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.combined_m2_of(state float8[])
RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN state[1] > 0 THEN nullif(state[3], 'NaN') END
$$
""",
    f"""
CREATE OR REPLACE AGGREGATE {SCHEMA}.combined_m2(count bigint, sum float8, m2 float8) (
    SFUNC = {SCHEMA}.combined_m2_add, STYPE = float8[], FINALFUNC = {SCHEMA}.combined_m2_of, INITCOND = '{{0,0,0}}',
    PARALLEL = SAFE
)
""",
)


def total(values: str, *, where: str = "true") -> str:
    """SQL: the sum of doubles without the errors that PostgreSQL raises for large ones.

    NULL where one of those that `where` means is NULL: a sum that lacks something is no sum.
    """
    lacking = (
        f"count(*) FILTER (WHERE {values} IS NULL AND {where})" if where != "true" else f"count(*) - count({values})"
    )
    small = f"coalesce(sum({values}) FILTER (WHERE abs({values}) < {_LARGE} AND {where}), 0)"
    large = f"sum({values} / {_SCALE}) FILTER (WHERE abs({values}) >= {_LARGE} AND {where})"
    return (
        f"CASE WHEN {lacking} > 0 OR count({values}) = 0 THEN NULL"
        f" WHEN {large} IS NULL THEN {small}"
        f" WHEN abs({large}) > {_LARGEST_SCALED} THEN nullif({large} * 'Infinity', 'NaN')"
        f" ELSE {large} * {_SCALE} + {small} END"
    )
