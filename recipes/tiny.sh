#!/usr/bin/env bash
# The whole line on a tiny model, in minutes on a CPU: search, fine-tune, search from there, fine-tune, search once more,
# factors for short lengths, evaluate, serve. The shape of every recipe; a real one has longer lengths and more steps.
#
#   recipes/tiny.sh MODEL TEXT HELD_OUT OUT
#
# MODEL is a checkpoint with a window of 64 tokens, TEXT and HELD_OUT are texts. Each step keeps what it has done in OUT:
# started again, the script goes on where it was interrupted.
set -euo pipefail
model=$1 text=$2 held_out=$3 out=$4
mkdir -p "$out"

search() { longrope search "$@" --documents "$text" --start-tokens 0 --dtype float32 --device cpu; }
train() { longrope train "$@" --preset tiny --data "$text" --dtype float32 --device cpu; }

# Four windows: factors for the model as it is, then weights for those factors.
search "$model" --target 256 --out "$out/first.json"
train "$model" --factors "$out/first.json" --stage 256:60 --out "$out/first"

# Eight windows: found factors multiply those that the model was tuned with.
search "$out/first/model" --target 512 --out "$out/second.json"
train "$out/first/model" --factors "$out/second.json" --stage 512:60 --out "$out/second"

# Sixteen windows without training, and back to the short ones.
search "$out/second/model" --target 1024 --out "$out/third.json"
search short "$out/second/model" --lengths 32,64 --from "$out/third.json" --out "$out/factors.json"

longrope eval "$out/second/model" --factors "$out/factors.json" --lengths 64,256,512,1024 --tasks ppl \
  --documents "$held_out" --samples 8 --dtype float32 --device cpu --out "$out/eval"
longrope train card "$out/second/model" --eval "$out/eval"

# One answer from a real server, and an end.
longrope serve "$out/second/model" --factors "$out/factors.json" --port "${PORT:-8000}" --dtype float32 --enforce-eager &
server=$!
trap 'kill "$server"' EXIT
until curl --silent --fail "http://127.0.0.1:${PORT:-8000}/health"; do
  kill -0 "$server"
  sleep 2
done
curl --silent --fail "http://127.0.0.1:${PORT:-8000}/v1/completions" --header "Content-Type: application/json" \
  --data "{\"model\": \"$out/second/model\", \"prompt\": \"def \", \"max_tokens\": 32, \"temperature\": 0}" \
  | tee "$out/answer.json"
