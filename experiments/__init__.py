"""`python -m experiments.<name>` in this repository is `dipod <name>` where the package is installed.

The commands live in `dipod_jax/commands`; here are the four tasks of the paper. This folder is not installed: a package
of that name would hide a user's own.
"""

from importlib.util import find_spec

from dipod_jax import commands

if find_spec("tyro") is None:  # the first thing that every command imports
    here = "error: what the commands need is not installed in this Python"
    raise SystemExit(f"{here}: run `make setup`, then `.venv/bin/python -m experiments.<name>`")

__path__ = [*__path__, *commands.__path__]
