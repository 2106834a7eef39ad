"""Training of a prior: `reddiff fit`. Imported by that command, and by `bench` for the way a prior is written."""
