#!/usr/bin/env bash
# One world of four platform games, from the games to the report: record, prepare, train, measure on
# levels and on games that it never saw. Run again, it skips the steps that are already done.
#
#     bash examples/platformers.sh
#
# The defaults are for one GPU with 16 CPU cores. A small version of everything, on a laptop:
#
#     FRAMES=2000 HELDOUT=3000 MINUTES=10 PRESET=nano CLIPS=8 LONG=50 DATA=data/small \
#         RUN=runs/small OUT=runs/small/world PROTOCOL=runs/small/protocol.json \
#         bash examples/platformers.sh
#
# 64 games are played side by side: with fewer frames than in the small version, episodes would be
# too short to measure on.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
FRAMES=${FRAMES:-150000}   # training frames of each game
HELDOUT=${HELDOUT:-8000}   # frames of each game, from other levels
MINUTES=${MINUTES:-14}     # time for training
PRESET=${PRESET:-platformers}
CLIPS=${CLIPS:-128}        # clips of each game to measure on
LONG=${LONG:-1000}         # frames of the long rollouts
DATA=${DATA:-data/platformers}
RUN=${RUN:-runs/platformers}
OUT=${OUT:-checkpoints/platformers}
PROTOCOL=${PROTOCOL:-examples/platformers.json}

# Commands run as background jobs, so that this shell can end all of them when it is stopped: a
# script's background jobs do not receive Ctrl-C themselves.
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
    echo "stopped; run the command again to continue" >&2
    kill -TERM "${PIDS[@]}" 2>/dev/null || true
    wait || true
    exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
run() { start "$@"; finish; }

# record FOLDER TRAIN HELDOUT GAME...: records the games side by side, one process per game.
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

# Checked before the training, so that no training is wasted. If the games draw other pixels here
# than where the protocol was made, PROTOCOL=FILE with a new name makes one for this machine.
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
