# The image for training, searching and evaluating on GPUs. The same base as serve.Dockerfile: a node that serves has it
# already, and both run the same torch.
#
#   make build && docker build -f docker/train.Dockerfile -t longrope-vllm:train .
#   docker run --gpus all --shm-size 16g -v WORK:/work longrope-vllm:train train /work/recipe.toml
#   docker run --gpus all --shm-size 16g -v WORK:/work --entrypoint accelerate longrope-vllm:train \
#       launch --num_processes 8 -m longrope_vllm.cli.main train /work/recipe.toml
#
# BASE_DIGEST, and settings of pip: as in serve.Dockerfile.
ARG BASE_IMAGE=docker.io/vllm/vllm-openai:v0.33.0
ARG BASE_DIGEST=

FROM ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}}

USER 0
# train.lock holds what the extras train, sp, search and eval need beyond vLLM's own packages.
RUN --mount=type=bind,source=dist,target=/tmp/dist \
    --mount=type=bind,source=docker/train.lock,target=/tmp/train.lock \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca \
    python3 -B -m pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/train.lock \
    && python3 -B -m pip install --no-cache-dir --no-deps --no-index /tmp/dist/longrope_vllm-*.whl \
    && HOME=/tmp/check python3 -B -c "import accelerate, datasets, lm_eval, longrope_search.search, longrope_training.run, optuna, peft, tensorboard" \
    && rm -rf /tmp/check /tmp/torchinductor_root

USER 2000:0
ENV HOME=/home/vllm
WORKDIR /home/vllm

# A training job listens nowhere; whatever runs it watches the process.
HEALTHCHECK NONE
ENTRYPOINT ["longrope"]
CMD ["train", "--help"]

ARG BASE_IMAGE
ARG BASE_DIGEST
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="longrope-vllm, training" \
      org.opencontainers.image.description="longrope-vllm to search, fine-tune and evaluate longer contexts" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
