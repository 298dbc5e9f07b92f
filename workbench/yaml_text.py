"""YAML as a configuration may use it, read so that nothing is taken for what it was not meant as.

YAML 1.1 has traps: ``010`` is 8, ``1:30`` is 90, ``1e-5`` is a text, and of two equal keys the last
one wins in silence. Here numbers are read as YAML 1.2 and JSON read them, and whatever could be
meant in two ways is refused with its line.
"""

import re
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from workbench.errors import InputError, shown

_DEPTH = 30  # sections, a grid and a list need five
_SIZE = 100_000  # values, each alias counted with all that it stands for
_CHARACTERS = 10**6
_DIGITS = 1000  # of a whole number; Python refuses to read some thousand
_TEXT_TAG = "tag:yaml.org,2002:str"
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE|yes|Yes|YES|on|On|ON")
_FALSE = re.compile(r"false|False|FALSE|no|No|NO|off|Off|OFF")
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.?|[0-9]*\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
_NO_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TRAPS = {
    re.compile(r"[-+]?0[0-9_]+"): "a number with a zero before it, which YAML counts in eights",
    re.compile(r"[-+]?0[xXbBoO]\w*"): "a number that is not decimal",
    re.compile(r"[-+]?[0-9][0-9_]*(:[0-9]+)+(\.[0-9]*)?"): "a number in sixties for YAML",
    re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt\s].*)?"): "a date",
}


def read_yaml(text: str) -> Any:
    """Mappings, lists, texts, numbers, true, false and None that ``text`` stands for.

    Keys are always texts. Raises `InputError`, with the line, for what is not YAML, for a key that
    stands twice in one mapping, for a value that YAML takes for something else than it looks like,
    for tags, and for a text nested or repeated beyond all use.
    """
    if len(text) > _CHARACTERS:
        raise InputError(
            f"The configuration has {len(text):,} characters but may have {_CHARACTERS:,}; give "
            "the file of a configuration."
        )
    try:
        node = _Loader(text).get_single_node()
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f" at line {error.problem_mark.line + 1}"
        problem = error.problem or error.context
        raise InputError(f"The configuration is not YAML{where}: {problem}; correct it.") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"The configuration is not YAML: {reason}; correct it.") from None
    if node is None:
        return None
    _refuse_endless(node)
    return _value(node)


def write_yaml(values: Any) -> str:
    """YAML text that `read_yaml` reads back to ``values``, without aliases."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Puts every text in quotes that `read_yaml` would not take for one."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Equal values are written out, each where it stands."""
        return True

    def text(self, text: str) -> ScalarNode:
        """A text, in quotes where it would be read as something else."""
        return self.represent_scalar(_TEXT_TAG, text, style=None if _is_text(text) else '"')


_Dumper.add_representer(str, _Dumper.text)


def _is_text(text: str) -> bool:
    if any(line_end in text for line_end in "\r\x85\u2028\u2029"):  # YAML reads them as blanks
        return False
    if any(trap.fullmatch(text) for trap in _TRAPS):
        return False
    return isinstance(_plain(text), str)


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """Text to nodes, their types left open."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """A node, unless it lies too deep or says by a tag what it is to become."""
        event = self.peek_event()
        tag = getattr(event, "tag", None)
        line = event.start_mark.line + 1
        if tag not in (None, "!", _TEXT_TAG):
            raise InputError(
                f"Line {line} of the configuration has the tag {shown(tag)}; leave it out."
            )
        if self._depth > _DEPTH:
            raise InputError(f"Line {line} of the configuration is nested too deeply; flatten it.")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, ScalarNode) and (tag == _TEXT_TAG or node.style in ("'", '"')):
            node.style = '"'  # a text by its tag is one as if by its quotes
        return node


def _refuse_endless(root: Node) -> None:
    """Raise `InputError` where aliases stand for more than anybody can use, or themselves."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Node) -> int:
        key = id(node)
        if key in open_nodes:
            raise InputError(
                f"Line {_line(node)} of the configuration contains itself through an alias; write "
                "it out."
            )
        if key not in sizes:
            open_nodes.add(key)
            sizes[key] = 1 + sum(size(child) for child in _children(node))
            open_nodes.remove(key)
        return sizes[key]

    if size(root) > _SIZE:
        raise InputError(
            f"The configuration stands for {size(root):,} values with its aliases but may have "
            f"{_SIZE:,}; shorten it."
        )


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _value(node: Node) -> Any:
    if isinstance(node, SequenceNode):
        return [_value(item) for item in node.value]
    if isinstance(node, MappingNode):
        return _mapping(node)
    return _scalar(node)


def _mapping(node: MappingNode) -> dict[str, Any]:
    own: dict[str, Any] = {}
    lines: dict[str, int] = {}
    merged: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            raise InputError(
                f"Line {_line(key)} of the configuration has a key that is no name; write one name "
                "before each colon."
            )
        name = key.value
        if name in lines:
            raise InputError(
                f"Line {_line(key)} of the configuration has {shown(name)} again, which line "
                f"{lines[name]} has already; keep one of them."
            )
        lines[name] = _line(key)
        if name == "<<" and key.style is None:
            merged = _merged(_value(value), _line(key))
        else:
            own[name] = _value(value)
    return {**merged, **own}


def _merged(value: Any, line: int) -> dict[str, Any]:
    """What ``<<`` takes over from one mapping or several, of which the first comes first."""
    found: dict[str, Any] = {}
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            raise InputError(
                f"Line {line} of the configuration merges something that is no mapping; give << "
                "the alias of one."
            )
        found = {**one, **found}
    return found


def _scalar(node: Node) -> Any:
    text: str = node.value
    if any("\ud800" <= character <= "\udfff" or character == "\0" for character in text):
        raise InputError(
            f"Line {_line(node)} of the configuration has a character that no text has; remove it."
        )
    if isinstance(node, ScalarNode) and node.style is not None:  # quoted, or a block of lines
        return text
    for trap, what in _TRAPS.items():
        if trap.fullmatch(text):
            raise InputError(
                f"Line {_line(node)} of the configuration has {shown(text)}, {what}; write a plain "
                "decimal number, or put a text in quotes."
            )
    return _plain(text)


def _plain(text: str) -> Any:
    """What a text without quotes stands for."""
    digits = text.replace("_", "")
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return _TRUE.fullmatch(text) is not None
    if _WHOLE.fullmatch(text) and len(digits) < _DIGITS:
        return int(digits)
    if _FLOAT.fullmatch(text):
        return float(digits)
    if _NO_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def _line(node: Node) -> int:
    return node.start_mark.line + 1
