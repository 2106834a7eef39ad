"""RED-diff that writes down how many images it begins to restore."""

from __future__ import annotations

import os
from typing import Any

from reddiff_pl.samplers import REDDiff


class CountingREDDiff(REDDiff):
    """Appends a line with the number of rows to $COUNT_FILE for each batch begun."""

    def init(self, y: Any, *args: Any, **kwargs: Any) -> Any:
        if args[2].keys[0] != "check":  # the start-up check is no work
            with open(os.environ["COUNT_FILE"], "a") as file:
                file.write(f"{len(y)}\n")
        return super().init(y, *args, **kwargs)
