"""Warp's kernels unoptimised: all of a step compile in 18 s instead of 71, and no test here is about their speed."""

import pytest


@pytest.fixture(scope="session")
def quick_warp():
    import warp

    warp.config.optimization_level = 0
