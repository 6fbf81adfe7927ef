# exprl on a node with NVIDIA GPUs: trainer, vLLM and judge, run by a user without rights.
#
#   docker build -t exprl .
#   docker run --rm --gpus all --ipc host -v "$PWD:/home/exprl/run" exprl doctor
#   docker run --rm --gpus all --ipc host -v "$PWD:/home/exprl/run" exprl train exprl.toml
#
# Packages come from the default registries, or from those named by --build-arg UV_DEFAULT_INDEX,
# PIP_INDEX_URL and PIP_EXTRA_INDEX_URL.

FROM rust:1.91-slim-bookworm AS wheel
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python3 -m venv /tools \
    && /tools/bin/pip install --no-cache-dir "$(grep '^maturin==' requirements/cpu.txt)" \
    && /tools/bin/maturin build --release --locked --out /wheels

# The CUDA version is torch's. `devel`, because vLLM and Triton compile kernels when they run.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG UV_DEFAULT_INDEX
# For example gpu,fused,flash,wandb; flash compiles for long.
ARG EXTRAS=gpu,fused
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv python3-dev gcc g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 exprl \
    && mkdir /opt/exprl /home/exprl/run \
    && chown exprl:exprl /opt/exprl /home/exprl/run
USER 10001
COPY --from=wheel /wheels /tmp/wheels
COPY requirements/cpu.txt /tmp/cpu.txt
# uv's own version is the tested one; the GPU's packages are resolved when the image is built.
RUN python3 -m venv /opt/exprl/tools \
    && /opt/exprl/tools/bin/pip install --no-cache-dir "$(grep '^uv==' /tmp/cpu.txt)" \
    && /opt/exprl/tools/bin/uv venv /opt/exprl/venv \
    && wheel=$(echo /tmp/wheels/*.whl) \
    && VIRTUAL_ENV=/opt/exprl/venv /opt/exprl/tools/bin/uv pip install --no-cache "${wheel}[$EXTRAS]"
ENV PATH=/opt/exprl/venv/bin:$PATH
WORKDIR /home/exprl/run
ENTRYPOINT ["exprl"]
CMD ["doctor"]
