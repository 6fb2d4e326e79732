"""Two CPU devices for every test, so that shards can be tested on any machine; must run before JAX is used."""

import os

import jax

jax.config.update("jax_num_cpu_devices", 2)
if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
