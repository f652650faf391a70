"""Kafka beside HTTP: uploads come in by one topic, results go out by another. Only here is a Kafka client imported.

`messages` says what a message means, `intake` and `outbox` are the two loops over plain protocols, `broker` is the
client that stands behind those, `service` runs both.
"""
