"""`reddiff configs`: the configurations that ship, listed or printed. No torch."""

from __future__ import annotations

from pathlib import Path

from reddiff_pl.errors import ConfigError
from reddiff_pl.options.parser import Parser
from reddiff_pl.options.shipped import config_path, shipped_configs


def configs(argv: list[str]) -> int:
    """List the configurations that ship, with their first line, or print one.

    Raises:
        ConfigError: there is no such configuration.
    """
    parser = Parser(
        "reddiff configs", description="The configurations that ship: --config takes their names."
    )
    parser.add_argument("action", nargs="?", choices=["list", "show"], default="list")
    parser.add_argument("name", nargs="?", help="of show: such as tasks/jpeg.yaml")
    options = parser.parse_args(argv)
    if options.action == "list":
        known = shipped_configs()
        width = max(map(len, known), default=0)
        for name, path in known.items():
            print(f"{name:{width}}  {_first_line(path)}")
        return 0
    if options.name is None:
        raise ConfigError("show: give a name, such as tasks/jpeg.yaml")
    name = options.name if options.name.endswith((".yaml", ".yml")) else f"{options.name}.yaml"
    print(Path(config_path(name)).read_text(encoding="utf-8"), end="")
    return 0


def _first_line(path: Path) -> str:
    with open(path, encoding="utf-8") as file:
        return next(file, "").removeprefix("#").strip()
