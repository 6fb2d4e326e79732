"""Bad command lines over all commands: each is one line that names what is wrong, status 2, nothing written."""

import importlib
from pathlib import Path

import pytest
from refusals import begun_run

from dipod_jax import commands, memory, presets
from dipod_jax.envs.tasks import TASKS
from dipod_jax.language.config import make_config, to_json
from dipod_jax.runs import RunFolder

# command, arguments, words of the line
LINES = """
train | --task Nothing | --task Nothing
train | --task nothing:make | --task nothing:make
train | --task : | --task :
train | --preset best | --preset best
train | --objective sac | --objective sac
train | --objective | --objective
train | --backend cuda | --backend cuda
train | --backend warp | --backend warp
train | --coordinator host:1 | --coordinator host:1 --distributed
train | --num-processes 2 | --num-processes 2 --distributed
train | --distributed --process-id 0 | --process-id 0 together
train | --distributed --coordinator host:1 | --num-processes together
train | --distributed --coordinator host --num-processes 2 --process-id 0 | --coordinator host HOST:PORT
train | --distributed --coordinator :80 --num-processes 2 --process-id 0 | --coordinator :80 HOST:PORT
train | --distributed --coordinator h:99999 --num-processes 2 --process-id 0 | --coordinator h:99999 HOST:PORT
train | --distributed --coordinator h:1 --num-processes 2 --process-id 2 | --process-id 2
train | --distributed --coordinator h:1 --num-processes 0 --process-id 0 | --num-processes 0
sweep | --betas 0 --distributed | --distributed train
train | --seeds 0 | --seeds 0
heldnoise | --tasks Nothing | --task Nothing
heldnoise | --seconds -1 | --seconds -1
heldnoise | --num-episodes 1 | --num-episodes 1
heldnoise | --num-steps 0 | --num-steps 0
train | --seeds -3 | --seeds -3
train | --seeds 1e3 | --seeds 1e3
train | --seeds 100000000 | --seeds 100000000 GiB machine
train | --seed-list 1 1 | --seed-list different
train | --seed-list -1 | --seed-list
train | --seed-list 4294967296 | --seed-list
train | --beta nan | --beta nan finite
train | --beta inf | --beta inf
train | --beta -0.1 | --beta -0.1
train | --beta 1 2 | 2
train | --objective ppo --beta 0.1 | --beta 0.1
train | --objective ppo --beta auto | --beta auto
train | --objective espo --objective.kl k1 --beta 0.05 | --objective.kl k1 --beta 0.05
train | --objective gdpo --objective.kl k1 --objective.kl-weight 0.1 --beta auto | --objective.kl k1 --beta auto
train | --objective awm --policy.loss-form eps | --policy.loss-form eps velocity ghuber
train | --objective espo --objective.kl k4 | --objective.kl k4
train | --regularisers.k2.kind k1 | --regularisers.k2.kind
train | --regularisers.k2.draws k1 | --regularisers.k2.draws k1
train | --total-steps 0 | --total-steps 0
train | --total-steps 99999999999999999999 | --total-steps
train | --rollout.num-envs 0 | --rollout.num-envs 0
train | --rollout.num-envs 100000000000 | --rollout.num-envs GiB
train | --rollout.num-steps 1000000000000 | --rollout.num-steps GiB
train | --rollout.observation-clip 0 | --rollout.observation-clip more
train | --learning.minibatch-size 1000 | --learning.minibatch-size divisor
train | --learning.num-epochs 100000000000000 | --learning.num-epochs GiB
train | --learning.discount 1.1 | --learning.discount 1.1
train | --learning.learning-rate 0 | --learning.learning-rate
train | --learning.advantages gae | --learning.advantages gae
train | --policy.hidden-sizes 0 | --policy.hidden-sizes 0
train | --policy.hidden-sizes 1000000000 1000000000 | --policy.hidden-sizes GiB
train | --policy.num-draws 100000000000 | --policy.num-draws GiB
train | --policy.num-steps 100000000000000 | --policy.num-steps GiB
train | --policy.elbo-cutoff 2 | --policy.elbo-cutoff 2
train | --critic.hidden-sizes 10000000 10000000 | --critic.hidden-sizes GiB
train | --evaluation.num-episodes 100000000000 | --evaluation.num-episodes GiB
train | --drift.num-samples 17 | --drift.num-samples even
train | --keep-checkpoints 0 | --keep-checkpoints 0
train | --resume | --resume --out
train | --resume --out nowhere | nowhere
train | --resume --out run --beta 0.5 | --beta 0.5
train | --out run | run holds
train | --out file/run | --out file
train | --betta 1 | --betta --beta
train | stray | stray
ballincup | --task FishSwim | --task FishSwim
fingerspin | --seeds none | --seeds none
fingerturneasy | --logger paper | --logger paper
fingerturnhard | --preset fast | --preset fast
evaluate | | RUN_DIR required
evaluate | nowhere | nowhere
evaluate | run --episodes 0 | --episodes 0
evaluate | run --episodes 100000000000 | --episodes GiB
evaluate | run --seed 8 | --seed 8
evaluate | run --which worst | --which worst
evaluate | run --backend gpu | --backend gpu
evaluate | file | file
evaluate | run --evaluation-seed -1 | --evaluation-seed -1
evaluate | tokens --seed 3 | --seed 3
evaluate | tokens --problems 0 | --problems 0
evaluate | tokens --episodes 5 | --episodes
evaluate | tokens | tokens checkpoint
compare | | RUN_DIRS
compare | run --labels a b | --labels a b
compare | file | file
comparison | --betas 0 | --betas
comparison | --objectives sac | --objectives sac
comparison | --tasks BallInCup BallInCup | --tasks
export | | RUN_DIR required
export | run --formats pickle | --formats
export | run --seed 5 | --seed 5
export | tokens | language
train | --resume --out tokens | --resume language
language | --resume --out tokens --objective d1 | --objective fpo
language | --resume | --resume --out
report | nowhere | nowhere
report | file | file
sweep | --betas | --betas
sweep | --betas 0 0 | --betas 0 0
sweep | --betas 0 --beta 1 | --beta
sweep | --tasks sudoku BallInCup --betas 0 | --tasks BallInCup language
sweep | --betas 0 --rollout.num-envs 100000000000 | --rollout.num-envs GiB
ablation | --parts nothing | --parts nothing
ablation | --preset paper | --preset
ablation | --parts recipe --seeds 100000000 | --seeds GiB
contraction | --arms rk4 | --arms rk4
contraction | --batch 100000000000 | --batch GiB
contraction | --std 0 | --std 0
placements | --run nowhere | nowhere
placements | --num-draws 3 | --num-draws 3
placements | --batch 1000000000 --redraws 1000000 | --batch GiB
tinydiffusion | --length 12 | --length 12 GiB
tinydiffusion | --study none | --study
tinydiffusion | --steps 3050 | --steps 3050
tinydiffusion | --eubo renyi --estimator uniform | --eubo renyi
tinydiffusion | --eubo renyi --study monte-carlo | --eubo renyi
twotoken | --steps 100000000000 | --steps GiB
twotoken | --init-logit nan | --init-logit nan
language | --task chess | --task chess
language | --seeds 0 | --seeds 0
language | --task countdown --problems.max-number 2 --problems.max-target 1 | --problems.max-number 2
language | --pretrained nowhere --out new | nowhere holds no checkpoint
language | --network.head none | --network.head none
language | --objective espo --objective.kl k1 --beta 0.05 | --objective.kl k1 --beta 0.05
table1 | --groups none | --groups none
table1 | --seeds 0 | --seeds 0
language | --network.width 1000000000 | --network.width GiB
sweep | --grid rollout.num-envs GRID --grid rollout.num-steps GRID --grid learning.num-epochs GRID | --grid runs 10000
language | --pretraining.steps 1000000000000 | --pretraining.steps GiB
language | --learning.inner-updates 1000000000000 | --learning.inner-updates GiB
table1 | --seeds 100000000 | --seeds 1000
language | --learning.samples-per-prompt 100000000000 | --learning.samples-per-prompt GiB
"""
LINES = LINES.replace("GRID", " ".join(map(str, range(1, 30))))
LINES += f"comparison | --seed-list {' '.join(map(str, range(2000)))} --tuning-seeds 9999 | --seed-list 2000 1000\n"
LINES += "".join(f"{name} | {300 * 'x'} | long\n" for name in ("evaluate", "report", "compare", "export"))
CASES = [tuple(part.strip() for part in line.split("|")) for line in LINES.strip().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with a run that has trained, and a file."""
    root = tmp_path_factory.mktemp("commands")
    begun_run(root / "run")
    RunFolder.create(root / "tokens", to_json(make_config())).close()
    (root / "file").write_text("")
    return root


def command(name, arguments):
    """Run a command as its module does."""
    task = {task.lower(): {"task": task} for task in TASKS}.get(name, {})
    importlib.import_module(f"dipod_jax.commands.{'train' if task else name}").main(arguments, **task)


@pytest.mark.parametrize(("name", "arguments", "words"), CASES, ids=[f"{n} {a}" for n, a, _ in CASES])
def test_a_bad_command_line_is_one_line_and_status_2(folder, monkeypatch, capsys, name, arguments, words):
    monkeypatch.chdir(folder)
    arguments = arguments.split()
    if name in ("train", "sweep", "ballincup") and not {"--preset", "--resume"} & set(arguments):
        arguments = ["--preset", "cpu", *arguments]
    if name in ("train", "sweep", "ablation") and not {"--backend", "--resume"} & set(arguments):
        arguments = ["--backend", "native", *arguments]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(SystemExit) as ended:
        command(name, arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert [word for word in words.split() if word not in err] == [], err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_there_are_sixty_of_them_over_every_command():
    folder = Path(commands.__file__).parent
    assert len(CASES) >= 60 and {name for name, _, _ in CASES} >= {path.stem for path in folder.glob("[a-z]*.py")}


def test_no_preset_is_refused_on_a_machine_of_eight_gigabytes(monkeypatch):
    monkeypatch.setattr(memory, "machine_bytes", lambda: 2**33)
    for preset in presets.PRESETS:
        for seeds in (1, 8):
            config, _ = presets.make_config(preset, "CheetahRun", "fpo", "native")
            memory.check_training(presets.replace(config, seeds=seeds if preset != "paper" else 1))


def test_an_estimate_is_the_arrays_that_a_run_holds():
    """Parameters, Adam's two moments, those of distillation's Adam, and a gradient; counted by hand."""
    sizes = {
        "seeds": 3,
        "rollout.num-envs": 10,
        "rollout.num-steps": 7,
        "learning.minibatch-size": 35,
        "learning.num-epochs": 2,
        "evaluation.num-episodes": 4,
        "evaluation.num-episodes-during": 2,
        "distillation.num-steps": 1,
        "policy.hidden-sizes": (5, 6),
        "policy.num-steps": 3,
        "policy.num-draws": 2,
        "policy.time-embedding-size": 4,
        "critic.hidden-sizes": (3,),
    }
    parts = memory._training(sizes, 6, None)
    # 8 observations + 2 actions + 4 features of time; 8 observations
    policy, critic = 15 * 5 + 6 * 6 + 7 * 2, 9 * 3 + 4 * 1
    assert parts["parameters"] == 4 * 3 * (policy + critic) and parts["optimizer"] == 5 * parts["parameters"]
    # two observations, action and base noise, reward, ends, returns and lengths; two draws of a time and a noise, twice
    assert parts["rollout"] == 4 * 3 * 70 * (16 + 4 + 5 + 2 * 2 * 3)
    assert parts["minibatch"] == 2 * 4 * 35 * (2 * (14 + 11) + 3)
