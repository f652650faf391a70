"""Where a run comes from, as Dagster records it: what the queue and the launcher read from a run."""

from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin


def origin_of(location: str, job: str = "embed_images") -> RemoteJobOrigin:
    """A job of a code location, whose own server is at a port where nobody listens."""
    server = GrpcServerCodeLocationOrigin(host="127.0.0.1", port=1, location_name=location)
    return RemoteJobOrigin(RemoteRepositoryOrigin(server, "__repository__"), job)
