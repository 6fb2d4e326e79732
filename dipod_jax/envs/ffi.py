"""A Python function as a target of XLA's foreign function interface, called by name.

JAX's own callbacks tie a compiled program to objects of the process that compiled it, so no such program enters the
persistent compile cache: every start would compile rollout and evaluation anew. A target of the foreign function
interface is a name in the program and a C function registered under it in the process. `ctypes` makes the C function;
it reads the call frame of XLA's C API (xla/ffi/api/c_api.h in jaxlib's headers, major version 0). It runs on the thread
that executes the program, and copies nothing to a device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

BufferFn = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], None]
"""Reads its first argument's arrays and fills its second's; both live in XLA's memory and end with the call."""

_API_MAJOR = 0
_METADATA = 1  # XLA_FFI_Extension_Metadata: XLA asks which version of the interface a handler speaks
_FLOAT32 = 11  # XLA_FFI_DataType_F32
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL


class _Struct(ctypes.Structure):
    """Every struct of the interface starts with its size and a chain of extensions."""

    _fields_ = (("struct_size", ctypes.c_size_t), ("extension_start", ctypes.c_void_p))


class _Version(_Struct):
    _fields_ = (("major", ctypes.c_int), ("minor", ctypes.c_int))


class _Metadata(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("api_version", _Version), ("traits", ctypes.c_uint32))


class _Extension(ctypes.Structure):
    """XLA_FFI_Metadata_Extension; of another type, only the first two fields are there."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("metadata", ctypes.POINTER(_Metadata)),
    )


class _ErrorArguments(_Struct):
    _fields_ = (("message", ctypes.c_char_p), ("code", ctypes.c_int))


class _Api(_Struct):
    _fields_ = (
        ("version", _Version),
        ("internal_api", ctypes.c_void_p),
        ("create_error", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_ErrorArguments))),
    )


class _Buffer(_Struct):
    _fields_ = (
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    )


class _Buffers(_Struct):
    _fields_ = (
        ("size", ctypes.c_int64),
        ("types", ctypes.POINTER(ctypes.c_int)),
        ("buffers", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    )


class _CallFrame(_Struct):
    """XLA_FFI_CallFrame as far as it is read here: attributes and futures come after."""

    _fields_ = (
        ("api", ctypes.POINTER(_Api)),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
    )


_HANDLER = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_CallFrame))
_REGISTERED: dict[str, Any] = {}  # XLA calls them for as long as the process lives


def register(name: str, function: BufferFn) -> str:
    """Make `function` the CPU target `name` of `jax.ffi.ffi_call`, once in a process; float32 arrays only.

    An exception in it becomes the error of the program that called. The first function of a name stays: functions of
    one name must compute the same, since programs of other processes are bound to the name alone.

    Returns:
        The name.
    """
    if name not in _REGISTERED:
        _REGISTERED[name] = handler = _HANDLER(_handler(function))
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    return name


def _handler(function: BufferFn) -> Callable:
    def handle(pointer) -> int | None:
        frame = pointer.contents
        api = frame.api.contents
        try:
            if frame.extension_start and _tell_version(frame.extension_start, api):
                return None
            function(_arrays(frame.arguments), _arrays(frame.results))
            return None
        except BaseException as error:  # whatever it is, C cannot take it; XLA raises it where the result is awaited
            message = f"{type(error).__name__}: {error}".encode()
            size = ctypes.sizeof(_ErrorArguments)
            return api.create_error(ctypes.byref(_ErrorArguments(size, None, message, _INTERNAL)))

    return handle


def _tell_version(address: int, api: _Api) -> bool:
    """Answer XLA's question for the interface's version, if this is one."""
    extension = ctypes.cast(address, ctypes.POINTER(_Extension)).contents
    if extension.type != _METADATA:
        return False
    if api.version.major != _API_MAJOR:
        raise RuntimeError(f"XLA's foreign function interface has major version {api.version.major}, not {_API_MAJOR}")
    told = extension.metadata.contents
    told.api_version.major, told.api_version.minor = api.version.major, api.version.minor
    told.traits = 0
    return True


def _arrays(buffers: _Buffers) -> list[np.ndarray]:
    """Views of the buffers' memory."""
    arrays = []
    for index in range(buffers.size):
        buffer = buffers.buffers[index].contents
        if buffer.dtype != _FLOAT32:
            raise TypeError(f"data type {buffer.dtype} of XLA's foreign function interface is not float32")
        shape = tuple(buffer.dims[axis] for axis in range(buffer.rank))
        if 0 in shape:  # its address may be null
            arrays.append(np.empty(shape, np.float32))
        else:
            arrays.append(np.ctypeslib.as_array(ctypes.cast(buffer.data, ctypes.POINTER(ctypes.c_float)), shape))
    return arrays
