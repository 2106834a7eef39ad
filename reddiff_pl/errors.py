"""What ends a run, a batch or a sample early."""


class ConfigError(ValueError):
    """A bad option, found before any work: `OPTION: what is wrong; what to do`. Exit code 2."""


class SampleError(ValueError):
    """One sample cannot be used: what was found, what was expected. The run goes on without it."""


class Stopped(Exception):
    """The stop flag was seen between two steps: the batch is given up, what is written stays."""


class OutputError(OSError):
    """The output cannot be written: which file, why. The run can go on from there. Exit code 1."""


class TooLittleMemory(RuntimeError):
    """The device's memory holds none of a batch's images, one at a time: what to do. The run can go on. Exit code 1."""


class TooManyFailed(Exception):
    """More samples failed than --max-failed allows. Exit code 4."""
