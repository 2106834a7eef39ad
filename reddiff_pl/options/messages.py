"""What the parser says of bad options, in one line: the option, what is wrong, what was most likely meant."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from reddiff_pl.errors import ConfigError

MOST = 400  # characters
_NOISE = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|(- )?Expected a <class 'NoneType'>|(- )?Expected a path but "
    r".* either not accessible|Given value type:"
)
_MODULES = ("deepinv.physics", "reddiff_pl.physics", "reddiff_pl.samplers", "reddiff_pl.priors")


def one_line(error: str, options: Collection[str], argv: Sequence[str]) -> str:
    """The parser's message as `--OPTION: what is wrong; did you mean ...?`.

    Args:
        error: of argparse or jsonargparse, of several lines.
        options: all that the parser knows, with their dashes.
        argv: what was given.
    """
    if found := re.match(r"unrecognized arguments: (\S+)", error):
        name = found[1].partition("=")[0]
        if not name.startswith("-"):
            return f"{name}: every value needs its option before it"
        return f"{name}: no such option{_meant(name, options)}"
    if found := re.search(r"File does not exist: '([^']+)'", error):
        return f"--config: no file {found[1]}"
    if found := re.match(r"Option '([\w.]+)' is not accepted", error):
        return f"--{found[1]}: no such option, in a file of --config{_meant(f'--{found[1]}', options)}"
    if found := re.match(r"(?:Unexpected config|Problems parsing config):\s*(.*)", error, re.DOTALL):
        return f"--config: cannot be understood: {' '.join(found[1].split())[:MOST]}"
    if re.match(r'Parser key "out":\s+Expected .*None', error):
        return "--out: give the output directory"
    keys = re.findall(r'Parser key "([^"]+)"|argument --([\w.-]+)', error)
    option = "--" + next(filter(None, keys[0])) if keys else ""
    option = option.replace("_", "-") if option.replace("_", "-") in options else option
    text = re.sub(r"^(Parser key \"[^\"]+\":?|argument --[\w.-]+:)\s*", "", error)
    lines = [line.strip().removeprefix("- ") for line in text.splitlines() if not _NOISE.match(line.strip())]
    given = next((line for line in lines if line.startswith("Given value:")), "")
    lines = [line for line in lines if line and line != given]
    text = " ".join(dict.fromkeys(lines))
    if given and len(given) < 60 and "class_path" not in text and "Got value" not in text:
        text += f", got {given.removeprefix('Given value:').strip()}"
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"typing\.Literal\[([^\]]*)\]", r"one of \1", text)
    text = text.replace("Expected a", "expected a").replace(" expected a one of", " or one of")
    text = re.sub(r"^expected a one of", "expected one of", text)
    text = text.replace("expected a int", "expected an int")
    text = re.sub(r"NestedArg\(key='([\w.]+)', val=(.*?)\)", r"\1 \2", text)
    text = _class_path(text, argv)
    text = re.sub(r'Parser key "([^"]+)":', r"\1:", text)
    text = " ".join(text.split())
    text = text if len(text) <= MOST else f"{text[:MOST]}..."
    return f"{option}: {text}" if option else text


def of_making(error: Exception, config: Mapping[str, Any]) -> str:
    """What a constructor's error says, in one line with the option whose class it was.

    Args:
        error: as it was raised.
        config: the options, groups as dicts.
    """
    lines = [line.strip().removeprefix("- ") for line in str(error).splitlines()]
    if own := next((line for line in lines if re.match(r"(--)?(model|data)\.[\w.]+: ", line)), None):
        return own  # of this package, within what the parser says around it
    option, frame = "", error.__traceback__
    while frame is not None:
        made = frame.tb_frame.f_locals.get("self")
        if frame.tb_frame.f_code.co_name == "__init__" and made is not None:
            name = type(made).__name__
            option = _named_by(name, config) or ("--trainer" if name == "Trainer" else option)
        frame = frame.tb_next
    what = f"{type(error).__name__}: {' '.join(' '.join(lines).split())}"[:MOST]
    return f"{option}: {what}" if option else what


def _named_by(kind: str, config: Mapping[str, Any], option: str = "--") -> str:
    """The option whose class_path names a class; empty where none does."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            if str(value.get("class_path", "")).rpartition(".")[2] == kind:
                return f"{option}{key}"
            if found := _named_by(kind, value, f"{option}{key}."):
                return found
    return ""


def _class_path(text: str, argv: Sequence[str]) -> str:
    """What is said of a class_path, with the names that come near."""
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        module, name = found.groups()
        return f"no {name} in {module}{_meant(name, dir(sys.modules.get(module)))}"
    if found := re.search(r"expected a dot import path string: ([\w.]+)", text):
        names = [name for module in _MODULES for name in dir(sys.modules.get(module)) if name[0].isupper()]
        return f"no class {found[1]}: name it with its module{_meant(found[1], names)}"
    text = re.sub(r"Problem with given class_path '([\w.]+)':", r"\1:", text)
    if found := re.search(r"([\w.]+): (?:.*)Option '([\w.]+)' is not accepted", text):
        text = f"{found[1]} has no option {found[2]}{_meant(found[2], _parameters(found[1]))}"
        if sum(argument.partition("=")[0] == "--config" for argument in argv) > 1:
            text += "; files count in their order: the task's --config first, then the sampler's"
    elif found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text):
        text = f"--{found[1]}.{found[2]}: no such option"
    return text


def _parameters(path: str) -> list[str]:
    module, _, name = path.rpartition(".")
    try:
        return list(inspect.signature(getattr(sys.modules.get(module), name)).parameters)
    except (AttributeError, TypeError, ValueError):
        return []


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""


def with_values(argv: Sequence[str], flags: Iterable[str]) -> list[str]:
    """Options with `true` after each flag that stands alone, as `--overwrite`."""
    names = {f"--{flag}" for flag in flags} | {f"--{flag.replace('-', '_')}" for flag in flags}
    given = []
    for i, argument in enumerate(argv):
        given.append(argument)
        if argument in names and (i + 1 == len(argv) or argv[i + 1].startswith("-")):
            given.append("true")
    return given


def check_config_files(argv: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: a file of --config that is not UTF-8, not YAML, without options, or with one twice.
    """
    for path in _config_files(argv):
        try:
            content = Path(path).read_bytes()
            node = yaml.compose(content.decode("utf-8-sig"), Loader=yaml.CSafeLoader)
        except OSError:
            continue  # the parser says it
        except UnicodeDecodeError as error:
            kind = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "another encoding"
            raise ConfigError(
                f"--config: {path} is not UTF-8 but {kind} (byte {error.start}); save it as UTF-8"
            ) from error
        except yaml.YAMLError as error:
            raise ConfigError(f"--config: {path} is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"--config: {path} holds no options, which are lines such as `seed: 1`")
        _check_twice(node, path)


def _check_twice(node: yaml.Node, path: str) -> None:
    """
    Raises:
        ConfigError: a key stands twice in one mapping, of which YAML would take the last; or an anchor holds itself.
    """
    done: set[int] = set()
    within: set[int] = set()

    def look(node: yaml.Node) -> None:
        if id(node) in within:
            raise ConfigError(f"--config: {path}: line {node.start_mark.line + 1} refers to itself")
        if id(node) in done or isinstance(node, yaml.ScalarNode):
            return
        within.add(id(node))
        lines: dict[str, int] = {}
        for item in node.value:
            if isinstance(node, yaml.MappingNode):
                key, item = item
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines and name != "<<":
                    raise ConfigError(
                        f"--config: {path}: {name} stands twice, in lines {lines[name]} and {line}"
                    )
                lines[name] = line
            look(item)
        within.remove(id(node))
        done.add(id(node))

    try:
        look(node)
    except RecursionError as error:
        raise ConfigError(f"--config: {path} is nested too deeply") from error


def _config_files(argv: Sequence[str]) -> Iterator[str]:
    for i, argument in enumerate(argv):
        name, given, value = argument.partition("=")
        if name in ("--config", "-c"):
            if given:
                yield value
            elif i + 1 < len(argv):
                yield argv[i + 1]
