# syntax=docker/dockerfile:1
# Triton with the two backends that triton_models/ needs, ready for a model repository that is mounted at /models.
#
#   docker build -t recgpt-triton .
#   docker build -t recgpt-triton --build-arg TRITON=registry.example.com/tritonserver:26.09-onnxruntime-python .
#
# The second takes a smaller server, made by the compose.py of Triton's own repository with
# `--backend onnxruntime --backend python`.
ARG TRITON=nvcr.io/nvidia/tritonserver:26.09-py3

# What recall_engine needs. The Python backend looks into the server's own Python only, not at PYTHONPATH.
FROM ${TRITON} AS packages
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY recgpt recgpt
RUN python3 -m pip install --no-cache-dir --break-system-packages --constraint constraints.txt '.[cpu]'

FROM ${TRITON}

# Each backend that no model of ours needs is a way in.
RUN find /opt/tritonserver/backends -mindepth 1 -maxdepth 1 ! -name onnxruntime ! -name python -exec rm -rf {} +

COPY --from=packages /usr/local/lib /usr/local/lib
COPY --chmod=0555 deploy/serve.sh /usr/local/bin/serve

# Inside a container the network is its own; which ports are published, and to whom, is decided where it is started.
ENV RECGPT_BIND=0.0.0.0 \
    RECGPT_MODELS=/models

# triton-server, as NVIDIA's image calls it; a number, so that Kubernetes can see that it is not root.
USER 1000:1000
VOLUME ["/models"]
EXPOSE 8000 8001 8002

# The image brings curl. Ready means that every model is loaded.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--show-error", "--max-time", "2", "http://127.0.0.1:8000/v2/health/ready"]

STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/serve"]
