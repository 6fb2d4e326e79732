"""For every test, before JAX is used: two CPU devices, and XLA's optimiser left out.

Two devices, so that shards can be tested on any machine. Most of the time of most tests is compilation, and the results
are the same up to rounding without the optimiser; processes that tests start inherit this.
"""

import os

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax

jax.config.update("jax_num_cpu_devices", 2)
if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
