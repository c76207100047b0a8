"""What every outgoing connector has in common: the four words of an outcome, secrets, settings.

    Answer
    |-- Done(reference)      the provider has it
    |-- TryLater(reason)     it was not done and may be asked for again, not before `after_s`
    |-- Refused(reason)      an answer, not an accident: these bytes will never be accepted
    `-- Unknown(reason)      it may have happened; nobody can tell from here

What is certain decides the word: a failure before the first byte of the request is TryLater, one after it is Unknown
unless the provider answered. A wrong password or a wrong sender number is TryLater too: it is the operator's to mend,
and a backlog is kinder than a day of lost messages.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from hmac import compare_digest
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import msgspec

from orders.effect import Claim


class Reason(StrEnum):
    """Why, in a closed list: fit for metric labels, free of personal data."""

    # not done
    DEADLINE = "deadline"  # the claim's deadline passed before the first byte
    BREAKER = "breaker_open"
    CLOSED = "closed"  # the sender is shutting down
    CONNECT = "connect"
    DNS = "dns"
    TLS = "tls"
    RATE = "rate_limited"
    PROVIDER = "provider_error"  # the provider says it cannot now
    CREDENTIALS = "credentials"  # refused ours, or we have none
    CONFIGURATION = "configuration"  # sender number, project, subscription: the operator's to mend
    NOT_FOUND = "not_found"  # looked up: the provider never had it
    # refused
    RECIPIENT = "recipient"  # no such address, number or device
    OPTED_OUT = "opted_out"
    CONTENT = "content"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"  # the claim's body is not what this channel renders
    BLOCKED_ADDRESS = "blocked_address"  # the URL leads where we do not go
    GONE = "gone"
    OTHER = "refused"
    # unknown
    TIMEOUT = "timeout"
    DROPPED = "dropped"  # the connection broke after the request left
    GATEWAY = "gateway"  # something between us and the provider answered
    NO_LOOKUP = "no_lookup"  # this channel cannot be asked
    BUG = "bug"


class Done(msgspec.Struct, frozen=True):
    reference: str = ""  # the provider's own ID of what it accepted
    keep: bytes = b""  # what it gave us and we must keep, such as a label's image; its file's name is added to the reference


class TryLater(msgspec.Struct, frozen=True):
    reason: Reason
    after_s: float | None = None  # what the provider asked for; None: it did not say


class Refused(msgspec.Struct, frozen=True):
    reason: Reason


class Unknown(msgspec.Struct, frozen=True):
    reason: Reason


Answer: TypeAlias = Done | TryLater | Refused | Unknown


class Ability(msgspec.Struct, frozen=True):
    """What can be done about an unknown: ask again with the same key, look it up, or nothing."""

    kind: Literal["keyed", "lookup", "neither"]
    life_s: int = 0  # keyed: how long the provider remembers the key


class Secret:
    """A value that does not show itself. Whoever needs it says `reveal()`, at the last moment."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # type: ignore[assignment]  # a secret is no key


class SettingsError(ValueError):
    """A setting is missing, unknown or unsafe; the text names it, never its value."""


class ChannelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every channel can be told. Connectors add theirs."""

    rate: float = 0.0  # most calls per second; 0: the connector's own pace
    concurrency: int = 0  # calls in flight; 0: the connector's own
    timeout_s: float = 15.0  # the whole budget of one call
    breaker_failures: int = 5  # in a row
    breaker_open_s: float = 10.0
    sandbox: dict[str, Any] | None = None  # settings that differ for sandbox claims; None: answered without a call


class Connector(Protocol):
    """One outside system. The constructor keeps, `start` prepares, `close` ends; `call` never raises."""

    ability: ClassVar[Ability]
    pace_per_s: ClassVar[float]  # what the provider is known to stand
    width: ClassVar[int]  # calls in flight

    @property
    def settings(self) -> ChannelSettings: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def route(self, claim: Claim) -> str:
        """What fails together: the breaker's name. From a bounded set."""

    async def call(self, claim: Claim, now_ms: int, budget_s: float) -> Answer:
        """One attempt (or one look-up) within the budget."""


S = TypeVar("S", bound=ChannelSettings)


def read_settings(kind: type[S], channel: str, settings: dict[str, Any]) -> S:
    """Settings as a struct. Raises SettingsError naming the field."""
    try:
        read = msgspec.convert(settings, kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{channel}: {error}") from None
    for name in ("timeout_s", "breaker_open_s", "breaker_failures"):
        if not getattr(read, name) > 0:
            raise SettingsError(f"{channel}: {name} must be greater than 0")
    for name in ("rate", "concurrency"):
        if getattr(read, name) < 0:
            raise SettingsError(f"{channel}: {name} must not be negative")
    return read


def is_loopback(host: str) -> bool:
    """Whether a configured host name is this machine, without asking anybody."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
