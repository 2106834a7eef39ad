"""A solver of deepinv's benchmarks: RED-diff with the prior that ships, of 64x64 photographs, in windows."""

import torch
from benchopt import BaseSolver

from reddiff_pl.integrations.deepinv import REDDiff


class Solver(BaseSolver):
    """As the benchmarks run it: `get_result` gives the model, which they call as model(y, physics)."""

    name = "RED-diff"
    parameters = {"evaluations": [20, 100]}  # noqa: RUF012  (benchopt's own form)
    test_config = {"evaluations": 2}  # noqa: RUF012
    requirements = ["pip::reddiff_pl"]  # noqa: RUF012

    def set_objective(self, train_dataset=None, physics=None):
        self.model = REDDiff(
            evaluations=self.evaluations, device="cuda" if torch.cuda.is_available() else "cpu"
        )

    def run(self, _):
        """The model needs no training."""

    def get_result(self):
        return {"model": self.model}
