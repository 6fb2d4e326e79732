"""The benchmarks: what they count, what they print, and that each runs at its smallest size."""

import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import _report, _timing, end_to_end, evaluation, flops, physics, rollout, startup, update
from benchmarks import all as all_benchmarks
from benchmarks._command import run
from dipod_jax.config import CriticConfig, PolicyConfig
from dipod_jax.policies import Critic, FlowPolicy

MODULES = {"physics": physics, "rollout": rollout, "update": update, "evaluation": evaluation, "end_to_end": end_to_end}


def matrix_product_flops(jaxpr) -> int:
    """2 x multiply-adds of every dot_general of a jaxpr without loops, calls included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
        for inner in jax.core.jaxprs_in_params(equation.params):
            total += matrix_product_flops(inner)
    return total


def test_mlp_flops_equal_a_count_by_hand():
    # 3 -> 4 -> 5 for a batch of 2: 2 * 2 * (12 + 20)
    assert flops.mlp_forward(2, (3, 4, 5)) == 128


def test_critic_flops_equal_the_matrix_products_that_jax_traces():
    critic = Critic(CriticConfig(hidden_sizes=(64, 64, 64)), 8)
    params, obs = critic.init(jax.random.key(0)), jnp.zeros((16, 8))
    traced = matrix_product_flops(jax.make_jaxpr(critic.value)(params, obs).jaxpr)
    assert flops.critic_forward(16, 8, (64, 64, 64)) == traced


def test_a_gradient_has_three_times_forwards_products_but_for_the_inputs_own_gradient():
    critic = Critic(CriticConfig(hidden_sizes=(64, 64, 64)), 8)
    params, obs = critic.init(jax.random.key(0)), jnp.zeros((16, 8))
    traced = matrix_product_flops(jax.make_jaxpr(jax.grad(lambda p: critic.value(p, obs).sum()))(params).jaxpr)
    counted = flops.GRADIENT_OVER_FORWARD * flops.critic_forward(16, 8, (64, 64, 64))
    assert counted - traced == flops.mlp_forward(16, (8, 64))


def test_policy_flops_equal_the_matrix_products_that_jax_traces():
    policy = FlowPolicy(PolicyConfig(), 8, 2)
    params, obs, action = policy.init(jax.random.key(0)), jnp.zeros((16, 8)), jnp.zeros((16, 2))
    draws = policy.sample_draws(jax.random.key(1), (16,))
    traced = matrix_product_flops(jax.make_jaxpr(policy.loss)(params, obs, action, draws).jaxpr)
    assert flops.policy_loss_forward(16, 8, 8, 2, (32, 32, 32, 32), 8) == traced


def test_interleaving_takes_turns_in_alternating_order():
    calls = []
    variants = {name: (lambda name=name: calls.append(name), 1.0) for name in "ab"}
    samples = _timing.interleave(variants, repeats=3, warm_ups=1)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(own) for name, own in samples.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_taken_within_each_turn():
    fast = [_timing.Sample(1.0, 1.0, 6.0), _timing.Sample(2.0, 1.0, 6.0)]
    slow = [_timing.Sample(2.0, 2.0, 6.0), _timing.Sample(8.0, 3.0, 6.0)]
    assert _timing.speed_ratio(fast, slow) == (3.0, 2.0, 4.0)
    assert _timing.speed_ratio(fast, slow, of_cpu_time=True) == (2.5, 2.0, 3.0)


def test_a_time_meets_its_target_from_below_and_a_ratio_from_above():
    one = _timing.Spread(1.0, 1.0, 1.0)
    assert _report.Row("a", "b", one, "s", target=2.0).met is True
    assert _report.Row("a", "b", one, "s", target=0.5).met is False
    assert _report.Row("a", "b", one, "x", ratio=one, target=2.0).met is False
    assert _report.Row("a", "b", one, "x").met is None


TINY = {
    "physics": ["--tasks", "BallInCup", "--num-envs", "4", "--steps-per-call", "8", "--mjx-num-envs", "0"],
    # its preset's unrolls of 32 steps are longer than these calls
    "rollout": ["--task", "CheetahRun", "--num-envs", "36", "--steps-per-call", "72"],
    "update": ["--peak-sizes", "32", "--policy-minibatch", "64", "--critic-minibatch", "64"]
    + ["--paper-minibatch", "0", "--gradient-steps", "2", "--parts", "gradients"],
    "evaluation": ["--num-episodes", "2", "--episode-length", "3", "--raw-steps", "2"],
    "end_to_end": ["--preset", "smoke", "--parts", "loop"],
}


@pytest.mark.parametrize("name", [n for n in TINY if n not in ("evaluation", "end_to_end")])
def test_a_benchmark_leaves_finite_ratios_and_the_machines_facts(name, tmp_path, capsys):
    check_benchmark(name, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluation", "end_to_end"])
def test_a_benchmark_of_whole_programs_leaves_finite_ratios(name, tmp_path, capsys):
    check_benchmark(name, tmp_path, capsys)


def check_benchmark(name, tmp_path, capsys):
    module = MODULES[name]
    options_class = next(v for k, v in vars(module).items() if k.endswith("Options") and k != "Options")
    run(name, options_class, module.measure, [*TINY[name], "--repeats", "2", "--out", str(tmp_path)])
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert written["machine"]["cpu_model"] and written["machine"]["versions"]["jax"]
    assert written["rows"]
    for row in written["rows"]:
        assert 0 < row["value"]["low"] <= row["value"]["median"] <= row["value"]["high"] < math.inf
        assert len(row["samples"]) == 2
        if row["ratio"] is not None:
            assert 0 < row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"] < math.inf
    assert any(row["ratio"] is not None for row in written["rows"])
    printed = capsys.readouterr().out
    assert all(row["variant"] in printed for row in written["rows"])


def test_start_up_reads_the_clock_of_the_first_iteration_and_not_of_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert startup._times(path) is None
    path.write_text('{"kind": "evaluation", "wall_clock_s": 3.0}\n{"kind": "train", "wall_cl')
    assert startup._times(path) is None
    path.write_text('{"kind": "evaluation", "wall_clock_s": 3.0}\n{"kind": "train", "wall_clock_s": 4.5}\n')
    assert startup._times(path) == {"evaluation": 3.0, "iteration": 4.5}


@pytest.mark.parametrize(
    "module, arguments, named",
    [
        ("physics", ["--tasks", "Chess"], "--tasks"),
        ("physics", ["--repeats", "0"], "--repeats"),
        ("end_to_end", ["--parts", "everything"], "--parts"),
        ("update", ["--peak-sizes", "x"], "--peak-sizes"),
        ("startup", ["--timeout", "nan"], "--timeout"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(module, arguments, named, capsys):
    found = MODULES.get(module, startup)
    options_class = next(v for k, v in vars(found).items() if k.endswith("Options") and k != "Options")
    with pytest.raises(SystemExit) as stopped:
        run(module, options_class, found.measure, arguments)
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and captured.out == ""
    assert captured.err.count("\n") == 1 and named in captured.err


def test_help_of_all_comes_without_jax():
    code = (
        "import sys\nsys.argv[1:] = ['--help']\nfrom benchmarks import all\n"
        "try: all.main()\nexcept SystemExit: pass\nassert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_all_knows_every_benchmark():
    assert set(all_benchmarks.NAMES) == {*MODULES, "startup"}
