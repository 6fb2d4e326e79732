"""Run by a test in a process of its own: prints, as JSON, a run's beginning on several numbers of CPU devices.

`python on_eight_devices.py UPDATES COUNT...`; with more than one update each run also goes on on another count.
"""

import hashlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from small import BASE, as_numbers, probe_programs

from dipod_jax.runs import restore_checkpoint, save_checkpoint
from dipod_jax.training import programs as programs_module
from dipod_jax.training.sharding import Layout

CONFIG = replace(
    BASE,
    policy=replace(BASE.policy, hidden_sizes=(8, 8), num_draws=2),
    critic=replace(BASE.critic, hidden_sizes=(8,)),
    learning=replace(BASE.learning, num_epochs=1, minibatch_size=256),
)


def digest(tree):
    """A hash of every bit of every leaf."""
    leaves = [np.asarray(x) for x in jax.tree.leaves(as_numbers(tree))]
    return hashlib.sha256(b"".join(x.tobytes() for x in leaves)).hexdigest()


def numbers(state):
    """The learner's parameters as one list."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(state.learner.params))]).tolist()


def on(num_devices):
    """Programs of one seed over so many devices."""
    layout = Layout.on(np.array(jax.devices()[:num_devices])[None])
    programs_module.Layout.of = lambda config, num_seeds: layout
    return probe_programs(CONFIG)


def main(updates, *counts):
    programs = {n: on(n) for n in counts}
    first, after, resumed = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for n, of in programs.items():
            state = of.init()
            first[n] = digest(of.act(state.learner, jax.tree.map(lambda x: x.copy(), state.actor)))
            for update in range(updates):
                # several programs in flight on more devices than cores would wait for each other
                state, _ = jax.block_until_ready(of.iterate(state))
                if update == 0 and updates > 1:
                    saved = save_checkpoint(Path(folder) / str(n), 1, state)
            after[n] = numbers(state)
            if updates == 1:
                continue
            other = counts[counts.index(n) - 1]  # from 1 to 8, from 8 to 4 and so on
            state = restore_checkpoint(saved, programs[other].abstract_state())
            for _ in range(updates - 1):
                state, _ = jax.block_until_ready(programs[other].iterate(state))
            resumed[f"{n} to {other}"] = numbers(state)
    print(json.dumps({"devices": jax.device_count(), "first": first, "after": after, "resumed": resumed}))


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
