"""Imports the package once, then forks a process for each command: real processes without the imports' seconds.

Reads a JSON line [argv...] and answers with the child's pid; reads a number and answers with that child's exit code.
"""

import json
import os
import sys

import torch

from reddiff_pl import stop
from reddiff_pl.__main__ import main
from reddiff_pl.restoring import command as restoring
from reddiff_pl.restoring import degrade
from reddiff_pl.training import cli as training

assert restoring and degrade and training
torch.set_num_threads(1)
for line in sys.stdin:
    message = json.loads(line)
    if isinstance(message, int):
        _, status = os.waitpid(message, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    folder, *argv = message
    pid = os.fork()
    if pid == 0:
        file = os.open(f"{folder}/printed.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.environ["COUNT_FILE"] = f"{folder}/count"
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        stop.listen()
        code = 1
        try:
            code = main(argv)
        except SystemExit as exit:
            code = int(exit.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(pid, flush=True)
