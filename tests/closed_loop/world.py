"""One order's lane in a small world on a virtual clock: no store, no log, no Faust, but everything that can go wrong.

Facts arrive permuted, repeated and delayed across due timers. Scores depend on what is known. Claims get lost, calls
end unknown, commits fail and are tried again, the worker forgets its cache. Stock and customers answer with facts.
"""

from __future__ import annotations

import heapq
import random
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np

from messages.render import Brand, Renderer, Unrenderable
from messages.way_back import WayBack
from orders.effect import Claim, Outcome
from orders.fact import AnyFact, Fact, MessageReported, StockReleased, StockReserved, StockScarce, encode_fact
from orders.merge import join, merge
from orders.plan import plan
from orders.policy import Policy
from orders.request import MessageRequested
from orders.state import Order, decode, encode
from orders.view import View, view
from streams.orders import OrdersProcessor
from streams.processor import Inputs, Record, Scores

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
RENDERER = Renderer(Brand(), WayBack([b"0123456789abcdef"]))


class Live:
    """Channels that are live, with a few slots."""

    version = 1

    def __init__(self, rng: random.Random, mode: str = "live") -> None:
        self.rng, self.channel_mode = rng, mode

    def mode(self, channel: str) -> str:
        return self.channel_mode

    def take(self, channel: str) -> bool:
        return self.rng.random() < 0.8

    def retry_at(self, channel: str, now: int) -> int:
        return now + 5_000


def row(v: View) -> tuple[float, ...]:
    """What the scorer sees: how much is known."""
    return (float(v.captured), float(v.failures), float(len(v.parcels)), float(v.disputed))


def score(rows: Any, fraud_unpaid: float, fraud_paid: float) -> Scores:
    """The answer depends on what is known: another one before the money came."""
    paid = rows[:, 0] > 0
    fraud = np.where(paid, fraud_paid, fraud_unpaid).astype(np.float32)
    zero = np.zeros(len(rows), np.float32)
    return Scores(fraud, zero, zero, zero, zero + 0.5, [()] * len(rows), "toy", False)


class World:
    def __init__(
        self,
        facts: list[Fact],
        seed: int,
        *,
        policy: Policy | None = None,
        fraud: tuple[float, float] = (0.1, 0.1),
        delay_ms: int = 2 * DAY,
        trouble: float = 0.2,
        ability: str = "neither",
        mode: str = "live",
        label: str = "",
        channel: str = "webhook",
        scarce: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.scarce = scarce  # whether stock says so, when it is asked before anything is reserved
        self.label = label  # what a carrier's label is known by
        self.policy = policy or Policy(retire_after_ms=0)
        self.processor = OrdersProcessor(row, self.policy, {channel: ability}, sampled=1)
        self.channels = Live(self.rng, mode)
        self.fraud, self.trouble = fraud, trouble
        self.order_id = facts[0].order
        self.now = min(f.at for f in facts)
        self.stored: dict[str, bytes] = {}
        self.cache: dict[str, Order] = {}
        self.due = 0
        self.offset = 0
        self.commits: list[dict[str, Any]] = []
        self.sent: dict[str, list[bytes]] = {}  # effect -> bodies the outside accepted
        self.events: list[tuple[int, int, str, Any]] = []
        self.answered: set[str] = set()
        self.texts: dict[str, str] = {}  # effect -> what the customer's lane would say, were it to claim the message now
        self.withheld: set[str] = set()  # of which it was told that they are not true
        for fact in facts:
            for _ in range(1 + (self.rng.random() < 0.3)):
                self.at(fact.at + self.rng.randrange(delay_ms), "fact", encode_fact(fact))

    def at(self, when: int, kind: str, what: Any) -> None:
        heapq.heappush(self.events, (when, self.rng.randrange(1 << 30), kind, what))

    def run(self, most: int = 400) -> dict[str, Any]:
        """Until it rests: nothing arrives, nothing is due. Returns the recorded run for the checker."""
        for _ in range(most):
            upcoming = [e[0] for e in self.events[:1]] + ([self.due] if self.due else [])
            if not upcoming:
                break
            self.now = max(self.now, min(upcoming))
            records: list[Record] = []
            outcomes: list[Outcome] = []
            while self.events and self.events[0][0] <= self.now + self.rng.choice([0, 0, HOUR]):
                when, _, kind, what = heapq.heappop(self.events)
                self.now = max(self.now, when)
                if kind == "fact":
                    records.append(Record(self.offset, self.order_id.encode(), what, self.now))
                    self.offset += 1
                else:
                    outcomes.append(what)
            due = [self.order_id] if self.due and self.due <= self.now else []
            self.turn(records, outcomes, due)
        else:
            raise AssertionError("it never comes to rest")
        assert not self.processor.counts.convergence["violations"]
        return {"commits": self.commits, "rest": self.rest()}

    def turn(self, records: list[Record], outcomes: list[Outcome], due: list[str]) -> None:
        while True:
            if self.rng.random() < 0.3:
                self.cache = {key: decode(blob) for key, blob in self.stored.items()}  # another worker takes over
            before = {key: encode(order) for key, order in self.cache.items()}
            asked = self.processor.ask(self.cache, Inputs("facts", 3, records, due, outcomes), self.now)
            scores = score(asked.questions.rows, *self.fraud) if asked.questions else None
            result = self.processor.answer(asked, scores, self.now, self.channels)
            if self.rng.random() >= self.trouble:
                break
            # the commit failed: nothing of it happened, and the cached state is as it was
            assert {key: encode(order) for key, order in self.cache.items()} == before
            self.now += 1_000
        for key, order in result.states.items():
            self.stored[key] = encode(order)
            self.cache[key] = order
            assert encode(decode(self.stored[key])) == self.stored[key]
        self.hand_over([msgspec.json.decode(out.value) for out in result.outbox if out.topic == "customers"], records)
        for at in result.due.values():
            assert at == 0 or at > self.now, "something is due that was not dealt with"
            self.due = at
        for key in due:
            if key not in result.due:
                self.due = 0
        self.commits.append(
            {
                "at": self.now,
                "facts": [r.value for r in records],
                "journal": result.journal,
                "claims": [{"effect": c.effect, "attempt": c.attempt, "body_hash": body_hash(c)} for c in result.claims],
                "texts": {effect: text for effect, text in self.texts.items() if effect not in self.withheld},
            }
        )
        for claim in result.claims:
            self.call(claim)
        for out in result.outbox:
            self.ask_other_lane(out.topic, msgspec.json.decode(out.value))

    def hand_over(self, told: list[dict[str, Any]], records: list[Record]) -> None:
        """What the customer's lane holds after this commit: until the order knows what became of a message, it may be claimed."""
        for record in records:
            fact = msgspec.json.decode(record.value)
            if fact["type"] == "MessageReported":
                self.texts.pop(fact["effect"], None)
        for request in told:
            if request["type"] == "MessageRequested":
                self.texts[request["effect"]] = said(msgspec.convert(request, MessageRequested), self.now)
            elif request["type"] == "MessageBlocked":
                self.withheld.add(request["effect"])
            else:
                self.withheld.discard(request["effect"])

    def call(self, claim: Claim) -> None:
        """The sender's side: claims get lost, calls are refused, accepted without an answer, or fine."""
        fate = self.rng.random()
        end = self.now + self.rng.randrange(20_000)
        if fate < self.trouble / 2:
            return  # the worker died with it: nobody will tell
        kind = "sent"
        if fate < self.trouble:
            kind = self.rng.choice(["retryable", "unknown", "rejected"])
        if kind == "sent" or (kind == "unknown" and self.rng.random() < 0.5):
            self.sent.setdefault(claim.effect, []).append(claim.body)
        self.at(
            end,
            "outcome",
            Outcome(
                key=claim.key,
                effect=claim.effect,
                attempt=claim.attempt,
                kind=kind,
                at=end,
                after=end if kind == "retryable" else 0,
                reference=self.label if kind == "sent" and b'"carrier.label"' in claim.body else "",
            ),
        )

    def ask_other_lane(self, topic: str, record: dict[str, Any]) -> None:
        kind = record["type"]
        if kind not in ("StockCheckRequested", "StockRequested", "StockReleaseRequested", "MessageRequested"):
            return
        at = record["at"] + 1_000
        if record["effect"] in self.answered or (kind == "StockCheckRequested" and not self.scarce):
            return  # the same answer again would be the same fact
        if kind != "StockCheckRequested" and self.rng.random() < self.trouble:
            return  # lost on the way: the schedule repeats it
        self.answered.add(record["effect"])
        answer: AnyFact
        if kind in ("StockCheckRequested", "StockRequested"):
            answer = (StockReserved if kind == "StockRequested" else StockScarce)(
                order=record["order"],
                system="stock",
                object=record["effect"],
                at=at,
                line=record["line"],
                sku=record["sku"],
                location=record["location"],
                quantity=record["quantity"],
            )
        elif kind == "StockReleaseRequested":
            answer = StockReleased(
                order=record["order"],
                system="stock",
                object=record["request"],
                at=at,
                line=record["line"],
                sku=record["sku"],
                location=record["location"],
                quantity=record["quantity"],
            )
        else:
            answer = MessageReported(
                order=record["order"],
                system="customers",
                object=f"{record['effect']}:sent",
                at=at,
                effect=record["effect"],
                channel=record["channel"],
                outcome="sent",
            )
        self.at(self.now + self.rng.randrange(HOUR), "fact", encode_fact(answer))

    def rest(self) -> dict[str, Any]:
        """The order at rest, without what depends on when things were done."""
        order = decode(self.stored[self.order_id])
        v = view(order)
        told = {
            "status": v.status.value,
            "captured": v.captured,
            "refunded": v.refunded,
            "paid_in_full": v.paid_in_full,
            "verdict": v.verdict,
            "holds": sorted(v.holds),
            "cancelled": v.cancelled,
            "parcels": {p.id: p.tag.value for p in v.parcels.values()},
            "contradictions": sorted(v.contradictions),
            "reserved": sorted(v.reserved),
        }
        return {"view": told, "wanted": sorted(set(plan(v, order, self.policy).effects)), "state": reported(order).hex()}


def said(request: MessageRequested, now: int) -> str:
    """The words of a message, with its subject; "" for one that would not be sent."""
    try:
        rendered = RENDERER.render(
            request.template,
            request.channel,
            request.fields,
            msgspec.structs.replace(request.person, push_token="token-1"),
            customer=request.customer,
            effect=request.effect,
            order=request.order,
            milestone_at=request.milestone_at,
            as_of=now,
            variant=True,
        )
    except Unrenderable:
        return ""
    body = msgspec.json.decode(rendered.body)
    return "\n".join(filter(None, (body.get("subject"), body.get("text"), body.get("body"))))


def body_hash(claim: Claim) -> str:
    """As the journal is to have it."""
    digest = blake2b(claim.body, digest_size=12).hexdigest()
    said = msgspec.json.decode(claim.body)
    if said["event"] == "carrier.label" and "carrier" in said["data"]:
        return f"{digest}@{claim.channel}/{said['data']['carrier']} {said['data']['service']}"
    return digest if claim.channel == "webhook" else f"{digest}@{claim.channel}"


OF_LANES = ("stock", "customers")


def reported(order: Order) -> bytes:
    """The part of a state that outsiders reported: equal for every arrival, while answers and decisions have their own times."""
    bare = Order(order.id)
    bare.facts = {key: variants for key, variants in order.facts.items() if key[1] not in OF_LANES}
    bare.persons = order.persons
    return encode(bare)


def replay(run: dict[str, Any], order_id: str, rng: random.Random) -> bytes:
    """Promise 2 from the record alone: facts and journal entries, shuffled and cut, folded without any of the machinery."""
    from orders.fact import decode_fact
    from orders.journal import adopt, decode_record

    pieces: list[Any] = []
    for commit in run["commits"]:
        pieces += [decode_fact(f) for f in commit["facts"]]
        for text in commit["journal"]:
            pieces += decode_record(text).entries
    rng.shuffle(pieces)
    halves = [Order(order_id), Order(order_id)]
    for piece in pieces:
        side = rng.randrange(2)
        halves[side] = merge(halves[side], piece) if isinstance(piece, Fact) else adopt(halves[side], piece)
    return encode(join(*halves))
