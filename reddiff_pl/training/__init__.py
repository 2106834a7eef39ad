"""Training of a prior: `reddiff fit`. Imported by that command alone."""
