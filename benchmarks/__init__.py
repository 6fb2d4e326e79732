"""Speed, as ratios against something measured in the same run: `python -m benchmarks.all`, or one script alone."""
