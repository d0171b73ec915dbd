"""A conda channel of tiny packages in a folder, and a stand-in for conda's own programs."""

from __future__ import annotations

import asyncio
import bz2
import hashlib
import io
import json
import sys
import sysconfig
import tarfile
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PLATFORM = "linux-64" if sysconfig.get_platform().endswith("x86_64") else "linux-aarch64"
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE = "site-packages"


@dataclass(frozen=True)
class Channel:
    """A channel, served by its file: address."""

    folder: Path
    pins: dict[str, str] = field(default_factory=dict)
    """File → SHA-256 of what was added."""

    @property
    def url(self) -> str:
        """Its address."""
        return self.folder.as_uri()

    def add(
        self,
        name: str,
        version: str = "1.0",
        *,
        depends: Sequence[str] = (),
        files: Mapping[str, str] | None = None,
        links: Mapping[str, str] | None = None,
        python: bool = False,
        ending: str = ".tar.bz2",
    ) -> Path:
        """Adds a package of texts and links by their places; with `python`, it holds a module of its name.

        `ending` is that of conda's older format or of the newer one, `.conda`.
        """
        files = dict(files or {})
        if python:
            files[f"{SITE}/{name}/__init__.py"] = f"version = {version!r}\n"
            info = f"{SITE}/{name}-{version}.dist-info"
            files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        index = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": list(depends)}
        noarch = {"noarch": "python", "subdir": "noarch"} if python else {"subdir": PLATFORM}
        package = self.folder / noarch["subdir"] / f"{name}-{version}-0{ending}"
        _write(package, {**index, **noarch}, files, dict(links or {}))
        self.pins[package.name] = hashlib.sha256(package.read_bytes()).hexdigest()
        self._index()
        return package

    def add_python(self) -> None:
        """Adds this interpreter as a conda package: its program, with a library that leads to the real one's."""
        real = Path(sysconfig.get_path("stdlib"))
        names = [path.name for path in real.iterdir() if path.name not in (SITE, "__pycache__")]
        links = {f"lib/python{MINOR}/{name}": str(real / name) for name in names}
        program = Path(sys.executable).resolve()
        files = {"bin/python": f"python{MINOR}", "bin/python3": f"python{MINOR}"}
        version = ".".join(map(str, sys.version_info[:3]))
        index = {"name": "python", "version": version, "build": "0", "build_number": 0, "depends": []}
        package = self.folder / PLATFORM / f"python-{version}-0.tar.bz2"
        marker = {f"lib/python{MINOR}/{SITE}/README.txt": "Packages go here.\n"}
        _write(package, {**index, "subdir": PLATFORM}, marker, {**links, **files}, {f"bin/python{MINOR}": program})
        self.pins[package.name] = hashlib.sha256(package.read_bytes()).hexdigest()
        self._index()

    def _index(self) -> None:
        from rattler.index import index_fs

        (self.folder / "noarch").mkdir(exist_ok=True)
        asyncio.run(index_fs(self.folder, write_zst=False, write_shards=False))


def _write(
    package: Path,
    index: Mapping[str, object],
    files: Mapping[str, str],
    links: Mapping[str, str],
    copies: Mapping[str, Path] | None = None,
) -> None:
    data = {**{path: text.encode() for path, text in files.items()}}
    data |= {path: source.read_bytes() for path, source in (copies or {}).items()}
    paths = [_described(path, content) for path, content in data.items()]
    paths += [{"_path": path, "path_type": "softlink"} for path in links]
    about = {
        "info/index.json": json.dumps(index),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}),
        "info/files": "\n".join([*data, *links]) + "\n",
        **(
            {"info/link.json": '{"noarch": {"type": "python"}, "package_metadata_version": 1}'}
            if "noarch" in index
            else {}
        ),
    }
    package.parent.mkdir(parents=True, exist_ok=True)
    info = {path: text.encode() for path, text in about.items()}
    if package.suffix == ".conda":
        _write_newer(package, info=_tar(info, {}), content=_tar(data, links))
    else:
        package.write_bytes(bz2.compress(_tar({**info, **data}, links), compresslevel=1))


def _write_newer(package: Path, *, info: bytes, content: bytes) -> None:
    """https://docs.conda.io/projects/conda/en/stable/user-guide/concepts/packages.html#conda-file-format."""
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        archive.writestr(f"pkg-{package.stem}.tar.zst", _zstandard(content))
        archive.writestr(f"info-{package.stem}.tar.zst", _zstandard(info))


def _zstandard(content: bytes) -> bytes:
    """A frame whose blocks are not compressed (RFC 8878, 3.1.1)."""
    size = 1 << 17
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    headers = [len(block) << 3 | (number == len(blocks)) for number, block in enumerate(blocks, start=1)]
    framed = [header.to_bytes(3, "little") + block for header, block in zip(headers, blocks, strict=True)]
    return b"\x28\xb5\x2f\xfd\xe0" + len(content).to_bytes(8, "little") + b"".join(framed)


def _tar(files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, content in files.items():
                _add(archive, path, content, 0o755 if path.startswith("bin/") else 0o644)
            for path, target in links.items():
                entry = tarfile.TarInfo(path)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                archive.addfile(entry)
        return buffer.getvalue()


def _described(path: str, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    return {"_path": path, "path_type": "hardlink", "sha256": digest, "size_in_bytes": len(content)}


def _add(archive: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def stand_in(program: Path) -> Path:
    """Writes a program that takes what micromamba takes, and installs through py-rattler.

    conda's own programs come from no package index that tests can reach. It notes its arguments in `calls`.
    """
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!{sys.executable}\n" + textwrap.dedent(_STAND_IN))
    program.chmod(0o755)
    return program


_STAND_IN = """
import json, os, subprocess, sys, tempfile
from pathlib import Path

if sys.argv[1:] == ["--version"]:
    print("9.9.9")
    sys.exit()
with open(__file__ + ".calls", "a") as calls:
    print(*sys.argv[1:], os.environ["CONDA_ALWAYS_COPY"], os.environ["CONDARC"], file=calls)
values = dict(zip(sys.argv, sys.argv[1:]))
text = Path(values["--file"]).read_text()
order = {"prefix": values["--prefix"], "cache": os.environ["MAMBA_ROOT_PREFIX"], "pins": []}
if text.startswith("@EXPLICIT"):
    lines = [line.partition("#") for line in text.splitlines()[1:]]
    digests = [mark.removeprefix("sha256:") or None for _, _, mark in lines]
    order["pins"] = [{"url": line[0], "sha256": mark, "md5": None} for line, mark in zip(lines, digests)]
    order["channels"] = sorted({pin["url"].rsplit("/", 2)[0] for pin in order["pins"]})
else:
    asked = json.loads(text)
    order |= {"specs": asked["dependencies"], "channels": [c for c in asked["channels"] if c != "nodefaults"]}
with tempfile.NamedTemporaryFile("w") as file:
    json.dump(order, file)
    file.flush()
    sys.exit(subprocess.call([sys.executable, "-I", "-m", "taskyard_agent.environments.conda_rattler", file.name]))
"""
