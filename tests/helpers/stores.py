"""Stores on loopback that fail as real ones do: a server of files that breaks, a proxy that cuts, and a small Hugging Face."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Files:
    """What a server has, by path, and how it misbehaves; `asked` is every request as (method, path with its query)."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, str]] = []
        self.ranges = True  # whether parts of a file can be had
        self.version: Callable[[bytes], str | None] = lambda content: hashlib.md5(content).hexdigest()
        self.cuts = 0  # how many bodies are cut in their middle
        self.statuses: list[int] = []  # of the next requests, before any that succeeds
        self.after: Callable[[str], None] = lambda _: None  # called after each body of a GET
        self.silent = ""  # a path whose bodies do not come until `release` is set
        self.release = threading.Event()
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def bodies(self) -> int:
        return sum(method == "GET" and "/api/" not in path for method, path in self.asked)


class _Handler(BaseHTTPRequestHandler):
    """Answers as a web server does, and as the API of Hugging Face."""

    protocol_version = "HTTP/1.1"
    of: Files

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        self.of.asked.append((self.command, self.path))
        path = unquote(urlsplit(self.path).path).lstrip("/")
        if path.startswith("api/datasets/"):
            self.tell_hub(path)
            return
        if self.of.statuses:
            self.tell(self.of.statuses.pop(0), b"")
            return
        if (content := self.of.files.get(path)) is None:
            self.tell(404, b"")
            return
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.of.ranges else None
        body = content[int(part[1]) : int(part[2]) + 1] if part else content
        headers = {"Content-Length": str(len(body))}
        if part:
            headers["Content-Range"] = f"bytes {part[1]}-{int(part[1]) + len(body) - 1}/{len(content)}"
        if (version := self.of.version(content)) is not None:
            headers["ETag"] = f'"{version}"'
        self.send_response(206 if part else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.send_body(path, body)

    def send_body(self, path: str, body: bytes) -> None:
        if path == self.of.silent:
            self.of.release.wait(60)
        if self.of.cuts and len(body) > 1:
            self.of.cuts -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)
            self.of.after(path)

    def tell_hub(self, path: str) -> None:
        """What the API tells of a data set: that it is there, and the files of a folder."""
        repo, _, rest = path.removeprefix("api/").partition("/tree/main")
        top = f"{repo}/resolve/main/"
        inside = {name.removeprefix(top): body for name, body in self.of.files.items() if name.startswith(top)}
        if not rest and "/tree/" not in path:
            known = any(path.removeprefix("api/").startswith(name.split("/resolve/")[0]) for name in self.of.files)
            self.tell(200 if known else 404, json.dumps({"id": "me/data", "sha": "0" * 40, "siblings": []}).encode())
            return
        folder = rest.strip("/")
        above = f"{folder}/" if folder else ""
        every = "recursive=true" in self.path
        entries, folders = [], set()
        for name, body in inside.items():
            below = name.removeprefix(above).split("/")
            if name.startswith(above) and (every or len(below) == 1):
                size, oid = len(body), hashlib.sha1(body).hexdigest()
                entries.append({"type": "file", "path": name, "size": size, "oid": oid})
            if name.startswith(above):
                folders |= {above + "/".join(below[:n]) for n in range(1, len(below) if every else min(2, len(below)))}
        entries += [{"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)]
        self.tell(200, json.dumps(entries).encode())

    def tell(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(files: Files) -> Iterator[Files]:
    """Serve the files, as a web server, and as Hugging Face if a path is `datasets/USER/NAME/resolve/main/FILE`."""

    handler = type("Handler", (_Handler,), {"of": files})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        files.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield files
        finally:
            files.release.set()
            server.shutdown()
            thread.join()


class Proxy:
    """Passes bytes to a port; the next `cuts` connections that answer more than `most` bytes are cut there."""

    def __init__(self, port: int) -> None:
        self.cuts, self.most, self.num_cut = 0, 100_000, 0
        self._to, self._ended = port, False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._ended = True
        self._listening.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            for source, sink, answers in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, answers), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                passed += len(piece)
                if answers and self.cuts and passed > self.most:
                    self.cuts -= 1
                    self.num_cut += 1
                    break
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
