"""Puts a row into its table without the ORM, which makes an object and its own SQL of every row.

A turn's five rows cost 0.75 ms of CPU with objects and Django's cursor and cost 0.4 so, half of it their content; a
thread that runs Python keeps those waiting that send tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.models import AutoField, DateTimeField, Model

type Columns = Mapping[str, Any]


def insert(table: type[Model], conflict: str = "ON CONFLICT DO NOTHING", **given: Any) -> None:
    """Inserts a row of the `given` columns, the others as the table has them by default; `conflict` says what is done
    where it is there already. On a thread that may block. Raises `DatabaseError`."""
    sql, defaults, moments = _statement(table, conflict)
    row = {**defaults, **given}
    database = connections[DEFAULT_DB_ALIAS]  # itself: to look at it through its proxy costs 3 us each time
    for name in moments:
        row[name] = database.ops.adapt_datetimefield_value(row[name])
    database.ensure_connection()
    with database.wrap_database_errors:
        database.connection.execute(sql, tuple(row.values()))


@cache
def _statement(table: type[Model], conflict: str) -> tuple[str, Columns, tuple[str, ...]]:
    """The statement, its columns in order with their defaults, and which of them are moments: SQLite takes all others
    as they are."""
    fields = tuple(field for field in table._meta.concrete_fields if not isinstance(field, AutoField))
    columns = ", ".join(connection.ops.quote_name(field.column or field.attname) for field in fields)
    holders = ", ".join("?" for _ in fields)
    name = connection.ops.quote_name(table._meta.db_table)
    sql = f"INSERT INTO {name} ({columns}) VALUES ({holders}) {conflict}"  # noqa: S608  names of our own
    defaults = {field.attname: field.get_default() for field in fields}
    return sql, defaults, tuple(field.attname for field in fields if isinstance(field, DateTimeField))
