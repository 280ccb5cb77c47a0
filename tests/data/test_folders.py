import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from noisyrnn.data.folders import cache_folder, check_sha256, data_folders, download, find_file, read_bytes, read_text

BODY = b"some bytes worth fetching"
SHA256 = hashlib.sha256(BODY).hexdigest()


class Mirror(http.server.BaseHTTPRequestHandler):
    """`/good/` serves the file, `/bad/` other bytes, anything else nothing; `requests` counts."""

    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        found = self.path in ("/good/file.gz", "/bad/file.gz")
        body = (BODY if self.path.startswith("/good/") else BODY[:-1]) if found else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Mirror.requests = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(mirrors: list[str], folder: Path) -> Path:
    return download("file.gz", sha256=SHA256, mirrors=mirrors, folder=folder, advice="Put file.gz somewhere.")


def test_the_second_mirror_serves_where_the_first_is_dead(mirror: str, tmp_path: Path):
    path = fetch([f"{mirror}/gone/", f"{mirror}/good/"], tmp_path / "new" / "mnist")
    assert path == tmp_path / "new" / "mnist" / "file.gz"
    assert path.read_bytes() == BODY
    assert Mirror.requests == ["/gone/file.gz", "/good/file.gz"]


def test_the_second_mirror_serves_where_the_first_is_damaged(mirror: str, tmp_path: Path):
    assert fetch([f"{mirror}/bad/", f"{mirror}/good/"], tmp_path).read_bytes() == BODY


def test_a_file_already_fetched_is_not_fetched_again(mirror: str, tmp_path: Path):
    for _ in range(2):
        fetch([f"{mirror}/good/"], tmp_path)
    assert Mirror.requests == ["/good/file.gz"]


def test_a_damaged_download_names_both_checksums_and_leaves_nothing(mirror: str, tmp_path: Path):
    got = hashlib.sha256(BODY[:-1]).hexdigest()
    with pytest.raises(ValueError, match=rf"^file\.gz must have sha256 {SHA256}, got {got} from {mirror}/bad/\. Try"):
        fetch([f"{mirror}/bad/", f"{mirror}/gone/"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_offline_is_one_sentence(mirror: str, tmp_path: Path):
    dead = "http://127.0.0.1:9/"  # the discard port: nothing listens
    message = (
        r"^file\.gz must be in a data folder or be downloaded, got no answer from 2 mirrors "
        r"\(ConnectionError, HTTPError\)\. Put file\.gz somewhere\.$"
    )
    with pytest.raises(FileNotFoundError, match=message):
        fetch([dead, f"{mirror}/gone/"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folders_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOISYRNN_DATA", str(tmp_path / "variable"))
    assert data_folders(tmp_path) == [tmp_path, tmp_path / "variable", cache_folder()]
    assert data_folders(str(tmp_path))[0] == tmp_path
    monkeypatch.delenv("NOISYRNN_DATA")
    assert data_folders() == [cache_folder()]
    assert cache_folder().name == "noisyrnn"


def test_a_missing_data_dir_is_refused(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"^data_dir must be an existing folder, got '.*nowhere'\. Correct the path\.$"
    ):
        data_folders(tmp_path / "nowhere")


def test_the_first_folder_wins_then_the_first_subfolder(tmp_path: Path):
    for place in ("one/b", "two/a", "two"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "x").write_text(place)
    one, two = tmp_path / "one", tmp_path / "two"
    assert find_file([one, two], ["x"], ["a", "b", "."]) == one / "b" / "x"
    assert find_file([two, one], ["y", "x"], [".", "a"]) == two / "x"
    assert find_file([one], ["x"], ["a"]) is None


def test_a_checksum_is_compared(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(BODY)
    check_sha256(path, SHA256)
    with pytest.raises(ValueError, match=rf"file must have sha256 {'0' * 64}, got {SHA256}\. Delete it and fetch"):
        check_sha256(path, "0" * 64)


@pytest.mark.parametrize("damage", ["cut", "flipped", "plain"])
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, damage: str):
    whole = gzip.compress(BODY)
    flipped = whole[:20] + bytes([whole[20] ^ 255]) + whole[21:]
    content = {"cut": whole[:-9], "flipped": flipped, "plain": BODY}[damage]
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"file\.gz must be a complete gzip file, got {len(content)} bytes that do not"
    ):
        read_bytes(path)
    path.write_bytes(whole)
    assert read_bytes(path) == BODY


def test_text_must_be_utf8(tmp_path: Path):
    path = tmp_path / "file.csv"
    path.write_bytes(b"ab\xe9")
    with pytest.raises(ValueError, match=r"file\.csv must be UTF-8 text, got byte 233 at 2\.$"):
        read_text(path)
    path.write_bytes("\ufeffé".encode())
    assert read_text(path) == "é"
