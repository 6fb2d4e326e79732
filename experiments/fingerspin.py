"""Train on FingerSpin: `python -m experiments.fingerspin --beta 0.05 --seeds 8`."""

from dipod_jax.commands.train import main

if __name__ == "__main__":
    main(task="FingerSpin")
