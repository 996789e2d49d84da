"""docs/configuration.md is the schema's, and every comment of the schema reaches it."""

from __future__ import annotations

from lightning_cispo.configs.keys import all_keys
from lightning_cispo.configs.page import markdown
from tests.conftest import ROOT


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "configuration.md").read_text() == markdown()


def test_every_key_is_on_the_page():
    page = markdown()
    assert [key for key in all_keys() if f"| `{key}` |" not in page] == []
    assert "absolute bounds of the importance weight" in page
