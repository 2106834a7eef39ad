"""What a command returns, and what its errors become. No torch."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Sequence

from reddiff_pl import stop
from reddiff_pl.errors import ConfigError, OutputError, Stopped, TooLittleMemory, TooManyFailed
from reddiff_pl.stop import INTERRUPTED, REQUEUE_ME, TERMINATED

log = logging.getLogger(__name__)

CRASH = "crashed; what is finished is kept: run the same command again to go on"
NO_ROOM = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)  # no fault of the program
ALL_RESTORED, CRASHED, BAD_CONFIGURATION, SOME_FAILED, TOO_MANY_FAILED = 0, 1, 2, 3, 4


def run(command: str, action: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run a command; returns its exit code. An error of configuration is one line on stderr."""
    try:
        stop.check()
        return action(argv)
    except ConfigError as error:
        print(f"reddiff {command}: error: {error}", file=sys.stderr)
        return BAD_CONFIGURATION
    except (OutputError, TooLittleMemory) as error:
        log.error("%s", error)
        return CRASHED
    except TooManyFailed as error:
        log.error("stopped: %s; the reasons are above and in the .failed.jsonl files", error)
        return TOO_MANY_FAILED
    except Stopped:
        log.warning("stopped by a signal; what is finished is kept: run the same command again to go on")
        return stop.exit_code()
    except BrokenPipeError:  # who read the output wants no more
        return CRASHED
    except OSError as error:
        if error.errno not in NO_ROOM:
            log.exception("%s", CRASH)
        else:
            log.error("%s: %s", error.filename or "a file cannot be written", error.strerror)
        return CRASHED
    except Exception:
        log.exception("%s", CRASH)
        return CRASHED


def joint(codes: Sequence[int]) -> int:
    """One exit code for several: the first of these that occurs, else the largest."""
    for code in (BAD_CONFIGURATION, TOO_MANY_FAILED, TERMINATED, INTERRUPTED, REQUEUE_ME, CRASHED):
        if code in codes:
            return code
    return CRASHED if any(code < 0 for code in codes) else max(codes)
