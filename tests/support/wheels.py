"""Tiny packages and a package index for them on loopback, so that installations need nobody else."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import re
import shutil
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    requires: Sequence[str] = (),
    scripts: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Writes a pure wheel whose module `name` holds its version; returns the wheel."""
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    extras = dict.fromkeys(re.findall(r"extra == ['\"](\w+)", "\n".join(requires)))
    metadata += [f"Provides-Extra: {extra}" for extra in extras]  # without it pip knows no such extra
    metadata += [f"Requires-Dist: {line}" for line in requires]
    points = [f"{script} = {target}" for script, target in (scripts or {}).items()]
    members = {
        f"{name}/__init__.py": f"version = {version!r}\ndef main():\n    import sys\n    print(sys.prefix)\n",
        **(files or {}),
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "\n".join(["[console_scripts]", *points]) + "\n",
    }
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in members.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(_record(path, text) for path, text in members.items()))
    return wheel


_SDIST_BACKEND = """
import zipfile
from pathlib import Path

def build_wheel(folder, settings=None, metadata=None):
    info = "NAME-VERSION.dist-info"
    wheel = Path(folder, "NAME-VERSION-py3-none-any.whl")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("NAME/__init__.py", "version = 'VERSION'")
        archive.writestr(f"{info}/METADATA", Path("PKG-INFO").read_text())
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel.name
"""


def make_sdist(folder: Path, name: str, version: str) -> Path:
    """Writes a source distribution without needs, which brings its own build backend; returns it."""
    top = f"{name}-{version}"
    members = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": _SDIST_BACKEND.replace("NAME", name).replace("VERSION", version),
    }
    sdist = folder / f"{top}.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for member, text in members.items():
            entry = tarfile.TarInfo(f"{top}/{member}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return sdist


def setuptools_wheel(folder: Path) -> Path:
    """Publishes the setuptools that virtualenv brings, which builds what needs a build."""
    from virtualenv.seed.wheels.embed import get_embed_wheel

    found = get_embed_wheel("setuptools", f"{sys.version_info.major}.{sys.version_info.minor}")
    assert found is not None
    return Path(shutil.copy2(found.path, folder))


def sha256(file: Path) -> str:
    """The digest as requirement files write it."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _record(path: str, text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(text.encode())}\n"


@dataclass
class PackageIndex:
    """A simple index (PEP 503) over a folder of wheels."""

    folder: Path
    url: str
    requests: list[str] = field(default_factory=list)
    """Paths asked for, in order."""
    password: str | None = None
    """Of the user `reader`, where the index wants one."""
    stuck: threading.Event = field(default_factory=threading.Event)
    """While set, nobody is answered."""
    uploaded: dict[str, str] = field(default_factory=dict)
    """When wheels were published, by their names, for what asks."""
    closing: threading.Event = field(default_factory=threading.Event)

    def add(self, name: str, version: str = "1.0", *, requires: Sequence[str] = ()) -> Path:
        """Publishes a package with a console script of its own name."""
        return make_wheel(self.folder, name, version, requires=requires, scripts={name: f"{name}:main"})


@contextmanager
def package_index(folder: Path) -> Iterator[PackageIndex]:
    """Serves the wheels in `folder` on loopback."""
    folder.mkdir(parents=True, exist_ok=True)
    index = PackageIndex(folder=folder, url="")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(index))
    index.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield index
    finally:
        index.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(index: PackageIndex) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.requests.append(self.path)
            while index.stuck.is_set() and not index.closing.wait(0.02):
                pass
            if not self._may_read():
                self._answer(401, b"", {"WWW-Authenticate": "Basic"})
                return
            parts = self.path.strip("/").split("/")
            if parts[0] == "files" and (index.folder / parts[-1]).is_file():
                self._answer(200, (index.folder / parts[-1]).read_bytes(), {})
            elif parts[0] == "simple" and len(parts) == 2 and _wheels(index.folder, parts[1]):
                self._answer(200, *_page(index, parts[1], self.headers.get("Accept", "")))
            else:
                self._answer(404, b"", {})

        def do_HEAD(self) -> None:
            self.do_GET()

        def _may_read(self) -> bool:
            wanted = base64.b64encode(f"reader:{index.password}".encode()).decode()
            return index.password is None or self.headers.get("Authorization") == f"Basic {wanted}"

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            try:
                self.wfile.write(body)
            except OSError:
                pass  # the client was ended on purpose

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _wheels(folder: Path, project: str) -> list[Path]:
    name = project.replace("-", "_")
    return sorted([*folder.glob(f"{name}-*.whl"), *folder.glob(f"{name}-*.tar.gz")])


def _page(index: PackageIndex, project: str, accept: str) -> tuple[bytes, Mapping[str, str]]:
    """Returns the list of a project's files: with their times as JSON (PEP 700), else as HTML."""
    wheels = _wheels(index.folder, project)
    if index.uploaded and "json" in accept:
        files = [
            {
                "filename": wheel.name,
                "url": f"/files/{wheel.name}",
                "hashes": {"sha256": sha256(wheel)},
                "upload-time": index.uploaded.get(wheel.name, "2025-01-01T00:00:00Z"),
            }
            for wheel in wheels
        ]
        table = {"meta": {"api-version": "1.1"}, "name": project, "files": files, "versions": []}
        return json.dumps(table).encode(), {"Content-Type": "application/vnd.pypi.simple.v1+json"}
    links = [f'<a href="/files/{wheel.name}#sha256={sha256(wheel)}">{wheel.name}</a>' for wheel in wheels]
    page = "<!DOCTYPE html><html><body>" + "\n".join(links) + "</body></html>"
    return page.encode(), {"Content-Type": "text/html"}
