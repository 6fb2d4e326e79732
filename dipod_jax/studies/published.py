"""Published returns on the suite's tasks, to stand beside a study's own.

Returns of MuJoCo Playground's DM-Control tasks, sums over 1000 steps, at the end of training: mean, standard deviation
over runs, number of runs. `BEST` is the highest mean of at least three runs that a source gives, `POLICY_GRADIENT` the
highest of a method that learns on-policy, `PPO` SLM-Lab's and `BRAX_PPO` Brax's with Playground's settings, which have
all tasks, `FPO` another's runs of FPO with its ratio per draw. Budgets differ widely and are mostly larger than ours:
they show what has been reached.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """One published number."""

    mean: float
    std: float | None
    """over runs; None where the source gives none"""
    runs: int | None
    """None where the source does not say"""
    method: str
    source: str


_REPPO = "result files of the REPPO code, arXiv 2507.11019"
_SLM = "SLM-Lab 5.3, benchmark page"
_GORL = "GoRL, table 1"
_TDMPC = "SuuTTT's benchmark of helios-rl"

# What was run of it: the files' axis goes on to 500M with values that no longer change. PendulumSwingup's is not as
# Playground's settings intend: they spell the task's name another way.
_BRAX_PPO_RETURNS = {
    "AcrobotSwingup": (222, 25),
    "AcrobotSwingupSparse": (12, 16),
    "BallInCup": (565, 462),
    "CartpoleBalance": (1000, 0),
    "CartpoleBalanceSparse": (999, 3),
    "CartpoleSwingup": (693, 261),
    "CartpoleSwingupSparse": (158, 289),
    "CheetahRun": (825, 70),
    "FingerSpin": (570, 96),
    "FingerTurnEasy": (970, 1),
    "FingerTurnHard": (953, 11),
    "FishSwim": (632, 24),
    "HopperHop": (2, 0),
    "HopperStand": (205, 225),
    "HumanoidRun": (143, 34),
    "HumanoidStand": (787, 82),
    "HumanoidWalk": (403, 254),
    "PendulumSwingup": (63, 40),
    "PointMass": (897, 4),
    "ReacherEasy": (982, 1),
    "ReacherHard": (978, 1),
    "SwimmerSwimmer6": (579, 32),
    "WalkerRun": (601, 198),
    "WalkerStand": (983, 1),
    "WalkerWalk": (969, 2),
}
_TWICE_AS_LONG = ("AcrobotSwingup", "AcrobotSwingupSparse", "SwimmerSwimmer6", "WalkerRun")
BRAX_PPO = {
    task: Published(mean, std, 5, f"Brax PPO, {177 if task in _TWICE_AS_LONG else 88}M env steps", _REPPO)
    for task, (mean, std) in _BRAX_PPO_RETURNS.items()
}

BEST = {
    "AcrobotSwingup": Published(511, None, 4, "TD-MPC2, 5M env steps", _TDMPC),
    "AcrobotSwingupSparse": Published(156, 49, 10, "REPPO, large, no normalisation", _REPPO),
    "BallInCup": Published(975, 1, 10, "REPPO, small", _REPPO),
    "CartpoleBalance": Published(1000, 0, 10, "REPPO, small", _REPPO),
    "CartpoleBalanceSparse": Published(1000, 1, 20, "REPPO", _REPPO),
    "CartpoleSwingup": Published(877, 7, 40, "REPPO, full small", _REPPO),
    "CartpoleSwingupSparse": Published(812, 36, 10, "REPPO, medium, no auxiliary loss", _REPPO),
    "CheetahRun": Published(933, 2, 10, "REPPO, large", _REPPO),
    "FingerSpin": Published(936, 84, 25, "FastTD3, small", _REPPO),
    "FingerTurnEasy": Published(975, 3, 22, "FastTD3, small", _REPPO),
    "FingerTurnHard": Published(958, 17, 24, "FastTD3, small", _REPPO),
    "FishSwim": Published(683, 16, 11, "REPPO, large, no auxiliary loss", _REPPO),
    "HopperHop": Published(420, 113, 12, "TD-MPC2, 5M env steps", _TDMPC),
    "HopperStand": Published(938, 17, 13, "REPPO, medium, no normalisation", _REPPO),
    "HumanoidRun": Published(748, 84, 8, "REPPO, large", _REPPO),
    "HumanoidStand": Published(997, 2, 3, "REPPO, large, no auxiliary loss", _REPPO),
    "HumanoidWalk": Published(991, 1, 21, "REPPO, medium", _REPPO),
    "PendulumSwingup": Published(842, 2, 11, "REPPO, large, no normalisation", _REPPO),
    "PointMass": BRAX_PPO["PointMass"],
    "ReacherEasy": BRAX_PPO["ReacherEasy"],
    "ReacherHard": BRAX_PPO["ReacherHard"],
    "SwimmerSwimmer6": Published(591, None, 4, "PPO, 100M env steps", _SLM),
    "WalkerRun": Published(911, 9, 11, "REPPO, small, no normalisation", _REPPO),
    "WalkerStand": Published(992, 0, 25, "FastTD3, small", _REPPO),
    "WalkerWalk": Published(983, 0, 23, "FastTD3, small", _REPPO),
}

# The best where it is of another kind: off-policy (FastTD3), or by planning with a model (TD-MPC2).
POLICY_GRADIENT = BEST | {
    "AcrobotSwingup": Published(466, 34, 10, "REPPO, very long", _REPPO),
    "FingerSpin": Published(904, None, 5, "GoRL, 180M env steps", _GORL),
    "FingerTurnEasy": BRAX_PPO["FingerTurnEasy"],
    "FingerTurnHard": BRAX_PPO["FingerTurnHard"],
    "HopperHop": Published(347, 82, 10, "REPPO, large, no normalisation", _REPPO),
    "WalkerStand": Published(988, 1, 10, "REPPO, medium, no normalisation", _REPPO),
    "WalkerWalk": Published(978, 2, 40, "REPPO, medium", _REPPO),
}

_PPO_RETURNS = {
    "AcrobotSwingup": 253,
    "AcrobotSwingupSparse": 147,
    "BallInCup": 942,
    "CartpoleBalance": 968,
    "CartpoleBalanceSparse": 995,
    "CartpoleSwingup": 729,
    "CartpoleSwingupSparse": 522,
    "CheetahRun": 883,
    "FingerSpin": 713,
    "FingerTurnEasy": 664,
    "FingerTurnHard": 590,
    "FishSwim": 581,
    "HopperHop": 22,
    "HopperStand": 237,
    "HumanoidRun": 19,
    "HumanoidStand": 115,
    "HumanoidWalk": 47,
    "PendulumSwingup": 637,
    "PointMass": 868,
    "ReacherEasy": 955,
    "ReacherHard": 947,
    "SwimmerSwimmer6": 591,
    "WalkerRun": 760,
    "WalkerStand": 948,
    "WalkerWalk": 945,
}
PPO = {task: Published(mean, None, 4, "PPO, 100M env steps", _SLM) for task, mean in _PPO_RETURNS.items()}

_FPO_RETURNS = {
    "CheetahRun": 599,
    "FingerSpin": 56,
    "FingerTurnHard": 752,
    "FishSwim": 205,
    "HopperStand": 4,
    "HumanoidRun": 0,
    "HumanoidStand": 0,
    "WalkerWalk": 29,
}
FPO = {task: Published(mean, None, 5, "FPO, 180M env steps", _GORL) for task, mean in _FPO_RETURNS.items()}
