"""Widgets are heard also when the subshell that they last answered has gone with its page."""

import pytest
from ipykernel.comm.comm import BaseComm
from ipykernel.kernelbase import Kernel

from workbench.figures import subshells
from workbench.figures.subshells import hear_every_page

pytestmark = pytest.mark.skipif(
    not hasattr(BaseComm, "_reply_subshell_for"), reason="this ipykernel chooses no subshell"
)


@pytest.fixture
def comm(monkeypatch: pytest.MonkeyPatch) -> BaseComm:
    """A widget's end of a connection, in a kernel with the subshells "old" and "new"."""
    monkeypatch.setattr(subshells, "_subshells", lambda: ["old", "new"])
    hear_every_page()
    comm = BaseComm(target_name="jupyter.widget")
    comm._reply_subshell_id = "old"
    return comm


def route(comm: BaseComm, asked: str | None) -> str | None:
    return comm._reply_subshell_for({"method": "custom", "content": {}}, asked)


def test_a_subshell_that_is_there_is_left_as_chosen(comm: BaseComm) -> None:
    assert route(comm, "new") == "old"


def test_one_that_has_gone_gives_way_to_what_the_page_asked_for(
    comm: BaseComm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subshells, "_subshells", lambda: ["new"])
    assert route(comm, "new") == "new"
    assert route(comm, None) is None


def test_where_both_have_gone_the_main_shell_hears(
    comm: BaseComm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subshells, "_subshells", list)
    assert route(comm, "new") is None


def test_it_is_done_once(comm: BaseComm) -> None:
    before = BaseComm._reply_subshell_for
    hear_every_page()
    assert BaseComm._reply_subshell_for is before


def test_without_a_kernel_there_are_no_subshells() -> None:
    assert not Kernel.initialized()
    assert subshells._subshells() == []
