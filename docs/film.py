r"""Films of runs beside each other, as one animated WebP: the README's two, and its strip of tasks (`make tasks`).

python docs/film.py RUN_DIR/policy-seed0.mp4 RUN_DIR/policy-seed0.mp4
python docs/film.py runs/tasks/units/*-fpo-*/policy-seed201.mp4 --episodes 1 --columns 6 --seconds 5 --fps 10 \
  --out docs/figures/tasks.webp
"""

import argparse
import json
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH = 960


def write_film(films: list[Path], path: Path, *, episodes: int, columns: int, seconds: float, fps: int) -> None:
    """The first `seconds` of the first `episodes` of each film, `columns` beside each other, at about `fps`.

    Pages show it without a player. The films' episodes are square; the task's name, from `config.json` beside the film,
    stands at its foot.
    """
    rates = [imageio.immeta(film)["fps"] for film in films]
    if len(set(rates)) > 1:
        raise SystemExit(f"the films have {rates} frames a second: choose runs of one version")
    stride = max(1, round(rates[0] / fps))
    read = [imageio.imread(film)[: round(rates[0] * seconds) : stride] for film in films]
    tiles = [film[:, :, : episodes * film.shape[1]] for film in read]
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    frames = np.concatenate([np.concatenate(row, axis=2) for row in rows], axis=1)
    size = WIDTH, round(WIDTH * frames.shape[1] / frames.shape[2])
    tasks = [json.loads((film.parent / "config.json").read_text())["config"]["task"] for film in films]
    first, *rest = [
        named(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS), tasks, columns) for frame in frames
    ]
    frame_ms = round(1000 * stride / rates[0])
    first.save(path, save_all=True, append_images=rest, duration=frame_ms, loop=0, quality=55, method=6)


def named(frame: Image.Image, tasks: list[str], columns: int) -> Image.Image:
    """The frame with a task's name at the foot of each film."""
    width, font = frame.width / columns, ImageFont.load_default(12)
    height, draw = frame.height / -(-len(tasks) // columns), ImageDraw.Draw(frame)
    for index, task in enumerate(tasks):
        line, column = divmod(index, columns)
        draw.text((width * column + 6, height * (line + 1) - 5), task, "white", font, anchor="ls")
    return frame


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, nargs="+", help="of run folders")
    parser.add_argument("--episodes", type=int, default=2, help="of each film")
    parser.add_argument("--columns", type=int, default=2, help="films beside each other")
    parser.add_argument("--seconds", type=float, default=7)
    parser.add_argument("--fps", type=int, default=14)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "figures" / "film.webp")
    args = parser.parse_args()
    write_film(args.films, args.out, episodes=args.episodes, columns=args.columns, seconds=args.seconds, fps=args.fps)
