"""Messages as JSON and YAML, with the API's field names. Pure.

Numbers are numbers whatever their size, a field that is unknown is left out, and every other field is there, so that scripts
need not guess. Text is escaped to ASCII, which makes it harmless on terminals too.
"""

import json
from typing import Any

from google.protobuf.message import Message

_YAML_WORDS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))
"""What YAML takes for something else than text."""


def as_data(message: Message) -> dict[str, Any]:
    """Return a message as plain dicts, lists and scalars."""
    fields = message.DESCRIPTOR.fields
    return {field.name: _value(message, field) for field in fields if not field.has_presence or message.HasField(field.name)}


def _value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type and field.message_type.GetOptions().map_entry:
        return {key: as_data(found) if isinstance(found, Message) else found for key, found in sorted(value.items())}
    if field.is_repeated:
        return [as_data(found) if isinstance(found, Message) else found for found in value]
    return as_data(value) if isinstance(value, Message) else value


def written(data: Any, output: str, *, pretty: bool) -> str:
    """Return data in the form that `--output` names: `json`, which may be pretty, or `yaml`."""
    return as_json(data, pretty=pretty) if output == "json" else as_yaml(data)


def as_json(data: Any, *, pretty: bool) -> str:
    """Return JSON, on one line unless it is to be pretty."""
    return json.dumps(data, indent=2) if pretty else json.dumps(data, separators=(",", ":"))


def as_yaml(data: Any) -> str:
    """Return YAML. Strings are quoted as in JSON, but for what lies beyond 16 bits: YAML knows no pairs of surrogates."""
    return "\n".join(_yaml_lines(data))


def _yaml_lines(data: Any) -> list[str]:
    if isinstance(data, dict) and data:
        return [line for key, value in data.items() for line in _yaml_entry(f"{_yaml_key(key)}:", value)]
    if isinstance(data, list) and data:
        return [line for value in data for line in _yaml_item(value)]
    return [_yaml_scalar(data)]


def _yaml_scalar(data: Any) -> str:
    if not isinstance(data, str):
        return json.dumps(data)
    return '"' + "".join(f"\\U{ord(char):08x}" if ord(char) > 0xFFFF else json.dumps(char)[1:-1] for char in data) + '"'


def _yaml_entry(head: str, value: Any) -> list[str]:
    lines = _yaml_lines(value)
    nested = isinstance(value, (dict, list)) and value
    return [head, *(f"  {line}" for line in lines)] if nested else [f"{head} {lines[0]}"]


def _yaml_item(value: Any) -> list[str]:
    first, *rest = _yaml_lines(value)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def _yaml_key(key: str) -> str:
    plain = key.isidentifier() and key.isascii() and key.lower() not in _YAML_WORDS
    return key if plain else _yaml_scalar(key)
