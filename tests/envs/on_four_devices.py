"""Run by a test in a process of its own: prints, as JSON, what a batch does on 1, 2 and 4 CPU devices.

python on_four_devices.py {two,all}        # of the ways to spread it
"""

import hashlib
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dipod_jax.envs import BatchedEnv
from dipod_jax.envs.native import NativeTask
from dipod_jax.envs.playground import load_task

STEPS, LIMIT, SEEDS = 20, 7, 2
COLLECTIVES = r"(all-gather|all-reduce|all-to-all|collective-permute)[\w-]*\("


def digest(tree):
    """A hash of every bit of every leaf."""
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    leaves = [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]
    return hashlib.sha256(b"".join(x.tobytes() for x in leaves)).hexdigest()


def mesh_of(seeds, data):
    devices = np.array(jax.devices()[: seeds * data]).reshape(seeds, data)
    return Mesh(devices, ("seed", "data"), axis_types=(AxisType.Auto, AxisType.Auto))


def episodes(env, num_envs, num_starts):
    """seed -> first state and what T steps of random actions make of it."""

    def run(seed):
        reset_key, action_key, refresh_key = jax.random.split(jax.random.key(seed), 3)
        state = env.refresh(env.reset(reset_key, num_envs, stagger=True, num_starts=num_starts), refresh_key)
        actions = jax.random.uniform(action_key, (STEPS, num_envs, env.action_size), minval=-1.0)
        return state, jax.lax.scan(env.step, state, actions)

    return run


def main():
    task = NativeTask(load_task("FingerSpin", "jax"))
    every_way = sys.argv[1] == "all"
    on = {n: BatchedEnv(task, LIMIT, mesh_of(1, n)) for n in ((1, 2, 4) if every_way else (1, 4))}
    seeds = jnp.arange(SEEDS, dtype=jnp.uint32)
    alone = {n: digest(jax.jit(episodes(env, 16, 8))(0)) for n, env in on.items()}

    # a pool of 3, which no two devices share evenly, under each way of running several seeds
    over_seeds = {}
    for n in (1, 4) if every_way else (1,):
        over_seeds[f"{n}, one seed after the other"] = digest(
            jax.jit(lambda s, env=on[n]: jax.lax.map(episodes(env, 8, 3), s))(seeds)
        )
    both = BatchedEnv(task, LIMIT, mesh_of(2, 2))
    vmapped = jax.vmap(episodes(both, 8, 3), spmd_axis_name="seed")
    over_seeds["2 x 2, vmapped"] = digest(jax.jit(vmapped)(seeds))
    if every_way:
        per_seed = jax.vmap(episodes(BatchedEnv(task, LIMIT, mesh_of(2, 1)), 8, 3))
        spec = PartitionSpec("seed")
        per_seed = jax.shard_map(per_seed, mesh=mesh_of(2, 1), in_specs=spec, out_specs=spec, check_vma=False)
        over_seeds["2 x 1, each device its own"] = digest(jax.jit(per_seed)(seeds))

    state, _ = jax.jit(episodes(on[4], 16, 8))(0)
    actions = jnp.zeros((STEPS, 16, task.action_size))
    actions = jax.device_put(actions, NamedSharding(mesh_of(1, 4), PartitionSpec(None, "data")))
    program = jax.jit(lambda s, a: jax.lax.scan(on[4].step, s, a)).lower(state, actions).compile().as_text()
    report = {
        "alone": alone,
        "over seeds": over_seeds,
        "num_partitions": int(re.search(r"num_partitions=(\d+)", program).group(1)),
        "collectives in a scan of steps": re.findall(COLLECTIVES, program),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
