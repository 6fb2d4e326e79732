"""ONNX graphs of traced functions, run by onnxruntime, against JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_allclose

from dipod_jax.export import ExportError
from dipod_jax.export.graph import to_onnx
from dipod_jax.export.operations import OPERATIONS
from dipod_jax.policies import POLICIES

W = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
# Functions of x (B, 3) and y (B, 2, 3), with the operations that each is there for.
CASES = {
    "arithmetic": (lambda x, y: (x + 2 * x - 1) / (1 + jnp.square(x)) * -x + x**3, "add sub mul div neg integer_pow"),
    "one input": (
        lambda x, y: jnp.exp(x) + jnp.log(jnp.abs(x) + 1) + jnp.sqrt(jnp.abs(x)) + jnp.sin(x) * jnp.cos(x),
        "exp log abs sqrt sin cos",
    ),
    "nonlinearities": (
        lambda x, y: jax.nn.silu(x) + jnp.tanh(x) + jax.nn.gelu(x, approximate=False) + jax.nn.softplus(x),
        "logistic tanh erfc log1p select_n ne",
    ),
    "powers": (
        lambda x, y: jax.lax.rsqrt(jnp.abs(x) + 1) + jnp.abs(x) ** 1.5 + jnp.expm1(x) + jax.lax.erf(x),
        "rsqrt pow expm1 erf",
    ),
    "square": (lambda x, y: jax.lax.square(x) + jax.lax.stop_gradient(x) + jnp.copy(x), "square copy"),
    "bounds": (lambda x, y: jax.lax.clamp(-0.5, x, 0.5) + jnp.maximum(x, 0) + jnp.minimum(x, y[:, 0]), "clamp max min"),
    "choices": (
        lambda x, y: jnp.where((x > 0) & (x <= 1) | (x < -1) & (x >= -2), x, jnp.sign(x)),
        "gt le lt ge and or sign",
    ),
    "equality": (lambda x, y: jnp.where(~(jnp.round(W[0, :3]) == jnp.maximum(x, 0)), x, 2.0), "eq not"),
    "shapes": (
        lambda x, y: jnp.concatenate([y.reshape(-1, 6), jnp.swapaxes(y, 1, 2).reshape(-1, 6)], -1),
        "reshape transpose concatenate",
    ),
    "broadcast": (lambda x, y: jnp.broadcast_to(x[:, None, :], (*x.shape[:-1], 4, 3)), "broadcast_in_dim"),
    "broadcast of constants": (lambda x, y: jnp.broadcast_to(jnp.float32(3), x.shape) * x, "broadcast_in_dim"),
    "pieces": (
        lambda x, y: jnp.concatenate(
            [jax.lax.slice_in_dim(x, 0, 3, 2, 1), x[:, 1:], *jnp.split(x, (1,), -1), jnp.squeeze(y[:, :1], 1)], -1
        ),
        "slice split squeeze",
    ),
    "places": (lambda x, y: y[..., 1, :] + y[:, 0, :], "gather"),
    "stack": (lambda x, y: jnp.stack([x, 2 * x], axis=1), "stack"),
    "products": (
        lambda x, y: x @ W + jnp.einsum("bki,bkj,i->bj", y, y, W[:, 0])[:, :1] + jnp.einsum("bki,ij->bj", y, W),
        "dot_general",
    ),
    "sums": (lambda x, y: y.sum(1) + y.max((1, 2))[:, None] - y.min(1), "reduce_sum reduce_max reduce_min"),
    "types": (lambda x, y: (x > 0).astype(jnp.float32), "convert_element_type"),
}


def run(model, x, y):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": x, "y": y})
    return result


def inputs(batch):
    rng = np.random.default_rng(batch)
    return tuple(rng.standard_normal((batch, *shape)).astype(np.float32) for shape in ((3,), (2, 3)))


@pytest.mark.parametrize("name", CASES)
def test_a_graph_gives_what_the_function_gives_for_a_batch_of_any_length(name):
    fn, _ = CASES[name]
    model = to_onnx(fn, {"x": (3,), "y": (2, 3)}, "z")
    for batch in (1, 5):
        assert_allclose(run(model, *inputs(batch)), fn(*inputs(batch)), rtol=1e-6, atol=1e-6)


def test_every_operation_that_is_known_stands_in_a_case_that_names_it():
    named, (batch,) = set(), jax.export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for shape in ((3,), (2, 3))]
    for fn, words in CASES.values():
        used = operations(jax.make_jaxpr(fn)(*shapes).jaxpr)
        assert set(words.split()) <= used
        named |= used
    assert set(OPERATIONS) <= named, set(OPERATIONS) - named


def operations(jaxpr) -> set[str]:
    """Names of the operations of a jaxpr and of those inside it."""
    found = set()
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        found |= {equation.primitive.name} if inner is None else operations(getattr(inner, "jaxpr", inner))
    return found


@pytest.mark.parametrize("reverse", [False, True])
def test_a_loop_is_unrolled_in_its_order_with_what_it_collects(reverse):
    def fn(x, y):
        step = lambda carry, row: (0.5 * carry + row[0] * row[1], carry)
        rows = jnp.swapaxes(y, 0, 1), jnp.array([1.0, 3.0])
        last, all_of_them = jax.lax.scan(step, x, rows, reverse=reverse)
        return jnp.concatenate([last[:, None], jnp.swapaxes(all_of_them, 0, 1)], 1)

    assert_allclose(run(to_onnx(fn, {"x": (3,), "y": (2, 3)}, "z"), *inputs(4)), fn(*inputs(4)), atol=1e-6)


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda x, y: jax.lax.while_loop(lambda v: v.sum() < 9, lambda v: v + 1, x), "the operation while has no ONNX"),
        (lambda x, y: jnp.sort(x), "the operation sort has no ONNX"),
        (lambda x, y: x[:, jnp.argmax(y[0, 0])], "has no ONNX"),
        (lambda x, y: x / x.shape[0], "the operation dim_as_value has no ONNX"),
        (lambda x, y: jnp.broadcast_to(x.reshape(-1)[:, None], (3 * x.shape[0], 2)), "one axis alone may be the batch"),
    ],
)
def test_what_has_no_onnx_form_is_refused_in_one_line(fn, words):
    with pytest.raises(ExportError, match=words) as refused:
        to_onnx(fn, {"x": (3,), "y": (2, 3)}, "z")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_of_every_family_acts_in_onnxruntime_as_in_jax(name):
    changes = {"hidden_sizes": (4,), "num_steps": 3, "sampler": "heun"}
    cls = POLICIES[name]
    policy = cls(**{k: v for k, v in changes.items() if hasattr(cls, k)}).build(3, 2)
    params = jax.tree.map(
        lambda x: np.random.default_rng(x.size).standard_normal(x.shape).astype(np.float32),
        jax.eval_shape(policy.init, jax.random.key(0)),
    )
    act = lambda obs, noise: policy.squash(policy.sample(params, obs, noise)[0])
    model = to_onnx(act, {"obs": (3,), "noise": policy.noise_shape}, "action")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    obs, noise = (rng.standard_normal((1000, *shape)).astype(np.float32) for shape in ((3,), policy.noise_shape))
    (action,) = session.run(None, {"obs": obs, "noise": noise})
    assert action.std() > 0.1
    assert_allclose(action, jax.jit(act)(obs, noise), rtol=0, atol=1e-5)
