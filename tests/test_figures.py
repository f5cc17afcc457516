"""Tables of figures by compiler version: what is told of two that differ, and that versions keep apart."""

from __future__ import annotations

import json
from pathlib import Path

from figures import differences, matches, read_tables, write_table

GOOD = {"kernel": "forward", "registers": 255}


def told(old: list[dict[str, object]], new: list[dict[str, object]]) -> list[str]:
    return differences(old, new, lambda row: row["kernel"])


def test_differences_tell_old_and_new() -> None:
    assert told([GOOD], [dict(GOOD)]) == []
    assert told([GOOD], [GOOD | {"registers": 168}]) == ["forward: registers was 255, is 168"]
    assert told([GOOD], [GOOD | {"matrix": 4}]) == ["forward: matrix was None, is 4"]
    assert told([GOOD], []) == ["forward: only in the table"]
    assert told([], [GOOD]) == ["forward: not in the table"]


def test_writing_keeps_other_versions(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    assert read_tables(path) == {}
    write_table(path, "a test", "2.0", "s2", [GOOD, GOOD])
    write_table(path, "a test", "1.0", "s1", [])
    write_table(path, "a test", "2.0", "s3", [GOOD])
    assert json.loads(path.read_text())["made_by"] == "a test"
    assert read_tables(path) == {"1.0": {"sources": "s1", "rows": []}, "2.0": {"sources": "s3", "rows": [GOOD]}}


def test_all_texts_must_be_in_a_name() -> None:
    assert matches("sm_90a forward C4", ("C4", "sm_90"))
    assert matches("anything", ())
    assert not matches("sm_90a forward C4", ("C4", "sm_80"))
