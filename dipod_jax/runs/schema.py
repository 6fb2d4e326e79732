"""The door through which a folder's files come in: what lies there may be from anywhere.

What passes has the types that the rest of the library reads; everything else is one line that names the file.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dipod_jax.runs._disk import read_bytes
from dipod_jax.runs.errors import RunFolderError

MAX_DEPTH = 16
KINDS = ("train", "drift", "evaluation")
_MAX_INTEGER = 2**63
_SURROGATE = re.compile("[\ud800-\udfff]")

Check = Callable[[Any], bool]


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """The JSON object in the file at `path`, of at most `limit` bytes.

    Raises:
        FileNotFoundError: there is no file.
        RunFolderError: it is anything else.
    """
    try:
        return parse_object(read_bytes(path, limit))
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged ({error})") from error


@contextmanager
def whole(path: Path, way_out: str) -> Iterator[None]:
    """Turn an error inside into one RunFolderError, which says that `path` is damaged, and the way out."""
    try:
        yield
    except RunFolderError as error:
        raise RunFolderError(f"{error}; {way_out}") from error
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged ({error}); {way_out}") from error


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object that `parse_value` takes; raises ValueError for anything else."""
    value = parse_value(text)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def parse_value(text: bytes) -> Any:
    """A JSON value of finite numbers, integers of 64 bits and whole characters, nested at most 16 deep.

    Raises:
        ValueError: anything else, in a few words.
    """
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _is_deep(text):
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    try:
        value = json.loads(
            text.decode("utf-8"),
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
            object_pairs_hook=_object,
        )
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if b"\\u" in text and not _is_whole(value):
        raise ValueError("it holds half a character")
    return value


def checked_record(record: dict[str, Any]) -> dict[str, Any]:
    """A line of `metrics.jsonl`; a return of an evaluation that is null there, as JSON has no nan, is nan.

    Raises:
        ValueError: it lacks what every record has, or holds another type.
    """
    for name, fits in _HEAD.items():
        if not fits(record.get(name)):
            raise ValueError(f"{name!r} is {_shown(record, name)}")
    for name, value in record.items():
        if name not in _HEAD and not (value is None or is_number(value) or isinstance(value, (bool, str))):
            raise ValueError(f"{name!r} is {_shown(record, name)}")
    if record["kind"] == "evaluation":
        returns = {name: record.get(name) for name in ("return_mean", "zero_noise_return_mean") if name in record}
        if "return_mean" not in returns:
            raise ValueError("'return_mean' is missing")
        if not all(value is None or is_number(value) for value in returns.values()):
            raise ValueError("a return is not a number")
        return record | {name: math.nan if value is None else value for name, value in returns.items()}
    return record


def check_result(result: dict[str, Any]) -> None:
    """Raise ValueError where something in `result.json` is of another type than the library writes."""
    if not {"arms", "env_steps", "samples"} & set(result):  # of a study, of control, of language
        raise ValueError("'env_steps' is missing")
    _check_present(result, _RESULT)


def check_origin(record: dict[str, Any]) -> None:
    """Raise ValueError where something in `config.json` is of another type; the configuration is its reader's."""
    if not isinstance(record.get("config"), dict):
        raise ValueError('it has no "config"')
    _check_present(record, _ORIGIN)


def check_fields(values: Mapping[str, Any], schema: Mapping[str, Check]) -> None:
    """Raise ValueError where `values` lacks a name of `schema`, or holds another type there."""
    for name, fits in schema.items():
        if name not in values or not fits(values[name]):
            raise ValueError(f"{name!r} is {_shown(values, name)}")


def check_leaves(leaves: Any) -> None:
    """Raise ValueError unless `leaves` is what `leaves.json` holds: name, shape and dtype of each array."""
    if not isinstance(leaves, list):
        raise ValueError("it is not a list")
    for leaf in leaves:
        if not (isinstance(leaf, dict) and isinstance(leaf.get("name"), str) and isinstance(leaf.get("dtype"), str)):
            raise ValueError("a leaf has no name or no dtype")
        if not list_of(is_count)(leaf.get("shape")):
            raise ValueError(f"the shape of {leaf['name'][:80]!r} is none")


def _check_present(values: Mapping[str, Any], schema: Mapping[str, Check]) -> None:
    check_fields(values, {name: fits for name, fits in schema.items() if name in values})


def _shown(values: Mapping[str, Any], name: str) -> str:
    return f"{values[name]!r:.40}" if name in values else "missing"


def is_number(value: Any) -> bool:
    """A float or an integer; a bool is neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """An integer, at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def is_group(value: Any) -> bool:
    """An object."""
    return isinstance(value, dict)


def or_none(fits: Check) -> Check:
    """null, or what fits."""
    return lambda value: value is None or fits(value)


def list_of(fits: Check) -> Check:
    """A list of what fits."""
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _is_interval(value: Any) -> bool:
    return value is None or (list_of(is_number)(value) and len(value) == 2)


def is_summary(value: Any) -> bool:
    """As `training.results.summarise` makes it."""
    return (
        isinstance(value, dict)
        and or_none(is_number)(value.get("mean", False))
        and _is_interval(value.get("ci95"))
        and list_of(or_none(is_number))(value.get("per_seed"))
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(map(list_of(or_none(is_number)), value.values()))


_HEAD: dict[str, Check] = {
    "kind": lambda value: isinstance(value, str) and value in KINDS,
    "seed": is_count,
    "iteration": is_count,
    "env_steps": is_count,
    "wall_clock_s": lambda value: is_number(value) and value >= 0,
}
_SECONDS = ("wall_clock_s", "setup_s", "compile_s", "training_s", "evaluation_s", "env_steps_per_s")
_RESULT: dict[str, Check] = {
    **dict.fromkeys(("task", "objective", "preset", "backend"), is_text),
    **dict.fromkeys(_SECONDS, or_none(is_number)),
    **dict.fromkeys(("env_steps", "samples", "initial_distillation_env_steps", "num_devices"), is_count),
    **dict.fromkeys(("final_return", "final_return_zero_noise"), is_summary),
    **dict.fromkeys(("seconds_to", "evaluation_return"), _is_table),
    **dict.fromkeys(("note", "missing_records"), or_none(is_text)),
    **dict.fromkeys(("seeds", "diverged_seeds"), list_of(is_count)),
}
_ORIGIN: dict[str, Check] = {
    **dict.fromkeys(("created", "command"), is_text),
    **dict.fromkeys(("versions", "machine"), is_group),
    "git": or_none(is_group),
}


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(value := int(digits)) >= _MAX_INTEGER:
        raise ValueError(f"{digits[:24]} is too large")
    return value


def _number(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"{digits[:24]} is too large")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"it holds {twice[:40]!r} twice")
    return value


def _is_deep(text: bytes) -> bool:
    """Whether brackets stand more than `MAX_DEPTH` deep, those inside of strings left out."""
    depth = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif token[0] in (b"]", b"}"):
            depth -= 1
    return False


def _is_whole(value: Any) -> bool:
    """Whether no string holds half a surrogate pair, which nothing can write again."""
    if isinstance(value, str):
        return _SURROGATE.search(value) is None
    if isinstance(value, dict):
        return all(_is_whole(key) and _is_whole(item) for key, item in value.items())
    return not isinstance(value, list) or all(map(_is_whole, value))
