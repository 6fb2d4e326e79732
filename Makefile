# Two commands do everything on a machine with python3 (3.11 or newer) and make:
#   make ballincup   set up, train on BallInCup, leave a run folder
#   make test        set up, run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEVELOPER := $(VENV)/.developer
DOCS := $(VENV)/.docs
# requirements.lock holds the versions the project was tested with on Python 3.11; others take the newest that fit.
LOCKED := $(shell $(PYTHON) -c 'import sys; print("-c requirements.lock" if sys.version_info[:2] == (3, 11) else "")' 2>/dev/null)

# Of DiPOD; empty for the preset's own (0 with --objective ppo).
BETA ?= 0.05
SEEDS ?= 1
ARGS ?=
JOBS ?= auto
# Compiled test programs are kept, so that worker and child processes share them and a second run is quick.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache

.PHONY: setup ballincup test test-all check docs gpu bench clean

# What training needs is installed first; `setup`, `check`, `gpu` and the tests add the developer's tools.
setup: $(DEVELOPER)
	@echo "Ready. Either 'source $(BIN)/activate' and then 'dipod --help', or '$(BIN)/dipod --help'."

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("python >= 3.11 is needed, this is " + sys.version.split()[0] + "; set PYTHON=...") if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) on $$(uname -sm); tested on Linux, x86-64."
	@echo "It takes 2 GB of disk and, with the downloads, 2 to 10 minutes. No GPU is needed."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e . $(LOCKED)
	@touch $@

$(DEVELOPER): $(READY)
	$(BIN)/python -m pip install -e ".[dev]" $(LOCKED)
	@touch $@

ballincup: $(READY)
	$(BIN)/python -m experiments.ballincup $(if $(BETA),--beta $(BETA)) --seeds $(SEEDS) $(ARGS)

test: $(DEVELOPER)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-all: $(DEVELOPER)
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

check: $(DEVELOPER)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(DOCS): $(READY)
	$(BIN)/python -m pip install -e ".[docs]" $(LOCKED)
	@touch $@

# The documentation as a site, built without a network; a warning, such as a link to nothing, is an error.
docs: $(DOCS)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

# Nine minutes on one accelerator: its tests, its speed, a run of the paper preset; a JSON and a table.
gpu: $(DEVELOPER)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

# Each leaves its table on the terminal and its JSON in $(BENCH); `make -k bench` goes on where one fails.
BENCHMARKS := startup physics update end_to_end language scaling memory
BENCH := runs/bench/$(shell date +%Y%m%d-%H%M%S)
.PHONY: $(BENCHMARKS:%=bench-%)
# Not even under -j: what is timed must have the machine to itself.
.NOTPARALLEL:
bench: $(BENCHMARKS:%=bench-%)
$(BENCHMARKS:%=bench-%): bench-%: $(READY)
	$(BIN)/python -m benchmarks.$* --out $(BENCH) $(ARGS)

clean:
	rm -rf $(VENV) build docs/_build docs/api *.egg-info .pytest_cache .ruff_cache

# A run's folder; one that was begun is continued, so that a target that was stopped goes on.
run = --out $(1)$(if $(wildcard $(1)/config.json), --resume)

# BallInCup's figure in docs/results.md: three seeds, one after the other, then drawn as one curve (six minutes on two cores).
FIGURE_SEEDS := 4 5 6
FIGURE_RUNS := $(addprefix runs/figure/seed,$(FIGURE_SEEDS))
.PHONY: figure
figure: $(READY)
	$(foreach s,$(FIGURE_SEEDS),$(BIN)/python -m experiments.ballincup --preset cpu --backend native --seed-list $(s) \
	  $(call run,runs/figure/seed$(s)) &&) true
	$(BIN)/python -m experiments.compare $(FIGURE_RUNS) --labels $(foreach s,$(FIGURE_SEEDS),"seed $(s)") \
	  --x wall_clock_s --title "BallInCup, cpu preset" --out runs/figure

# `cpu` as it was (docs/recipe.md), and its long column before that: of the runs that are made of them, and go on with it.
EARLIER := --learning.gae-lambda 0.95
EARLIER_LONG := $(EARLIER) --policy.num-draws 4 --learning.minibatch-size 2048 --learning.discount 0.995 \
  --learning.critic-second-moment-decay 0.999

# The finger tasks, three seeds each in one program, drawn as one figure.
FINGERS := runs/fingers
.PHONY: fingers
fingers: $(READY)
	$(BIN)/python -m experiments.fingerspin --preset cpu --backend native --seed-list 57 58 59 $(EARLIER) $(call run,$(FINGERS)/spin)
	$(BIN)/python -m experiments.fingerturneasy --preset cpu --backend native --seed-list 84 85 86 $(EARLIER_LONG) \
	  $(call run,$(FINGERS)/easy)
	$(BIN)/python -m experiments.fingerturnhard --preset cpu --backend native --seed-list 84 85 86 $(EARLIER_LONG) \
	  $(call run,$(FINGERS)/hard)
	$(BIN)/python -m experiments.compare $(addprefix $(FINGERS)/,spin easy hard) \
	  --labels FingerSpin FingerTurnEasy FingerTurnHard --out $(FINGERS)

# Figure 2: four tasks, six betas, three seeds, the Turn tasks for 4M env steps; three and a half hours of two
# cores, continued by the same command.
FIGURE2_TASKS := BallInCup FingerSpin
FIGURE2_TURN_TASKS := FingerTurnEasy FingerTurnHard
FIGURE2 := --preset cpu --backend native --betas 0 0.0005 0.002 0.008 0.02 0.05 --seed-list 201 202 203 --out runs/figure2
.PHONY: figure2
figure2: $(READY)
	$(BIN)/python -m experiments.sweep --tasks $(FIGURE2_TASKS) $(FIGURE2) $(EARLIER)
	$(BIN)/python -m experiments.sweep --tasks $(FIGURE2_TURN_TASKS) --total-steps 4000000 $(FIGURE2) $(EARLIER_LONG)

# Every task of the suite by the one recipe, 4M env steps each (BallInCup 1.5M), then PPO at the same budget; three
# seeds, at most an hour of a core (HumanoidStand two), days of two cores, continued by the same command.
REST_TASKS := $(FIGURE2_TURN_TASKS) CheetahRun CartpoleSwingup CartpoleBalance PendulumSwingup PointMass ReacherEasy ReacherHard \
  WalkerWalk HopperStand WalkerStand AcrobotSwingup WalkerRun HopperHop CartpoleBalanceSparse FishSwim SwimmerSwimmer6 \
  CartpoleSwingupSparse AcrobotSwingupSparse HumanoidStand HumanoidWalk HumanoidRun
TASKS := --preset cpu --backend native --seed-list 201 202 203 --out runs/tasks
.PHONY: tasks
tasks: $(READY)
	$(BIN)/python -m experiments.sweep --tasks $(FIGURE2_TASKS) $(TASKS) --betas 0.05
	$(BIN)/python -m experiments.sweep --tasks $(REST_TASKS) --total-steps 4000000 $(TASKS) --betas 0.05
	$(BIN)/python -m experiments.sweep --tasks $(FIGURE2_TASKS) $(TASKS) --objectives ppo
	$(BIN)/python -m experiments.sweep --tasks $(REST_TASKS) --total-steps 4000000 $(TASKS) --objectives ppo

# What beta is worth: a task's recipe, and the same with beta 0 (FingerSpin: half an hour on one core; a Turn task: two).
BETA_TASK ?= FingerSpin
BETA_SEEDS ?= 57 58 59
BETA_RUNS = runs/beta/$(BETA_TASK)
.PHONY: beta
beta: $(READY)
	$(BIN)/python -m experiments.sweep --task $(BETA_TASK) --preset cpu --backend native --seed-list $(BETA_SEEDS) \
	  $(if $(filter $(FIGURE2_TASKS),$(BETA_TASK)),$(EARLIER),$(EARLIER_LONG)) \
	  --betas 0.05 0 --out $(BETA_RUNS)
	$(BIN)/python -m experiments.compare $(BETA_RUNS)/units/*-beta0.05-* $(BETA_RUNS)/units/*-beta0-* \
	  --labels "beta 0.05" "beta 0" \
	  --title "$(BETA_TASK), the recipe and the same with beta 0" --out $(BETA_RUNS)

# The README's figure: plain PPO clip at a constant rate, with four betas, one that sets itself, and Algorithm 1.
DRIFT := runs/drift/ballincup
CLIP := --objective.negative-advantages clip --objective.clip-epsilon 0.05 --objective.negative-loss-clamp None
CONSTANT_RATE := --learning.learning-rate 0.001 --learning.final-learning-rate None
DRIFT_BETAS := 0 0.005 0.02 0.05 auto
DRIFT_OPTIONS := --task BallInCup --preset cpu --backend native $(EARLIER) $(CONSTANT_RATE) $(CLIP) \
  --seed-list 11 12 13 --total-steps 800000 --drift.interval 8 --drift.num-samples 2048 --evaluation.interval 100000 \
  --evaluation.num-episodes 32 --evaluation.num-episodes-during 16
.PHONY: drift
drift: $(READY)
	$(BIN)/python -m experiments.sweep $(DRIFT_OPTIONS) --betas $(DRIFT_BETAS) --out $(DRIFT)
	$(BIN)/python -m experiments.train $(DRIFT_OPTIONS) --beta 0 --distillation.interval 8 --distillation.num-steps 32 \
	  $(call run,$(DRIFT)/algorithm1)
	$(BIN)/python -m experiments.compare $(foreach b,$(DRIFT_BETAS),$(DRIFT)/units/*-beta$(b)-*) $(DRIFT)/algorithm1 \
	  --labels $(foreach b,$(DRIFT_BETAS),"beta $(b)") "Algorithm 1" --out $(DRIFT)
