"""Train on FingerTurnEasy: `python -m experiments.fingerturneasy --beta 0.05 --seeds 8`."""

from experiments.train import main

if __name__ == "__main__":
    main(task="FingerTurnEasy")
