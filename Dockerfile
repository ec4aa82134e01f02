# One image for every role: `docker run IMAGE namesrv ...`, `docker run IMAGE broker ...`.
FROM python:3.13.9-slim-trixie
RUN useradd --uid 10001 --create-home rmq-redis
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY rmq_redis ./rmq_redis
RUN pip install --no-cache-dir .
# No role needs root: all ports are above 1024. `up` keeps its data below the home directory; mount a volume there.
USER 10001
WORKDIR /home/rmq-redis
ENTRYPOINT ["rmq-redis"]
