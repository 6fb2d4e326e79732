"""`python -m experiments.<name>` in this repository is `dipod <name>` where the package is installed.

The commands live in `dipod_jax/commands`; here are the four tasks of the paper. This folder is not installed: a package
of that name would hide a user's own.
"""

from dipod_jax import commands

__path__ = [*__path__, *commands.__path__]
