"""The command `reddiff prior`: what can be done with a prior's folder without training one."""

from __future__ import annotations

from reddiff_pl.options.prior import parse_prior


def prior(argv: list[str]) -> int:
    """The command `reddiff prior`.

    Raises:
        ConfigError: a bad option, or a checkpoint, folder or photos that are no good.
    """
    action, options = parse_prior(argv)
    if action == "import":
        from reddiff_pl.priors.importing import import_checkpoint

        lines = import_checkpoint(**options)
    elif action == "average":
        from reddiff_pl.priors.averaging import average_priors

        lines = [average_priors(**options)]
    else:
        from reddiff_pl.training.measuring import measure

        lines = measure(**options)
    print(*lines, sep="\n")
    return 0
