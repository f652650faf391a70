"""What runs in a home now, as its files say: the stack that `up` started, and the service that answers searches."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from clip_pipeline.cli.stack.held_file import Facts, facts_of_holder, last_facts
from clip_pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class StackFacts:
    """A stack: the process to stop it with, its ports, and the ports of its code servers by location."""

    pid: int
    port: int
    dagster_port: int
    code_ports: Mapping[str, int] = field(default_factory=dict[str, int])

    def as_facts(self) -> Facts:
        """For the file that `stack_file` names."""
        return asdict(self)


def stack_file(home: Path) -> Path:
    """Held by `up` while it runs."""
    return home / "stack.json"


def service_file(home: Path) -> Path:
    """Held by `api` while it serves."""
    return home / "api.json"


def running_stack(home: Path) -> StackFacts | None:
    """The stack of this home, or None where none runs."""
    facts = facts_of_holder(stack_file(home))
    return None if facts is None else _stack(facts)


def last_code_ports(home: Path) -> Mapping[str, int]:
    """The ports of the code servers when a stack of this home last ran."""
    return _stack(last_facts(stack_file(home))).code_ports


def service_url(home: Path) -> str | None:
    """Where the service of this home answers, or None where none runs."""
    facts = facts_of_holder(service_file(home))
    return None if facts is None else str(facts.get("url", "")) or None


def dagster_url(settings: Settings) -> str:
    """Where the Dagster webserver of this home answers, if it does."""
    if settings.dagster_url:
        return settings.dagster_url
    stack = running_stack(settings.home_path)
    return f"http://127.0.0.1:{stack.dagster_port if stack else settings.dagster_port}"


def _stack(facts: Facts) -> StackFacts:
    ports = facts.get("code_ports")
    return StackFacts(
        _number(facts.get("pid")),
        _number(facts.get("port")),
        _number(facts.get("dagster_port")),
        {str(name): _number(port) for name, port in ports.items()} if isinstance(ports, dict) else {},
    )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
