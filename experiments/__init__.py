"""Command lines: `python -m experiments.<name>`."""
