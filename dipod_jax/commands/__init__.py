"""The commands: `dipod <name>` where the package is installed, `python -m experiments.<name>` in the repository."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from dipod_jax.cli import run_cli

COMMANDS = {
    "train": "train a policy on a MuJoCo Playground task, or on a task of your own",
    "evaluate": "measure the return of a saved policy, and film it",
    "sweep": "train every task, objective, beta and grid value of a plan, here or on a cluster",
    "ablation": "train the recipe, and the recipe with one part removed or replaced at a time",
    "comparison": "train every objective with and without DiPOD, on equal terms",
    "compare": "draw several runs side by side",
    "report": "write a run's report.html again from what its folder holds",
    "export": "write a saved policy as StableHLO and ONNX, and check both",
    "language": "post-train a small masked-diffusion language model",
    "table1": "post-train by every language objective, with and without DiPOD, and the controls",
    "twotoken": "run the exact two-token toy",
    "tinydiffusion": "study exact masked diffusion over all sequences of a small vocabulary",
    "contraction": "measure what self-distillation through a K-step sampler does to the entropy",
    "placements": "measure how noisy each placement of the (t, eps) draws is",
    "heldnoise": "measure what an untrained policy earns when its noise is held",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run `dipod COMMAND [options]`.

    Raises:
        SystemExit: as `cli.run_cli`; status 2 after one line for a command that does not exist.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        import_module(f"dipod_jax.commands.{arguments[0]}").main(arguments[1:])
    else:
        run_cli(_answer, lambda text: print(text), arguments)


def _answer(arguments: list[str]) -> str:
    """What to print where no command was named."""
    from dipod_jax import __version__

    if arguments in ([], ["-h"], ["--help"]):
        width = max(map(len, COMMANDS))
        lines = (f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
        return "usage: dipod COMMAND [options]\n\n" + "\n".join(lines) + "\n\n`dipod COMMAND --help` lists its options."
    if arguments == ["--version"]:
        return f"dipod-jax {__version__}"
    near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
    proposal = f", did you mean {near[0]}?" if near else ""
    raise ValueError(f"{arguments[0]} is not a command{proposal}; see dipod --help")
