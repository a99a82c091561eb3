"""What was issued is remembered, whatever happens to the file."""
from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from salt.exceptions import SaltRunnerError

from issuing import journal as journal_


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 200))
def test_a_line_of_the_journal_that_was_cut_short_never_was(authority, cut):
    """As after a crash in the middle of writing; the next line does not grow on to it."""
    path = authority.folder / "journal.jsonl"
    whole = path.read_bytes()
    entry = json.dumps({"event": "crl", "number": 7, "entries": 0, "padding": "x" * 300}).encode() + b"\n"
    path.write_bytes(whole + entry[:-cut])
    assert journal_.read(authority.folder) == [json.loads(line) for line in whole.splitlines()]
    journal_.note(authority.folder, [{"event": "crl", "number": 8}])
    assert journal_.read(authority.folder)[-1] == {"event": "crl", "number": 8}
    path.write_bytes(whole)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.one_of(st.text(max_size=20), st.binary(max_size=20).map(lambda data: data.decode("latin-1")),
                                st.sampled_from(["{}", "[]", "null", "7", '"event"', '{"event": "crl"}',
                                                 '{"event": 7}', '[{"event": "crl"}]', "{\"event\": \"cr"])),
                      max_size=4))
def test_whatever_stands_in_the_journal_is_read_or_refused(authority, lines):
    (authority.folder / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines), newline="")
    try:
        assert all("event" in entry for entry in journal_.read(authority.folder))
    except SaltRunnerError as error:
        assert "is damaged in line" in str(error)
