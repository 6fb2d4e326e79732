"""Train on BallInCup: `python -m experiments.ballincup --beta 0.05 --seeds 8`."""

from dipod_jax.commands.train import main

if __name__ == "__main__":
    main(task="BallInCup")
