# The aggregator: no torch, no model. Build from the repository's root:
#   docker build -f deploy/containers/aggregator.Dockerfile -t collabedit-aggregator .
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/collabedit
ENV PATH=/opt/collabedit/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY aggregator aggregator
COPY attacks attacks
COPY crypto crypto
COPY party party
COPY proto proto
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt ".[aggregator]"

FROM python:3.11.14-slim-bookworm
COPY --from=build /opt/collabedit /opt/collabedit
# Names of files, for `serve` and for `health`; what is secret is mounted.
ENV PATH=/opt/collabedit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    COLLABEDIT_AGGREGATOR_PLAN=/etc/collabedit/plan.toml \
    COLLABEDIT_AGGREGATOR_IDENTITY=/run/keys/identity.pem \
    COLLABEDIT_AGGREGATOR_TLS_CERT=/run/keys/tls.pem \
    COLLABEDIT_AGGREGATOR_TLS_KEY=/run/keys/tls-key.pem \
    COLLABEDIT_AGGREGATOR_TLS_CA=/run/keys/ca.pem \
    COLLABEDIT_AGGREGATOR_STATE=/var/lib/collabedit/state \
    COLLABEDIT_AGGREGATOR_LISTEN=0.0.0.0:7443 \
    COLLABEDIT_AGGREGATOR_LOG_FORMAT=json
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/collabedit
USER 10001:10001
VOLUME /var/lib/collabedit
EXPOSE 7443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=20s --retries=3 \
    CMD ["collabedit", "aggregator", "health", "--connect", "127.0.0.1:7443"]
ENTRYPOINT ["collabedit"]
CMD ["aggregator", "serve"]
