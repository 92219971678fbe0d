#!/usr/bin/env bash
# One world of four platform games, from the games to the report: recorded, prepared, trained and
# measured on levels and on games that it never saw. What is done already is not done again.
#
#     bash examples/platformers.sh
#
# The defaults are for one GPU with 16 CPU cores. Everything in small, on a laptop:
#
#     FRAMES=2000 HELDOUT=3000 MINUTES=10 PRESET=nano CLIPS=8 LONG=50 DATA=data/small \
#         RUN=runs/small OUT=runs/small/world PROTOCOL=runs/small/protocol.json \
#         bash examples/platformers.sh
#
# 64 games are played side by side, each to the end of an episode: with fewer frames than in small,
# episodes would be too short to measure on.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
FRAMES=${FRAMES:-150000}   # of each game
HELDOUT=${HELDOUT:-8000}   # of each game, other levels
MINUTES=${MINUTES:-14}     # of training
PRESET=${PRESET:-platformers}
CLIPS=${CLIPS:-128}        # of each game, to be measured
LONG=${LONG:-1000}         # frames that films run on for
DATA=${DATA:-data/platformers}
RUN=${RUN:-runs/platformers}
OUT=${OUT:-checkpoints/platformers}
PROTOCOL=${PROTOCOL:-examples/platformers.json}

# A command that runs beside this shell, which can then end it, and those beside it, when it is told
# to stop: background jobs of a script do not hear Ctrl-C.
PIDS=()
start() { "$@" & PIDS+=($!); }
finish() {
    local pid status=0
    for pid in "${PIDS[@]}"; do wait "$pid" || status=$?; done
    PIDS=()
    return "$status"
}
stop() {
    trap '' INT TERM
    echo "stopped; repeat the command to go on" >&2
    kill -TERM "${PIDS[@]}" 2>/dev/null || true
    wait || true
    exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
run() { start "$@"; finish; }

# record FOLDER TRAIN HELDOUT GAME...: side by side, one process a game.
record() {
    local folder=$1 train=$2 heldout=$3
    shift 3
    for game in "$@"; do
        [ -f "$folder/$game/recording.json" ] && continue
        start "$PYTHON" examples/record_game.py --game "$game" --distribution hard --hand explore \
            --num-levels 10000 --frames "$train" --heldout-frames "$heldout" --out "$folder/$game"
    done
    finish
}

prepare() { [ -f "$2/card.json" ] || run "$PYTHON" -m train.prepare "$1" --out "$2"; }

record "$DATA/games" "$FRAMES" "$HELDOUT" coinrun ninja climber jumper
record "$DATA/unseen" 64 "$HELDOUT" caveflyer fruitbot
prepare "$DATA/games" "$RUN/data"
prepare "$DATA/unseen" "$RUN/unseen"

# Before the training, so that nothing is trained in vain. Where the games draw other pixels than on
# the machine that the file is from, PROTOCOL=FILE makes one for this machine.
if [ -f "$PROTOCOL" ]; then
    run "$PYTHON" -m train.protocol "$RUN/data" "$RUN/unseen" --out "$PROTOCOL" --check
else
    run "$PYTHON" -m train.protocol "$RUN/data" "$RUN/unseen" --out "$PROTOCOL" \
        --num-clips "$CLIPS" --recorded-by "HELDOUT=$HELDOUT bash examples/platformers.sh"
fi

run "$PYTHON" -m train --data "$RUN/data" --out "$OUT" --run "$RUN" --preset "$PRESET" \
    --minutes "$MINUTES"
for set in data unseen; do
    run "$PYTHON" -m train.evaluate "$OUT" "$RUN/$set" --protocol "$PROTOCOL" --long-steps "$LONG" \
        --true-actions "$DATA/$([ $set = data ] && echo games || echo unseen)" \
        --out "$RUN/report-$set"
done
