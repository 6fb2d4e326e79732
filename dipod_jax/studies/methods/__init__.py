"""Every objective with and without DiPOD, each tuned by the same small grid, on the same tasks and env steps."""
