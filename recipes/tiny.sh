#!/usr/bin/env bash
# The whole line on a tiny model, in minutes on a CPU; a real recipe has longer lengths and more of everything.
#
#   recipes/tiny.sh MODEL TEXTS OUT [--list] [--budget 25m]
#
# MODEL is a checkpoint with a window of 64 tokens; TEXTS has the folders train and held_out.

source "$(dirname "$0")/line.sh"
recipe "model texts out" "$@"
needs longrope python3

# Half of what was learned and half of what was known: so few steps forget more than they need to.
lengths=64 first=256,512 stages=256:8,512:12 share=0.5 short=32,64 far=1024
for name in first evolution longrope2 tuned merged short near untuned far beyond answer; do cost[$name]="seconds"; done
here=(--dtype float32 --device cpu)
searching=(--samples 5 --held-out 3 --finalists 1 --start-tokens 0 "${here[@]}")
by_default=(--method gradient --steps 15)
by_evolution=(--method evolution --population 4 --iterations 1)
by_longrope2=(--space longrope2 --objective needle --method evolution --population 4 --iterations 1)
by_far=(--method gradient --steps 5)
by_short=(--method cma --evaluations 8)
training=(--preset tiny --batch 32 --learning-rate 5e-5 --warmup 3 --learning-rate-schedule linear)
tasks="ppl" answering=yarn
measuring_near=(--samples 8 "${here[@]}")
measuring_far=("${measuring_near[@]}")
serving=(--dtype float32 --enforce-eager)

line
