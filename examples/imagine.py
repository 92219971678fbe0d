"""The whole path on one page: infer the actions of a clip, then generate it again from its start.

python examples/imagine.py CLIP.mp4 imagined.gif
"""

import sys

import genie
from genie import video


def main(clip: str, out: str, world_folder: str = "checkpoints/coinrun") -> None:
    world = genie.load(world_folder)
    pictures = video.read(clip, world.size)  # t h w 3, 0..255
    actions = world.infer(pictures)  # t-1 latent actions, inferred

    session = world.start(pictures[0])
    rollout = [session.frame]  # h w 3, 0..255: ready for any screen
    rollout += [session.step(action) for action in actions.tolist()]
    video.write(out, rollout, fps=world.fps, scale=4)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        print("usage: python examples/imagine.py CLIP OUT.gif [WORLD]", file=sys.stderr)
        sys.exit(2)
    try:
        main(*sys.argv[1:])
    except genie.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
