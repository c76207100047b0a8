from __future__ import annotations

from messages.template import FIELDS
from orders.policy import TRIGGERS


def test_every_cell_of_the_trigger_table_has_words() -> None:
    assert {(cell.template, cell.channel) for cell in TRIGGERS} <= FIELDS.keys()
