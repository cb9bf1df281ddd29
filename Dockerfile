# tdbench on a CPU.
#     docker build -t tdbench .
#     docker run --rm --user "$(id -u)" -v "$PWD:/work" tdbench train    (results in ./runs)
# The build takes what pip takes for torch, which on Linux is the build for CUDA; a smaller one is taken from an index that
# has it: docker build --build-arg EXTRA_INDEX_URL=... (see torch's page on how to install it for a CPU).
FROM python:3.11-slim AS build
ARG EXTRA_INDEX_URL=""
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY ablations ablations
COPY tdbench tdbench
RUN python -m venv /opt/tdbench \
    && PIP_EXTRA_INDEX_URL="$EXTRA_INDEX_URL" /opt/tdbench/bin/pip install --no-cache-dir ".[tune]"

FROM python:3.11-slim
COPY --from=build /opt/tdbench /opt/tdbench
# Whoever it runs as has no home here, and writes to /work or to what is mounted there.
RUN install --directory --mode=1777 /work
ENV HOME=/tmp
USER 1000
WORKDIR /work
ENTRYPOINT ["/opt/tdbench/bin/tdbench"]
CMD ["--help"]
