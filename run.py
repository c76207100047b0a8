#!/usr/bin/env python3
"""orderflow: from the buy click to the delivered parcel.

The one command line. It reads configuration and environment once, and starts roles; `wire.py` puts the rooms together.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

import settings as settings_module
from settings import Settings, SettingsError

T = TypeVar("T")
DEFAULT_FILE = "orderflow.yaml"
SLUG = re.compile(r"[a-z0-9-]+")
FAILED, USAGE, BUG = 1, 2, 70
SHORTEST_PASSWORD = 10


def _settings(context: click.Context) -> Settings:
    """The configuration of `--config`, else ./orderflow.yaml, else all defaults."""
    path: Path | None = context.obj["config"]
    if path is None and Path(DEFAULT_FILE).exists():
        path = Path(DEFAULT_FILE)
    return settings_module.with_password(settings_module.load(path), os.environ)


def _run(role: Coroutine[Any, Any, T]) -> T:
    import uvloop

    import wire

    async def run() -> T:
        wire.quiet_loop()
        return await role

    return uvloop.run(run())


def _say(result: dict[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    if as_json:
        click.echo(json.dumps(result))
    else:
        show()


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line of standard output.")


@click.group(epilog="Exit codes: 0 done, 1 it failed and says why, 2 wrong usage or configuration, 70 a bug or a role that ended itself.")
@click.option("--config", type=click.Path(path_type=Path), help=f"Configuration file.  [default: ./{DEFAULT_FILE}, else all defaults]")
@click.version_option("0.1.0", prog_name="orderflow")
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """Orders from the buy click to the delivered parcel.

    \b
    Try it:     run.py demo --orders 500 --seconds 60
    Set it up:  run.py init && run.py doctor && run.py serve
    """
    context.obj = {"config": config}


@main.command(epilog="Example: run.py demo --orders 500 --seconds 60 --json")
@click.option("--orders", default=400, show_default=True, type=click.IntRange(1, 1_000_000), help="Orders to place.")
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(5, 86_400), help="How long the shop's days last.")
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0), help="The same seed gives the same orders.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep data here and go on with it next time.  [default: a temporary folder]",
)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Page and API; 0 picks a free one.")
@click.option("--faults/--no-faults", default=True, show_default=True, help="Let the stand-ins misbehave and some records be unreadable.")
@click.option("--stay", is_flag=True, help="Keep the pages up after the last order until interrupted.")
@json_option
def demo(orders: int, seconds: float, seed: int, data: Path | None, port: int, faults: bool, stay: bool, as_json: bool) -> None:
    """Orders living and dying on embedded defaults: no server to install, no GPU.

    Starts store, log, Ray, worker, gateway and stand-ins for mail, SMS, push and warehouse; feeds a seeded stream of
    orders; shows it here and on a web page; ends by itself.
    """
    import demo as demo_module

    options = demo_module.Options(orders, seconds, seed, data, port, faults, stay, console=not as_json)
    result = _run(demo_module.run(options, os.environ))
    _say(result, as_json, lambda: demo_module.show(result))


@main.command(
    epilog="Example: run.py init    run.py init --with shopify --with stripe --with ups --shop lumi --public https://orders.lumi.example"
)
@click.option(
    "--start-at", type=click.Choice(["earliest", "now"]), default="earliest", show_default=True, help="Where reading of each topic begins."
)
@click.option("--with", "with_", multiple=True, metavar="VENDOR", help="A system you have; may be given several times. Asks nothing.")
@click.option("--shop", default="", help="Slug of the shop, first part of every order ID.  [default: the configuration's, else lumi]")
@click.option("--public", default="", metavar="URL", help="Where vendors and customers reach the gateway.")
@click.pass_context
def init(context: click.Context, start_at: str, with_: tuple[str, ...], shop: str, public: str) -> None:
    """Write a configuration if there is none; create topics and first positions. A second call changes nothing, and with
    --with shows what to add for a further system.

    On a terminal it asks which shop, payment gateway, warehouse and carriers you have, and says which URL to give to each.
    """
    import connect
    import wire
    from connectors.registry import VENDORS

    path = context.obj["config"] or Path(DEFAULT_FILE)
    there = path.exists()
    unknown = [name for name in with_ if name not in VENDORS]
    if unknown:
        raise click.UsageError(f"no vendor {unknown[0]!r}; known: {', '.join(VENDORS)}")
    if there:
        choice = connect.beside(_settings(context), shop, public, with_)
    else:
        if not with_ and sys.stdin.isatty():
            with_, shop, public = _asked(shop or connect.SHOP, public)
        elif not with_:
            click.echo("this is no terminal, so nothing is asked; --with VENDOR says which systems you have")
        choice = connect.Choice(shop or connect.SHOP, public.rstrip("/") or connect.HOST, connect.chosen(with_))
    if not SLUG.fullmatch(choice.shop):
        raise click.UsageError(f"--shop {choice.shop!r}: small letters, digits and - only")
    if not there:
        path.write_text(connect.configuration(choice))
        click.echo(f"wrote {path}: everything starts in `observe`, nothing is sent")
    elif with_:
        click.echo(f"{path} is there and stays as it is. What you named would be, in its `accounts:`\n")
        click.echo("\n".join(connect.accounts(choice)))
        click.echo("\n".join(connect.changes(choice)), nl=False)
    context.obj["config"] = path
    _run(wire.initialise(_settings(context), start_at))
    click.echo("topics and positions are in place; next: run.py doctor, then run.py serve")
    steps = "\n".join(connect.next_steps(choice))
    click.echo(steps, nl=bool(steps))


def _asked(shop: str, public: str) -> tuple[tuple[str, ...], str, str]:
    """Vendors, slug and public address, as somebody answers on the terminal."""
    import connect
    from connectors.registry import VENDORS

    shop = click.prompt("A short name for the shop (letters, digits, -)", default=shop)
    names: list[str] = []
    for kind, question in connect.KINDS.items():
        found = click.prompt(question, type=click.Choice([*connect.of_kind(kind), connect.NONE]), default=connect.of_kind(kind)[0])
        names += [found] if found != connect.NONE else []
    for carrier in connect.of_kind("carrier"):
        if click.confirm(f"Do you ship with {VENDORS[carrier].guide.title}?", default=True):
            names.append(carrier)
    return tuple(names), shop, click.prompt("Where vendors and customers reach this gateway", default=public or connect.HOST)


@main.command(epilog="Example: run.py --config orderflow.yaml serve")
@click.pass_context
def serve(context: click.Context) -> None:
    """Gateway, `workers`, archive and, where vendors are to be asked, poller as processes; SIGTERM drains all within 30 s."""
    import wire

    context.exit(_run(wire.serve(_settings(context), context.obj["config"], os.environ)))


@main.command(epilog="Example: run.py worker    (one per core; all share group, store and log)")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="of health and metrics, for one more worker of a machine; else http.worker_port"
)
@click.pass_context
def worker(context: click.Context, port: int | None) -> None:
    """Stream processors: read facts, decide, commit, send."""
    import wire

    settings = _settings(context)
    if port is not None:
        settings = msgspec.structs.replace(settings, http=msgspec.structs.replace(settings.http, worker_port=port))
    ray = wire.start_ray(settings, os.environ)
    context.exit(_run(wire.worker(settings, os.environ, ray)))


@main.command(epilog='Example: run.py gateway, then: curl -H "content-type: application/json" -d @fact.json http://127.0.0.1:8080/v1/facts')
@click.pass_context
def gateway(context: click.Context) -> None:
    """HTTP: POST /v1/facts, the API and the pages."""
    import wire

    context.exit(_run(wire.gateway(_settings(context), os.environ)))


@main.command(epilog="Example: run.py archive    (beside the workers, one or more; `train` and `recover` read what it writes)")
@click.pass_context
def archive(context: click.Context) -> None:
    """Keep every record of the log in Parquet files, by partition and day."""
    import wire

    context.exit(_run(wire.archive(_settings(context), os.environ)))


@main.command(epilog="Example: run.py poller    (one at a time polls; a second one waits)")
@click.pass_context
def poller(context: click.Context) -> None:
    """Ask vendors that push nothing: carriers, warehouses; and all others, hourly, for what a webhook missed."""
    import wire

    context.exit(_run(wire.poller(_settings(context), os.environ)))


@main.command(hidden=True)
@click.option("--folder", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--seed", default=7)
@click.option("--faults/--no-faults", default=True)
@click.pass_context
def stand_ins(context: click.Context, folder: Path, seed: int, faults: bool) -> None:
    """The demo's mail server, SMS and push providers and warehouse, as a process of their own."""
    import wire

    context.exit(_run(wire.stand_ins(folder, seed, faults)))


@main.command(epilog="Example: run.py doctor --json")
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Look at settings, log, store, Ray, mail server and sockets: what is wrong, and what to do about it."""
    import doctor as doctor_module

    settings = _settings(context)
    findings = [*_run(doctor_module.examine(settings, os.environ)), doctor_module.ray(settings, os.environ), doctor_module.sockets()]
    result = {"ok": all(f.ok for f in findings), "findings": [msgspec.to_builtins(finding) for finding in findings]}
    _say(result, as_json, lambda: doctor_module.show(findings))
    context.exit(0 if result["ok"] else FAILED)


@main.command(epilog="Example: run.py train --out weights")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the new weights.")
@click.option(
    "--mature-days",
    default=45,
    show_default=True,
    type=click.IntRange(0),
    help="Orders younger than this teach nothing: their disputes may still come.",
)
@json_option
@click.pass_context
def train(context: click.Context, out: Path, mature_days: int, as_json: bool) -> None:
    """Train a model on the archive. It serves only when `model.weights` names it."""
    import wire

    result = wire.train(_settings(context), out, mature_days, lambda word: click.echo(word, err=True))
    _say(result, as_json, lambda: click.echo("\n".join(f"{key}: {value}" for key, value in result.items())))


@main.group(epilog="Example: run.py people hash > anna.hash")
def people() -> None:
    """People who sign in at the pages."""


@people.command(
    "hash", epilog="Example: run.py people hash > anna.hash; then `people: [{name: anna, roles: [...], password: {file: anna.hash}}]`"
)
def people_hash() -> None:
    """Ask for a password (or read one line of standard input) and print what a configuration's secret holds of it."""
    from web.identity import hashed

    if sys.stdin.isatty():
        password = str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if len(password) < SHORTEST_PASSWORD:
        raise click.UsageError(f"take a password of at least {SHORTEST_PASSWORD} characters")
    click.echo(hashed(password))


@main.group(epilog="Example: run.py connector read shopify delivery.json")
def connector() -> None:
    """Vendors' connectors: which there are, and what one makes of a delivery."""


@connector.command("list", epilog="Example: run.py connector list")
@json_option
def connector_list(as_json: bool) -> None:
    """The vendors, what they push and what we ask them."""
    from connectors.registry import VENDORS

    rows = [
        {"vendor": v.name, "kind": v.kind, "pushes": sorted(v.topics), "ignored": dict(v.ignored), "answers": sorted(v.answers)}
        for v in VENDORS.values()
    ]
    lines = [f"{r['vendor']:10} {r['kind']:10} {len(r['pushes'])} topics, answers: {', '.join(r['answers']) or '-'}" for r in rows]
    _say({"vendors": rows}, as_json, lambda: click.echo("\n".join(lines)))


@connector.command("read", epilog="Example: run.py connector read stripe event.json    run.py connector read ups a.json --answer tracking")
@click.argument("vendor")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--topic", default="", help="What the delivery is about, where neither FILE nor its headers say it.")
@click.option("--answer", default="", help="FILE is what the vendor answered to a question of this kind: tracking, order, ...")
@click.option("--shop", default="", help="Slug of the shop whose orders it speaks of.  [default: the configuration's]")
@click.pass_context
def connector_read(context: click.Context, vendor: str, file: Path, topic: str, answer: str, shop: str) -> None:
    """What VENDOR's connector makes of a recorded delivery: one record per line, or why there is none.

    FILE holds {"headers": {...}, "body": {...}} or the body alone, perhaps compressed. Signatures are not looked at. Nothing is sent
    or stored. `run.py connector list --json` names topics and answers.
    """
    from connectors.delivery import Ignored, Unreadable
    from connectors.registry import VENDORS
    from connectors.vendor import Account, understood
    from streams.clock import WallClock

    if vendor not in VENDORS:
        raise click.UsageError(f"no vendor {vendor!r}; known: {', '.join(VENDORS)}")
    if topic and answer:
        raise click.UsageError("a delivery has a --topic, an answer a kind: name one of them")
    account = Account(source=vendor, shop=shop or _settings(context).shop)
    try:
        found = understood(VENDORS[vendor], account, file.read_bytes(), WallClock().now(), topic, answer)
    except Ignored as error:
        click.echo(f"ignored: {error}")
        return
    except Unreadable as error:
        click.echo(f"{file}: cannot be read: {error.reason}: {error.detail}", err=True)
        if not topic and not answer:
            kinds = ", ".join(sorted(VENDORS[vendor].answers))
            click.echo(f"say what it is, where the file does not: --topic, or for what was fetched --answer ({kinds})", err=True)
        context.exit(USAGE)
    if isinstance(found, str):
        click.echo(f"refused by {vendor}: {found}")
        return
    for record in found:
        click.echo(msgspec.json.encode(record))


@main.group(
    epilog="Example: run.py parked list, then: run.py parked show ID > record, mend it, run.py parked replay ID --body record --by anna"
)
def parked() -> None:
    """Records that could not be read: list, show, replay, discard."""


@parked.command("list", epilog="Example: run.py parked list --reason schema")
@click.option("--reason", default="", help="Only those parked for this reason.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
@json_option
@click.pass_context
def parked_list(context: click.Context, reason: str, limit: int, as_json: bool) -> None:
    """What is parked, and why."""
    import wire

    rows = _run(wire.parked_list(_settings(context), reason, limit))
    _say({"parked": rows}, as_json, lambda: click.echo("\n".join(f"{r['id']:44} {r['detail']}" for r in rows) or "nothing is parked"))


@parked.command("show", epilog="Example: run.py parked show schema/facts/3/1207 > record.json")
@click.argument("record")
@click.pass_context
def parked_show(context: click.Context, record: str) -> None:
    """The original bytes of RECORD (of a delivery: its body) on standard output, its reason on standard error."""
    import wire

    row, content = _run(wire.parked_show(_settings(context), record))
    by = f", parked by version {row.version}" if row.version else ""
    click.echo(f"{row.reason}: {row.detail} ({row.topic} {row.partition} offset {row.offset}{by})", err=True)
    sys.stdout.buffer.write(content)


@parked.command("replay", epilog="Example: run.py parked replay schema/facts/3/1207 --body repaired.json --by anna")
@click.argument("record")
@click.option("--body", type=click.Path(exists=True, path_type=Path), help="Repaired bytes to take instead of the original ones.")
@click.option("--by", required=True, help="Who does this; kept with the order.")
@click.pass_context
def parked_replay(context: click.Context, record: str, body: Path | None, by: str) -> None:
    """Put RECORD back into its topic. Twice is harmless: what it says is known by its natural key."""
    import wire

    _run(wire.parked_settle(_settings(context), record, by, body.read_bytes() if body else None, replay=True, environment=os.environ))
    click.echo("replayed")


@parked.command("discard", epilog='Example: run.py parked discard malformed/facts/0/12 --by anna --why "test data"')
@click.argument("record")
@click.option("--by", required=True, help="Who does this; kept with the order.")
@click.option("--why", required=True, help="The reason; kept with the order.")
@click.pass_context
def parked_discard(context: click.Context, record: str, by: str, why: str) -> None:
    """Take RECORD off the list for good."""
    import wire

    _run(wire.parked_settle(_settings(context), record, by, None, replay=False, why=why))
    click.echo("discarded")


@main.command(epilog="Example: run.py reconcile --since 24h    run.py reconcile --since 7d --source stripe-lumi --json")
@click.option("--since", default="24h", show_default=True, help="How far back: 90m, 24h, 7d.")
@click.option("--source", default="", help="Only this account.  [default: all that can be asked]")
@json_option
@click.pass_context
def reconcile(context: click.Context, since: str, source: str, as_json: bool) -> None:
    """Ask shops, gateways, warehouses and carriers what no webhook told, and take in what is missing, once.

    A worker must run. Exit code 2: some account could not be asked; nothing was changed by its word, the others were done.
    """
    import wire

    found = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", since)
    if found is None:
        raise click.UsageError("--since is a number of minutes, hours or days: 90m, 24h, 7d")
    back_ms = int(found[1]) * {"m": 60_000, "h": 3_600_000, "d": 86_400_000}[found[2]]
    results = _run(wire.reconcile(_settings(context), os.environ, back_ms, source))
    repairs = Counter[str]()
    for each in results:
        repairs.update(each.found)
    result = {"repairs": sum(repairs.values()), "found": dict(repairs), "accounts": [msgspec.to_builtins(each) for each in results]}
    _say(result, as_json, lambda: click.echo("\n".join(wire.reconciled(results))))
    context.exit(USAGE if any(each.stopped for each in results) else 0)


@main.command(epilog="Example: run.py recover, look at what it says, then: run.py recover --open")
@click.option("--open", "open_", is_flag=True, help="Allow sending again after a rebuilt store was looked at.")
@json_option
@click.pass_context
def recover(context: click.Context, open_: bool, as_json: bool) -> None:
    """Rebuild an emptied, older or exchanged store from the archive and the log. Sends nothing until --open. Stop workers first."""
    import wire

    result = _run(wire.recover(_settings(context), os.environ, open_))
    _say(result, as_json, lambda: click.echo("\n".join(f"{key}: {value}" for key, value in result.items())))


@main.command(epilog="Example: run.py go-live email    run.py go-live --stop 'wrong prices'    run.py go-live --start")
@click.argument("channel", required=False, type=click.Choice(["email", "sms", "push", "webhook", "systems", "stock"]))
@click.option("--mode", default="live", show_default=True, type=click.Choice(["observe", "sandbox", "live", "stopped"]))
@click.option("--stop", default="", metavar="WHY", help="Stop every channel, within 5 s.")
@click.option("--start", is_flag=True, help="End a stop of every channel.")
@click.option("--by", default="the command line", show_default=True, help="Who does this; kept in the audit.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def go_live(context: click.Context, channel: str | None, mode: str, stop: str, start: bool, by: str, yes: bool) -> None:
    """Let CHANNEL send (stock: reserve), or stop it. Shows first what would have gone out; what was observed is never sent later."""
    import wire

    settings = _settings(context)
    if not (channel or stop or start):
        raise click.UsageError("name a channel, or --stop WHY, or --start")
    if channel == "stock" and mode not in ("observe", "live"):
        raise click.UsageError("stock is in observe or live; --stop WHY stops everything")
    if channel and mode == "live" and not yes:
        for line in _run(wire.would_have_sent(settings, channel)):
            click.echo(line)
        does = "stock is really reserved in lanes of our own" if channel == "stock" else f"{channel} really sends"
        click.confirm(f"From now on {does}. Go on?", abort=True)
    modes, audited = _run(wire.set_modes(settings, channel, mode, stop, start, by))
    if not audited:
        click.echo("the log takes no records now: everything is stopped, and the audit does not know of it", err=True)
    click.echo(
        f"version {modes.version}: {'stopped: ' + modes.stop if modes.stop else ', '.join(f'{c} {m}' for c, m in modes.channels.items())}"
    )


@main.command(epilog="Example: run.py lag --json")
@json_option
@click.pass_context
def lag(context: click.Context, as_json: bool) -> None:
    """How far each lane is behind its topic, in records and seconds, asked from outside: works with every worker dead."""
    import wire

    rows = _run(wire.lag(_settings(context)))
    seconds = max((r["seconds"] or 0.0 for r in rows), default=0.0)
    result = {"records": sum(r["behind"] for r in rows), "seconds": seconds, "lanes": rows}
    _say(result, as_json, lambda: click.echo("\n".join(map(wire.behind, rows))))


@main.command(epilog="Example: run.py schema > facts.schema.json    run.py schema --config > docs/configuration.md")
@click.option("--config", "config_", is_flag=True, help="The configuration reference instead.")
def schema(config_: bool) -> None:
    """JSON Schema of all facts, as they travel on the topic `facts`."""
    if config_:
        click.echo(settings_module.reference(), nl=False)
        return
    from orders.fact import AnyFact

    click.echo(json.dumps(msgspec.json.schema(AnyFact), indent=2))


def command(arguments: Sequence[str]) -> int:
    """One command line, to its exit code; whatever goes wrong is said in words on standard error."""
    import wire

    try:
        return int(main(list(arguments), standalone_mode=False) or 0)
    except SettingsError as error:
        click.echo(f"configuration: {error}", err=True)
        return USAGE
    except click.Abort:
        return FAILED
    except click.ClickException as error:
        error.show()
        return USAGE
    except tuple(wire.FAILURES) as error:
        click.echo(wire.said(error), err=True)
        return FAILED
    except Exception as error:  # noqa: BLE001 - its text may hold what belongs to a customer
        click.echo(f"this is a bug of orderflow: {type(error).__name__} at {wire.trail(error)}", err=True)
        return BUG


def entry() -> None:
    import wire

    wire.set_up_logging()
    raise SystemExit(command(sys.argv[1:]))


if __name__ == "__main__":
    entry()
