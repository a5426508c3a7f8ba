"""A Hub with one data set or model, served from a local folder to the Hub's own client."""

import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

from capo.prompts import loading

SHA = "0123456789" * 4


@contextmanager
def serving(
    folder: Path,
    name: str = "owner/name",
    revisions: tuple[str, ...] = ("main", SHA),
    kind: str = "datasets",
):
    """Yield a server; `url` is its address, and `read` lists the ranges of files that were requested.

    `kind` is `datasets` or `models`. `commit(server, folder, sha)` moves all revisions to another commit.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(name, revisions, kind))
    commit(server, folder, SHA)
    server.daemon_threads = True
    server.read = []
    server.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def commit(server, folder: Path, sha: str):
    """Serve the files of `folder` as commit `sha` from now on."""
    server.sha = sha
    server.files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}


def aim(monkeypatch, url):
    """Make the Hub's client use `url`, even if the tests run offline; HF_ENDPOINT is read only on import."""
    loading._collected.cache_clear()  # what another Hub served
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def _handler(name, revisions, kind):
    api, resolve = f"/api/{kind}/{name}", f"/{'datasets/' if kind == 'datasets' else ''}{name}/resolve/"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            if path == api or re.fullmatch(f"{api}/revision/({'|'.join(revisions)})", path):
                siblings = [{"rfilename": file} for file in self.server.files]
                return self.answer(
                    {"id": name, "sha": self.server.sha, "siblings": siblings, "private": False}
                )
            if tree := re.fullmatch(f"{api}/tree/(?:{'|'.join(revisions)})/?(.*)", path):
                return self.tree(tree.group(1))
            if path.startswith(resolve):
                return self.file(path.removeprefix(resolve).partition("/")[2])
            return self.refuse("RepoNotFound")

        do_HEAD = do_GET

        def do_POST(self):
            body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            files = self.server.files
            entries = [_entry(path, files[path]) for path in body.get("paths", []) if path in files]
            folders = [p for p in body.get("paths", []) if any(f.startswith(p + "/") for f in files)]
            self.answer(entries + [{"type": "directory", "path": path, "oid": SHA} for path in folders])

        def tree(self, folder):
            inside = {f: p for f, p in self.server.files.items() if not folder or f.startswith(folder + "/")}
            if not inside:
                return self.refuse("EntryNotFound")
            parents = {str(p) for f in inside for p in Path(f).parents if str(p) not in (".", folder)}
            folders = [{"type": "directory", "path": path, "oid": SHA} for path in sorted(parents)]
            entries = folders + [_entry(f, p) for f, p in inside.items()]
            if parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() != "true":
                depth = folder.count("/") + (1 if folder else 0)
                entries = [entry for entry in entries if entry["path"].count("/") == depth]
            return self.answer(entries)

        def file(self, path):
            if path not in self.server.files:
                return self.refuse("EntryNotFound")
            data = self.server.files[path].read_bytes()
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            start, end = (int(asked[1]), int(asked[2]) + 1) if asked else (0, len(data))
            self.server.read.append((path, start, min(end, len(data))))
            headers = {"ETag": _digest(data), "X-Repo-Commit": self.server.sha}
            return self.send(206 if asked else 200, data[start:end], headers)

        def refuse(self, why):
            self.send(404, b"{}", {"X-Error-Code": why})

        def answer(self, value):
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def send(self, status, data, headers):
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    return Handler


def _entry(path, file):
    data = file.read_bytes()
    return {"type": "file", "path": path, "size": len(data), "oid": _digest(data)}


def _digest(data):
    return hashlib.sha1(data).hexdigest()
