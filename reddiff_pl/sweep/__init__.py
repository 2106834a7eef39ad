"""A grid over options of `restore`."""
