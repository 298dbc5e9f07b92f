"""What a page says is heard, also after the page before it was closed.

ipykernel 7 handles widgets on *subshells*, threads that a page asks for and that end with it. From
version 7.4 on, a widget's messages go to the subshell that this widget last answered. A page that
is opened anew speaks to the subshell of the page before: nobody is there, and the message is lost
("Unknown subshell_id"). Pictures then stay blank and clicks do nothing.
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
        """The subshell that ``chosen`` names, else the one that the page asked for, else none."""
        there = {None, *_subshells()}
        return next((name for name in (chosen(comm, data, asked), asked) if name in there), None)

    route.falls_back = True  # type: ignore[attr-defined]
    return route


def _subshells() -> list[str]:
    from ipykernel.kernelbase import Kernel

    thread = (
        getattr(Kernel.instance(), "shell_channel_thread", None) if Kernel.initialized() else None
    )
    return thread.manager.list_subshell() if thread is not None else []
