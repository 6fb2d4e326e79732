"""Learning: the whole update, and the gradient steps of policy and critic against the machine's matrix-product peak.

    python -m benchmarks.update

The peak is the best rate of large single-precision products, sharded over the same devices and timed in the same turns.
Operations are counted by hand, three times forward's matrix products (`flops.py`); activations, losses and biases count
as nothing, so that 100 % is out of reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks._command import Options, require_each, require_tasks, run
from dipod_jax.checks import require

POLICY_TARGET, CRITIC_TARGET = 0.25, 0.5


@dataclass(frozen=True)
class UpdateOptions(Options):
    """The learner's update in transitions/s, and gradient steps as a share of the sgemm peak."""

    task: str = "BallInCup"
    """one of Playground's DM-Control tasks"""
    parts: tuple[str, ...] = ("gradients", "update")
    """what to measure: gradients, update"""
    peak_sizes: tuple[int, ...] = (512, 1024, 2048)
    """sides of the square matrices whose product's best rate is the peak, each >= 1"""
    policy_minibatch: int = 1024
    """transitions of one policy gradient step, >= 1, divisible by the number of devices"""
    critic_minibatch: int = 1024
    """transitions of one gradient step of the cpu preset's critic, >= 1, divisible by the number of devices"""
    paper_minibatch: int = 30720
    """transitions of one gradient step of the paper's critic, >= 0; 0 leaves it out"""
    gradient_steps: int = 64
    """gradient steps of one timed call of the small networks, >= 1"""

    def __post_init__(self):
        super().__post_init__()
        require_tasks("task", (self.task,))
        require_each(lambda p: p in ("gradients", "update"), "parts", self.parts, "gradients, update")
        require_each(lambda n: n >= 1, "peak-sizes", self.peak_sizes, "numbers >= 1")
        for name in ("policy_minibatch", "critic_minibatch", "gradient_steps"):
            require(getattr(self, name) >= 1, name.replace("_", "-"), getattr(self, name), "at least 1")
        require(self.paper_minibatch >= 0, "paper-minibatch", self.paper_minibatch, "at least 0")


def measure(options: UpdateOptions) -> list:
    """All rows."""
    from benchmarks._setup import set_up

    backend, rows = set_up(), []
    if "gradients" in options.parts:
        rows += _gradients(options, backend)
    if "update" in options.parts:
        rows += _update(options, backend)
    return rows


def _gradients(options: UpdateOptions, backend: Any) -> list:
    """GFLOP/s of each network's gradient step, and of the best square product."""
    import jax

    from benchmarks import _setup
    from benchmarks._report import Row
    from benchmarks._timing import Spread, interleave, rate, speed_ratio

    mesh = _setup.data_mesh()
    variants: dict[str, tuple[Callable[[], Any], float]] = {}
    for size in options.peak_sizes:
        variants[f"sgemm {size}"] = sgemm(mesh, size)
    for name, policy, minibatch, steps in _steps_to_time(options):
        variants[name] = (policy_gradient if policy else critic_gradient)(options.task, name, mesh, minibatch, steps)
    samples = interleave(variants, options.repeats)
    squares = [samples.pop(f"sgemm {size}") for size in options.peak_sizes]
    # The machine's peak at this turn: the best of the products timed in it.
    peak = [min(turn, key=lambda s: s.seconds / s.work) for turn in zip(*squares, strict=True)]
    giga = lambda own: Spread(*(x / 1e9 for x in rate(own)))
    on_cpu = jax.default_backend() == "cpu"
    rows = [Row("gradient step", "sgemm peak", giga(peak), "GFLOP/s", samples=peak)]
    for name, own in samples.items():
        row = Row("gradient step", name, giga(own), "GFLOP/s", speed_ratio(own, peak), "sgemm peak", samples=own)
        row.cpu_time_ratio = speed_ratio(own, peak, of_cpu_time=True).median if on_cpu else None
        row.target = POLICY_TARGET if name.startswith("policy") else CRITIC_TARGET
        row.note = f"{1e6 * _flops(options.task, name) / rate(own).median:.2f} us/transition"
        rows.append(row)
    return rows


def _steps_to_time(options: UpdateOptions) -> list[tuple[str, bool, int, int]]:
    """(name, whether it is a policy, minibatch, gradient steps in one call)."""
    steps = options.gradient_steps
    small = [
        ("policy of cpu", True, options.policy_minibatch, steps),
        ("critic of cpu", False, options.critic_minibatch, steps),
    ]
    large = [("critic of paper", False, options.paper_minibatch, 1)]
    return small + (large if options.paper_minibatch else [])


def _networks(task: str, name: str) -> tuple[Any, int, int]:
    """The preset whose network `name` is, and the task's sizes."""
    from dipod_jax import envs
    from dipod_jax.presets import PRESETS

    env = envs.make(task, "native") if _is_cpu() else envs.make(task, "mjx")
    return PRESETS[name.split()[-1]](task, "fpo"), env.observation_size, env.action_size


def _is_cpu() -> bool:
    import jax

    return jax.default_backend() == "cpu"


def _flops(task: str, name: str) -> float:
    """Operations of one transition's gradient."""
    from benchmarks import flops

    config, observation_size, action_size = _networks(task, name)
    if name.startswith("critic"):
        return flops.GRADIENT_OVER_FORWARD * flops.critic_forward(1, observation_size, config.critic.hidden_sizes)
    p = config.policy
    sizes = observation_size, action_size, p.hidden_sizes, p.time_embedding_size
    return flops.GRADIENT_OVER_FORWARD * flops.policy_loss_forward(1, p.num_draws, *sizes)


def sgemm(mesh: Any, size: int) -> tuple[Callable[[], Any], float]:
    """A chain of square products on every device, and its operations."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    from benchmarks import _setup

    count = max(1, round(2e9 / (2 * size**3)))  # about 2 GFLOP a device and call
    a = _setup.place(jnp.full((mesh.size * size, size), 1.0 / size), mesh, PartitionSpec("data"))
    chain = lambda x: jax.lax.fori_loop(0, count, lambda _, y: y @ x, x)
    program = _setup.over_devices(mesh, ("data",))(chain)
    return _setup.blocking(program, a), float(mesh.size * count * 2 * size**3)


def gradient_program(loss: Callable, mesh: Any) -> Callable:
    """(params, data (K, M, ...)) -> params after K steps against the averaged gradient, as the learner averages it.

    The step is a plain one and tiny: Adam is not what is timed here, and each step must need the one before.
    """
    import jax
    from jax.sharding import PartitionSpec

    from benchmarks import _setup

    def steps(params: Any, data: Any) -> Any:
        def one(params: Any, batch: Any) -> tuple[Any, None]:
            gradient = jax.lax.pmean(jax.grad(loss)(params, batch), "data")
            return jax.tree.map(lambda p, g: p - 1e-6 * g, params, gradient), None

        return jax.lax.scan(one, params, data)[0]

    return _setup.sharded(steps, mesh, (PartitionSpec(), PartitionSpec(None, "data")), PartitionSpec())


def policy_gradient(task: str, name: str, mesh: Any, minibatch: int, steps: int) -> tuple[Callable[[], Any], float]:
    """Gradient steps of the policy's CFM loss, and their operations."""
    import jax
    from jax.sharding import PartitionSpec

    from benchmarks import _setup
    from dipod_jax.policies import FlowPolicy

    config, observation_size, action_size = _networks(task, name)
    policy = FlowPolicy(config.policy, observation_size, action_size)
    keys = jax.random.split(jax.random.key(0), 4)
    obs = jax.random.normal(keys[0], (steps, minibatch, observation_size))
    action = jax.random.normal(keys[1], (steps, minibatch, action_size))
    data = obs, action, policy.sample_draws(keys[2], (steps, minibatch))
    data = _setup.place(data, mesh, PartitionSpec(None, "data"))
    program = gradient_program(lambda params, batch: policy.loss(params, *batch).mean(), mesh)
    params = _setup.place(policy.init(keys[3]), mesh, PartitionSpec())
    return _setup.blocking(program, params, data), steps * minibatch * _flops(task, name)


def critic_gradient(task: str, name: str, mesh: Any, minibatch: int, steps: int) -> tuple[Callable[[], Any], float]:
    """Gradient steps of the critic's squared error, and their operations."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    from benchmarks import _setup
    from dipod_jax.policies import Critic

    config, observation_size, _ = _networks(task, name)
    critic = Critic(config.critic, observation_size)
    keys = jax.random.split(jax.random.key(0), 3)
    obs = jax.random.normal(keys[0], (steps, minibatch, observation_size))
    target = jax.random.normal(keys[1], (steps, minibatch))
    data = _setup.place((obs, target), mesh, PartitionSpec(None, "data"))
    program = gradient_program(lambda params, batch: jnp.square(critic.value(params, batch[0]) - batch[1]).mean(), mesh)
    params = _setup.place(critic.init(keys[2]), mesh, PartitionSpec())
    return _setup.blocking(program, params, data), steps * minibatch * _flops(task, name)


def _update(options: UpdateOptions, backend: Any) -> list:
    """The learner's update of one iteration of the cpu preset under each objective, against that of fpo: all epochs,
    losses under the acting parameters, advantages, Adam and statistics."""
    import jax

    from benchmarks._report import compare
    from benchmarks._timing import interleave
    from dipod_jax.objectives import OBJECTIVES

    variants = {name: _update_of(options, backend, name) for name in OBJECTIVES}
    samples = interleave(variants, options.repeats)
    on_cpu = jax.default_backend() == "cpu"
    notes = {name: f"{1e6 * own[0].seconds / own[0].work:.2f} us" for name, own in samples.items()}
    return compare("whole update", samples, "fpo", unit="transitions*epochs/s", notes=notes, cpu_time=on_cpu)


def _update_of(options: UpdateOptions, backend: Any, objective: str) -> tuple[Callable[[], Any], float]:
    """The update under one objective, and the transitions times epochs of a call."""
    import jax

    from benchmarks import _setup
    from benchmarks.rollout import acting_program, make_trainer

    size = options.policy_minibatch
    steps = max(1, 8 * size // 256)
    trainer = make_trainer(options.task, backend, 256, steps, objective=objective, minibatch_size=size)
    state = jax.block_until_ready(trainer.init())
    transitions = jax.block_until_ready(acting_program(trainer)(state)[1])
    update = _setup.blocking(update_program(trainer), state.learner, transitions)
    return update, float(trainer.config.steps_per_iteration * trainer.config.learning.num_epochs)


def update_program(trainer: Any) -> Callable:
    """(LearnerState, Transitions (S, T, B)) -> (LearnerState, metrics), sharded as the trainer's own."""
    import jax
    from jax.sharding import PartitionSpec

    from benchmarks import _setup

    def update(learner: Any, transitions: Any) -> Any:
        return trainer.learner.update(learner, transitions, jax.random.fold_in(learner.key, learner.iteration))

    specs = PartitionSpec("seed"), PartitionSpec("seed", None, "data")
    return _setup.sharded(trainer._over_seeds(update), trainer.mesh, specs, PartitionSpec("seed"))


if __name__ == "__main__":
    run("update", UpdateOptions, measure)
