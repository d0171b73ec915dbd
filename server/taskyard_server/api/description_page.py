"""The published description of the API as one page for people: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow-x: auto; }
summary { cursor: pointer; padding: .3rem 0; }
details { border-top: 1px solid #8884; }
details > div { padding: 0 0 1rem 1rem; }
.method { display: inline-block; min-width: 4.5em; font-weight: bold; }
.quiet { opacity: .75; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-top: 1px solid #8884; }
"""
_METHODS = ("get", "head", "post", "put", "patch", "delete")
Json = Mapping[str, Any]


def page(description: Json, *, server: str) -> str:
    """Returns the whole page of an OpenAPI document."""
    info = description["info"]
    operations = [
        (operation.get("tags", ["other"])[0], path, method, operation)
        for path, item in description["paths"].items()
        for method, operation in item.items()
        if method in _METHODS
    ]
    groups = itertools.groupby(sorted(operations, key=lambda each: each[0]), key=lambda each: each[0])
    schemas = sorted(description["components"]["schemas"].items())
    parts = [
        f"<h1>{text(info['title'])} API {text(info['version'])}</h1>",
        f"<p>{text(info.get('summary', ''))} {text(info.get('description', ''))}</p>",
        f'<p class="quiet">Server {text(server)} · <a href="/api/v1/openapi.json">openapi.json</a>'
        " · a request carries <code>Authorization: Bearer TOKEN</code></p>",
        *(_group(tag, group) for tag, group in groups),
        "<h2>Records</h2>",
        *(_schema(name, schema) for name, schema in schemas),
    ]
    return document(f"{info['title']} API", "\n".join(parts))


def document(title: str, body: str) -> str:
    """Returns a page; `body` is HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def text(words: object) -> str:
    """Returns it as HTML that shows just that."""
    return html.escape(str(words))


def _group(tag: str, group: Iterable[tuple[str, str, str, Json]]) -> str:
    return f"<h2>{text(tag)}</h2>" + "".join(
        _operation(path, method, operation) for _, path, method, operation in group
    )


def _operation(path: str, method: str, operation: Json) -> str:
    bodies = operation.get("requestBody", {}).get("content", {})
    takes = "".join(f"<p>Takes {text(kind)}: {_type(each.get('schema', {}))}</p>" for kind, each in bodies.items())
    token = "" if operation.get("security") else '<p class="quiet">Needs no token.</p>'
    return (
        f'<details id="{text(operation["operationId"])}"><summary><span class="method">{method.upper()}</span>'
        f"<code>{text(path)}</code></summary><div>"
        f"<p>{text(operation.get('description') or operation.get('summary', ''))}</p>{token}"
        f"{_parameters(operation.get('parameters', ()))}{takes}{_answers(operation['responses'])}</div></details>"
    )


def _parameters(parameters: Iterable[Json]) -> str:
    rows = [
        f"<tr><td><code>{text(each['name'])}</code></td><td>{text(each['in'])}"
        f"{', required' if each.get('required') else ''}</td><td>{_type(each.get('schema', {}))}</td>"
        f"<td>{text(each.get('description', ''))}</td></tr>"
        for each in parameters
    ]
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _answers(responses: Json) -> str:
    rows = [
        f"<tr><td>{text(status)}</td><td>{_contents(each)}</td><td>{text(each.get('description', ''))}</td></tr>"
        for status, each in sorted(responses.items())
    ]
    return f"<table>{''.join(rows)}</table>"


def _contents(answer: Json) -> str:
    return ", ".join(_type(each.get("schema", {})) for each in answer.get("content", {}).values())


def _schema(name: str, schema: Json) -> str:
    required = set(schema.get("required", ()))
    rows = [
        f"<tr><td><code>{text(field)}</code></td><td>{_type(each)}</td>"
        f"<td>{'required' if field in required else _default(each)}</td>"
        f"<td>{text(each.get('description', ''))}</td></tr>"
        for field, each in schema.get("properties", {}).items()
    ]
    words = [f"<code>{text(word)}</code>" for word in schema.get("enum", ())]
    return (
        f'<details id="record-{text(name)}"><summary><code>{text(name)}</code></summary><div>'
        f"<p>{text(schema.get('description', ''))}</p>{', '.join(words)}"
        f"<table>{''.join(rows)}</table></div></details>"
    )


def _default(field: Json) -> str:
    return f"default <code>{text(json.dumps(field['default']))}</code>" if "default" in field else ""


def _type(schema: Json) -> str:
    """A schema in a few words; a record is a link to it."""
    if "$ref" in schema:
        name = text(schema["$ref"].rpartition("/")[2])
        return f'<a href="#record-{name}">{name}</a>'
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return " or ".join(map(_type, schema[choice]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"name → {_type(schema['additionalProperties'])}"
    return text(schema.get("format", kind))
