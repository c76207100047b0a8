"""The configuration: whatever is wrong with it is said with file, line and field, and no secret is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

import wire
from settings import TOPICS, Channels, EmailChannel, Ref, Settings, SettingsError, load, resolve, with_password

WORD = "hunter2"  # a secret where none may stand


def loaded(folder: Path, text: str | bytes) -> Settings:
    path = folder / "orderflow.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path)


def complaint(folder: Path, text: str | bytes) -> str:
    with pytest.raises(SettingsError) as raised:
        loaded(folder, text)
    assert raised.value.__context__ is None or raised.value.__suppress_context__, "the trace would quote what the text does not"
    return str(raised.value).removeprefix(f"{folder}/")


def test_without_a_file_everything_is_its_default_and_an_empty_file_says_the_same(tmp_path: Path) -> None:
    assert load(None) == Settings() == loaded(tmp_path, "") == loaded(tmp_path, "# nothing\n")
    assert Settings().channels.email.mode == "observe"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shop: lumi\nchanels: {}\n", "orderflow.yaml:2: chanels: there is no such setting"),
        ("http:\n  prot: 1\n", "orderflow.yaml:2: http.prot: there is no such setting"),
        ("shop: lumi\nhttp:\n  port: abc\n", "orderflow.yaml:3: http.port: Expected `int`, got `str`"),
        ("http:\n  port: 70000\n", "orderflow.yaml:2: http.port: Expected `int` <= 65535"),
        ("http: [8080]\n", "orderflow.yaml:1: http: Expected `object`, got `array`"),
        ("shop:\n", "orderflow.yaml:1: shop: Expected `str`, got `null`"),
        ("shop: 12\n", "orderflow.yaml:1: shop: Expected `str`, got `int`; put it in quotes"),
        ("shop: Lumi Shop\n", "orderflow.yaml:1: shop: Expected `str` matching regex"),
        ("log: hello\n", "orderflow.yaml:1: log: Expected `str` matching regex '^(embedded|kafka://"),
        ("store: hello\n", "orderflow.yaml:1: store: Expected `str` matching regex '^(embedded|"),
        ("channels:\n  email: {mode: on}\n", "orderflow.yaml:2: channels.email.mode: Expected `str` matching regex"),
        ("sources:\n- name: own\n", "orderflow.yaml:2: sources[0]: `topic` is missing"),
        ("sources:\n- {name: own, topic: t}\n- {name: A B, topic: t}\n", "orderflow.yaml:3: sources[1].name: Expected `str` matching"),
        ("sources:\n- {name: own, topic: facts}\n", "orderflow.yaml:2: sources[0].topic: this topic is read already"),
        ("sources:\n- {name: a, topic: t}\n- {name: b, topic: t}\n", "orderflow.yaml:3: sources[1].topic: this topic is read already"),
        ("sources:\n- {name: a, topic: t}\n- {name: a, topic: u}\n", "orderflow.yaml:3: sources[1].name: 'a' stands here twice"),
        ("workers: 2\n", "orderflow.yaml:1: workers: the embedded log serves one worker: write 1, or name a Kafka in `log`"),
        (
            "log: kafka://127.0.0.1:9092\nworkers: 3\nhttp: {worker_port: 65400}\n",
            "orderflow.yaml:3: http.worker_port: 3 workers, each a hundred ports on, end at 65600: begin lower",
        ),
        ("sources:\n- {name: a, topic: ''}\n", "orderflow.yaml:2: sources[0].topic: Expected `str` matching regex"),
        (
            "shop: lumi\nmodel:\n  approve_below: 0.95\n  decline_above: 0.9\n",
            "orderflow.yaml:3: model.approve_below: must not be greater than `model.decline_above`",
        ),
        ("model: {decline_above: 0.2}\n", "orderflow.yaml:1: model.approve_below: must not be greater than"),
        ("brand:\n  zone: Mars/Base\n", "orderflow.yaml:2: brand.zone: there is no such time zone"),
        ("brand:\n  zone: ''\n", "orderflow.yaml:2: brand.zone: there is no such time zone"),
        ("brand:\n  locale: xx_QQ\n", "orderflow.yaml:2: brand.locale: there is no such locale"),
        ('brand:\n  name: "Lumi\\nZone"\n', "orderflow.yaml:2: brand.name: Expected `str` matching regex"),
        ("brand: {sender: nobody}\n", "orderflow.yaml:1: brand.sender: Expected `str` matching regex"),
        ("brand: {domain: 'a b'}\n", "orderflow.yaml:1: brand.domain: Expected `str` matching regex"),
        ("brand: {tracking_base: https://x.example/}\n", "orderflow.yaml:1: brand.tracking_base: Expected `str` matching regex"),
        ("channels:\n  email: {username: anna}\n", "orderflow.yaml:2: channels.email.username: username and password belong together"),
        ("channels:\n  email: {password: {env: P}}\n", "orderflow.yaml:2: channels.email.username: username and password belong together"),
        ("workflow:\n  settle_minutes: .inf\n", "orderflow.yaml:2: workflow.settle_minutes: no number here is that great"),
        ("workflow:\n  settle_minutes: -1\n", "orderflow.yaml:2: workflow.settle_minutes: Expected `float` >= 0"),
        ("workflow:\n  stalled_after_hours: 1.0e+300\n", "orderflow.yaml:2: workflow.stalled_after_hours: no number here is that great"),
        ("origin:\n  size_mm: [1, -1, 1]\n", "orderflow.yaml:2: origin.size_mm[1]: Expected `int` >= 1"),
        ("shop: ''\n", "orderflow.yaml:1: shop: Expected `str` matching regex"),
        ("group: ''\n", "orderflow.yaml:1: group: Expected `str` matching regex"),
        ("shop: lumi\n  x: [\n", "orderflow.yaml:2: not YAML"),
        ("shop: 'lumi\n", "orderflow.yaml:2: not YAML"),
        ("- shop\n", "orderflow.yaml:1: a configuration is a mapping"),
        ("shop: a\nshop: b\n", "orderflow.yaml:2: not YAML: `shop` stands here twice"),
        ("? [a, b]\n: c\n", "orderflow.yaml:1: not YAML: a field's name is a word"),
        ("shop: !!python/object/apply:os.system [ls]\n", "orderflow.yaml:1: "),
        ("shop: 2001-99-99\n", "orderflow.yaml:1: not YAML: a value that is neither text nor a number"),
        ("shop: &a [*a]\n", "orderflow.yaml: nested too deeply"),
        (b"shop: \xff\xfe\x00", "orderflow.yaml: not YAML: not text in UTF-8"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_field(tmp_path: Path, text: str | bytes, says: str) -> None:
    assert complaint(tmp_path, text).startswith(says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            f"channels:\n  email:\n    password: {WORD}\n",
            "orderflow.yaml:3: channels.email.password: a secret is never written in the file",
        ),
        (f"channels:\n  sms:\n    token: [{WORD}]\n", "orderflow.yaml:3: channels.sms.token: a secret is never written in the file"),
        (f"http:\n  token: {WORD}\n", "orderflow.yaml:2: http.token: a secret is never written in the file"),
        (f"signing: {WORD}\n", "orderflow.yaml:1: signing: a secret is never written in the file"),
        (f"signing: {{value: {WORD}}}\n", "orderflow.yaml:1: signing.value: a secret is never written in the file"),
        (f"signing: {{env: '{WORD} and more'}}\n", "orderflow.yaml:1: signing.env: a secret is never written in the file"),
        (f"signing: {{env: A, file: {WORD}}}\n", "orderflow.yaml:1: signing: a secret is a reference: either"),
        ("signing: {}\n", "orderflow.yaml:1: signing: a secret is a reference: either"),
        (f"store: redis://:{WORD}@127.0.0.1:1\n", "orderflow.yaml:1: store: a secret is never written in the file, nor in a URL"),
        (f"channels:\n  webhook:\n    url: https://me:{WORD}@x.example\n", "orderflow.yaml:3: channels.webhook.url: a secret is never"),
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path, text: str, says: str) -> None:
    said = complaint(tmp_path, text)
    assert said.startswith(says) and WORD not in said


def test_a_file_that_is_missing_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nope\.yaml: there is no such file; `run.py init` writes one"):
        load(tmp_path / "nope.yaml")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_off_is_the_word_off_and_false_is_false(tmp_path: Path) -> None:
    made = loaded(tmp_path, "ray: off\narchive: false\nchannels: {email: {tls: off}}\n")
    assert (made.ray, made.archive, made.channels.email.tls) == ("off", False, "off")


def test_overrides_reach_nested_settings(tmp_path: Path) -> None:
    assert load(None, {"layout.partitions": 8, "shop": "s"}).layout.partitions == 8


def test_a_secret_is_read_from_the_environment_or_a_file_and_a_missing_one_named_by_its_field(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{WORD}\n")
    assert resolve(Ref(env="A"), {"A": WORD}, "x") == WORD == resolve(Ref(file=str(file)), {}, "x")
    assert resolve(None, {}, "x") == ""
    with pytest.raises(SettingsError, match=r"^channels.sms.token: the environment variable A is not set$"):
        resolve(Ref(env="A"), {"B": WORD}, "channels.sms.token")
    with pytest.raises(SettingsError, match=r"^x: the file .*gone cannot be read: No such file"):
        resolve(Ref(file=str(tmp_path / "gone")), {}, "x")


def test_the_store_s_password_comes_by_reference_and_survives_being_put_into_a_url() -> None:
    made = Settings(store="rediss://order@db:6379/2", store_password=Ref(env="P"))
    assert with_password(made, {"P": "p@/ :w"}).store == "rediss://order:p%40%2F%20%3Aw@db:6379/2"
    assert with_password(Settings(store="redis://db:1", store_password=Ref(env="P")), {"P": "x"}).store == "redis://:x@db:1"
    assert with_password(Settings(), {}) == Settings()
    with pytest.raises(SettingsError, match="store_password"):
        with_password(made, {})


def test_ports_that_are_free_to_choose_are_never_the_same_and_good_places_are_taken(tmp_path: Path) -> None:
    made = loaded(tmp_path, "http: {port: 0, worker_port: 0}\nbrand: {zone: Europe/Berlin, locale: de_DE, sender: Lumi <a@b.example>}\n")
    assert made.http.worker_port == 0 and made.brand.locale == "de_DE"


def test_our_own_topics_are_all_known_to_the_configuration() -> None:
    assert set(TOPICS) == set(wire.TOPICS)


def test_settings_hold_references_and_no_secret() -> None:
    made = Settings(channels=Channels(email=EmailChannel(username="anna", password=Ref(env="SMTP_PASSWORD"))))
    assert "SMTP_PASSWORD" in repr(made)  # where it is, not what it is: a dump of the settings may be shown
