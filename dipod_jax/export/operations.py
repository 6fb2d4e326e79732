"""The ONNX form of each JAX operation that a policy is made of.

One function for each: `(graph, equation, inputs) -> value`, or a list of values where the operation has several. Inputs
are names of tensors, or numpy arrays where they are known.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dipod_jax.export.errors import ExportError

if TYPE_CHECKING:
    from dipod_jax.export.graph import Graph

Operation = Callable[["Graph", Any, list[Any]], Any]


def _same(op: str) -> Operation:
    """An operation that ONNX has under another name, with the same inputs."""
    return lambda graph, equation, inputs: graph.add(op, *inputs)


def _chain(*ops: str) -> Operation:
    """Several operations of one input, the first one first."""

    def convert(graph: Graph, equation: Any, inputs: list[Any]) -> Any:
        (value,) = inputs
        for op in ops:
            value = graph.add(op, value)
        return value

    return convert


def _axes(axes: Sequence[int]) -> np.ndarray:
    return np.array(axes, np.int64)


def _like(equation: Any, number: float) -> np.ndarray:
    """A constant of the result's type."""
    return np.array(number, equation.outvars[0].aval.dtype)


def _broadcast(graph: Graph, equation: Any, inputs: list[Any]) -> Any:
    """Axes of length 1 where there were none, then stretched to the result's shape."""
    shape, kept = equation.params["shape"], equation.params["broadcast_dimensions"]
    operand, before = inputs[0], equation.invars[0].aval.shape
    new = [axis for axis in range(len(shape)) if axis not in kept]
    if new:
        operand = graph.add("Unsqueeze", operand, _axes(new))
    lengths = dict(zip(kept, before, strict=True))
    if all(str(lengths.get(axis, 1)) == str(n) for axis, n in enumerate(shape)):  # as text: the batch has no length yet
        return operand
    return graph.add("Expand", operand, graph.shape(shape))


def _reshape(graph: Graph, equation: Any, inputs: list[Any]) -> Any:
    sizes = equation.params["new_sizes"]
    free = [n for n in sizes if not isinstance(n, int)]
    if len(free) <= 1:
        return graph.add("Reshape", inputs[0], _axes([n if isinstance(n, int) else -1 for n in sizes]))
    return graph.add("Reshape", inputs[0], graph.shape(sizes))


def _slice(graph: Graph, equation: Any, inputs: list[Any]) -> Any:
    params, shape = equation.params, equation.invars[0].aval.shape
    steps = params["strides"] or (1,) * len(shape)
    cut = [i for i, n in enumerate(shape) if (params["start_indices"][i], steps[i]) != (0, 1) or _shorter(equation, i)]
    if not cut:
        return inputs[0]
    of_cut = lambda numbers: _axes([int(numbers[i]) for i in cut])
    return graph.add(
        "Slice", inputs[0], of_cut(params["start_indices"]), of_cut(params["limit_indices"]), _axes(cut), of_cut(steps)
    )


def _shorter(equation: Any, axis: int) -> bool:
    before, after = (v.aval.shape[axis] for v in (equation.invars[0], equation.outvars[0]))
    return str(before) != str(after)


def _split(graph: Graph, equation: Any, inputs: list[Any]) -> list[Any]:
    axis, ends = equation.params["axis"], np.cumsum([int(n) for n in equation.params["sizes"]])
    starts = (0, *ends[:-1])
    cut = lambda start, end: graph.add("Slice", inputs[0], _axes([start]), _axes([end]), _axes([axis]))
    return [cut(start, end) for start, end in zip(starts, ends, strict=True)]


def _gather(graph: Graph, equation: Any, inputs: list[Any]) -> Any:
    """An index or a slice at a place that is known: `x[..., 0, :]`."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    axes = numbers.start_index_map
    if isinstance(inputs[1], str) or inputs[1].ndim != 1 or numbers.operand_batching_dims:
        raise ExportError("an index that is computed has no ONNX form here; StableHLO has: --formats stablehlo")
    starts = [int(i) for i in inputs[1]]
    ends = [start + int(sizes[axis]) for start, axis in zip(starts, axes, strict=True)]
    found = graph.add("Slice", inputs[0], _axes(starts), _axes(ends), _axes(axes))
    collapsed = numbers.collapsed_slice_dims
    return graph.add("Squeeze", found, _axes(collapsed)) if collapsed else found


def _stack(graph: Graph, equation: Any, inputs: list[Any]) -> Any:
    axis = equation.params["axis"]
    return graph.add("Concat", *(graph.add("Unsqueeze", x, _axes([axis])) for x in inputs), axis=axis)


def _dot_general(graph: Graph, equation: Any, inputs: list[Any]) -> Any:
    """MatMul where it is one, else Einsum."""
    (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = (len(v.aval.shape) for v in equation.invars)
    if not left_batch and (tuple(left_sum), tuple(right_sum), right) == ((left - 1,), (0,), 2):
        return graph.add("MatMul", *inputs)
    letters = iter(string.ascii_lowercase)
    a, b = ([""] * n for n in (left, right))
    shared = [(*pair, next(letters)) for pair in zip((*left_batch, *left_sum), (*right_batch, *right_sum), strict=True)]
    for i, j, letter in shared:
        a[i] = b[j] = letter
    for word in (a, b):
        word[:] = [letter or next(letters) for letter in word]
    common = {letter for *_, letter in shared}
    batch = [letter for *_, letter in shared[: len(left_batch)]]
    free = [letter for letter in (*a, *b) if letter not in common]
    return graph.add("Einsum", *inputs, equation=f"{''.join(a)},{''.join(b)}->{''.join(batch + free)}")


def _reduce(op: str) -> Operation:
    return lambda graph, equation, inputs: graph.add(op, inputs[0], _axes(equation.params["axes"]), keepdims=0)


def _cast(graph: Graph, equation: Any, inputs: list[Any]) -> Any:
    from onnx import helper

    return graph.add("Cast", inputs[0], to=helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"])))


def _select(graph: Graph, equation: Any, inputs: list[Any]) -> Any:
    which, *cases = inputs
    if len(cases) != 2:
        raise ExportError("a choice among more than two values has no ONNX form here; use --formats stablehlo")
    return graph.add("Where", which, cases[1], cases[0])


def _integer_power(graph: Graph, equation: Any, inputs: list[Any]) -> Any:
    return graph.add("Pow", inputs[0], _like(equation, equation.params["y"]))


def _clamp(graph: Graph, equation: Any, inputs: list[Any]) -> Any:
    low, value, high = inputs
    return graph.add("Min", graph.add("Max", value, low), high)


OPERATIONS: dict[str, Operation] = {
    "abs": _same("Abs"),
    "add": _same("Add"),
    "and": _same("And"),
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": lambda graph, equation, inputs: graph.add("Concat", *inputs, axis=equation.params["dimension"]),
    "convert_element_type": _cast,
    "copy": lambda graph, equation, inputs: inputs[0],
    "cos": _same("Cos"),
    "div": _same("Div"),
    "dot_general": _dot_general,
    "eq": _same("Equal"),
    "erf": _same("Erf"),
    "erfc": lambda graph, equation, inputs: graph.add("Sub", _like(equation, 1), graph.add("Erf", *inputs)),
    "exp": _same("Exp"),
    "expm1": lambda graph, equation, inputs: graph.add("Sub", graph.add("Exp", *inputs), _like(equation, 1)),
    "gather": _gather,
    "ge": _same("GreaterOrEqual"),
    "gt": _same("Greater"),
    "integer_pow": _integer_power,
    "le": _same("LessOrEqual"),
    "log": _same("Log"),
    "log1p": lambda graph, equation, inputs: graph.add("Log", graph.add("Add", *inputs, _like(equation, 1))),
    "logistic": _same("Sigmoid"),
    "lt": _same("Less"),
    "max": _same("Max"),
    "min": _same("Min"),
    "mul": _same("Mul"),
    "ne": lambda graph, equation, inputs: graph.add("Not", graph.add("Equal", *inputs)),
    "neg": _same("Neg"),
    "not": _same("Not"),
    "or": _same("Or"),
    "pow": _same("Pow"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_sum": _reduce("ReduceSum"),
    "reshape": _reshape,
    "rsqrt": _chain("Sqrt", "Reciprocal"),
    "select_n": _select,
    "sign": _same("Sign"),
    "sin": _same("Sin"),
    "slice": _slice,
    "split": _split,
    "sqrt": _same("Sqrt"),
    "square": lambda graph, equation, inputs: graph.add("Mul", inputs[0], inputs[0]),
    "squeeze": lambda graph, equation, inputs: graph.add("Squeeze", inputs[0], _axes(equation.params["dimensions"])),
    "stack": _stack,
    "stop_gradient": lambda graph, equation, inputs: inputs[0],
    "sub": _same("Sub"),
    "tanh": _same("Tanh"),
    "transpose": lambda graph, equation, inputs: graph.add(
        "Transpose", inputs[0], perm=list(equation.params["permutation"])
    ),
}
