"""A Hub with one data set or model, served from a local folder to the Hub's own client."""

import base64
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
    folder: Path | None,
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
    server.read, server.pushed, server.created = [], {}, None
    server.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def commit(server, folder: Path | None, sha: str):
    """Serve the files of `folder` as commit `sha` from now on; None: there is no such repository."""
    server.sha, server.private = sha, False
    if folder is None:
        server.files = None
        return
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
            if self.server.files is None:
                return self.refuse("RepoNotFound")
            if path == api or re.fullmatch(f"{api}/revision/({'|'.join(revisions)})", path):
                siblings = [{"rfilename": file} for file in self.server.files]
                return self.answer(
                    {"id": name, "sha": self.server.sha, "siblings": siblings, "private": self.server.private}
                )
            if tree := re.fullmatch(f"{api}/tree/(?:{'|'.join(revisions)})/?(.*)", path):
                return self.tree(tree.group(1))
            if path.startswith(resolve):
                return self.file(path.removeprefix(resolve).partition("/")[2])
            return self.refuse("RepoNotFound")

        do_HEAD = do_GET

        def do_POST(self):
            data = self.rfile.read(int(self.headers["Content-Length"])).decode()
            writes = ("/api/repos/create", "/api/validate-yaml", f"{api}/preupload/", f"{api}/commit/")
            if unquote(self.path).startswith(writes):
                return self.write(data)
            body = parse_qs(data)
            files = self.server.files
            entries = [_entry(path, files[path]) for path in body.get("paths", []) if path in files]
            folders = [p for p in body.get("paths", []) if any(f.startswith(p + "/") for f in files)]
            entries += [{"type": "directory", "path": path, "oid": SHA} for path in folders]
            return self.answer(entries)

        def write(self, data):
            """Create the repository, or take a commit of files that are sent as they are."""
            if "/repos/create" in self.path:
                self.server.created = json.loads(data)
                return self.answer({"url": f"{self.server.url}/{name}", "id": name})
            if "/validate-yaml" in self.path:
                return self.answer({"errors": [], "warnings": []})
            if "/preupload/" in self.path:
                paths = [file["path"] for file in json.loads(data)["files"]]
                modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
                return self.answer({"files": modes})
            for line in map(json.loads, data.splitlines()):
                if line["key"] == "file":
                    self.server.pushed[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.url}/{name}/commit/{SHA}"
            return self.answer({"commitUrl": url, "commitOid": SHA, "success": True})

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
