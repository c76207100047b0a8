"""Holds the promises against what was recorded. Shares no code with the product: it reads JSON and knows the rules in words.

A recorded run is a list of commits, each `{"at": ms, "facts": [JSON of each fact that arrived], "journal": [JSON records],
"claims": [{"effect", "attempt", "body_hash"}], "texts": {effect: what its message says if it leaves before the next commit}}`,
and what the order was at rest, `{"view": {...}, "wanted": [...]}`.
"""

from __future__ import annotations

import json
import re
from typing import Any

HELD_BACK = ("warehouse.pick", "carrier.label")  # promise 6
NEEDS_ALL_REPORTS = (*HELD_BACK, "payment.refund")
SHIPPED = {"in_transit", "out_for_delivery", "delivered", "attempt_failed", "pickup", "exception", "returned", "lost", "damaged"}
TROUBLED = {"exception", "attempt_failed", "lost", "damaged", "expired", "returned"}
ACCEPTED = "sent"
# What undoes is wanted where there is something to undo: it follows what providers and stock answered in this very run.
COMPENSATIONS = {"carrier.void cancelled": "carrier.label packed", "team.notice cancelled_after_pick": "warehouse.pick in_progress"}
OF_ANSWERS = (*COMPENSATIONS, "stock.release", "stock.ship")


class Known:
    """What one order's lane knows, kept by the checker's own simple rules."""

    def __init__(self) -> None:
        self.best: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.verdict = ""
        self.expired = False  # nobody reviewed it in time, and the policy cancels then
        self.offered: dict[str, str] = {}  # effect name -> "open" | "withdrawn"
        self.attempts: dict[str, dict[int, str]] = {}
        self.ids: dict[str, str] = {}

    def learn(self, fact: dict[str, Any]) -> None:
        key = (fact["type"], fact["system"], fact["object"])
        known = self.best.get(key)
        if known is None or _weight(fact) > _weight(known):
            self.best[key] = fact

    def of(self, kind: str) -> list[dict[str, Any]]:
        gone = {(f["target_type"], f["target_system"], f["target_object"]) for k, f in self.best.items() if k[0] == "FactRetracted"}
        return [f for k, f in self.best.items() if k[0] == kind and k not in gone]

    def holds(self) -> set[str]:
        released = {hold for f in self.of("HoldReleased") for hold in f["holds"]}
        holds = {f["object"] for f in self.of("HoldPlaced")} - released
        if self.verdict_of_people() == "" and self.verdict in ("review", "decline") and self.verdict not in released:
            holds.add(self.verdict)
        return holds

    def verdict_of_people(self) -> str:
        said = [(f["at"], "approve" if f["approve"] else "decline") for f in self.of("ReviewDecided")]
        said += [(f["at"], "approve") for f in self.of("HoldReleased") if {"review", "decline"} & set(f["holds"])]
        return max(said)[1] if said else ""

    def incomplete(self) -> bool:
        return bool({f["object"] for f in self.of("FactParked")} - {f["object"] for f in self.of("FactUnparked")})

    def shipped(self) -> bool:
        return any(f["tag"] in SHIPPED for f in self.of("ParcelScanned"))

    def cancelled(self) -> bool:
        expired = self.expired and self.verdict == "review" and self.verdict_of_people() == ""
        return bool(self.of("CancelRequested") or self.verdict_of_people() == "decline" or expired) and not self.shipped()


def _weight(fact: dict[str, Any]) -> tuple[Any, ...]:
    return (fact.get("authority", 0), fact.get("version", 0), fact["at"], json.dumps(fact, sort_keys=True))


def check_run(run: dict[str, Any], ability: str = "neither") -> list[str]:
    """What this run broke of promises 3 (offered and withdrawn), 4 (journal before effect), 5 (once) and 6 (held), and which of
    its messages were not true by what was known when they may have left."""
    broken: list[str] = []
    known = Known()
    for commit in run["commits"]:
        for text in commit["facts"]:
            known.learn(json.loads(text))
        claimed: dict[tuple[str, int], str] = {}
        for text in commit["journal"]:
            for entry in json.loads(text)["entries"]:
                broken += _entry(entry, known, claimed, commit["at"], ability)
        for claim in commit["claims"]:
            if claimed.get((claim["effect"], claim["attempt"])) != claim["body_hash"]:
                broken.append(f"promise 4: attempt {claim['attempt']} of {claim['effect']} left without its entry in the journal")
        broken += _texts(commit["texts"], known)
    return broken


# --- texts: the published words where they are true, and only there
def _texts(texts: dict[str, str], known: Known) -> list[str]:
    broken: list[str] = []
    told: dict[tuple[str, str], str] = {}
    for effect, text in texts.items():
        name = known.ids[effect]
        action, milestone, *instance = name.split(" ", 2)
        for words, true in _claims(action, milestone, instance[0] if instance else "", known):
            if text and (words in text) != true:
                broken.append(f"text: {name} {'leaves out' if true else 'says'} {words!r}: {text!r}")
        if text and instance and text in told.values() and (action, milestone) in told:
            broken.append(f"text: {name} says of two parcels the same: {text!r}")
        if instance:
            told[action, milestone] = text
    return broken


def _claims(action: str, milestone: str, instance: str, known: Known) -> list[tuple[str, bool]]:
    """What a message may say, and whether it is so. What is not listed may be said or not."""
    (placed,) = sorted(known.of("OrderPlaced"), key=_weight)[-1:]
    captures = [f["amount"] for f in known.of("PaymentCaptured")]
    stated = [f["amount"] for f in known.of("OrderPaid")]
    paid = max(sum(captures), *stated, 0)
    refunded = sum(f["amount"] for f in known.of("PaymentRefunded"))
    back = 0 < paid <= refunded
    due = not placed.get("prepaid") and placed["total"] > 0
    shipped = known.shipped()
    if (action, milestone) == ("notify.email", "order_placed"):
        still = not shipped and not known.cancelled()
        return [
            ("is awaiting payment confirmation", due and not captures and not any(stated) and still),
            ("once your payment is processed", due and paid < placed["total"] and still),
            ("your payment is confirmed", due and paid >= placed["total"] and still and not back),
            ("and is on its way", shipped and all(_moves(p, known) for p in _parcels(known)) and _whole(_parcels(known), placed, known)),
        ]
    if (action, milestone) == ("notify.email", "payment_confirmed"):
        approved = (known.verdict_of_people() or known.verdict) == "approve"
        stops = known.holds() or known.incomplete() or known.cancelled() or shipped or back or _short(known) or not approved
        return [("are now being prepared for shipment", not stops)]
    if milestone == "shipped" and action == "notify.email":
        return [("is on its way", _moves(instance, known)), *_part("Part of your order", instance, placed, known)]
    if milestone in ("shipped", "delivery_reminder") and action == "notify.sms":
        return _part("Part of your", instance, placed, known)
    if action == "notify.push":
        latest = _tag(instance, known) if instance else ""
        now = {
            "shipped": _moves(instance, known) and latest != "out_for_delivery",
            "out_for_delivery": latest == "out_for_delivery",
            "order_placed": paid < placed["total"] and not _begun(known) and not known.of("PaymentFailed"),
            "payment_confirmed": not _begun(known) and not back,
        }
        if milestone in now and not (milestone == "order_placed" and not due):
            return [(" was ", not now[milestone])]  # else it "is now", or "has been" since a day before
    return []


def _begun(known: Known) -> bool:
    """Something is, or was, done about the goods, or keeps them."""
    reserved = {f["object"] for f in known.of("StockReserved")} - {f["object"] for f in known.of("StockReleased")}
    parcels = known.of("ParcelPacked") or known.of("ParcelScanned")
    return bool(reserved or parcels or known.of("ItemsPicked") or _short(known) or known.holds() or known.cancelled())


def _short(known: Known) -> bool:
    return bool({f["object"] for f in known.of("StockShort")} - {f["object"] for f in known.of("StockReserved")})


def _parcels(known: Known) -> list[str]:
    return sorted({f["parcel"] for f in known.of("ParcelScanned") if f["tag"] in SHIPPED})


def _tag(parcel: str, known: Known) -> str:
    """The latest word on a parcel; delivered stays delivered unless it comes back."""
    tags = [(f["at"], f["tag"]) for f in known.of("ParcelScanned") if f["parcel"] == parcel and f["tag"] != "unknown"]
    final = [tag for tag in ("returned", "delivered") if tag in {t for _, t in tags}]
    return final[0] if final else max(tags)[1] if tags else ""


def _moves(parcel: str, known: Known) -> bool:
    return _tag(parcel, known) not in TROUBLED | {"delivered"}


def _inside(parcel: str, known: Known) -> dict[str, int]:
    packed = [f for f in known.of("ParcelPacked") if f["parcel"] == parcel]
    return {q["line"]: q["quantity"] for f in packed for q in f.get("lines", ())}


def _whole(parcels: list[str], placed: dict[str, Any], known: Known) -> bool:
    insides = [_inside(parcel, known) for parcel in parcels]
    if not all(insides):
        return True
    return all(sum(inside.get(x["line"], 0) for inside in insides) >= x["quantity"] for x in placed["lines"])


def _part(words: str, parcel: str, placed: dict[str, Any], known: Known) -> list[tuple[str, bool]]:
    if _inside(parcel, known):
        return [(words, not _whole([parcel], placed, known))]
    if {*_parcels(known)} - {parcel}:
        return [(words, True)]
    if {f["parcel"] for f in known.of("ParcelPacked")} - {parcel}:
        return []  # it may be that one, under the carrier's name
    return [(words, False)]


def _entry(entry: dict[str, Any], known: Known, claimed: dict[tuple[str, int], str], at: int, ability: str) -> list[str]:
    broken: list[str] = []
    kind = entry["type"]
    if kind == "Decided":
        if known.verdict != entry["decision"][2]:
            known.expired = False
        known.verdict = entry["decision"][2]
    elif kind == "Offered":
        name = " ".join(filter(None, (entry["action"], entry["milestone"], entry.get("instance", ""))))
        if known.offered.get(name) == "open":
            broken.append(f"promise 3: {name} was offered twice")
        known.offered[name] = "open"
        known.ids[entry["id"]] = name
    elif kind == "Withdrawn":
        name = entry["effect"]
        if known.offered.get(name) != "open":
            broken.append(f"promise 3: {name} was withdrawn without being open")
        if any(outcome in ("", ACCEPTED) for outcome in known.attempts.get(name, {}).values()):
            broken.append(f"promise 3: {name} was withdrawn though claimed")
        known.offered[name] = "withdrawn"
    elif kind == "Claimed":
        name = entry["effect"]
        action = name.split(" ")[0]
        claimed[(entry["id"], entry["attempt"])] = entry["body_hash"]
        before = known.attempts.setdefault(name, {})
        if known.offered.get(name) != "open":
            broken.append(f"promise 3: {name} was claimed though it was not open")
        if "" in before.values():
            broken.append(f"promise 5: {name} was claimed while an attempt was out")
        if ACCEPTED in before.values() or "rejected" in before.values():
            broken.append(f"promise 5: {name} was claimed after its end")
        if "unknown" in before.values() and ability == "neither":
            broken.append(f"promise 5: {name} was claimed again though nobody knows what became of it")
        if entry["attempt"] != len(before) + 1:
            broken.append(f"promise 5: {name} jumped to attempt {entry['attempt']}")
        if action in HELD_BACK and known.holds():
            broken.append(f"promise 6: {name} was claimed under hold {sorted(known.holds())}")
        if action in HELD_BACK and (known.cancelled() or known.shipped()):
            broken.append(f"promise 6: {name} was claimed though the order was cancelled or gone")
        if action in NEEDS_ALL_REPORTS and known.incomplete():
            broken.append(f"promise 6: {name} was claimed though a report could not be read")
        if action == "payment.refund" and not (known.cancelled() or known.verdict == "decline"):
            broken.append(f"promise 3: {name} was claimed though nothing was cancelled")
        before[entry["attempt"]] = ""
    elif kind == "Ended":
        outcomes = known.attempts.setdefault(entry["effect"], {})
        if entry["attempt"] not in outcomes:
            broken.append(f"promise 4: {entry['effect']} ended an attempt that was never claimed")
        outcomes[entry["attempt"]] = entry["kind"]
    elif kind == "TimerFired":
        known.expired |= entry["timer"].startswith("review_cancel ")
        if entry["at"] > at:
            broken.append(f"promise 3: timer {entry['timer']} fired before it was due")
    return broken


def check_rest(runs: list[dict[str, Any]]) -> list[str]:
    """Promise 3 over several arrivals of the same facts: at rest one view and one set of wanted effects, and the view is true."""
    broken: list[str] = []
    first = runs[0]["rest"]
    for n, run in enumerate(runs):
        rest = run["rest"]
        for field in first["view"]:
            if rest["view"][field] != first["view"][field]:
                broken.append(f"promise 3: {field} is {rest['view'][field]!r} in run {n}, {first['view'][field]!r} in run 0")
        if differing := _plain(rest["wanted"]) ^ _plain(first["wanted"]):
            broken.append(f"promise 3: wanted {sorted(differing)} differ in run {n}")
        broken += _compensated(run)
        if rest["state"] != first["state"]:
            broken.append(f"promise 2: the facts of run {n} ended in other bytes")
        broken += _truth(run)
    return broken


def _plain(wanted: list[str]) -> set[str]:
    """Without what follows answers; a request for stock made again after a release says so behind a tilde."""
    return {re.sub("~[0-9]+(?=/|$)", "", name) for name in wanted if not name.startswith(OF_ANSWERS)}


def _compensated(run: dict[str, Any]) -> list[str]:
    """What was really made and is not true any more is undone, and nothing else is."""
    broken = []
    sent = set()
    for commit in run["commits"]:
        for text in commit["journal"]:
            sent |= {e["effect"] for e in json.loads(text)["entries"] if e["type"] == "Ended" and e["kind"] == ACCEPTED}
    wanted = run["rest"]["wanted"]
    for undoing, undone in COMPENSATIONS.items():
        made = any(name.startswith(undone) for name in sent)
        asked = any(name.startswith(undoing) for name in wanted)
        if made and run["rest"]["view"]["cancelled"] and not asked:
            broken.append(f"promise 3: {undone} was made for a cancelled order and is not undone")
        if asked and not run["rest"]["view"]["cancelled"]:
            broken.append(f"promise 3: {undoing} is wanted though the order goes on")
    return broken


def _truth(run: dict[str, Any]) -> list[str]:
    """The view against the checker's own reading of all that arrived."""
    known = Known()
    for commit in run["commits"]:
        for text in commit["facts"]:
            known.learn(json.loads(text))
    view = run["rest"]["view"]
    captured = sum(f["amount"] for f in known.of("PaymentCaptured"))
    refunded = sum(f["amount"] for f in known.of("PaymentRefunded"))
    found = []
    if (view["captured"], view["refunded"]) != (captured, refunded):
        found.append(f"promise 3: captured and refunded are {captured} and {refunded}, shown are {view['captured']} and {view['refunded']}")
    if known.shipped() and view["status"] in ("order_placed", "payment_confirmed", "in_progress", "cancelled"):
        found.append(f"promise 3: it has shipped, shown is {view['status']}")
    return found
