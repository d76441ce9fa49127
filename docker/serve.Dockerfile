# The image for GPUs: vLLM's own, with this project in it.
#
#   make build && docker build -f docker/serve.Dockerfile -t longrope-vllm .
#   docker run --gpus all --shm-size 16g -p 8000:8000 -v MODELS:/models:ro longrope-vllm serve /models/NAME
#
# BASE_DIGEST has to be filled in here before a release (docs/images.md says how); the release refuses to build without
# it. An empty one builds from the tag alone. Settings of pip, such as an index of your own, come as build secrets.
ARG BASE_IMAGE=docker.io/vllm/vllm-openai:v0.33.0
ARG BASE_DIGEST=

FROM ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}}

USER 0
# The image has every other package that serving imports; --no-deps, so that none of them is replaced. The import checks
# write no bytecode (-B): that of vLLM's own modules would be larger than all that is added here.
RUN --mount=type=bind,source=dist,target=/tmp/dist \
    --mount=type=bind,source=docker/serve.lock,target=/tmp/serve.lock \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    python3 -B -m pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/serve.lock \
    && python3 -B -m pip install --no-cache-dir --no-deps --no-index /tmp/dist/longrope_vllm-*.whl \
    && HOME=/tmp/check python3 -B -c "import vllm.entrypoints.openai.api_server, longrope_vllm.cli.serve, longrope_vllm.server.endpoint; from longrope_vllm.server import launch; launch.check_engine(); launch.check_plugin_visible()" \
    && rm -rf /tmp/check /tmp/torchinductor_root

# The user that vLLM's image prepares; its home is writable for group 0, as clusters with random user ids need it.
USER 2000:0
ENV HOME=/home/vllm
WORKDIR /home/vllm
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
LABEL org.opencontainers.image.title="longrope-vllm" \
      org.opencontainers.image.description="OpenAI-compatible server in which every request gets the rope of its own length" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
