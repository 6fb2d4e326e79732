"""Run the Python of a documentation page in a small: `python run_page.py PAGE`, in an empty folder.

A block that begins with `# name.py` is that file; every other is run as it stands, in one namespace. Configs are made
so small that a run ends in seconds; nothing else is replaced.
"""

import re
import sys
from pathlib import Path

import dipod_jax

SMALL = {
    "preset": "smoke",
    "backend": "native",
    "logger": "none",
    "total_steps": 128,
    "rollout": {"num_envs": 8, "num_steps": 8},
    "learning": {"minibatch_size": 32, "num_epochs": 1},
    "critic": {"hidden_sizes": (8,)},
    "policy": {"hidden_sizes": (8,)},
    "drift": {"interval": 2, "num_samples": 16},
    "evaluation": {"num_episodes": 2, "num_episodes_during": 2},
}
make_config, evaluate = dipod_jax.make_config, dipod_jax.evaluate


def small_config(task="BallInCup", **options):
    """`make_config`, with the options of `SMALL` where the page names no other."""
    merged = SMALL | options
    for name in ("rollout", "learning", "critic", "policy", "drift", "evaluation"):
        merged[name] = options.get(name, {}) | SMALL[name]
    return make_config(task, **merged)


def python_blocks(page: Path) -> list[str]:
    """The page's Python, in order."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def main(page: Path) -> None:
    """Write the files, run the rest."""
    dipod_jax.make_config = small_config
    dipod_jax.evaluate = lambda run_dir, **options: evaluate(run_dir, **options | {"episodes": 2})
    sys.path.insert(0, str(Path.cwd()))
    namespace: dict = {}
    for number, block in enumerate(python_blocks(page)):
        name = re.match(r"# (\w+\.py)\n", block)
        if name:
            Path(name[1]).write_text(block, encoding="utf-8")
        else:
            exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)
    for run_dir in filter(None, [namespace.get("run_dir"), namespace.get("folder")]):
        assert (Path(run_dir) / "result.json").exists()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
