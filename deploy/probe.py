#!/opt/clip-pipeline/bin/python
"""Ends with 0 where a server answers: `probe http://127.0.0.1:8000/health`, or `probe grpc://127.0.0.1:4000`.

Any answer over HTTP will do, 503 of /health included: that says that another part is unwell, which starting this one
anew would not mend. Of a code server Dagster's own health service has to say that it serves. It is asked every ten
seconds, so it has to be cheap: 0.2 s of processor time, where `dagster api grpc-health-check` takes 1.5 s.
"""

import http.client
import sys
from urllib.parse import urlsplit

TIMEOUT_S = 4.0
DAGSTER_SERVICE = "DagsterApi"


def answers_http(address: str) -> bool:
    """Whether something at the address speaks HTTP."""
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", url.path or "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    return True


def serves_grpc(address: str) -> bool:
    """Whether the code server at the address says that it serves."""
    import grpc  # noqa: PLC0415  (a third of a second that HTTP need not wait for)
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    with grpc.insecure_channel(urlsplit(address).netloc) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(service=DAGSTER_SERVICE), timeout=TIMEOUT_S)
        except grpc.RpcError:
            return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


if __name__ == "__main__":
    probe = serves_grpc if sys.argv[1].startswith("grpc://") else answers_http
    sys.exit(0 if probe(sys.argv[1]) else 1)
