"""A JupyterLab of one's own and a real Chromium: what browser tests and benchmarks start.

The server is ``workbench lab`` on a copy of the notebooks, with settings and workspaces of its own,
so that nothing a test does reaches the notebooks or the settings of whoever runs it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from workbench.lab import FIRST_NOTEBOOK

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TOKEN = "test"
PATIENCE = 600.0  # seconds after which a kernel or a page is taken to hang

_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_MAC_CHROME = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome on this machine, or None."""
    on_path = next((path for name in _CHROMIUMS if (path := shutil.which(name))), None)
    return on_path or (str(_MAC_CHROME) if _MAC_CHROME.exists() else None)


@dataclass(frozen=True)
class LabServer:
    """A running JupyterLab: where it answers, what it serves, and the folder of its settings."""

    url: str
    notebooks: Path
    home: Path
    log: Path

    def api(self, method: str, path: str) -> bytes:
        """The body of an answer of the server's REST interface."""
        headers = {"Authorization": f"token {TOKEN}"}
        with urlopen(Request(f"{self.url}/api/{path}", method=method, headers=headers)) as answer:
            return answer.read()

    def reset(self) -> None:
        """Shut every kernel down, and put notebooks, settings and open tabs back as they were."""
        for session in json.loads(self.api("GET", "sessions")):
            self.api("DELETE", f"sessions/{session['id']}")
        for folder in ("settings", "workspaces"):
            shutil.rmtree(self.home / folder, ignore_errors=True)
        shutil.copytree(NOTEBOOKS, self.notebooks, dirs_exist_ok=True)


def workbench_lab(arguments: list[str]) -> list[str]:
    """``workbench lab`` with these arguments, as a command."""
    return [sys.executable, "-c", "from workbench.cli import main; main()", "lab", *arguments]


@contextmanager
def running_lab(
    folder: Path, command: Callable[[list[str]], list[str]] = workbench_lab
) -> Iterator[LabServer]:
    """Serve a copy of the notebooks from ``folder`` until the block ends.

    ``command`` makes a command of the arguments of ``workbench lab``.
    """
    notebooks, home, log = folder / "notebooks", folder / "home", folder / "jupyter.log"
    shutil.copytree(NOTEBOOKS, notebooks)
    port = _free_port()
    server = LabServer(f"http://127.0.0.1:{port}", notebooks, home, log)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command(_arguments(notebooks, port)),
            env=_environment(home),
            stdout=output,
            stderr=output,
        )
        try:
            _wait_until_answering(server, process)
            yield server
        finally:
            _stop(process)


@contextmanager
def running_chromium() -> Iterator["Browser"]:
    """A headless Chromium until the block ends; there must be one (see `find_chromium`)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox", "--disable-dev-shm-usage"],
            timeout=PATIENCE * 1000,
        )
        yield browser
        browser.close()


@dataclass
class LabPage:
    """One page on a running JupyterLab, which remembers whatever went wrong on it.

    ``problems`` collects uncaught exceptions, console errors and requests that leave the machine.
    """

    page: "Page"
    server: LabServer
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        note = self.problems.append
        self.page.set_default_timeout(PATIENCE * 1000)
        # anywidget gives up a widget whose code takes a busy machine more than two seconds to load.
        self.page.add_init_script("AbortSignal.timeout = () => new AbortController().signal")
        self.page.on("pageerror", lambda error: note(f"uncaught exception: {error}"))
        self.page.on(
            "console",
            lambda message: note(f"console: {message.text}") if message.type == "error" else None,
        )
        self.page.on("request", lambda request: self._note_if_outside(request.url))
        self.page.on("websocket", lambda websocket: self._note_if_outside(websocket.url))

    def _note_if_outside(self, url: str) -> None:
        if urlsplit(url).hostname not in (None, "127.0.0.1", "localhost"):
            self.problems.append(f"request to the outside: {url}")

    def open(self, notebook: str = "") -> "Page":
        """Open ``notebook``, or what ``workbench lab`` opens, and wait until its kernel is idle.

        That it is in front is waited for as well: JupyterLab may bring back other tabs first.
        """
        path = f"lab/tree/{notebook}?reset&token={TOKEN}" if notebook else f"?token={TOKEN}"
        self.page.goto(f"{self.server.url}/{path}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.wait_for(
            f"{_IN_FRONT}?.context?.path === '{notebook or FIRST_NOTEBOOK}'"
            f" && {_IN_FRONT}.sessionContext?.session?.kernel?.status === 'idle'"
            " && !document.getElementById('jupyterlab-splash')"
        )
        return self.page

    def run_all(self, *, seconds: float = PATIENCE) -> None:
        """Run every cell; an error or a warning that a cell prints fails with its text."""
        self.page.evaluate(
            "() => { window.allCellsRan = false; jupyterapp.commands"
            ".execute('notebook:run-all-cells').then(() => { window.allCellsRan = true }) }"
        )
        self.wait_for("window.allCellsRan", seconds=seconds)
        complaints = self.page.locator(_COMPLAINTS).all_inner_texts()
        assert not complaints, "\n".join(complaints)

    def open_and_run(self, notebook: str) -> "Page":
        """Open ``notebook``, run every cell, and return the page."""
        self.open(notebook)
        self.run_all()
        return self.page

    def wait_for(self, condition: str, *, seconds: float = PATIENCE) -> None:
        """Wait until a JavaScript expression is true."""
        self.page.wait_for_function(f"() => Boolean({condition})", timeout=seconds * 1000)

    def use_theme(self, *, dark: bool) -> None:
        """Switch JupyterLab to its dark or its light theme."""
        theme = "JupyterLab Dark" if dark else "JupyterLab Light"
        self.page.evaluate(
            "t => jupyterapp.commands.execute('apputils:change-theme', t)", {"theme": theme}
        )
        self.wait_for(
            f"document.body.dataset.jpThemeLight === '{str(not dark).lower()}'"
            " && !document.getElementById('jupyterlab-splash')"
        )

    def screenshot(self, name: str) -> None:
        """Save a picture of the page, where ``WORKBENCH_SCREENSHOTS`` names a folder for it."""
        if folder := os.environ.get("WORKBENCH_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png")


_IN_FRONT = "window.jupyterapp?.shell.currentWidget"
_COMPLAINTS = ", ".join(
    f'.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.{kind}"]'
    for kind in ("error", "stderr")
)


@contextmanager
def lab_page(browser: "Browser", server: LabServer, *, width: int = 1280) -> Iterator[LabPage]:
    """A fresh page on ``server``, which is put back as it was afterwards."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    try:
        yield LabPage(context.new_page(), server)
    finally:
        context.close()
        server.reset()


def _arguments(notebooks: Path, port: int) -> list[str]:
    return [
        *("--notebooks", str(notebooks)),
        *("--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        f"--IdentityProvider.token={TOKEN}",
    ]


def _environment(home: Path) -> dict[str, str]:
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    return {**os.environ, **{name: str(home / folder) for name, folder in folders.items()}}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_answering(server: LabServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            server.api("GET", "status")
            return
        except (URLError, ConnectionError):
            time.sleep(0.05)
    raise RuntimeError(f"JupyterLab does not answer:\n{server.log.read_text(encoding='utf-8')}")
