#!/usr/bin/env bash
# Pin, with hashes, what the images install: docker/cpu.lock, serve.lock and train.lock.
#
#   docker/lock.sh --torch-backend cpu      where the CPU builds of torch are: PyTorch's index
#   docker/lock.sh --find-links DIR         or a folder; every option goes to `uv pip compile`
#
# Run it when pyproject.toml or vLLM changes. Needs uv (PyPI) and the package index. serve.lock and train.lock leave out
# what vLLM's image has, which is taken to be what the newest vLLM of the supported range depends on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

compile() {  # PYTHON OPTIONS...: one resolution for the platform of the images
    uv pip compile --quiet --no-annotate --no-header --python-version "$1" \
        --python-platform x86_64-manylinux_2_28 "${@:2}"
}

names() {  # the packages of a resolution, one a line
    sed -nE 's/^([A-Za-z0-9._-]+)==.*/\1/p'
}

lock() {  # NAME PYTHON LEFT_OUT OPTIONS...: write docker/NAME.lock without the packages named in LEFT_OUT
    local name=$1 python=$2 left_out=() package
    for package in $3; do left_out+=(--no-emit-package "$package"); done
    {
        echo "# Written by docker/lock.sh for Python $python; do not edit."
        compile "$python" pyproject.toml --generate-hashes "${left_out[@]}" "${@:4}"
    } >"docker/$name.lock.new"
    mv "docker/$name.lock.new" "docker/$name.lock"
    echo "docker/$name.lock: $(names <"docker/$name.lock" | wc -l) packages"
}

companions="torch torchvision torchaudio torchcodec"  # torch is pinned in cpu.Dockerfile, the others are left out
lock cpu 3.11 "$companions" --extra cpu "$@"

vllm=$(sed -nE 's/^gpu = \["(vllm[^"]*)".*/\1/p' pyproject.toml)
held=$(compile 3.12 - <<<"$vllm" | names)
figures=$(compile 3.12 - <<<"matplotlib" | names)  # not needed to serve, and larger than all of the rest
lock serve 3.12 "$held $figures" --extra gpu
lock train 3.12 "$held" --extra gpu --extra train --extra sp --extra search --extra eval
