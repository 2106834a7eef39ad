"""What a task says: short lines on the terminal, the same with times in its log file."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from tqdm import tqdm


class _Console(logging.Handler):
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        tqdm.write(f"{level}{self.format(record)}", file=None)


class _Early(logging.Handler):
    """Keeps what is said before there is a log file."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class _Printable(logging.Formatter):
    """Names of files need not be text: what UTF-8 cannot write is escaped, not lost with its line."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).encode("utf-8", "backslashreplace").decode()


def log_early() -> None:
    """Send the package's log lines to the terminal, and keep them for the file that `log_to` will name."""
    to_terminal().addHandler(_Early())


def log_to(path: Path) -> None:
    """Send the package's log lines to the terminal and to one file, in place of an earlier run's file."""
    handlers = logging.getLogger("reddiff_pl").handlers
    early = [record for handler in handlers if isinstance(handler, _Early) for record in handler.records]
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    for record in early:
        file.handle(record)
    to_terminal().addHandler(file)


def to_terminal() -> logging.Logger:
    """Send the package's log lines to the terminal alone; returns their logger."""
    logger = logging.getLogger("reddiff_pl")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    console = _Console()
    console.setFormatter(_Printable())
    logger.addHandler(console)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger


def quiet_libraries() -> None:
    """Lightning's advice is for training; errors still come through."""
    for name in ("lightning.pytorch", "lightning.fabric", "diffusers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("lightning", "diffusers", "deepinv", "torch", "jsonargparse"):
        warnings.filterwarnings("ignore", module=rf"{module}(\..*)?")
