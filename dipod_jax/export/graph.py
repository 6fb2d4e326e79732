"""A traced function as an ONNX graph: loops are unrolled, and what depends on constants alone is computed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import export

from dipod_jax.export.errors import ExportError
from dipod_jax.export.operations import OPERATIONS

OPSET = 18
IR_VERSION = 10  # the newest that a two-year-old onnxruntime reads


class Graph:
    """Nodes and constants of an ONNX graph that grows.

    A value is the name of a tensor, or the numpy array itself where it is known now.
    """

    def __init__(self, batch_source: str):
        """`batch_source` is the input whose first axis is the batch."""
        self.nodes: list[Any] = []
        self.constants: dict[tuple[str, tuple[int, ...], bytes], tuple[str, np.ndarray]] = {}
        self._batch_source, self._batch, self._count = batch_source, None, 0

    def name_of(self, value: str | np.ndarray) -> str:
        """The tensor's name; an array becomes a constant of the graph, equal arrays one."""
        if isinstance(value, str):
            return value
        key = str(value.dtype), value.shape, value.tobytes()
        return self.constants.setdefault(key, (f"constant_{len(self.constants)}", value))[0]

    def add(self, op: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Append a node with one output and return its name."""
        from onnx import helper

        self._count += 1
        output = f"{op.lower()}_{self._count}"
        self.nodes.append(helper.make_node(op, [self.name_of(x) for x in inputs], [output], **attributes))
        return output

    def shape(self, dimensions: Sequence[Any]) -> str | np.ndarray:
        """A shape as a tensor of int64: known, or with the batch read off the input when the graph is run.

        Raises:
            ExportError: an axis whose length is a multiple of the batch's, or the batch's plus a number.
        """
        if all(isinstance(n, int) for n in dimensions):
            return np.array(dimensions, np.int64)
        if self._batch is None:
            self._batch = self.add("Shape", self._batch_source, start=0, end=1)
        parts = [np.array([n], np.int64) if isinstance(n, int) else self._batch for n in dimensions]
        if any(str(n) != "batch" for n in dimensions if not isinstance(n, int)):
            raise ExportError(f"the shape {tuple(dimensions)} has no ONNX form here: one axis alone may be the batch")
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=0)


def to_onnx(
    fn: Callable[..., jax.Array], inputs: dict[str, tuple[int, ...]], output: str, description: str = ""
) -> Any:
    """An ONNX model of `fn`, whose first axis, the batch, may have any length.

    Args:
        fn: a function of float32 arrays (B, *shape), one for each of `inputs`, that returns one array (B, ...); what
            it closes over becomes constants.
        inputs: name -> shape without the batch, in the order of the arguments.
        output: name of the result.
        description: the model's doc string.

    Returns:
        `onnx.ModelProto`, checked.

    Raises:
        ExportError: the function needs an operation that `operations` does not know; one line that names it.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    (batch,) = export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct((batch, *shape), np.float32) for shape in inputs.values()]
    traced = jax.make_jaxpr(fn)(*shapes)
    graph = Graph(next(iter(inputs)))
    (result,) = _convert(graph, traced.jaxpr, [np.asarray(c) for c in traced.consts], list(inputs))
    graph.nodes.append(helper.make_node("Identity", [graph.name_of(result)], [output]))
    tensor = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "act",
            [tensor(name, shape) for name, shape in inputs.items()],
            [tensor(output, traced.out_avals[0].shape[1:])],
            [numpy_helper.from_array(value, name) for name, value in graph.constants.values()],
            description,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="dipod-jax",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _convert(graph: Graph, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Append a jaxpr's equations to the graph; its values, for the values of its constants and arguments."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(variable: Any) -> Any:
        if hasattr(variable, "val"):  # a literal
            return np.asarray(variable.val, variable.aval.dtype)
        return values[variable]

    for equation in jaxpr.eqns:
        results = _equation(graph, equation, [read(v) for v in equation.invars])
        values |= dict(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _equation(graph: Graph, equation: Any, inputs: list[Any]) -> list[Any]:
    """The values of one equation: of the function inside it, computed now, or of the nodes that stand for it."""
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _unrolled(graph, equation, inputs)
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    if inner is not None and name not in ("while", "cond"):
        closed = hasattr(inner, "consts")
        return _convert(graph, inner.jaxpr if closed else inner, inner.consts if closed else (), inputs)
    static = all(isinstance(n, int) for v in equation.outvars for n in v.aval.shape)
    if static and name != "dim_as_value" and not any(isinstance(x, str) for x in inputs):
        results = equation.primitive.bind(*inputs, **params)
        return [np.asarray(x) for x in (results if equation.primitive.multiple_results else [results])]
    if name not in OPERATIONS:
        raise ExportError(f"the operation {name} has no ONNX form here; StableHLO has: --formats stablehlo")
    result = OPERATIONS[name](graph, equation, inputs)
    return list(result) if equation.primitive.multiple_results else [result]


def _unrolled(graph: Graph, equation: Any, inputs: list[Any]) -> list[Any]:
    """A scan, one step after the other.

    How many inputs are constants, and how many are carried, is read off the axes: versions of JAX say it differently.
    What is scanned over, and what is collected, has one axis more outside than inside.
    """
    params, body = equation.params, equation.params["jaxpr"]
    as_inside = lambda outer, inner: sum(a.aval.ndim == b.aval.ndim for a, b in zip(outer, inner, strict=True))
    num_carried = as_inside(equation.outvars, body.jaxpr.outvars)
    end = as_inside(equation.invars, body.jaxpr.invars)
    consts, carry, rows = inputs[: end - num_carried], inputs[end - num_carried : end], inputs[end:]
    pick = lambda x, i: x[i] if not isinstance(x, str) else graph.add("Gather", x, np.array(i, np.int64), axis=0)
    outputs: list[list[Any]] = []
    for i in range(params["length"])[:: -1 if params["reverse"] else 1]:
        step = _convert(graph, body.jaxpr, body.consts, [*consts, *carry, *(pick(x, i) for x in rows)])
        carry = step[: len(carry)]
        outputs.append(step[len(carry) :])
    if params["reverse"]:
        outputs.reverse()
    return [*carry, *(_stacked(graph, column) for column in zip(*outputs, strict=True))]


def _stacked(graph: Graph, values: Sequence[Any]) -> Any:
    """Values of all steps along a new first axis."""
    if not any(isinstance(x, str) for x in values):
        return np.stack(values)
    axis = np.array([0], np.int64)
    return graph.add("Concat", *(graph.add("Unsqueeze", x, axis) for x in values), axis=0)
