"""`clip-pipeline kafka`: uploads from Kafka and results to it, until told to stop."""

from importlib.util import find_spec

from clip_pipeline.cli.configuration import load_settings, prepare_home
from clip_pipeline.core.errors import ConfigurationError


def kafka() -> None:
    """Work until SIGTERM or Ctrl-C."""
    settings = load_settings()
    if not settings.kafka_bootstrap:
        raise ConfigurationError("no broker is set; set CLIP_PIPELINE_KAFKA_BOOTSTRAP to host:port of one, or several")
    if find_spec("confluent_kafka") is None:
        raise ConfigurationError("the Kafka client is not installed; install clip-pipeline[kafka]")
    from clip_pipeline.serving.kafka.service import run_kafka  # noqa: PLC0415  (an extra)

    prepare_home(settings)
    run_kafka(settings)
