# The pipelines in a container: the same tasks as `./poe`, without the development tools.
#
#   docker build --tag llm-engineering .
#   docker run --rm --env-file .env --volume twin-data:/app/data llm-engineering run-digital-data-etl
#
# Build arguments: INSTALL_GROUPS (Poetry groups, "main,local" brings the laptop's MongoDB, "main,aws" the AWS SDKs),
# WITH_CHROMIUM=true (a browser for pages that need JavaScript), PIP_INDEX_URL (a mirror of the package index).

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
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 LOG_FORMAT=json
USER twin
VOLUME ["/app/data", "/app/models"]
ENTRYPOINT ["tini", "--", "python", "-m", "poethepoet", "--executor", "simple"]
CMD ["--help"]
