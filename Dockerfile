FROM python:3.13-slim
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY rmq_redis ./rmq_redis
RUN pip install --no-cache-dir .
ENTRYPOINT ["rmq-redis"]
