"""For every test, before JAX is used: two CPU devices, and programs that compile quickly.

Two devices, so that shards can be tested on any machine. Most of the time of most tests is compilation: XLA's optimiser
is left out, and so are its fusion emitters where a flag says so (jaxlib before 0.11; a newer one ends at a flag that it
does not know). The results are the same up to rounding; processes that tests start inherit this.

XLA keeps as many threads as there are cores, for the programs of all devices and for what waits to be launched on them.
Where two of those that copy a state took the last, a device waited for the other in a sum over devices until XLA ended
the process: more threads than cores, see docs/scaling.md.
"""

import gc
import os
from importlib.metadata import version

os.environ.setdefault("NPROC", "8")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}".strip()

import jax

jax.config.update("jax_num_cpu_devices", 2)
# Tracing makes objects by the million and almost no cycles: looking for these as often as Python does takes a tenth of
# the time.
gc.freeze()
gc.set_threshold(100_000, 50, 100)
if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
