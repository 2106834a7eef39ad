"""The physics.yaml beside shards. It comes with the data, from anyone: it names operators, and nothing else.

It is checked twice. First the file itself, before anything that it names is imported: it may hold nothing but
mappings, lists, numbers, plain words and the import paths of allowed classes. What passed is written out anew, so that
the parser reads what was checked and no other text. Then what the parser made of it, class by class, as it will be
instantiated.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import Namespace

from reddiff_pl.errors import ConfigError
from reddiff_pl.files import plain_yaml
from reddiff_pl.shards.plan import is_remote

NAME = "physics.yaml"
MODULES = ("deepinv.physics", "reddiff_pl.physics")
MAX_BYTES = 1 << 16
MAX_NUMBER = 1 << 20  # operators allocate by their sizes
MAX_SIDE = 1 << 13
MAX_ENTRIES = 1 << 26  # the product of a list of sizes

_KEYS = {"model": {"physics", "noise"}, "data": {"size", "fit"}}
_SPEC = {"class_path", "init_args"}
_RESERVED = {
    "classpath",
    "initargs",
    "dictkwargs",
}  # to the parser, or to one that is less strict about their form
_FILES = re.compile(
    r"(^|_)(path|file|filename|folder|dir|root|url|uri|checkpoint|ckpt|weights|pretrained)s?($|_)"
)
_T = TypeVar("_T")


class _Refused(ValueError):
    """What is not allowed, and where in the file."""


def physics_beside(url: str, trust: bool) -> Path | None:
    """The physics.yaml that `degrade` left beside a shard; None without one.

    Raises:
        ConfigError: it does not pass the first check, unless the user trusts it.
    """
    path = Path(url).parent / NAME
    if is_remote(url) or not path.is_file():
        return None
    _checked(path, trust)
    return path


def parse_with(path: Path, trust: bool, parse: Callable[[list[str]], _T]) -> _T:
    """Parse options with those of a physics.yaml before them.

    Args:
        path: the file.
        trust: whether it may name any class.
        parse: gets the options to put first.

    Raises:
        ConfigError: it does not pass the first check.
    """
    if trust:
        return parse(["--config", str(path)])
    # the text that was checked, in a folder where no name leads to a file of a stranger's
    with tempfile.TemporaryDirectory(prefix="reddiff-") as folder:
        copy = Path(folder, NAME)
        copy.write_text(yaml.safe_dump(_checked(path, trust), sort_keys=False), encoding="utf-8")
        return parse(["--config", str(copy)])


def check_parsed(path: Path, parts: Mapping[str, Any]) -> None:
    """The second check, of the parsed configuration.

    Args:
        path: the file that it comes from, for errors.
        parts: what the file set, {option: parsed value}.

    Raises:
        ConfigError: a class or a function of another module would be made or called.
    """
    try:
        for option, value in parts.items():
            _check_objects(option, value)
    except _Refused as error:
        raise _error(path, error) from None


def _checked(path: Path, trust: bool) -> Any:
    """The content of the file."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise _Refused(f"has more than {MAX_BYTES} bytes")
        values = plain_yaml(content)
        if not isinstance(values, Mapping) or not values:
            raise _Refused("holds no settings")
        extra = sorted(f"{group}.{key}" for group, key in _settings(values))
        if extra:
            raise _Refused(f"may not set {', '.join(extra)}")
        if not trust:
            _check_data(values.get("data"))
            for key, value in (values.get("model") or {}).items():
                _check_spec(f"model.{key}", value)
    except _Refused as error:
        raise _error(path, error) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a {NAME}: {_shown(error)}") from error
    return values


def _error(path: Path, error: _Refused) -> ConfigError:
    return ConfigError(f"{path}: {_shown(error)}; --trust-physics true if you know where the file comes from")


def _shown(error: Exception) -> str:
    """A text that may hold anything, as part of one line."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split())[:300])


def _settings(values: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """What the file sets beyond what it may."""
    for group, content in values.items():
        if not isinstance(content, Mapping | None):
            raise _Refused(f"{group} is not a mapping")
        for key in content or {"": None}:
            if key not in _KEYS.get(group, ()) and (key or group not in _KEYS):
                yield group, key


def _check_data(data: Mapping[str, Any] | None) -> None:
    size, fit = (data or {}).get("size"), (data or {}).get("fit")
    sides = size if isinstance(size, list) and len(size) == 2 else [size] if size is not None else []
    if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
        raise _Refused(f"data.size must be numbers of pixels up to {MAX_SIDE}")
    if fit not in (None, "crop", "whole"):
        raise _Refused("data.fit must be crop or whole")


def _check_spec(where: str, value: Any) -> None:
    """An operator or a noise: the import path of its class, or a mapping of class_path and init_args."""
    if value is None:
        return
    if isinstance(value, str):
        value = {"class_path": value}
    if not isinstance(value, Mapping) or "class_path" not in value or not set(value) <= _SPEC:
        raise _Refused(f"{where} must be a mapping of class_path and init_args")
    cls = _allowed_class(f"{where}.class_path", value["class_path"])
    arguments = value.get("init_args")
    if not isinstance(arguments, Mapping | None):
        raise _Refused(f"{where}.init_args must be a mapping")
    if (arguments or {}).get("trust"):
        raise _Refused(f"{where}.init_args.trust asks to be trusted")
    parameters = _parameters(cls)
    for name, argument in (arguments or {}).items():
        place = f"{where}.init_args.{name}"
        _check_key(place, name)
        if argument is not None and _FILES.search(str(name)):
            raise _Refused(f"{place} names a file")
        if argument is not None and "Callable" in str(parameters.get(name, "")):
            raise _Refused(f"{place} names a function")
        # frequencies are large; a seed is any number
        free = name == "seed" or "float" in str(parameters.get(name, ""))
        if not (free and isinstance(argument, int | float) and abs(argument) < 1 << 63):
            _check_value(place, argument)


def _parameters(cls: type) -> dict[str, Any]:
    """Annotations of a constructor's arguments, those of its bases among them, which **kwargs lead to."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base):
            try:
                signature = inspect.signature(base.__init__)  # type: ignore[misc]
            except (TypeError, ValueError):
                continue
            found |= {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return found


def _check_value(where: str, value: Any) -> None:
    if isinstance(value, Mapping):
        if _RESERVED & {_folded(key) for key in value}:
            return _check_spec(where, value)
        for key, item in value.items():
            _check_key(f"{where}.{key}", key)
            _check_value(f"{where}.{key}", item)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_value(f"{where}.{i}", item)
        sizes = [abs(item) for item in value if isinstance(item, int) and item]
        if math.prod(sizes) > MAX_ENTRIES and len(sizes) <= 8:
            raise _Refused(f"{where} has {value} entries, more than {MAX_ENTRIES}")
    elif isinstance(value, str):
        _check_word(where, value)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int | float):
        if not abs(value) <= MAX_NUMBER:
            raise _Refused(f"{where} is {value}, more than {MAX_NUMBER}")
    else:
        raise _Refused(f"{where} is a {type(value).__name__}, not a number or a word")


def _check_key(where: str, key: Any) -> None:
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z]\w{0,63}", key, re.ASCII):
        raise _Refused(f"{where} is not an argument's name")
    if _folded(key) in _RESERVED:
        raise _Refused(f"{where} may not stand there")


def _folded(key: Any) -> str:
    return re.sub(r"[\W_]", "", str(key)).casefold()


def _check_word(where: str, text: str) -> None:
    """A mode, a device: nothing that the parser could take for an import path, a file or more YAML."""
    if re.fullmatch(r"(cpu|cuda|mps)(:\d{1,2})?|\d(:\d){1,3}", text):  # devices, and 4:2:0
        return
    if not re.fullmatch(r"[A-Za-z][\w-]{0,31}", text, re.ASCII):
        raise _Refused(f"{where} names {text[:80]!r}, which is not a plain word")
    if os.path.lexists(text) and not os.path.isdir(text):
        raise _Refused(f"{where} names {text}, which is also a file here")


def _allowed_class(where: str, path: Any) -> type:
    """The class of an import path; imports nothing but modules of the allowed packages."""
    other = _Refused(f"{where} names {str(path)[:120]}, which is not a class of {' or '.join(MODULES)}")
    if not isinstance(path, str) or not re.fullmatch(r"[a-z]\w*(\.[A-Za-z]\w*)+", path, re.ASCII):
        raise other
    module, _, name = path.rpartition(".")
    if not _is_allowed(module):
        raise other
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise other from None
    if not inspect.isclass(found) or not _is_allowed(found.__module__):
        raise other
    return found


def _is_allowed(module: Any) -> bool:
    return f"{module}.".startswith(tuple(f"{allowed}." for allowed in MODULES))


def _check_objects(where: str, value: Any) -> None:
    """What was parsed: namespaces of class_path and init_args, plain values, and the classes' own defaults."""
    if isinstance(value, str):
        if "." in value and not value.replace(".", "").isdigit():
            raise _Refused(f"{where} names {value[:120]}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_objects(f"{where}.{i}", item)
    elif isinstance(value, Namespace):
        _check_objects(where, vars(value))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key == "class_path":
                _check_imported(f"{where}.{key}", item)
            elif key not in ("__path__", "__default_config__"):
                _check_objects(f"{where}.{key}", item)
    elif callable(value) and not _is_allowed(getattr(value, "__module__", type(value).__module__)):
        raise _Refused(f"{where} is {value!r}"[:200])


def _check_imported(where: str, path: Any) -> None:
    """A class as the parser resolved it, which has imported it."""
    module, _, name = str(path).rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    if not inspect.isclass(found) or not _is_allowed(found.__module__):
        raise _Refused(f"{where} is {str(path)[:120]}, which is not a class of {' or '.join(MODULES)}")
