"""Committed tables of what compilers make of the kernels: one per compiler version, a row of figures per kernel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def matches(name: str, only: Iterable[str]) -> bool:
    """Whether a name has all of the texts in it."""
    return all(text in name for text in only)


def differences(old: list[Row], new: list[Row], name: Callable[[Row], str]) -> list[str]:
    """Rows that are not the same in two tables, with what each says; all figures are compared exactly."""
    before, after = ({name(row): row for row in rows} for rows in (old, new))
    found = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if was is None or now is None:
            found.append(f"{key}: {'not in the table' if was is None else 'only in the table'}")
            continue
        changed = [field for field in sorted(was.keys() | now.keys()) if was.get(field) != now.get(field)]
        found += [f"{key}: {field} was {was.get(field)}, is {now.get(field)}" for field in changed]
    return found


def read_tables(path: Path) -> dict[str, Any]:
    """The tables of a file by compiler version: the checksum of the kernels' sources, and the rows."""
    tables: dict[str, Any] = json.loads(path.read_text())["tables"] if path.exists() else {}
    return tables


def write_table(path: Path, made_by: str, version: str, sources: str, rows: list[Row]) -> None:
    """Exchanges one version's table, a row per line."""
    tables = read_tables(path) | {version: {"sources": sources, "rows": rows}}
    parts = [f' "{name}": {_format(tables[name])}' for name in sorted(tables)]
    path.write_text(f'{{"made_by": "{made_by}", "tables": {{\n' + ",\n".join(parts) + "\n}}\n")


def _format(table: dict[str, Any]) -> str:
    rows = ",\n".join(f"  {json.dumps(row)}" for row in table["rows"])
    return f'{{"sources": "{table["sources"]}", "rows": [\n{rows}\n ]}}'
