#!/usr/bin/env bash
# SmolLM2-135M-Instruct, trained on 8k, on one GPU of 80 GB: factors for 64k and 128k, fine-tuning with them, and 512k
# by a second search. Not run yet: what steps take is reckoned from their multiplications at 250 TFLOP/s.
#
#   recipes/smollm2_gpu.sh OUT [--list] [--budget 25m]
#
# Needs longrope and its python3 on the PATH, bible (Debian's package bible-kjv), and a package index for model and texts;
# without those, MODEL and TEXTS of the environment say where they lie.

source "$(dirname "$0")/line.sh"
recipe "out" "$@"
needs longrope python3
model=${MODEL:-$out/smollm2-135m-instruct} texts=${TEXTS:-$out/texts}

lengths=2k,8k first=64k,128k stages=64k:200,128k:100 share=1 short=4k,8k far=512k
cost=(
  [first]="5 minutes" [evolution]="4 minutes" [longrope2]="4 minutes" [tuned]="25 minutes" [short]="2 minutes"
  [near]="50 minutes" [untuned]="30 minutes" [far]="30 minutes" [beyond]="an hour" [answer]="2 minutes"
)
searching=(--samples 3 --held-out 3 --finalists 1 --start-tokens 0)
by_default=(--method gradient --steps 20 --attention-factor search)
by_evolution=(--method evolution --population 16 --iterations 8)
by_longrope2=(--space longrope2 --objective needle --method evolution --population 16 --iterations 8)
by_far=(--method gradient --steps 8 --attention-factor search --samples 2 --held-out 1)
by_short=(--method cma --evaluations 12)
training=(--batch 2 --short-share 0.5 --learning-rate 5e-5 --warmup 10 --save-every 10 --keep 2)
tasks="ppl passkey ruler" answering=none,dynamic-ntk,yarn
measuring_near=(--samples 3 --depths 5 --trials 4)
measuring_far=(--samples 1 --depths 5 --trials 2)
ruler=(--ruler-tasks "niah_single_1,niah_multikey_1,ruler_vt,ruler_fwe" --ruler-samples 3)
serving=(--dtype bfloat16)

step "$model" "a minute" longrope demo --fetch "$model"
step "$texts" "a minute" python3 "$recipes/texts.py" "$texts"
line
