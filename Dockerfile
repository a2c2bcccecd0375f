# The worker and its command line. Everything is installed at the versions and hashes of the lock
# files; nothing is written outside /tmp, so the root file system can be read-only.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src

COPY requirements.lock requirements-dev.lock ./
RUN python -m venv /opt/usp \
 && /opt/usp/bin/pip install --require-hashes -r requirements.lock

# The build backend is the only development dependency that is needed, and only here.
RUN awk '/^[^ ]/ { wanted = /^setuptools==/ } wanted' requirements-dev.lock > build.lock \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes -r build.lock

COPY pyproject.toml README.md LICENSE ./
COPY consumers consumers
COPY pipeline pipeline
COPY predictor predictor
COPY producers producers
COPY schemas schemas
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/usp/bin/pip install --no-deps --no-index /wheels/*.whl

FROM python:3.11-slim
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /tmp usp
COPY --from=build /opt/usp /opt/usp
WORKDIR /app
COPY config.toml ./
ENV PATH=/opt/usp/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
ENTRYPOINT ["usp"]
CMD ["run"]
