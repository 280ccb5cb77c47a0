"""The page in a real browser, without network but for a server on 127.0.0.1 that counts what is asked of it."""

import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from noisyrnn.report.figures import COLOURS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")


def browse(*arguments: str, profile: Path) -> str:
    """Run the browser once, in a profile of its own; what it printed."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


class Recorder(SimpleHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Path], tuple[str, list[str]]]]:
    """Serves a folder; gives its address and the list of paths asked for."""
    servers = []

    def start(folder: Path) -> tuple[str, list[str]]:
        handler = type("Handler", (Recorder,), {"asked": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", handler.asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_browser_builds_the_page_and_asks_for_nothing_else(
    written: Path, tmp_path: Path, serve: Callable[[Path], tuple[str, list[str]]]
) -> None:
    address, asked = serve(written.parent)
    dom = browse("--dump-dom", f"{address}/report.html", profile=tmp_path / "profile")
    assert asked == ["/report.html"]
    assert "<title>Four networks</title>" in dom
    assert "<b>95.0</b>" in dom
    assert dom.count("<svg") == 5  # one panel; two and two panels, each also for narrow screens
    assert "hidden state became non-finite at step 12 of 64." in dom


@pytest.mark.parametrize(
    ("theme", "background"),
    [pytest.param(1, 1.0, id="light", marks=pytest.mark.slow), pytest.param(0, 0x14 / 255, id="dark")],
)
def test_the_page_is_drawn(written: Path, tmp_path: Path, theme: int, background: float) -> None:
    picture = tmp_path / "page.png"
    settings = [f"--screenshot={picture}", "--window-size=1200,3000", f"--blink-settings=preferredColorScheme={theme}"]
    browse(*settings, written.as_uri(), profile=tmp_path / "profile")
    pixels = imread(picture)[:, :, :3]
    assert pixels.shape == (3000, 1200, 3)
    assert pixels[5, 5, 0] == pytest.approx(background, abs=0.01)
    painted = np.abs(pixels - pixels[5, 5]).max(axis=2) > 0.2
    assert 0.01 < painted.mean() < 0.5
    for label in range(3):
        near = np.abs(pixels - np.array(to_rgb(COLOURS[label]))).max(axis=2) < 0.02
        assert near.sum() > 200


def test_a_click_on_a_heading_sorts_the_table(written: Path, tmp_path: Path) -> None:
    """The page's script is run by the browser although its policy forbids every other one."""
    html = written.read_text(encoding="utf-8")
    policy = html[html.index('<meta http-equiv="Content-Security-Policy"') :].split("\n")[0]

    def order(clicks: int, policy_left: bool = False) -> list[str]:
        click = f"for (let i = 0; i < {clicks}; i++) document.querySelectorAll('#headline th button')[1].click();"
        copy = tmp_path / "copy.html"
        text = html if policy_left else html.replace(policy, "")  # it forbids the script that clicks
        copy.write_text(text.replace("</body>", f"<script>{click}</script></body>"), encoding="utf-8")
        dom = browse("--dump-dom", copy.as_uri(), profile=tmp_path / "profile")
        table = dom[dom.index('id="headline"') :].split("</table>")[0]
        assert "<button" in table  # the page's own script
        return re.findall(r'<th class="row" scope="row"><span[^>]*></span>([\w ]+)</th>', table)

    assert order(0) == order(1, policy_left=True) == ["noisy", "lipschitz", "lstm", "cornn"]
    assert order(1) == ["noisy", "lipschitz", "lstm", "cornn"]  # clean: 95.0, 93.3, 51.7, and none
    assert order(2)[-3:] == ["lstm", "lipschitz", "noisy"]


def test_nothing_is_wider_than_a_phone(written: Path, tmp_path: Path) -> None:
    """At 390 px the page itself does not scroll sideways, and no figure does."""
    html = written.read_text(encoding="utf-8")
    policy = html[html.index('<meta http-equiv="Content-Security-Policy"') :].split("\n")[0]
    measure = (
        "<script>document.title = [document.documentElement.scrollWidth, ...[...document.querySelectorAll('.drawing')]"
        ".filter((d) => d.offsetParent).map((d) => Math.max(d.scrollWidth, d.parentElement.scrollWidth))].join(' ');"
        "</script></body>"
    )
    frame = tmp_path / "frame.html"
    copy = tmp_path / "copy.html"
    copy.write_text(html.replace(policy, "").replace("</body>", measure), encoding="utf-8")
    frame.write_text(
        f'<iframe id="f" src="{copy.as_uri()}" width="390" height="3000"></iframe>'
        "<script>onload = () => { document.title = document.getElementById('f').contentDocument.title }</script>"
    )
    flags = ["--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom"]
    dom = browse(*flags, frame.as_uri(), profile=tmp_path / "profile")
    widths = [int(width) for width in re.findall(r"<title>([\d ]+)</title>", dom)[0].split()]
    assert len(widths) >= 3
    assert all(width <= 390 for width in widths)
