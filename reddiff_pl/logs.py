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


def log_to(path: Path) -> None:
    """Send the package's log lines to the terminal and to one file, in place of an earlier run's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logger = to_terminal()
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(file)


def to_terminal() -> logging.Logger:
    """Send the package's log lines to the terminal alone; returns their logger."""
    logger = logging.getLogger("reddiff_pl")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(_Console())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger


def quiet_libraries() -> None:
    """Lightning's advice is for training; errors still come through."""
    for name in ("lightning.pytorch", "lightning.fabric", "diffusers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("lightning", "diffusers", "deepinv", "torch", "jsonargparse"):
        warnings.filterwarnings("ignore", module=rf"{module}(\..*)?")
