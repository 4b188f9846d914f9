# Two images from one file: `service` (API, migrations, CPU and quick worker, beat; no torch) and `model` (the GPU worker).

FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 unabridged \
    && install -d -o unabridged /data /cache
WORKDIR /app
COPY pyproject.toml constraints.txt README.md settings.py celeryconfig.py doorbell.py ./
COPY api api
COPY jobs jobs
COPY parsers parsers
COPY worker worker
COPY migrations migrations

FROM base AS service
# Reads scanned pages; more languages are packages named tesseract-ocr-*.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tesseract-ocr tesseract-ocr-chi-sim \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --constraint constraints.txt ".[api,cpu-worker]"
USER unabridged
VOLUME ["/data"]

FROM base AS model
# Triton builds the launchers of its kernels with a C compiler, once for each card.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --constraint constraints.txt ".[model-worker,hopper]"
USER unabridged
VOLUME ["/data", "/cache"]
