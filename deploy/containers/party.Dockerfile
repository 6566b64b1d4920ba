# A party's client with the editing engine, for CPUs. Build from the repository's root:
#   docker build -f deploy/containers/party.Dockerfile -t collabedit-party .
# For GPUs: --build-arg TORCH_INDEX=... with an index of CUDA builds, and the vendor's runtime.
FROM python:3.11.14-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
RUN python -m venv /opt/collabedit
ENV PATH=/opt/collabedit/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
# Alone and first: on an index with several builds anything else may pull another one.
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" torch==2.13.0
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY aggregator aggregator
COPY attacks attacks
COPY crypto crypto
COPY party party
COPY proto proto
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt ".[party]"

FROM python:3.11.14-slim-bookworm
COPY --from=build /opt/collabedit /opt/collabedit
ENV PATH=/opt/collabedit/bin:$PATH \
    HF_HUB_OFFLINE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    COLLABEDIT_PARTY_PLAN=/etc/collabedit/plan.toml \
    COLLABEDIT_PARTY_IDENTITY=/run/keys/identity.pem \
    COLLABEDIT_PARTY_TLS_CERT=/run/keys/tls.pem \
    COLLABEDIT_PARTY_TLS_KEY=/run/keys/tls-key.pem \
    COLLABEDIT_PARTY_TLS_CA=/run/keys/ca.pem \
    COLLABEDIT_PARTY_MODEL=/srv/model \
    COLLABEDIT_PARTY_EDITS=/srv/edits.json \
    COLLABEDIT_PARTY_WORK=/var/lib/collabedit/work \
    COLLABEDIT_PARTY_METRICS=127.0.0.1:9465 \
    COLLABEDIT_PARTY_LOG_FORMAT=json
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/collabedit
USER 10001:10001
VOLUME /var/lib/collabedit
# Killed, so that the next start resumes the session; SIGINT would say farewell and leave it.
STOPSIGNAL SIGTERM
# A party listens nowhere else; its metrics are there once its files were read.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9465/metrics', timeout=5).read()"]
ENTRYPOINT ["collabedit"]
CMD ["party", "join"]
