# Two stages: a virtual environment is built in the first and copied into the second.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/staydown
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY hashing hashing
COPY indexer indexer
COPY service service
# What is installed has the very hashes of the lock; our own code is built with what is installed by then.
RUN /opt/staydown/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
RUN /opt/staydown/bin/pip install --no-cache-dir --no-deps --no-build-isolation '.[postgres,queue]'

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin staydown \
    && install -d -o staydown -g staydown -m 0700 /data
COPY --from=build /opt/staydown /opt/staydown
# The root file system may be read-only: all that is written is under /data.
ENV PATH=/opt/staydown/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    STAYDOWN_HOME=/data
USER staydown
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
ENTRYPOINT ["staydown"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
