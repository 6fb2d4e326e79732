"""`python -m dipod_jax COMMAND`, for where the script `dipod` is not on the path."""

from dipod_jax.commands import main

if __name__ == "__main__":
    main()
