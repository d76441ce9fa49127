#!/usr/bin/env bash
# Build the CPU image without Docker and without a registry: buildah, on a base that debootstrap makes.
#
#   docker/build_cpu.sh [--tag NAME] [--base IMAGE] [--archive FILE] [-- OPTIONS OF buildah build]
#
#   --tag NAME      of the image in buildah's storage (default: localhost/longrope-vllm:cpu)
#   --base IMAGE    start from this image instead; debootstrap is not run
#   --archive FILE  also write the image as an archive for `docker load` or `podman load`
#
# Debian: apt-get install buildah debootstrap crun; as root. BUILDAH_STORAGE is where layers lie (about 15 GB while it
# builds), by default under /var/tmp. An index of your own, and wheels that lie in a folder:
#
#   docker/build_cpu.sh -- --secret id=pip,src=pip.conf --secret id=ca,src=ca.pem \
#       --volume /srv/wheels:/srv/wheels:ro --build-arg TORCH_INDEX=
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tag=localhost/longrope-vllm:cpu base="" archive=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
        --tag) tag=$2 ;;
        --base) base=$2 ;;
        --archive) archive=$2 ;;
        *) sed -n '/^# /{s/^# //p;d};/^set/q' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
    esac
    shift 2
done
[ $# -eq 0 ] || shift

storage=${BUILDAH_STORAGE:-/var/tmp/longrope-buildah}
buildah() {
    command buildah --root "$storage/layers" --runroot "$storage/run" --storage-driver vfs "$@"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ -z "$base" ]; then
    base=localhost/debian:bookworm
    if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
        debootstrap --variant=minbase bookworm "$scratch/debian" >"$scratch/log" || { cat "$scratch/log" >&2; exit 1; }
        rm -rf "$scratch"/debian/var/cache/apt/archives/*.deb "$scratch"/debian/var/lib/apt/lists/*
        container=$(buildah from scratch)
        buildah add --quiet "$container" "$scratch/debian" / >/dev/null
        buildah commit --quiet --rm "$container" "$base" >/dev/null
        rm -rf "$scratch/debian"
    fi
fi

wheels=(dist/longrope_vllm-*.whl)
[ -e "${wheels[0]}" ] || python3 -m pip wheel --quiet --no-deps --wheel-dir dist .

# --format docker: the OCI format has no HEALTHCHECK.
buildah build --isolation chroot --format docker --file docker/cpu.Dockerfile --tag "$tag" \
    --build-arg BASE_IMAGE="$base" --build-arg BASE_DIGEST= \
    --build-arg VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
    --build-arg REVISION="$(git rev-parse HEAD)" \
    --build-arg CREATED="$(date --utc +%Y-%m-%dT%H:%M:%SZ)" \
    "$@" .

[ -z "$archive" ] || buildah push --quiet "$tag" "docker-archive:$archive:$tag"
buildah images --filter "reference=$tag" --format '{{.Name}}:{{.Tag}} {{.ID}} {{.Size}}'
