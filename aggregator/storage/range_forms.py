"""The function of each form of a range, and which of them are called: docs/adr/0016-a-function-for-each-form.md.

Beside what is open a range reads what is sealed, if there is any, by one function for both; beside samples, the rollups
of outputs of rules are read, which have none.
"""

from __future__ import annotations

from dataclasses import dataclass

from aggregator.storage.range_parts import RangeSettings
from aggregator.storage.range_points import (
    BOTH,
    BOTH_OUTPUTS,
    COLUMNS,
    EXACT,
    MIXED,
    OUTPUTS,
    REGROUPED,
    SEALED,
    SEALED_OUTPUTS,
    point_functions,
)
from aggregator.storage.range_raw import RAW
from aggregator.storage.range_times import RAW_ID
from aggregator.storage.tables import SCHEMA

#: What a form is called where sealed rows are expected in the range.
_AND_SEALED = "+"
_HAS_SEALED = f"{SCHEMA}.range_has_sealed($2, $4)"


@dataclass(frozen=True)
class _Branch:
    """A function that is called for a form: where no sealed rows are expected, where they are, or both.

    `condition`: SQL that is looked at when the plan is executed, and not when it is made.
    """

    form: str
    function: str
    open_only: bool = True
    and_sealed: bool = True
    condition: str = "true"
    reads_outputs: bool = False

    def call(self, by: str) -> str:
        """SQL: the call, with what it is for in two columns before it: constants that are compared in planning."""
        tier = f"{SCHEMA}.{'range_rollup_tier' if self.reads_outputs else 'range_tier'}($2, $4)"
        open_only = f"'{self.form}'" if self.open_only else "NULL"
        and_sealed = f"'{self.form}{_AND_SEALED}'" if self.and_sealed else "NULL"
        return (
            f"SELECT {open_only} AS open_only, {and_sealed} AS and_sealed, f.* FROM"  # noqa: S608 - text of our own
            f" (SELECT * FROM {SCHEMA}.range_{self.function}($1, $2, $3, $4, {tier}, {by}) OFFSET 0) AS f"
            f" WHERE {self.condition}"
        )


def _late(form: str, function: str, *, reads_outputs: bool = False) -> _Branch:
    """What reads sealed rows in a plan that is older than those."""
    return _Branch(form, f"{function}_late", and_sealed=False, condition=_HAS_SEALED, reads_outputs=reads_outputs)


_BRANCHES = (
    _Branch(EXACT, EXACT, and_sealed=False),
    _late(EXACT, SEALED),
    _Branch(EXACT, BOTH, open_only=False),
    _Branch(REGROUPED, REGROUPED, and_sealed=False, condition=f"NOT {_HAS_SEALED}"),
    _late(REGROUPED, MIXED),
    _Branch(REGROUPED, MIXED, open_only=False),
    _Branch(RAW, RAW),
    _Branch(RAW, OUTPUTS, and_sealed=False, reads_outputs=True),
    _late(RAW, SEALED_OUTPUTS, reads_outputs=True),
    _Branch(RAW, BOTH_OUTPUTS, open_only=False, reads_outputs=True),
)


def points(columns: str, *, by: str) -> str:
    """SQL: these columns of the points, from the functions of the form that is meant.

    The form stands beside each branch as a constant, and the function behind OFFSET 0: PostgreSQL then leaves out the
    other branches before it has put their functions' text in place, and reads none of it.
    """
    forms = " UNION ALL ".join(branch.call(by) for branch in _BRANCHES)
    return (
        f"SELECT {columns} FROM ({forms}) AS points"  # noqa: S608 - as above
        f" WHERE {SCHEMA}.range_form($2, $4) IN (open_only, and_sealed) AND {SCHEMA}.range_check($2, $3, $4)"
    )


# Whether anything that a range reads may be sealed. A plan may be older than what it reads: rows are sealed after it
# was made and before it is executed, or it is kept. So what it was made for (`range_form`, IMMUTABLE as `range_tier`)
# is asked again when it is executed, of the snapshot that it reads (STABLE), and decides only how sealed rows are read.
_MAY_BE_SEALED = """
CREATE OR REPLACE FUNCTION {schema}.{name}(start timestamptz, interval_ms bigint) RETURNS boolean
LANGUAGE plpgsql {volatility} PARALLEL SAFE AS $$
DECLARE
    tier constant smallint := {schema}.range_rollup_tier(start, interval_ms);
    since constant timestamptz := {schema}.range_start(tier, start, interval_ms);
BEGIN
    RETURN EXISTS (SELECT FROM {schema}.sealed_until AS s WHERE s.tier_id = tier AND s.until > since);
END
$$
"""
_FORM = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.range_form(start timestamptz, interval_ms bigint) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    tier constant smallint := {SCHEMA}.range_tier(start, interval_ms);
    form constant text := CASE WHEN tier = {RAW_ID} THEN '{RAW}'
        WHEN interval_ms <= {SCHEMA}.range_step_ms(tier) THEN '{EXACT}' ELSE '{REGROUPED}' END;
BEGIN
    RETURN CASE WHEN {SCHEMA}.range_expects_sealed(start, interval_ms) THEN form || '{_AND_SEALED}' ELSE form END;
END
$$
"""


def form_functions(settings: RangeSettings) -> tuple[str, ...]:
    """Statements for the functions of all forms, and for those that say which one is meant."""
    returned = ", ".join(f'"{name}" {type_}' for name, type_ in COLUMNS.items())
    inlined = (function(form, "sql", body, returned) for form, body in point_functions(settings).items())
    late = (late_function(form, returned) for form in (SEALED, MIXED, SEALED_OUTPUTS))
    asked = (
        _MAY_BE_SEALED.format(schema=SCHEMA, name="range_expects_sealed", volatility="IMMUTABLE"),
        _MAY_BE_SEALED.format(schema=SCHEMA, name="range_has_sealed", volatility="STABLE"),
    )
    return *asked, _FORM, *inlined, *late


def function(name: str, language: str, body: str, returned: str) -> str:
    """Statement: a function of a form, whose rows have the columns `returned`."""
    return f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.range_{name}(
    selector text, start timestamptz, finish timestamptz, interval_ms bigint, tier_id smallint, by text[])
RETURNS TABLE ({returned})
LANGUAGE {language} STABLE PARALLEL SAFE AS $$
    {body}
$$
"""


def late_function(name: str, returned: str) -> str:
    """Statement: the same as a function, planned when it is called: the plan around it knows nothing of it."""
    call = f"SELECT * FROM {SCHEMA}.range_{name}($1, $2, $3, $4, $5, $6)"  # noqa: S608 - as above
    body = f"BEGIN RETURN QUERY EXECUTE '{call}' USING $1, $2, $3, $4, $5, $6; END"
    return function(f"{name}_late", "plpgsql", body, returned)
