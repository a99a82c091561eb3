"""The reference of what a site may say."""
from __future__ import annotations

from tests.conftest import TREE


def test_the_reference_in_docs_is_up_to_date(master):
    assert (TREE / "docs/site-reference.md").read_text(encoding="utf-8") == master.reference(), (
        "run: salt-run --no-color gateway.reference > docs/site-reference.md")
