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
#   far                lengths beyond, searched from the tuned model and from the one before, and not trained on
#   short              lengths up to the window, searched from the tuned model
#   tasks              what is measured: ppl, passkey, ruler
#   cost               what each step takes, by its name
#
# and options, as arrays: searching of every search, by_default, by_evolution, by_longrope2, by_far and by_short of each,
# training, measuring_near up to the lengths of the first search and measuring_far beyond, ruler of RULER's tasks, serving.

recipes=$(dirname "${BASH_SOURCE[0]}")
source "$recipes/steps.sh"

declare -A cost

line() {
  local tuned=$out/tuned/model
  step "$out/first.json" "${cost[first]}" search "$model" "$first" first "${by_default[@]}"
  # What was published, to compare with.
  step "$out/evolution.json" "${cost[evolution]}" search "$model" "${first##*,}" evolution "${by_evolution[@]}"
  step "$out/longrope2.json" "${cost[longrope2]}" search "$model" "${first##*,}" longrope2 "${by_longrope2[@]}"
  step "$out/untuned.json" "${cost[far]}" search "$model" "$far" untuned --from "$out/first.json" "${by_far[@]}"

  step "$tuned" "${cost[tuned]}" longrope train "$model" --factors "$out/first.json" --stage "$stages" \
    --data "$texts"/train/* "${training[@]}" --out "$out/tuned"
  if [ "$share" != 1 ]; then
    step "$out/merged" "${cost[merged]}" longrope train merge "$tuned" "$model" --share "$share" --out "$out/merged"
    tuned=$out/merged
  fi
  # Found factors multiply those that the model was tuned with; then short lengths get factors of their own again.
  step "$out/far.json" "${cost[far]}" search "$tuned" "$far" far "${by_far[@]}"
  step "$out/factors.json" "${cost[short]}" longrope search short "$tuned" --lengths "$short" --from "$out/far.json" \
    --documents "$texts"/train/* "${searching[@]}" "${by_short[@]}" --out "$out/factors.json"

  step "$out/eval/complete" "${cost[eval]}" evaluate "$tuned"
  step "$out/answer.json" "${cost[answer]}" python3 "$recipes/answer.py" "$tuned" "$out/factors.json" "$out/answer.json" \
    "${serving[@]}"
}

# search MODEL LENGTHS NAME OPTIONS...
search() {
  longrope search tiers "$1" --lengths "$2" --documents "$texts"/train/* "${searching[@]}" "${@:4}" --out "$out/$3.json"
}

# What there was, what was found without training, and what became of the tuned model; then one rope for all lengths, as
# engines serve that know one.
evaluate() {
  local forms="none,pi,ntk,dynamic-ntk,yarn" best="dynamic-ntk,yarn" untuned="untuned=$out/untuned.json" tuned="tuned=$out/factors.json"
  local published=("evolution=$out/evolution.json" "LongRoPE2=$out/longrope2.json")
  local near=$lengths,$first last=${far##*,}
  measure near ppl "$near" "$model" --methods "$forms" --factors "$untuned" "${published[@]}"
  measure near ppl "$near" "$1" --factors "$tuned"
  measure near passkey "$near" "$model" --methods "$forms" --factors "$untuned" "${published[@]}"
  measure near passkey "$near" "$1" --factors "$tuned"
  measure near ruler "$near" "$model" --methods "$best" --factors "$untuned" "${ruler[@]}"
  measure near ruler "$near" "$1" --factors "$tuned" "${ruler[@]}"
  measure far ppl "$far" "$model" --methods "$forms" --factors "$untuned"
  measure far ppl "$far" "$1" --factors "$tuned"
  measure far passkey "$far" "$model" --methods "$best" --factors "$untuned"
  measure far passkey "$far" "$1" --factors "$tuned"
  measure one_rope ppl "$lengths" "$model" --methods none --factors "$untuned" --tiers "yarn=$last:yarn" --long-for-all
  measure one_rope ppl "$lengths" "$1" --factors "$tuned" --long-for-all
  longrope train card "$1" --eval "$out/eval/near"
  touch "$out/eval/complete"
}

# measure FOLDER TASK LENGTHS MODEL OPTIONS...: documents of a folder are as long as the longest length in it.
measure() {
  [[ " $tasks " == *" $2 "* ]] || return 0
  local longest=${first##*,} options=("${measuring_near[@]}")
  [ "$1" != far ] || longest=${far##*,} options=("${measuring_far[@]}")
  longrope eval "${@:4}" --tasks "$2" --lengths "$3" --documents "$texts"/held_out/* --document-tokens "$longest" \
    "${options[@]}" --out "$out/eval/$1"
}
