"""`reddiff bench`: what this machine does, measured in one run, as ratios.

`command.py` starts one process for each part, so that none finds another's memory, graphs or errors, and writes after
every row; `worker.py` is such a process; `rows.py` and `plain.py` hold what is timed, `disk.py` the path from shard to
shard.
"""
