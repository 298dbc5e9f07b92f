"""Widgets are heard by the page's own subshell, not by one that goes with the page before."""

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


def test_a_page_is_heard_where_it_asked_to_be_not_by_the_page_before_that_is_about_to_end(
    comm: BaseComm,
) -> None:
    assert route(comm, "new") == "new"
    assert route(comm, None) is None


def test_an_answer_goes_to_the_subshell_that_waits_for_it_and_once(comm: BaseComm) -> None:
    comm._reply_subshell_ids["7"] = "old"
    answer = {"method": "custom", "content": {"id": "7"}}
    assert comm._reply_subshell_for(answer, "new") == "old"
    assert comm._reply_subshell_for(answer, "new") == "new"


def test_one_that_has_gone_gives_way_to_what_the_page_asked_for(
    comm: BaseComm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subshells, "_subshells", lambda: ["new"])
    comm._reply_subshell_ids["7"] = "old"
    assert comm._reply_subshell_for({"content": {"id": "7"}}, "new") == "new"


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
