"""An image of the user's own that has a task's environment in it."""

from __future__ import annotations

import io
import stat
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from taskyard_agent.containers.box import Box
from taskyard_agent.containers.engine import OF_NOBODY, Engine
from taskyard_agent.containers.failure import bad_image, engine_failed, translated
from taskyard_agent.containers.images import NAME, Image, find
from taskyard_agent.containers.workshop import looked_into

FOLDER = PurePosixPath("/opt/taskyard")
ENVIRONMENT = FOLDER / "environment"
PIP = FOLDER / "pip"
PATH_FILE = "_taskyard.pth"


@dataclass(frozen=True, kw_only=True)
class Baked:
    """A virtual environment on this machine, made for the image's own Python."""

    prefix: Path
    library: str
    """Its site-packages, relative to `prefix`."""
    beyond: tuple[str, ...]
    """Folders of packages that the image has besides."""
    pip: Path | None
    """Folder with a pip, for an environment that has none."""


def bake(box: Box, environment: Baked | None, name: str, scratch: Path) -> Image:
    """Makes the image `name` of a prepared one; programs in it find the environment. Raises RunFailed.

    It starts as the image does that was asked for. `scratch` is a folder with room for the environment.
    """
    repository, tag = _parts(name)
    if environment is None:
        with translated(f"image {name} cannot be made"):
            box.engine.client.api.tag(box.image.id, repository, tag)
    else:
        _commit(box, environment, (repository, tag), scratch)
    found = find(box.engine, name)
    if found is None:
        raise engine_failed(f"image {name} was made, but is not here; does `docker image ls` show it?")
    return found


def _parts(name: str) -> tuple[str, str]:
    if NAME.fullmatch(name) is None or "@" in name or name.startswith("sha256:"):
        raise bad_image(f"{name!r} is no name for a new image; write it like mine/training:1")
    tagged = ":" in name.rpartition("/")[2]
    repository, _, tag = name.rpartition(":") if tagged else (name, "", "latest")
    return repository, tag


def _commit(box: Box, environment: Baked, name: tuple[str, str], scratch: Path) -> None:
    container = box.engine.create(looked_into(box.engine, box.task, box.run, box.image.id))
    try:
        _fill(box.engine, container, environment, scratch)
        variables = {"PATH": f"{ENVIRONMENT}/bin:{box.path}", "VIRTUAL_ENV": str(ENVIRONMENT)}
        env = [f"{name}={value}" for name, value in variables.items()]
        conf = {**box.image.start, "Env": env, "Labels": OF_NOBODY}
        with translated("the image with the environment cannot be kept"):
            box.engine.client.api.commit(container, repository=name[0], tag=name[1], conf=conf)
    finally:
        box.engine.remove(container)


def _fill(engine: Engine, container: str, environment: Baked, scratch: Path) -> None:
    with tempfile.TemporaryFile(dir=scratch) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            _pack(archive, environment)
        file.seek(0)
        with translated("the environment cannot be put into the image"):
            engine.client.api.put_archive(container, "/", file)


def _pack(archive: tarfile.TarFile, environment: Baked) -> None:
    """All of the environment; the few texts that name its folder name the one inside."""
    moved = [file for file in _texts(environment.prefix) if _names(file, environment.prefix)]
    kept = {str(file.relative_to(environment.prefix)) for file in moved}

    def roots(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        inside = PurePosixPath("/", member.name)
        within = inside.is_relative_to(ENVIRONMENT) and str(inside.relative_to(ENVIRONMENT)) in kept
        return None if within else _of_root(member)

    archive.add(environment.prefix, str(ENVIRONMENT), filter=roots)
    for file in moved:
        text = file.read_bytes().replace(bytes(environment.prefix), bytes(ENVIRONMENT))
        _add(archive, ENVIRONMENT / file.relative_to(environment.prefix), text, file.stat().st_mode)
    beyond = [*environment.beyond, *([str(PIP)] if environment.pip else [])]
    if environment.pip:
        archive.add(environment.pip, str(PIP), filter=_of_root)
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in beyond)
    _add(archive, ENVIRONMENT / environment.library / PATH_FILE, lines.encode(), 0o644)


def _texts(prefix: Path) -> list[Path]:
    files = [prefix / "pyvenv.cfg", *(prefix / "bin").iterdir()]
    return [file for file in files if file.is_file() and not file.is_symlink()]


def _names(file: Path, prefix: Path) -> bool:
    data = file.read_bytes()
    return b"\0" not in data and bytes(prefix) in data


def _add(archive: tarfile.TarFile, place: PurePosixPath, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(str(place).lstrip("/"))
    member.size, member.mode = len(content), stat.S_IMODE(mode)
    archive.addfile(_of_root(member), io.BytesIO(content))


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """An environment in the cache may be changed by nobody; one in an image belongs to the image's root."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode |= stat.S_IWUSR
    return member
