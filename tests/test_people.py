"""People and machines in the configuration: what is wrong is named, with its field; and the command that hashes passwords."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

import run
import wire
from settings import Http, Machine, Ref, Settings, SettingsError, Staff
from tests.web.staff import PASSWORD, cheaply_hashed
from web.identity import verify

ANNA = Staff(name="anna", roles=("operator",), password=Ref(env="ANNA"))
SCRAPER = Machine(name="scraper", roles=("viewer",), secret=Ref(env="SCRAPER"))
ENVIRONMENT = {"ANNA": cheaply_hashed(PASSWORD) + "\n", "SCRAPER": "s3cret", "TOKEN": "t0ken", "EMPTY": "", "PLAIN": PASSWORD}


def test_people_and_machines_have_the_roles_they_are_given(tmp_path: Path) -> None:
    its = Settings(data=str(tmp_path), people=(ANNA,), tokens=(SCRAPER,), http=Http(token=Ref(env="TOKEN")))
    people = wire.people(its, ENVIRONMENT)
    assert people.guarded and people.sign_in and people.password("anna", PASSWORD)
    session = people.session(people.begin("anna", 1), 2)
    scraper, token = people.machine(b"Bearer s3cret"), people.machine(b"Bearer t0ken")
    assert session is not None and scraper is not None and token is not None
    assert [(a.name, set(a.roles)) for a in (session, scraper, token)] == [
        ("anna", {"operator"}),
        ("scraper", {"viewer"}),
        ("token", {"admin"}),
    ]
    assert wire.people(its, ENVIRONMENT).session(people.begin("anna", 1), 2) is not None, "a restart ends no session"


def test_with_nobody_configured_nobody_has_to_sign_in_and_no_key_is_made(tmp_path: Path) -> None:
    people = wire.people(Settings(data=str(tmp_path)), {})
    assert not people.guarded and not people.sign_in and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"people": (Staff(name="anna", roles=(), password=Ref(env="GONE")),)}, r"people\[0\].password: the environment variable GONE"),
        (
            {"people": (Staff(name="anna", roles=(), password=Ref(env="PLAIN")),)},
            r"people\[0\].password: not a password hash: .*people hash",
        ),
        ({"tokens": (Machine(name="m", roles=(), secret=Ref(env="EMPTY")),)}, "a token is empty"),
        ({"http": Http(token=Ref(env="EMPTY"))}, "a token is empty"),
        ({"people": (ANNA, ANNA)}, "anna is there twice"),
        (
            {"tokens": (Machine(name="token", roles=(), secret=Ref(env="SCRAPER")),), "http": Http(token=Ref(env="TOKEN"))},
            "token is there twice",
        ),
    ],
    ids=["missing", "plain", "empty token", "empty http.token", "twice", "the name of http.token"],
)
def test_what_cannot_be_is_named_and_never_shown(tmp_path: Path, more: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as raised:
        wire.people(Settings(data=str(tmp_path), **more), ENVIRONMENT)
    assert PASSWORD not in str(raised.value)


def test_the_command_hashes_a_line_of_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("web.identity.LOG_N", 4)
    monkeypatch.setattr("sys.stdin", io.StringIO(PASSWORD + "\n"))
    assert run.command(["people", "hash"]) == 0
    assert verify(PASSWORD, capsys.readouterr().out.strip())
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    assert run.command(["people", "hash"]) == run.USAGE
    assert "at least 10 characters" in capsys.readouterr().err
