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

search() {
  longrope search "$@" --documents "$text" --method gradient --steps 15 --samples 5 --finalists 1 \
    --start-tokens 0 --dtype float32 --device cpu
}

# Half of what was learned and half of what was known: so few steps forget more than they need to.
train() {
  longrope train "$1" --preset tiny --factors "$2" --stage "$3" --batch 32 --learning-rate 5e-5 --warmup 3 \
    --learning-rate-schedule linear --data "$text" --out "$4"
  [ -d "$4/merged" ] || longrope train merge "$4/model" "$1" --share 0.5 --out "$4/merged"
}

# Four windows: factors for the model as it is, then weights for those factors.
search "$model" --target 256 --out "$out/first.json"
train "$model" "$out/first.json" 256:8 "$out/first"

# Eight windows: found factors multiply those that the model was tuned with.
search "$out/first/merged" --target 512 --out "$out/second.json"
train "$out/first/merged" "$out/second.json" 512:12 "$out/second"

# Sixteen windows without training, and back to the short ones.
search "$out/second/merged" --target 1024 --out "$out/third.json"
longrope search short "$out/second/merged" --lengths 32,64 --from "$out/third.json" --documents "$text" \
  --method cma --evaluations 8 --samples 3 --held-out 2 --start-tokens 0 --dtype float32 --device cpu --out "$out/factors.json"

longrope eval "$out/second/merged" --factors "$out/factors.json" --lengths 64,256,512,1024 --tasks ppl \
  --documents "$held_out" --samples 8 --dtype float32 --device cpu --out "$out/eval"
longrope train card "$out/second/merged" --eval "$out/eval"

# One answer from a real server, and an end.
longrope serve "$out/second/merged" --factors "$out/factors.json" --port "${PORT:-8000}" --dtype float32 --enforce-eager &
server=$!
trap 'kill "$server" 2> /dev/null && wait "$server"' EXIT
until curl --silent --fail "http://127.0.0.1:${PORT:-8000}/health"; do
  kill -0 "$server"
  sleep 2
done
curl --silent --fail "http://127.0.0.1:${PORT:-8000}/v1/completions" --header "Content-Type: application/json" \
  --data "{\"model\": \"$out/second/merged\", \"prompt\": \"def \", \"max_tokens\": 32, \"temperature\": 0}" \
  | tee "$out/answer.json"
