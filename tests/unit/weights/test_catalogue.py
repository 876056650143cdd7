"""Weights arrive whole and right, or not at all.

Tried against a real HTTP server that truncates, corrupts and stalls.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wordmask.errors import WeightsError
from wordmask.weights import catalogue, transfer, verified_files
from wordmask.weights.catalogue import WeightEntry
from wordmask.weights.download import Patience
from wordmask.weights.transfer import fetch, import_weights, pack_weights
from wordmask.weights.verified_files import lock_entry, weights_path

CONTENT = bytes(range(256)) * 1280  # 327,680 bytes: twenty blocks of the download
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SHIPPED = catalogue.catalogue  # the fixture below puts another in its place
QUICK = Patience(connect=2, stall=0.2, attempts=3, pause=0.01)


class Server:
    """Serves CONTENT at every path; ``moods`` says how each request is answered, one after the other, the
    last one for ever.
    """

    def __init__(self) -> None:
        self.moods: list[str] = ["good"]
        self.ranges: list[str | None] = []
        self.stop_stalling = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.ranges.append(self.headers.get("Range"))
                mood = server.moods.pop(0) if len(server.moods) > 1 else server.moods[0]
                server.answer(self, mood)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def close(self) -> None:
        self.stop_stalling.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def answer(self, request: BaseHTTPRequestHandler, mood: str) -> None:
        if mood.isdigit():
            request.send_error(int(mood))
            return
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
        start = int(asked[1]) if asked and mood != "ignores range" else 0
        body = {
            "web page": b"<html>log in</html>",
            "too long": CONTENT * 2,
            "corrupt": b"?" + CONTENT[1:],
        }.get(mood, CONTENT)
        if asked and start >= len(body):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(body)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if mood != "too long":  # without a length the body ends with the connection
            request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        if mood in ("truncates", "stalls"):
            request.wfile.write(body[start : start + (len(body) - start) // 2])
            request.wfile.flush()
            if mood == "stalls":
                self.stop_stalling.wait(5)
            return
        request.wfile.write(body[start:])


@pytest.fixture
def a_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("WORDMASK_WEIGHTS", str(folder))
    return folder


@pytest.fixture
def a_catalogue(a_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """``known``: size and digest published.

    ``unknown``: neither; ``folder``: two files, one of them without a digest.
    """
    known = {"url": f"{a_server.url}/known.bin", "size": len(CONTENT), "sha256": DIGEST}
    common = {"title": "test weights", "licence": "none", "source": "nowhere"}
    entries = {
        "known": {**common, "kind": "file", "files": [known]},
        "unknown": {**common, "kind": "file", "files": [{"url": f"{a_server.url}/unknown.bin"}]},
        "folder": {**common, "kind": "folder", "files": [known, {"url": f"{a_server.url}/vocab.txt"}]},
    }
    parsed = {name: WeightEntry.model_validate(entry) for name, entry in entries.items()}
    monkeypatch.setattr(catalogue, "catalogue", lambda: parsed)


pytestmark = pytest.mark.usefixtures("a_catalogue")


def test_fetched_weights_have_the_published_content(a_cache: Path) -> None:
    path = fetch("known", patience=QUICK)
    assert path == a_cache / "known" / "known.bin" == weights_path("known")
    assert path.read_bytes() == CONTENT


def test_a_second_fetch_asks_the_server_for_nothing(a_server: Server) -> None:
    fetch("known", patience=QUICK)
    fetch("known", patience=QUICK)
    assert len(a_server.ranges) == 1


@pytest.mark.parametrize("mood", ["truncates", "stalls"])
def test_an_interrupted_download_continues_where_it_stopped(a_server: Server, mood: str) -> None:
    a_server.moods = [mood, "good"]
    assert fetch("known", patience=QUICK).read_bytes() == CONTENT
    assert a_server.ranges == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_server_that_is_briefly_unavailable_is_asked_again(a_server: Server) -> None:
    a_server.moods = ["503", "429", "good"]
    assert fetch("known", patience=QUICK).read_bytes() == CONTENT


def test_a_server_that_never_sends_is_given_up_with_a_reason_and_the_part_is_kept(
    a_server: Server, a_cache: Path
) -> None:
    a_server.moods = ["stalls"]
    with pytest.raises(WeightsError, match="stopped sending, 3 times in a row"):
        fetch("known", patience=QUICK)
    assert [path.name for path in a_cache.rglob("known.bin*")] == ["known.bin.part"]
    a_server.moods = ["good"]
    assert fetch("known", patience=QUICK).read_bytes() == CONTENT
    assert a_server.ranges[-1] is not None


def test_a_server_that_ignores_ranges_sends_the_file_from_the_start(a_server: Server) -> None:
    a_server.moods = ["truncates", "ignores range"]
    assert fetch("known", patience=QUICK).read_bytes() == CONTENT


def test_corrupt_content_is_refused_and_not_kept(a_server: Server, a_cache: Path) -> None:
    a_server.moods = ["corrupt"]
    with pytest.raises(WeightsError, match="not the file of the catalogue"):
        fetch("known", patience=QUICK)
    assert not list(a_cache.rglob("known.bin*"))
    with pytest.raises(WeightsError, match="wordmask weights fetch known"):
        weights_path("known")


def test_a_beginning_of_another_file_is_noticed_and_the_file_fetched_anew(a_cache: Path) -> None:
    (a_cache / "known").mkdir(parents=True)
    (a_cache / "known" / "known.bin.part").write_bytes(b"old" * 1000)
    assert fetch("known", patience=QUICK).read_bytes() == CONTENT


def test_a_web_page_instead_of_the_file_is_refused_before_anything_is_written(
    a_server: Server, a_cache: Path
) -> None:
    a_server.moods = ["web page"]
    with pytest.raises(WeightsError, match=r"19 bytes .* where 327680 are expected"):
        fetch("known", patience=QUICK)
    assert not list(a_cache.rglob("known.bin*"))


def test_an_endless_answer_is_cut_off(a_server: Server, a_cache: Path) -> None:
    a_server.moods = ["too long"]
    with pytest.raises(WeightsError, match="more than the 327680 bytes"):
        fetch("known", patience=QUICK)
    assert not list(a_cache.rglob("known.bin*"))


def test_a_file_that_is_gone_from_the_server_is_said_at_once(a_server: Server) -> None:
    a_server.moods = ["404"]
    with pytest.raises(WeightsError, match=r"answered 404.*wordmask weights import"):
        fetch("known", patience=QUICK)
    assert len(a_server.ranges) == 1


def test_no_server_at_all_is_one_sentence(a_server: Server) -> None:
    a_server.close()
    with pytest.raises(WeightsError, match="there is no connection to the server"):
        fetch("known", patience=QUICK)


def test_missing_weights_name_the_command_to_type() -> None:
    with pytest.raises(WeightsError, match="`wordmask weights fetch known`"):
        weights_path("known")


def test_an_unknown_name_gets_the_nearest_right_one() -> None:
    with pytest.raises(WeightsError, match="Did you mean 'known'"):
        weights_path("knwon")


def test_weights_damaged_in_the_cache_are_noticed_before_use_and_mended_by_fetch() -> None:
    path = fetch("known", patience=QUICK)
    path.write_bytes(b"?" + CONTENT[1:])  # same size, other content
    with pytest.raises(WeightsError, match="damaged"):
        weights_path("known")
    assert fetch("known", patience=QUICK).read_bytes() == CONTENT
    assert weights_path("known") == path


def test_unchanged_weights_are_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("known", patience=QUICK)
    monkeypatch.setattr(verified_files, "sha256_of", lambda *_: pytest.fail("hashed again"))
    weights_path("known")


def test_touched_but_equal_weights_are_still_good() -> None:
    os.utime(fetch("known", patience=QUICK), (0, 0))
    assert weights_path("known").exists()


def test_weights_without_a_published_digest_wait_until_a_person_accepts_it(a_server: Server) -> None:
    with pytest.raises(WeightsError, match=f"wordmask weights fetch unknown --accept-digest {DIGEST}"):
        fetch("unknown", patience=QUICK)
    with pytest.raises(WeightsError, match="not on this machine"):
        weights_path("unknown")
    assert fetch("unknown", accept=[DIGEST.upper()], patience=QUICK).read_bytes() == CONTENT
    assert len(a_server.ranges) == 1, "what waited was not downloaded again"


def test_another_digest_than_the_one_found_accepts_nothing() -> None:
    with pytest.raises(WeightsError, match="--accept-digest"):
        fetch("unknown", accept=["0" * 64], patience=QUICK)


def test_accepted_weights_that_changed_are_refused() -> None:
    fetch("unknown", accept=[DIGEST], patience=QUICK).write_bytes(b"something else")
    with pytest.raises(WeightsError, match="damaged"):
        weights_path("unknown")


def test_anew_forgets_what_waits(a_server: Server) -> None:
    a_server.moods = ["corrupt", "good"]
    with pytest.raises(WeightsError, match="--accept-digest"):
        fetch("unknown", patience=QUICK)
    assert fetch("unknown", accept=[DIGEST], again=True, patience=QUICK).read_bytes() == CONTENT


def test_progress_ends_at_the_size_of_the_file() -> None:
    seen: list[tuple[str, int, int | None]] = []
    fetch("known", patience=QUICK, report=lambda *arguments: seen.append(arguments))
    assert seen[-1] == ("known.bin", len(CONTENT), len(CONTENT))


def test_an_imported_file_is_verified_like_a_download(tmp_path: Path) -> None:
    good, bad = tmp_path / "sent by post.bin", tmp_path / "bad.bin"
    good.write_bytes(CONTENT)
    bad.write_bytes(b"?" + CONTENT[1:])
    with pytest.raises(WeightsError, match="not the file of the catalogue"):
        import_weights("known", bad)
    assert import_weights("known", good).read_bytes() == CONTENT
    assert good.exists()


def test_importing_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"There is no file 'nothing\.bin'"):
        import_weights("known", tmp_path / "nothing.bin")


def test_a_folder_is_imported_only_when_complete(tmp_path: Path) -> None:
    (tmp_path / "known.bin").write_bytes(CONTENT)
    with pytest.raises(WeightsError, match=r"has no file 'vocab\.txt'"):
        import_weights("folder", tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"liver")
    assert import_weights("folder", tmp_path, accept=[hashlib.sha256(b"liver").hexdigest()]).name == "folder"


def test_a_pack_carries_weights_to_a_machine_without_internet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch("folder", accept=[DIGEST], patience=QUICK)
    digest = pack_weights("folder", tmp_path / "pack.zip")
    monkeypatch.setenv("WORDMASK_WEIGHTS", str(tmp_path / "hospital"))
    with pytest.raises(WeightsError, match=f"--accept-digest {digest}"):
        import_weights("folder", tmp_path / "pack.zip")
    folder = import_weights("folder", tmp_path / "pack.zip", accept=[digest])
    assert folder == tmp_path / "hospital" / "folder" == weights_path("folder")
    assert (folder / "vocab.txt").read_bytes() == CONTENT


def test_a_pack_of_other_weights_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as pack:
        pack.writestr("../outside.bin", "x")
    with pytest.raises(WeightsError, match=r"does not contain 'known\.bin'"):
        import_weights("folder", tmp_path / "pack.zip")
    assert not list(tmp_path.rglob("outside.bin"))


def test_two_processes_do_not_write_the_same_file() -> None:
    with lock_entry("known"), pytest.raises(WeightsError, match="Another process"):
        fetch("known", patience=QUICK)


def test_a_cache_that_cannot_be_written_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("WORDMASK_WEIGHTS", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="set WORDMASK_WEIGHTS"):
        fetch("known", patience=QUICK)


def test_too_little_space_is_said_before_the_download(
    a_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Callable[[Path], object] = lambda _: type("Usage", (), {"free": 10})  # noqa: E731
    monkeypatch.setattr(transfer.shutil, "disk_usage", usage)
    with pytest.raises(WeightsError, match="MB free"):
        fetch("known", patience=QUICK)
    assert not a_server.ranges


def test_the_shipped_catalogue_names_a_licence_for_all_and_a_digest_for_sam() -> None:
    shipped = SHIPPED()
    assert {"sam_vit_b", "sam_vit_l", "sam_vit_h", "biomedclip", "openai_vit_b_16"} <= set(shipped)
    for name, entry in shipped.items():
        assert entry.licence, name
        assert all(file.url.startswith("https://") and file.name for file in entry.files), name
        assert all((file.sha256 and file.size) or not name.startswith("sam_") for file in entry.files), name
