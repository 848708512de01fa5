# The project in containers: the same tasks as `./poe`, without the development tools. Three targets:
#
#   service     answers: the inference service, the model server, the chat page, API keys, downloads
#   pipelines   all of it but training: collects, builds features, makes data sets, evaluates, deploys
#   training    trains too, on a GPU or as a job on SageMaker
#
#   ./poe build-docker-image --target service
#   alias twin='docker run --rm --env-file .env --volume twin-data:/app/data --volume twin-models:/app/models'
#   twin twin-pipelines run-digital-data-etl
#   twin twin-service create-api-key NAME                   # the service listens on all addresses, so it asks for one
#   twin --publish 8088:8088 --stop-timeout 40 twin-service run-inference-ml-service
#
# `--stop-timeout`: running answers may take SERVICE_SHUTDOWN_SECONDS (30) to finish. DATABASE_URI and VECTOR_INDEX_URL in .env
# must be addresses that a container reaches: not 127.0.0.1.
#
# Build arguments: WITH_CHROMIUM=true (a browser for pages that need JavaScript; pipelines and training), PIP_INDEX_URL (a mirror of
# the package index), PYTHON_IMAGE (another base).

ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:b18992999dbe963a45a8a4da40ac2b1975be1a776d939d098c647482bcad5cba

# --- packages: a folder .venv for each target -----------------------------------------------------------------------

FROM ${PYTHON_IMAGE} AS poetry
ARG POETRY_VERSION=2.5.1
ARG PIP_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    POETRY_NO_INTERACTION=1 POETRY_VIRTUALENVS_IN_PROJECT=true
RUN if [ -z "$PIP_INDEX_URL" ]; then unset PIP_INDEX_URL; fi \
 && python -m venv /opt/poetry \
 && /opt/poetry/bin/pip install --quiet "poetry==${POETRY_VERSION}" "poethepoet[poetry_plugin]==0.49.0" \
      "poetry-plugin-pypi-mirror==0.6.5"
WORKDIR /app
# The lock alone first: what follows is built again only when the dependencies change.
COPY pyproject.toml poetry.lock poetry.toml ./

FROM poetry AS service-packages
RUN if [ -n "$PIP_INDEX_URL" ]; then export POETRY_PYPI_MIRROR_URL="$PIP_INDEX_URL"; fi \
 && /opt/poetry/bin/poetry install --only main --compile --no-cache

FROM poetry AS pipelines-packages
RUN if [ -n "$PIP_INDEX_URL" ]; then export POETRY_PYPI_MIRROR_URL="$PIP_INDEX_URL"; fi \
 && /opt/poetry/bin/poetry install --only main,pipelines,aws --compile --no-cache

FROM poetry AS training-packages
RUN if [ -n "$PIP_INDEX_URL" ]; then export POETRY_PYPI_MIRROR_URL="$PIP_INDEX_URL"; fi \
 && /opt/poetry/bin/poetry install --only main,pipelines,aws,training --compile --no-cache

# --- what all targets share -----------------------------------------------------------------------------------------

FROM ${PYTHON_IMAGE} AS runtime
# libgomp1: llama.cpp. tini: signals reach the task, its children are reaped. Versions are the base image's: Debian keeps no older
# ones, so a pinned one would break the build with the next correction.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libgomp1 tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 twin \
 && useradd --uid 10001 --gid twin --create-home --shell /usr/sbin/nologin twin
WORKDIR /app
COPY pyproject.toml poetry.lock poetry.toml LICENSE ./
COPY llm_engineering llm_engineering
COPY steps steps
COPY pipelines pipelines
COPY configs configs
COPY tools tools
# keys: for a key that others than this user read; data is closed to them.
RUN mkdir data models keys && chown twin:twin data models keys
# SERVICE_HOST: nobody reaches a container's loopback.
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 LOG_FORMAT=json SERVICE_HOST=0.0.0.0 ORT_DISABLE_TELEMETRY=1 \
    HF_HUB_DISABLE_TELEMETRY=1
VOLUME ["/app/data", "/app/models"]
# Of servers alone: other tasks have no health but their exit status, and are never called unhealthy.
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s --retries=3 CMD ["python", "-m", "tools.container_health"]
ENTRYPOINT ["tini", "--", "python", "-m", "poethepoet", "--executor", "simple"]
CMD ["--help"]

FROM runtime AS service
COPY --from=service-packages /app/.venv .venv
USER 10001:10001
EXPOSE 8088 8089 8090

FROM runtime AS with-sources
ARG WITH_CHROMIUM=false
# git: repositories as a source.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git \
 && if [ "$WITH_CHROMIUM" = true ]; then \
      apt-get install --yes --no-install-recommends chromium chromium-driver; \
    fi \
 && rm -rf /var/lib/apt/lists/*
COPY samples samples

# SageMaker's folders under /opt/ml belong to root, and it runs nothing else in the container.
FROM with-sources AS training
COPY --from=training-packages /app/.venv .venv
# hadolint ignore=DL3002
USER 0:0

# The last one: `docker build .` makes it.
FROM with-sources AS pipelines
COPY --from=pipelines-packages /app/.venv .venv
# What tasks of AWS read: not all of infra, where Terraform may keep its state.
COPY infra/aws/prices.yaml infra/aws/prices.yaml
COPY infra/aws/policies infra/aws/policies
USER 10001:10001
EXPOSE 8088
