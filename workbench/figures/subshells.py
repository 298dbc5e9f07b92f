"""What a page says is heard, also after the page before it was closed.

ipykernel 7 handles widgets on *subshells*, threads that a page asks for and that end with it. From
version 7.4 on, a widget's messages go to the subshell that this widget last answered. A page that
is opened anew speaks to the subshell of the page before. If that has ended, the message is lost
("Unknown subshell_id"). If it is about to end, which takes long on a busy machine, the message
waits in its queue and is lost with it, and no log says so. Pictures then stay blank and clicks do
nothing.

So a message goes where the page sent it, and elsewhere only if it answers the kernel's question.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any

_once = threading.Lock()
Route = Callable[[Any, Any, "str | None"], "str | None"]


def hear_every_page() -> None:
    """Have the widgets of this kernel heard by a subshell that exists, or by the main shell.

    Without a kernel, or with one that chooses no subshell, there is nothing to mend.
    """
    module = sys.modules.get("ipykernel.comm.comm")  # every kernel has loaded it
    with _once:
        chosen: Route | None = getattr(module and module.BaseComm, "_reply_subshell_for", None)
        if module is not None and chosen is not None and not hasattr(chosen, "falls_back"):
            module.BaseComm._reply_subshell_for = _falling_back(chosen)


def _falling_back(chosen: Route) -> Route:
    def route(comm: Any, data: Any, asked: "str | None") -> "str | None":
        """For an answer the subshell that waits for it, else the one that the page asked for."""
        there = {None, *_subshells()}
        awaited = _is_awaited(comm, data)
        waiting = chosen(comm, data, asked)  # in any case: it forgets a question once answered
        wanted = (waiting, asked) if awaited else (asked,)
        return next((name for name in wanted if name in there), None)

    route.falls_back = True  # type: ignore[attr-defined]
    return route


def _is_awaited(comm: Any, data: Any) -> bool:
    """Whether a message has the number of a question that the kernel has asked."""
    content = data.get("content") if isinstance(data, dict) else None
    number = content.get("id") if isinstance(content, dict) else None
    return isinstance(number, str) and number in getattr(comm, "_reply_subshell_ids", ())


def _subshells() -> list[str]:
    from ipykernel.kernelbase import Kernel

    thread = (
        getattr(Kernel.instance(), "shell_channel_thread", None) if Kernel.initialized() else None
    )
    return thread.manager.list_subshell() if thread is not None else []
