"""A file of JSON with something in it changed, as by a disk, an editor or somebody who means harm."""

import random
import re

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.e+-]*|\[[^\[\]]*\]|true|false|null')
REPLACEMENTS = (
    *("null", "true", "{}", "[]", "[[]]", '""', "-1", "0", "1.5", "1e999", "-0.0", "1e300", "9" * 30, "9" * 5000),
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        '"\\ud800"',
        '"x"',
        "[" * 200_000,
        "[" * 200 + "]" * 200,
        '{"a": ' * 50 + "1" + "}" * 50,
    ),
    *('"\\u0000"', '"../../x"', "100000000", "1" + "0" * 18),
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """`content` with a value, a key, a line, some bytes or its end changed."""
    kind = rng.randrange(8)
    if kind < 4:  # a value of the JSON is another one
        tokens = [m for m in _TOKEN.finditer(content)]
        token = rng.choice(tokens) if tokens else None
        if token is not None:
            return content[: token.start()] + rng.choice(REPLACEMENTS).encode() + content[token.end() :]
    if kind == 4:
        at = rng.randrange(len(content))
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    if kind == 5:
        return content[: rng.randrange(len(content))]
    if kind == 6:
        start, end = sorted(rng.randrange(len(content)) for _ in range(2))
        return content[:start] + content[end:]
    at = rng.randrange(len(content))
    return content[:at] + rng.choice((b"\x00", b"\xff\xfe", b"\n", b'"', b"{", b"\xed\xa0\x80")) + content[at:]
