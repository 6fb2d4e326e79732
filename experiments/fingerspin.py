"""Train on FingerSpin: `python -m experiments.fingerspin --beta 0.05 --seeds 8`."""

from experiments.train import main

if __name__ == "__main__":
    main(task="FingerSpin")
