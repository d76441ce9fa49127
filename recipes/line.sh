# shellcheck shell=bash disable=SC2154  # what is set by the recipe that sources this
#
# The whole line, from a checkpoint to an answer of a server, for the recipes beside this file: they set its sizes, source
# it and call ``line``.
#
#   model texts out    a checkpoint, a folder with train/*.txt and held_out/*.txt, and where results go
#   lengths            up to the window, to be measured as well, such as 2k,8k
#   first              lengths of the first search, such as 64k,128k
#   stages             lengths and steps of the fine-tuning with those factors, such as 64k:200,128k:100
#   share              of what was learned that is kept: the tuned model is averaged with the one before
#   short              lengths up to the window, searched from the tuned model
#   far                lengths beyond, searched from the tuned model and from the one before, not trained on; may be empty
#   tasks              what is measured: ppl, passkey, ruler
#   answering          the closed forms whose answers are measured; perplexity is that of all
#   cost               what each step takes, by its name
#
# and options, as arrays: searching of every search, by_default, by_evolution, by_longrope2, by_short and by_far of each,
# training, measuring_near up to the lengths of the first search and measuring_far beyond, ruler of RULER's tasks, serving.

recipes=$(dirname "${BASH_SOURCE[0]}")
source "$recipes/steps.sh"

declare -A cost

line() {
  local tuned=$out/tuned/model served=$out/short.json
  step "$out/first.json" "${cost[first]}" search "$model" "$first" first "${by_default[@]}"
  # What was published, to compare with.
  step "$out/evolution.json" "${cost[evolution]}" search "$model" "${first##*,}" evolution "${by_evolution[@]}"
  step "$out/longrope2.json" "${cost[longrope2]}" search "$model" "${first##*,}" longrope2 "${by_longrope2[@]}"

  step "$tuned" "${cost[tuned]}" longrope train "$model" --factors "$out/first.json" --stage "$stages" \
    --data "$texts"/train/* "${training[@]}" --out "$out/tuned"
  if [ "$share" != 1 ]; then
    step "$out/merged" "${cost[merged]}" longrope train merge "$tuned" "$model" --share "$share" --out "$out/merged"
    tuned=$out/merged
  fi
  # Tuned for long sequences, it reads short ones better with factors of their own again.
  step "$out/short.json" "${cost[short]}" longrope search short "$tuned" --lengths "$short" \
    --documents "$texts"/train/* "${searching[@]}" "${by_short[@]}" --out "$out/short.json"
  step "$out/eval/near_complete" "${cost[near]}" evaluate_near "$tuned"

  if [ -n "$far" ]; then
    # Found factors multiply those that the model was tuned with.
    step "$out/untuned.json" "${cost[untuned]}" search "$model" "$far" untuned --from "$out/first.json" "${by_far[@]}"
    step "$out/far.json" "${cost[far]}" search "$tuned" "$far" far --from "$served" "${by_far[@]}"
    served=$out/far.json
    step "$out/eval/far_complete" "${cost[beyond]}" evaluate_far "$tuned"
  fi
  step "$out/answer.json" "${cost[answer]}" python3 "$recipes/answer.py" "$tuned" "$served" "$out/answer.json" \
    "${serving[@]}"
}

# search MODEL LENGTHS NAME OPTIONS...
search() {
  longrope search tiers "$1" --lengths "$2" --documents "$texts"/train/* "${searching[@]}" "${@:4}" --out "$out/$3.json"
}

forms="none,pi,ntk,dynamic-ntk,yarn"

# What there was, what was found without training, and what became of the tuned model; then one rope for all lengths, as
# engines serve that know one.
evaluate_near() {
  local near=$lengths,$first last=${first##*,} untuned="untuned=$out/first.json" tuned="tuned=$out/short.json"
  local published=("evolution=$out/evolution.json" "LongRoPE2=$out/longrope2.json")
  measure near ppl "$near" "$model" --methods "$forms" --factors "$untuned" "${published[@]}"
  measure near ppl "$near" "$1" --factors "$tuned"
  measure one_rope ppl "$lengths" "$model" --methods none --factors "$untuned" --tiers "yarn=$last:yarn" --long-for-all
  measure one_rope ppl "$lengths" "$1" --factors "$tuned" --long-for-all
  measure near passkey "$near" "$model" --methods "$answering" --factors "$untuned"
  measure near passkey "$near" "$1" --factors "$tuned"
  measure near ruler "$near" "$model" --methods "$answering" --factors "$untuned" "${ruler[@]}"
  measure near ruler "$near" "$1" --factors "$tuned" "${ruler[@]}"
  longrope train card "$1" --eval "$out/eval/near"
  touch "$out/eval/near_complete"
}

evaluate_far() {
  local untuned="untuned=$out/untuned.json" tuned="tuned=$out/far.json"
  measure far ppl "$far" "$model" --methods "$forms" --factors "$untuned"
  measure far ppl "$far" "$1" --factors "$tuned"
  measure far passkey "$far" "$model" --methods "$answering" --factors "$untuned"
  measure far passkey "$far" "$1" --factors "$tuned"
  touch "$out/eval/far_complete"
}

# measure FOLDER TASK LENGTHS MODEL OPTIONS...: documents of a folder are as long as the longest length in it.
measure() {
  [[ " $tasks " == *" $2 "* ]] || return 0
  local longest=${first##*,} options=("${measuring_near[@]}")
  [ "$1" != far ] || longest=${far##*,} options=("${measuring_far[@]}")
  longrope eval "${@:4}" --tasks "$2" --lengths "$3" --documents "$texts"/held_out/* --document-tokens "$longest" \
    "${options[@]}" --out "$out/eval/$1"
}
