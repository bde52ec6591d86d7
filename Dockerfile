# The daemon as an image: `docker build -t mns-consumer .`
# Handlers: mount a folder at /handlers, or derive an image (FROM mns-consumer, COPY films /handlers).
# To pin the base image, pass it with its digest (mns-consumer docs deploy, Container).
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN ["python", "-m", "venv", "/opt/mns-consumer"]
COPY .build/ .build/
RUN ["/opt/mns-consumer/bin/pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r", ".build/constraints.txt"]
COPY constraints.txt ./
# One dependency is published as source only; the packages that are installed by now build it.
RUN ["/opt/mns-consumer/bin/pip", "install", "--quiet", "--require-hashes", "--no-build-isolation", "--only-binary", ":all:", "--no-binary", "alibabacloud-tea", "-r", "constraints.txt"]
COPY pyproject.toml README.md LICENSE ./
COPY consumer/ consumer/
COPY handlers/ handlers/
# The image needs none of the packages that build and install.
RUN /opt/mns-consumer/bin/pip install --quiet --no-deps --no-build-isolation . \
 && /opt/mns-consumer/bin/python -m pip uninstall --quiet --yes -r .build/constraints.txt pip

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mns-consumer" \
      org.opencontainers.image.description="Takes Alibaba Cloud MPS job notifications from MNS queues and calls your handlers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The daemon needs no pip. /handlers stays empty until handlers are mounted or copied.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
 && install -d -m 0755 /handlers \
 && install -d -m 0700 -o 65532 -g 65532 /var/lib/mns-consumer
COPY --from=build /opt/mns-consumer /opt/mns-consumer
ENV PATH=/opt/mns-consumer/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/mns-consumer \
    STATE_DIRECTORY=/var/lib/mns-consumer \
    MNS_CONSUMER_HANDLERS_DIR=/handlers \
    MNS_CONSUMER_ADMIN_HOST=0.0.0.0
USER 65532:65532
WORKDIR /var/lib/mns-consumer
VOLUME ["/var/lib/mns-consumer"]
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["/opt/mns-consumer/bin/mns-consumer", "health"]
ENTRYPOINT ["/opt/mns-consumer/bin/mns-consumer"]
CMD ["run"]
