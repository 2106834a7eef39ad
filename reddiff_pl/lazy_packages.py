"""Packages whose __init__ gathers far more than a command uses: it runs when something of it is asked for.

Lightning wants two classes of torchmetrics and one of torch's compiler, deepinv the transforms of torchvision, this
package deepinv's operators and a UNet of diffusers. Importing the packages as they are takes most of a start: metrics
of texts and sounds (scipy, transformers), detectors, data sets, losses of trainings, every network of diffusers and
ways to quantise them (transformers again), a compiler and a counter of operations (Triton) that nothing uses. Their
submodules are imported as ever; only the gathering waits. The standard library's LazyLoader waits for the first
attribute, which submodules and __version__ are too.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType
from typing import Any

COMPILER, FLOPS, PLOTS = "torch._dynamo", "torch.utils.flop_counter", "torchmetrics.utilities.plot"
# package: {what is asked of it at import: the submodule that has it}
PACKAGES: dict[str, dict[str, str]] = {
    "deepinv": {"__version__": "__about__"},
    "deepinv.datasets": {},
    "deepinv.loss": {"MCLoss": "mc"},
    "deepinv.loss.metric": {},
    "deepinv.utils": {},
    "diffusers.hooks": {},
    "diffusers.models.transformers": {},
    "diffusers.models.unets": {},
    "diffusers.quantizers": {"DiffusersAutoQuantizer": "auto", "DiffusersQuantizer": "base"},  # transformers
    "torchmetrics": {"__version__": "__about__", "Metric": "metric", "MetricCollection": "collections"},
    "torchvision": {"__version__": "version"},
    COMPILER: {},
    FLOPS: {},  # Triton
    PLOTS: {},  # matplotlib
}
STAND_INS_ONLY = (COMPILER, FLOPS, PLOTS)  # no part of them comes alone
# parts that import each other in a circle, which holds from one end only
FIRST = {"deepinv": ("models",), "torchmetrics": ("utilities",)}
_LOCK = threading.RLock()
_running: set[str] = set()
_in_graph: list[Any] = []  # what is to be told to the compiler, should it come


class _Meta(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return _is_there(COMPILER) and isinstance(instance, _real(COMPILER).OptimizedModule)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return _is_there(COMPILER) and issubclass(subclass, _real(COMPILER).OptimizedModule)


class OptimizedModule(metaclass=_Meta):
    """Stands for the compiler's class: as long as it is not imported nothing is one."""


def allow_in_graph(function: Any) -> Any:
    """Stands for the compiler's decorator, which returns what it is given."""
    if _is_there(COMPILER):
        return _real(COMPILER).allow_in_graph(function)
    _in_graph.append(function)
    return function


def disable(function: Any = None, recursive: bool = True, **options: Any) -> Any:
    """Stands for the compiler's decorator: what is not compiled need not be kept from it."""
    if function is None and not _is_there(COMPILER):
        return functools.partial(disable, recursive=recursive, **options)
    if not isinstance(function, FunctionType) or _is_there(COMPILER):
        return _real(COMPILER).disable(function, recursive, **options)
    disabled: list[Any] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not disabled and _is_there(COMPILER):
            disabled.append(_real(COMPILER).disable(function, recursive, **options))
        return (disabled[0] if disabled else function)(*args, **kwargs)

    return call


def graph_break(*args: Any, **kwargs: Any) -> None:
    """Stands for the compiler's mark, which optimisers set around every step."""
    if _is_there(COMPILER):
        _real(COMPILER).graph_break(*args, **kwargs)


def plot_single_or_multi_val(*args: Any, **kwargs: Any) -> Any:
    """Stands for the function of that name."""
    return _real(PLOTS).plot_single_or_multi_val(*args, **kwargs)


def flop_counter_mode(*args: Any, **kwargs: Any) -> Any:
    """Stands for the class FlopCounterMode."""
    return _real(FLOPS).FlopCounterMode(*args, **kwargs)


STAND_INS: dict[str, dict[str, Any]] = {
    COMPILER: {
        "OptimizedModule": OptimizedModule,
        "allow_in_graph": allow_in_graph,
        "disable": disable,
        "graph_break": graph_break,
    },
    FLOPS: {"FlopCounterMode": flop_counter_mode},
    PLOTS: {"_AX_TYPE": Any, "_PLOT_OUT_TYPE": Any, "plot_single_or_multi_val": plot_single_or_multi_val},
    "torchmetrics": {"_logger": logging.getLogger("torchmetrics")},
}


class _Waiting(ModuleType):
    """A package whose __init__ has not run yet."""

    def __getattr__(self, name: str) -> Any:
        package = self.__name__
        if name in PACKAGES[package]:
            return getattr(importlib.import_module(f"{package}.{PACKAGES[package][name]}"), name)
        if name in STAND_INS.get(package, ()):
            return STAND_INS[package][name]
        if name.startswith("__") or not _is_named(self, name):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if package not in STAND_INS_ONLY and _is_part(self, name):
            return importlib.import_module(f"{package}.{name}")
        _run(self)
        return getattr(self, name)


def _is_part(package: ModuleType, name: str) -> bool:
    return PathFinder.find_spec(f"{package.__name__}.{name}", package.__path__) is not None


def _is_named(package: ModuleType, name: str) -> bool:
    """Whether a package may have such a name. The parser of options asks each for the classes of its parts."""
    if package.__name__ in STAND_INS_ONLY or _is_part(package, name):
        return True
    assert package.__spec__ is not None and isinstance(package.__spec__.loader, _Later)
    source = package.__spec__.loader.get_source(package.__name__)
    return source is None or re.search(rf"\b{re.escape(name)}\b", source) is not None


def _is_there(package: str) -> bool:
    return package not in _running and type(sys.modules.get(package, _Waiting(package))) is not _Waiting


def _real(package: str) -> Any:
    _run(sys.modules[package])
    return sys.modules[package]


def _run(module: ModuleType) -> None:
    """Run the package's __init__, unless that is done or under way."""
    with _LOCK:
        if type(module) is not _Waiting:
            return
        module.__class__ = ModuleType  # type: ignore[assignment]
        assert module.__spec__ is not None and isinstance(module.__spec__.loader, _Later)
        _running.add(module.__name__)
        try:
            module.__spec__.loader.real.exec_module(module)
        finally:
            _running.remove(module.__name__)
        while module.__name__ == COMPILER and _in_graph:
            module.allow_in_graph(_in_graph.pop())


class _Later(Loader):
    """Makes the module, and leaves its __init__ for later."""

    def __init__(self, real: Loader) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:  # get_source, get_data, ...: for tracebacks and inspect
        return getattr(self.real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _Waiting
        for name in FIRST.get(module.__name__, ()):
            importlib.import_module(f"{module.__name__}.{name}")


class _There(Loader):
    """Gives a module that came with its package."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """It has run."""


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in PACKAGES:
            spec = PathFinder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Later(spec.loader)
            return spec
        parent = sys.modules.get(fullname.rpartition(".")[0])
        if type(parent) is _Waiting and parent.__name__ == COMPILER:  # its parts need the whole
            _run(parent)
            if fullname in sys.modules:
                return ModuleSpec(fullname, _There(), origin=sys.modules[fullname].__file__)
        return None


def wait() -> None:
    """From now on the packages that are not imported yet wait."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
