"""The OpenAPI schema: what FastAPI cannot derive, because bodies are parsed in threads and errors are problems."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from fastapi import FastAPI
from pydantic import BaseModel

from clip_pipeline.serving.auth import FREE_ON_LOOPBACK

Schema: TypeAlias = dict[str, Any]

PROBLEM: Schema = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "detail"],
                "properties": {
                    "field": {"type": "string"}, "detail": {"type": "string"}, "path": {"type": "string"},
                },
            },
        },
        "errors_count": {"type": "integer", "description": "of how many faults `errors` shows the first"},
    },
    "examples": [
        {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "no job 'idx_20251114_143025_7f3a9c'"}
    ],
}  # fmt: skip
_PROBLEM_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_REFERENCE = "#/components/schemas/{model}"
_EVERYWHERE = {
    401: "A key is needed, or the one sent is not valid",
    403: "The key is of too small a scope, or a page from elsewhere asks",
    421: "The service has no keys and answers to names of this machine only",
    429: "Too many requests",
    500: "An unexpected error",
    503: "A part of the service cannot answer now",
}
_WITH_BODY = {408: "The body comes too slowly", 413: "The body is too large"}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def problems(descriptions: Mapping[int, str]) -> dict[int | str, Schema]:
    """The `responses` of a route for these statuses, each a problem document."""
    return {status: {"description": text, "content": _PROBLEM_CONTENT} for status, text in descriptions.items()}


def body_of(model: type[BaseModel], *, required: bool = True) -> Schema:
    """The `openapi_extra` of a route that parses a JSON body of this model itself; see `describe_bodies`."""
    content = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}}
    return {"requestBody": {"required": required, "content": content}}


def describe_bodies(app: FastAPI, models: Sequence[type[BaseModel]]) -> None:
    """Complete the schema of `app`: the models of `body_of`, problem documents in place of FastAPI's own errors."""
    generate = app.openapi

    def openapi() -> Schema:
        if app.openapi_schema is None:
            schema = generate()
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            for model in models:
                _add_model(components, model)
            components["Problem"] = PROBLEM
            schema["components"]["securitySchemes"] = _KEYS
            schema["security"] = [{name: []} for name in _KEYS]
            for path in FREE_ON_LOOPBACK & schema["paths"].keys():
                schema["paths"][path]["get"]["security"] = []
            for operation in _operations(schema):
                _with_problems(operation)
            for unused in ("HTTPValidationError", "ValidationError"):
                components.pop(unused, None)
        return app.openapi_schema or {}

    app.openapi = openapi


def _add_model(components: Schema, model: type[BaseModel]) -> None:
    described = model.model_json_schema(ref_template=_REFERENCE)
    components |= described.pop("$defs", {})
    components[model.__name__] = described


def _operations(schema: Schema) -> list[Schema]:
    return [
        operation
        for path in schema.get("paths", {}).values()
        for operation in path.values()
        if isinstance(operation, dict) and "responses" in operation
    ]


def _with_problems(operation: Schema) -> None:
    """FastAPI documents 422 in its own format wherever there is a parameter; what stands before every route answers
    with problems too."""
    invalid = operation["responses"].get("422")
    if invalid is not None and "application/problem+json" not in invalid.get("content", {}):
        operation["responses"]["422"] = {"description": "A parameter does not fit", "content": _PROBLEM_CONTENT}
    for status, response in problems(_EVERYWHERE | (_WITH_BODY if "requestBody" in operation else {})).items():
        operation["responses"].setdefault(str(status), response)
