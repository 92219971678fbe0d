#!/usr/bin/env bash
# A world of a full game within a quarter of an hour on one GPU: records directly into arrays on all
# cores while the GPU compiles, then trains until a given time.
#
#     bash examples/quarter.sh
#
# A small version of everything, on a laptop:
#
#     FRAMES=6000 HELDOUT=4000 UNTIL=400 PRESET=tiny DATA=data/small OUT=runs/small/world \
#         RUN=runs/small bash examples/quarter.sh
#
# After a stop or a kill, the same command continues. CACHE=FOLDER stores the compiled code, so that
# the next machine with the same GPU does not compile again.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
GAME=${GAME:-coinrun}
FRAMES=${FRAMES:-1200000}
HELDOUT=${HELDOUT:-30000}      # frames of levels that are never trained on
UNTIL=${UNTIL:-780}            # seconds from now until the world is finished
PRESET=${PRESET:-quarter}
PROCESSES=${PROCESSES:-$(nproc)}
DATA=${DATA:-data/$GAME-full}
RUN=${RUN:-runs/$GAME-full}
OUT=${OUT:-checkpoints/$GAME-full}
CACHE=${CACHE:-$RUN/compiled}

# Commands run as background jobs, so that this shell can end them when it is stopped: a script's
# background jobs do not receive Ctrl-C themselves.
PIDS=()
start() { "$@" & PIDS+=($!); }
stop() {
    trap '' INT TERM
    echo "stopped; run the command again to continue" >&2
    kill -TERM "${PIDS[@]}" 2>/dev/null || true
    wait || true
    exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM

# No action repeat, as in published results, and videos of 15 frames per second, the rate at which
# Procgen lets people play.
if [ ! -f "$DATA/card.json" ]; then
    start "$PYTHON" examples/record_game.py --game "$GAME" --distribution hard --hand explore \
        --frame-skip 1 --num-levels 10000 --frames "$FRAMES" --heldout-frames "$HELDOUT" \
        --arrays --processes "$PROCESSES" --out "$DATA"
    recorder=${PIDS[-1]}
    if nvidia-smi >/dev/null 2>&1; then
        start "$PYTHON" -m train.warm_up --preset "$PRESET" --compile-cache "$CACHE"
        wait "${PIDS[-1]}" || true # an error here occurs again in a stage, which reports it
    fi
    wait "$recorder"
fi
left=$((UNTIL - SECONDS))
if [ "$left" -lt 120 ]; then left=120; fi # a late world is better than none
start "$PYTHON" -m train --data "$DATA" --out "$OUT" --run "$RUN" --preset "$PRESET" \
    --until "$left" --compile-cache "$CACHE"
wait "${PIDS[-1]}"
echo "measure it: $PYTHON -m train.evaluate $OUT $DATA --true-actions $DATA/true_actions.npz --out report"
