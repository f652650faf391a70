"""Is a part of the stack ready? One look each, and what to say while it is not."""

import httpx

from clip_pipeline.cli.stack.plan import CODE_LOCATIONS, StackPlan
from clip_pipeline.cli.stack.ports import is_answering

TIMEOUT_S = 5.0
_LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries {
  name locationOrLoadError { __typename ... on PythonError { message } } } } } }"""


def waiting_for_code_servers(plan: StackPlan) -> list[str]:
    """The code servers that do not answer yet. They listen once their definitions are loaded."""
    return [name for name, port in plan.code_ports.items() if not is_answering(port)]


def waiting_for_dagster(plan: StackPlan) -> list[str]:
    """What the webserver still lacks: itself, or a code location, with the error if it has one."""
    url = f"http://127.0.0.1:{plan.settings.dagster_port}/graphql"
    try:
        with local_client() as client:
            answer = client.post(url, json={"query": _LOCATIONS}).raise_for_status().json()
        entries = answer["data"]["workspaceOrError"]["locationEntries"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return ["webserver"]
    found = {entry["name"]: entry["locationOrLoadError"] or {} for entry in entries}
    return [
        f"code location {name}{_reason(found.get(name, {}))}"
        for name in CODE_LOCATIONS
        if found.get(name, {}).get("__typename") != "RepositoryLocation"
    ]


def waiting_for_service(plan: StackPlan) -> list[str]:
    """What the HTTP service still lacks. That Dagster's daemons gave no sign of life yet does not count.

    401 is an answer too: bound to an outside address, the service takes this question for one from outside.
    """
    try:
        with local_client() as client:
            response = client.get(f"{service_address(plan)}/health")
        document = response.json()
    except (httpx.HTTPError, ValueError):
        return ["api"]
    failing = [part for part in document.get("failing", []) if part != "orchestrator"]
    return [f"api ({', '.join(failing)})"] if failing or response.status_code not in (200, 401, 503) else []


def service_address(plan: StackPlan) -> str:
    """The URL of the HTTP service, without a slash at the end."""
    host = plan.settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{plan.settings.port}"


def local_client(timeout_s: float = TIMEOUT_S) -> httpx.Client:
    """For servers of this machine: a proxy that the environment names for the world is not for them."""
    return httpx.Client(timeout=timeout_s, trust_env=False)


def _reason(entry: dict[str, str]) -> str:
    message = entry.get("message", "")
    return f" ({' '.join(message.split())[:200]})" if message else ""
