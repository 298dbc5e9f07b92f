"""What one value of a table is as a record: a text, lines of text, or the messages of a chat.

A chat stays what it was, as JSON, until a tokenizer is there to render it (`tokens.encode`): which
part a record belongs to depends on the record alone, not on the model that will see it.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from workbench.errors import InputError

_KINDS = {
    int: "a number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list of other things",
}


class Chat(str):
    """The messages of one chat as JSON, each a mapping with a role and its content."""

    __slots__ = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages as a chat template takes them."""
        return json.loads(self)

    @property
    def contents(self) -> str:
        """What was said, without the roles."""
        return "\n".join(message["content"] or "" for message in self.messages)


def as_record(value: Any, where: str) -> str:
    """A table's value as text; lists of texts become lines, lists of messages a `Chat`.

    An absent value is an empty text. Raises `InputError`, which says ``where`` the value stands,
    for a value that is none of these.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return _chat(value, where)
    # What it holds is private, and a message may be kept where the records must not be.
    raise InputError(
        f"{where} holds {_KINDS.get(type(value), type(value).__name__)} but must hold text, a list "
        "of texts or the messages of a chat; set corpus.text_field to a field of text."
    )


def _chat(value: list[Mapping[str, Any]], where: str) -> Chat:
    # Parquet gives every message the fields of all others, empty where it has none.
    messages = [{k: v for k, v in message.items() if v is not None} for message in value]
    for number, message in enumerate(messages, start=1):
        message.setdefault("content", None)
        if not (
            isinstance(message.get("role"), str) and isinstance(message["content"], str | None)
        ):
            raise InputError(
                f"{where} holds a list whose entry {number} is no message of a chat; write each "
                'as {"role": "user", "content": "text"}.'
            )
    try:
        return Chat(json.dumps(messages, ensure_ascii=False, sort_keys=True))
    except (TypeError, ValueError):  # Parquet also holds dates and bytes
        raise InputError(
            f"{where} holds a chat with a value that is neither text nor number; leave it out."
        ) from None


def inside(row: Mapping[str, Any], field: str) -> tuple[bool, Any]:
    """Whether ``row`` has ``field``, and its value; ``meta.text`` is the text within meta.

    A name that has the dot in itself comes first.
    """
    if field in row:
        return True, row[field]
    first, dot, rest = field.partition(".")
    while dot:
        within = row.get(first)
        if isinstance(within, Mapping):
            return inside(within, rest)
        more, dot, rest = rest.partition(".")
        first = f"{first}.{more}"
    return False, None


def no_field(where: str, field: str, columns: Iterable[str]) -> InputError:
    """The refusal of a table that has no such field."""
    names = [str(name) for name in columns]
    known = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
    return InputError(
        f"corpus.text_field is {field!r} but {where} has no field of that name, "
        f"only {known or 'nothing'}; set corpus.text_field."
    )
