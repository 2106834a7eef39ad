"""Imports point one way: DESIGN's arrows, read from the package's own source. Also run by `make lint`."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]

# a room may import itself and what stands in the lines below its own
LAYERS = [
    {"__main__", "__init__"},  # which gathers names, imported when they are wanted
    {"suites"},
    {"sweep", "demo", "bench", "restorer", "integrations"},
    {"cluster", "report"},
    {"restoring", "evaluation", "training"},
    {"exporting"},
    {"samplers", "shards", "metrics"},
    {"physics", "priors"},
    {"options", "devices"},
    {"files", "seeding", "errors", "exit_codes", "stop", "logs", "moved", "import_path", "lazy_packages"},
]
# within the last line, and where a lower line must know of a room above it: nowhere
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
WITHOUT_ENGINE = ("samplers", "priors", "physics")  # import neither lightning nor webdataset


def _modules(package: str) -> dict[str, Path]:
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def _imports(path: Path) -> set[str]:
    """All that a file imports, in functions too; what only a type checker sees is left out."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _graph(package: str) -> dict[str, set[str]]:
    modules = _modules(package)

    def target(name: str) -> str | None:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    graph = {}
    for module, path in modules.items():
        wanted = {found for name in _imports(path) if (found := target(name)) is not None}
        graph[module] = wanted - {module, package}
    return graph


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_no_circle():
    for package in ("reddiff_pl", "benchmarks"):
        # a package's __init__ gathers its files' names, and a file may ask its package for a neighbour
        graph = {
            module: {other for other in wanted if not module.startswith(f"{other}.")}
            for module, wanted in _graph(package).items()
        }
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            raise AssertionError(" -> ".join(error.args[1])) from None


def test_arrows_point_down():
    against = []
    for module, wanted in _graph("reddiff_pl").items():
        for other in wanted:
            here, there = _room(module), _room(other)
            if here != there and LEVEL[here] >= LEVEL[there] and LEVEL[there] != len(LAYERS) - 1:
                against.append(f"{module} imports {other}")
    assert not against, "\n".join(sorted(against))


def test_every_room_is_known():
    assert {_room(module) for module in _modules("reddiff_pl")} == set(LEVEL)


def test_the_mathematics_knows_no_engine():
    for module, path in _modules("reddiff_pl").items():
        if _room(module) in WITHOUT_ENGINE:
            engines = {name.split(".")[0] for name in _imports(path)} & {"lightning", "webdataset"}
            assert not engines, f"{module} imports {engines}"
