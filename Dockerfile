# The image of the bridge; docs/deployment.md says how to build and run it.

# Tag and digest change together: `docker buildx imagetools inspect python:TAG` shows the digest of a newer tag.
ARG PYTHON=python:3.13.15-slim-bookworm@sha256:ed86c82274b3c69b52fb5820f358f0bd7df0b603332063cb5c6e32bd220c3e6e

FROM ${PYTHON} AS build
WORKDIR /build
# Dependencies change rarely: they are a separate layer, before the source.
COPY deploy/image/uv.txt deploy/image/requirements.txt ./
RUN python -m pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes --requirement uv.txt \
    && uv venv --no-cache --python /usr/local/bin/python /app \
    && uv pip install --python /app --no-cache --no-deps --only-binary=:all: --compile-bytecode \
        --require-hashes --requirement requirements.txt
COPY deploy/image/build-requirements.txt pyproject.toml hatch_build.py README.md LICENSE ./
COPY bridge bridge
COPY task_event_bridge task_event_bridge
RUN uv build --no-cache --wheel --out-dir wheels --require-hashes --build-constraints build-requirements.txt \
    && uv pip install --python /app --no-cache --no-deps --no-index --compile-bytecode wheels/*.whl \
    && mkdir /data

FROM ${PYTHON}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="task-event-bridge" \
      org.opencontainers.image.description="Polls each asynchronous task once and fans its state out to every subscriber." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The loopback of the container cannot be reached from outside, so it listens on all addresses; without `auth` it then
# refuses to start. Bytecode was compiled by the installation, and the file system is read-only later.
ENV PATH=/app/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    BRIDGE_HOST=0.0.0.0
COPY --from=build /app /app
COPY --from=build --chown=10001:10001 /data /data
# The journal's default, ./bridge.db, is here: the only folder that is written to.
WORKDIR /data
VOLUME ["/data"]
# Numeric, so that an orchestrator can verify that it is not root.
USER 10001:10001
EXPOSE 8080 8081
# The bridge drains on it, and sees submits through: give `docker stop` 90 seconds instead of its default 10.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["taskbridge", "health"]
ENTRYPOINT ["taskbridge"]
CMD ["serve"]
