"""The README's film: the first two episodes of each run, side by side, as docs/figures/film.webp.

python docs/film.py RUN_DIR RUN_DIR
"""

import argparse
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from PIL import Image

FILM = Path(__file__).parent / "figures" / "film.webp"
SECONDS, WIDTH, FPS = 7, 960, 14  # frames a second are about FPS


def write_film(runs: list[Path], path: Path) -> None:
    """An animated WebP of the first seconds of each RUN_DIR/policy.mp4; pages show it without a player."""
    fps = [imageio.immeta(run / "policy.mp4")["fps"] for run in runs]
    if len(set(fps)) > 1:
        raise SystemExit(f"the films have {fps} frames a second: choose runs of one version")
    stride = max(1, round(fps[0] / FPS))
    films = [imageio.imread(run / "policy.mp4")[: round(fps[0] * SECONDS) : stride] for run in runs]
    halves = [film[:, :, : film.shape[2] // 2] for film in films]
    frames = [Image.fromarray(np.concatenate(tiles, axis=1)) for tiles in zip(*halves, strict=True)]
    size = WIDTH, round(WIDTH * frames[0].height / frames[0].width)
    first, *rest = [frame.resize(size, Image.Resampling.LANCZOS) for frame in frames]
    frame_ms = round(1000 * stride / fps[0])
    first.save(path, save_all=True, append_images=rest, duration=frame_ms, loop=0, quality=55, method=6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    write_film(parser.parse_args().runs, FILM)
