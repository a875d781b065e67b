"""A stand-in of the Hub on this machine: what its HTTP API answers to the real client, with failures on demand.

Two servers: the Hub itself, and the storage that large files are sent to by a signed address, as the Hub's is another host.
Repositories live in memory; a commit is taken only when every large file that it names has been stored and verified.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = re.compile(r".*\.(safetensors|onnx|png|model)")


@dataclass
class Repository:
    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def files(self, revision: str = "main") -> dict[str, bytes] | None:
        if revision == "main":
            return self.commits[-1][1]
        return next((files for commit, files in self.commits if commit == revision), None)


class Hub:
    """The servers, what they hold, and what they were asked.

    `failures` maps a step ("create", "preupload", "batch", "put", "verify", "commit", "paths") to what its next requests
    get: a status, or "cut" for a connection that ends in the middle; "commit then cut" takes the commit and then ends.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.verified: set[str] = set()
        self.asked: list[tuple[str, str, dict[str, str]]] = []  # (method, address, headers)
        self.failures: dict[str, list[int | str]] = defaultdict(list)
        self.redirect: str | None = None  # where the creation of a repository is sent
        self.lock = threading.Lock()
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler(kind)) for kind in (_HubHandler, _Storage)]
        self.endpoint, self.storage = (f"http://127.0.0.1:{one.server_address[1]}" for one in self._servers)
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def _handler(self, kind: type) -> type:
        return type(kind.__name__, (kind,), {"hub": self})

    def steps(self) -> list[str]:
        """What the servers were asked, as "METHOD path", without what changes."""
        return [f"{method} {urlsplit(address).path}" for method, address, _ in self.asked]

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(data)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def cut(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def fails(self, step: str) -> bool:
        with self.hub.lock:
            failure = self.hub.failures[step].pop(0) if self.hub.failures[step] else None
        if failure is None:
            return False
        if failure == "cut":
            self.cut()
        else:
            self.answer(int(failure), {"error": f"the stand-in fails at {step}"}, {"X-Request-Id": "stand-in"})
        return True

    def handle_any(self) -> None:
        with self.hub.lock:
            self.hub.asked.append((self.command, self.path, dict(self.headers)))
        self.route(unquote(urlsplit(self.path).path))

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815 (http.server looks these names up)

    def route(self, path: str) -> None:
        raise NotImplementedError


class _Storage(_Handler):
    """Where large files go; it takes no token, but an address that only the Hub could have signed."""

    def route(self, path: str) -> None:
        content = self.body()
        if self.command != "PUT" or parse_qs(urlsplit(self.path).query).get("signature") != ["secret-signature"]:
            return self.answer(403, {"error": "not signed"})
        if self.fails("put"):
            return None
        oid = path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            return self.answer(400, {"error": "another content"})
        with self.hub.lock:
            self.hub.objects[oid] = content
        return self.answer(200, headers={"ETag": f'"{oid}"'})


class _HubHandler(_Handler):
    def route(self, path: str) -> None:
        body = self.body()
        known = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if self.command in ("GET", "HEAD"):
            return self._read(path, known)
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if not known:
            return self.answer(401, {"error": "Invalid credentials"})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        for pattern, act in (
            (r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self._preupload),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/([^/]+/[^/]+)\.git/info/lfs/verify", self._verify),
            (r"/api/models/([^/]+/[^/]+)/commit/(.+)", self._commit),
            (r"/api/models/([^/]+/[^/]+)/paths-info/(.+)", self._paths),
        ):
            if match := re.fullmatch(pattern, path):
                if match[1] not in self.hub.repositories:
                    return self.answer(404, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"})
                return act(body, *match.groups())
        return self.answer(404, {"error": f"the stand-in knows no {path}"})

    # --- writing ---

    def _create(self, asked: dict[str, Any]) -> None:
        if self.hub.redirect:
            return self.answer(307, headers={"Location": self.hub.redirect})
        if self.fails("create"):
            return None
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.hub.endpoint}/{name}", "name": name}
        with self.hub.lock:
            if name in self.hub.repositories:
                return self.answer(409, {"error": "You already created this model repo", **url})
            repository = Repository(asked.get("visibility") == "private")
            repository.commits.append(
                (hashlib.sha1(name.encode()).hexdigest(), {".gitattributes": b"*.safetensors lfs\n"})
            )
            self.hub.repositories[name] = repository
        return self.answer(200, url)

    def _preupload(self, body: bytes, name: str, revision: str) -> None:
        if self.fails("preupload"):
            return None
        there = self.hub.repositories[name].files() or {}
        answer = []
        for file in json.loads(body)["files"]:
            large = bool(LARGE.fullmatch(file["path"])) or file["size"] > 10_000_000
            old = there.get(file["path"])
            oid = None if old is None else hashlib.sha256(old).hexdigest() if large else git_hash(old)
            mode = "lfs" if large else "regular"
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return self.answer(200, {"files": answer})

    def _batch(self, body: bytes, name: str) -> None:
        if self.fails("batch"):
            return None
        objects = []
        for one in json.loads(body)["objects"]:
            if one["oid"] in self.hub.objects and one["oid"] in self.hub.verified:
                objects.append(one)
                continue
            put = {"href": f"{self.hub.storage}/lfs/{one['oid']}?signature=secret-signature"}
            verify = {"href": f"{self.hub.endpoint}/{name}.git/info/lfs/verify"}
            objects.append({**one, "actions": {"upload": put, "verify": verify}})
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def _verify(self, body: bytes, name: str) -> None:
        if self.fails("verify"):
            return None
        asked = json.loads(body)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            return self.answer(400, {"error": "no such object"})
        self.hub.verified.add(asked["oid"])
        return self.answer(200, {})

    def _commit(self, body: bytes, name: str, revision: str) -> None:
        late = self.hub.failures["commit"][:1] == ["commit then cut"]
        if not late and self.fails("commit"):
            return None
        repository = self.hub.repositories[name]
        files = dict(repository.files() or {})
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.verified:
                    return self.answer(400, {"error": f"{value['path']} was never uploaded"})
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        commit = hashlib.sha1(body + str(len(repository.commits)).encode()).hexdigest()
        repository.commits.append((commit, files))
        if late:
            self.hub.failures["commit"].pop(0)
            return self.cut()
        url = f"{self.hub.endpoint}/{name}/commit/{commit}"
        return self.answer(200, {"commitUrl": url, "commitOid": commit, "success": True})

    def _paths(self, body: bytes, name: str, revision: str) -> None:
        if self.fails("paths"):
            return None
        files = self.hub.repositories[name].files(revision) or {}
        wanted = parse_qs(body.decode())["paths"]
        return self.answer(200, [self._entry(path, files[path]) for path in wanted if path in files])

    # --- reading ---

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
        if LARGE.fullmatch(path):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def _read(self, path: str, known: bool) -> None:
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+))?(/[^?]+)?", path) or re.fullmatch(
            r"/([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)", path
        )
        repository = self.hub.repositories.get(match[1]) if match else None
        if match is None or repository is None or (repository.private and not known):
            return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        revision = match[3] or "main"
        files = repository.files(revision)
        if files is None:
            return self.answer(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        commit = next(name for name, content in reversed(repository.commits) if content is files)
        if match[2] == "tree" and match[4]:
            return self.answer(404, {"error": "no such folder"}, {"X-Error-Code": "EntryNotFound"})
        if match[2] == "tree":
            return self.answer(200, [self._entry(name, content) for name, content in files.items()])
        if match[2] == "resolve":
            content = files.get(match[4])
            if content is None:
                return self.answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return self.answer(200, content, {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": commit})
        siblings = [{"rfilename": name} for name in files]
        found = {
            "id": match[1],
            "modelId": match[1],
            "sha": commit,
            "private": repository.private,
            "siblings": siblings,
        }
        return self.answer(200, {**found, "tags": [], "downloads": 0})
