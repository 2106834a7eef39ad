"""The two kinds of bad input: a configuration that stops the run, a sample that does not."""


class ConfigError(ValueError):
    """A bad option, found before any work: `OPTION: what is wrong; what to do`. Exit code 2."""


class SampleError(ValueError):
    """One sample cannot be used: what was found, what was expected. The run goes on without it."""
