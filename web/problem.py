"""The one shape of every error: `{code, message, field?, order_id?, line?, trace_id}`.

A message names the field, never its value: answers end up in the logs of whoever called.
"""

from __future__ import annotations

import secrets

import msgspec

encode_json = msgspec.json.Encoder().encode


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a refused or failed request is answered with."""

    code: str  # closed list, for machines: "malformed" "invalid" "unknown_field" "too_large" "log_down" ...
    message: str  # for people
    trace_id: str  # in our log beside the code
    field: str = ""  # path of the field, "lines[0].quantity"
    order_id: str = ""
    line: int = 0  # of an NDJSON body, from 1


class Refusal(Exception):
    """A request that is answered with `status` and a Problem."""

    def __init__(
        self, status: int, code: str, message: str, *, field: str = "", order_id: str = "", line: int = 0, retry_after_s: int = 0
    ) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message
        self.field, self.order_id, self.line, self.retry_after_s = field, order_id, line, retry_after_s

    def problem(self, trace_id: str) -> Problem:
        return Problem(code=self.code, message=self.message, field=self.field, order_id=self.order_id, line=self.line, trace_id=trace_id)


def new_trace_id() -> str:
    return secrets.token_hex(8)
