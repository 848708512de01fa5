# The pipelines and the inference service in a container: the same tasks as `./poe`, without the development tools.
#
#   docker build --tag llm-engineering .
#   alias twin='docker run --rm --env-file .env --volume twin-data:/app/data --volume twin-models:/app/models'
#   twin llm-engineering run-digital-data-etl
#   twin llm-engineering create-api-key NAME                    # the service listens on all addresses, so it asks for one
#   twin --publish 8088:8088 --stop-timeout 40 llm-engineering run-inference-ml-service
#
# `--stop-timeout`: running answers may take SERVICE_SHUTDOWN_SECONDS (30) to finish. DATABASE_URI and VECTOR_INDEX_URL in .env
# must be addresses that a container reaches: not 127.0.0.1.
#
# Build arguments: INSTALL_GROUPS (Poetry groups, "main,local" brings the laptop's MongoDB, "main,aws" the AWS SDKs),
# WITH_CHROMIUM=true (a browser for pages that need JavaScript), PIP_INDEX_URL (a mirror of the package index).
# For training jobs on SageMaker: INSTALL_GROUPS=main,training,aws and RUN_AS=root, since its folders under /opt/ml belong to
# root; for linux/amd64.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG POETRY_VERSION=2.5.1
ARG INSTALL_GROUPS=main
ARG PIP_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    POETRY_NO_INTERACTION=1 POETRY_VIRTUALENVS_IN_PROJECT=true
RUN if [ -z "$PIP_INDEX_URL" ]; then unset PIP_INDEX_URL; fi \
 && python -m venv /opt/poetry \
 && /opt/poetry/bin/pip install --quiet "poetry==${POETRY_VERSION}" "poethepoet[poetry_plugin]==0.49.0" \
      "poetry-plugin-pypi-mirror==0.6.5"
WORKDIR /app
# The lock alone first: this layer is rebuilt only when the dependencies change.
COPY pyproject.toml poetry.lock poetry.toml ./
RUN if [ -n "$PIP_INDEX_URL" ]; then export POETRY_PYPI_MIRROR_URL="$PIP_INDEX_URL"; fi \
 && /opt/poetry/bin/poetry install --only "$INSTALL_GROUPS" --compile --no-cache

FROM ${PYTHON_IMAGE}
ARG WITH_CHROMIUM=false
ARG RUN_AS=twin
# git: repositories as a source. libgomp1: llama.cpp. tini: signals reach the task, its children are reaped.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates git libgomp1 tini \
 && if [ "$WITH_CHROMIUM" = true ]; then \
      apt-get install --yes --no-install-recommends chromium chromium-driver; \
    fi \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --shell /usr/sbin/nologin twin
WORKDIR /app
COPY --from=build /app/.venv .venv
COPY pyproject.toml poetry.lock poetry.toml LICENSE ./
COPY llm_engineering llm_engineering
COPY steps steps
COPY pipelines pipelines
COPY configs configs
COPY tools tools
COPY samples samples
RUN mkdir data models && chown twin:twin data models
# SERVICE_HOST: nobody reaches a container's loopback.
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 LOG_FORMAT=json SERVICE_HOST=0.0.0.0
USER ${RUN_AS}
EXPOSE 8088
VOLUME ["/app/data", "/app/models"]
# Of the service alone: other tasks have no health but their exit status, and are never called unhealthy.
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s --retries=3 \
  CMD case "$(tr '\0' ' ' </proc/1/cmdline)" in \
        *" run-inference-ml-service "*) \
          exec python -c 'import os, urllib.request as u; u.urlopen("http://127.0.0.1:" + os.environ.get("SERVICE_PORT", "8088") + "/health/ready", timeout=4)' ;; \
      esac
ENTRYPOINT ["tini", "--", "python", "-m", "poethepoet", "--executor", "simple"]
CMD ["--help"]
