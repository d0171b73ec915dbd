"""conda's environments: from a channel of small packages, through py-rattler and through a program."""

from __future__ import annotations

import dataclasses
import http.server
import json
import os
import threading
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from taskyard.wire import Manager, Reason
from taskyard_agent.containers.engine import Engine
from taskyard_agent.containers.images import Image
from taskyard_agent.containers.workshop import Workshop
from taskyard_agent.environments import cache, provision
from taskyard_agent.environments.conda_channels import ChannelPolicy
from taskyard_agent.errors import RunFailed

from tests.support.conda import MINOR, PLATFORM, Channel, stand_in
from tests.support.environments import Bench, bench_for, run
from tests.support.wheels import PackageIndex, package_index

SCRIPT = "echo only here\n"


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Channel:
    channel = Channel(tmp_path_factory.mktemp("channel"))
    channel.add_python()
    channel.add("alpha", "1.0", depends=["python"], python=True)
    channel.add("alpha", "2.0", depends=["python", "beta"], python=True, ending=".conda")
    channel.add("beta", "1.0", depends=["python"], python=True)
    channel.add("tool", files={"bin/tool": f"#!/bin/sh\n{SCRIPT}", "share/tool/data": "x"})
    channel.add(
        "active",
        files={
            "etc/conda/activate.d/a.sh": 'echo noise; export ACTIVE_HOME="$CONDA_PREFIX/opt"\n',
            "etc/conda/env_vars.d/a.json": '{"ACTIVE_MODE": "fast"}',
        },
    )
    return channel


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    with package_index(tmp_path / "wheels") as served:
        served.add("wheeled", "3.0")
        yield served


@pytest.fixture(params=["py-rattler", "micromamba", pytest.param("conda", marks=pytest.mark.thorough)])
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, channel: Channel, index: PackageIndex
) -> Iterator[Bench]:
    """The operator has conda-forge elsewhere: in a folder."""
    with bench_for(Manager.CONDA, tmp_path, index.url) as ready:
        binary = "none" if request.param == "py-rattler" else str(stand_in(tmp_path / "bin" / request.param))
        ready.settings = dataclasses.replace(
            ready.settings, allowed_channels=(f"conda-forge={channel.url}",), conda_binary=binary
        )
        yield ready


@pytest.fixture
def rattler(tmp_path: Path, channel: Channel, index: PackageIndex) -> Iterator[Bench]:
    with bench_for(Manager.CONDA, tmp_path, index.url) as ready:
        allowed = (f"conda-forge={channel.url}",)
        ready.settings = dataclasses.replace(ready.settings, allowed_channels=allowed, conda_binary="none")
        yield ready


def environment(*dependencies: object, **more: object) -> str:
    """An environment.yml."""
    return yaml.safe_dump({"name": "x", "dependencies": list(dependencies), **more})


# --- What is installed -----------------------------------------------------------------------------------


def test_packages_and_their_python_come_from_the_channel(bench: Bench) -> None:
    ready = bench.provision("alpha=2.0")

    prefix = Path(ready.variables["CONDA_PREFIX"])
    program = "import alpha, beta, sys, os; print(alpha.version, os.path.realpath(sys.base_prefix))"
    assert run(ready, "python", "-c", program) == f"2.0 {prefix}"
    assert {"alpha==2.0", "beta==1.0", f"python=={ready.version}"} <= set(ready.packages)


def test_environment_file_is_followed_with_its_pip_section_and_variables(bench: Bench) -> None:
    text = environment(
        f"python={MINOR}", "alpha<2", {"pip": ["wheeled"]}, channels=["conda-forge"], variables={"MODE": 7}
    )

    ready = bench.from_file("environment.yml", text)

    assert {"alpha==1.0", "wheeled==3.0"} <= set(ready.packages)
    assert run(ready, "python", "-c", "import os, wheeled; print(wheeled.version, os.environ['MODE'])") == "3.0 7"
    assert run(ready, "wheeled") == str(ready.python.parent.parent)


def test_second_run_installs_nothing(rattler: Bench) -> None:
    first, second = rattler.provision("alpha"), rattler.provision("alpha")

    assert (first.reused, second.reused, second.key) == (False, True, first.key)


def test_environment_shares_no_file_with_the_download_cache_and_is_read_only(rattler: Bench) -> None:
    ready = rattler.provision("alpha", "tool")

    everything = list(Path(ready.variables["CONDA_PREFIX"]).rglob("*"))
    files = [file for file in everything if not file.is_symlink()]
    downloads = rattler.settings.root / "downloads"
    assert not any(file.resolve().is_relative_to(downloads) for file in everything)
    assert all(file.stat().st_nlink == 1 for file in files if file.is_file())
    assert not any(file.stat().st_mode & 0o222 for file in files)
    assert any(file.suffix == ".pyc" and file.stem.startswith("__init__") for file in files)


def test_tools_are_on_the_path_and_activation_sets_its_variables(bench: Bench) -> None:
    ready = bench.provision("tool", "active")

    prefix = ready.variables["CONDA_PREFIX"]
    assert ready.bins == (f"{prefix}/bin",)
    assert ready.variables["ACTIVE_HOME"] == f"{prefix}/opt"
    assert ready.variables["ACTIVE_MODE"] == "fast"
    assert "PATH" not in ready.variables


def test_environment_without_python_lies_over_the_machines(rattler: Bench) -> None:
    ready = rattler.provision("tool")

    assert run(ready, "python", "-c", "import sys; print(sys.prefix)") == str(ready.python.parent.parent)
    assert run(ready, f"{ready.bins[0]}/tool") == "only here"


def test_python_that_the_task_asks_for_is_taken_from_the_channel(rattler: Bench) -> None:
    ready = rattler.provision("tool", python=MINOR)
    with pytest.raises(RunFailed, match=r"python.*3\.2"):
        rattler.provision("tool", python="3.2")

    assert f"python=={ready.version}" in ready.packages


def test_requirements_for_pip_get_a_python_from_conda(rattler: Bench) -> None:
    ready = rattler.from_file("requirements.txt", "wheeled\n")

    assert {"wheeled==3.0", f"python=={ready.version}"} <= set(ready.packages)


def test_environment_is_whole_until_a_file_is_changed(rattler: Bench) -> None:
    ready = rattler.provision("alpha", "tool")
    tool = Path(ready.bins[0], "tool")
    whole = cache.verify(rattler.settings)
    tool.chmod(0o755)
    tool.write_text("#!/bin/sh\necho worse\n")

    (verdict,) = cache.verify(rattler.settings)

    assert [one.problems for one in whole] == [()]
    assert "not what their packages recorded: bin/tool" in verdict.problems


# --- Locks -----------------------------------------------------------------------------------------------


def explicit(channel: Channel, **changes: str) -> str:
    """What `conda list --explicit --sha256` would print of some of them."""
    names = [name for name in channel.pins if name.startswith(("python-", "alpha-1", "beta"))]
    folder = {name: "noarch" if name[0] in "ab" else PLATFORM for name in names}
    pins = channel.pins | changes
    return "\n".join(
        ["@EXPLICIT", *(f"{channel.url}/{folder[name]}/{name}#sha256:{pins[name]}" for name in names)]
    )


def test_explicit_list_is_installed_exactly(bench: Bench, channel: Channel) -> None:
    bench.settings = dataclasses.replace(bench.settings, allowed_channels=(channel.url,))

    ready = bench.from_file("requirements.txt", explicit(channel))

    assert [package for package in ready.packages if package[:4] in ("alph", "beta")] == [
        "alpha==1.0",
        "beta==1.0",
    ]


def test_file_that_is_not_the_locked_one_is_refused(rattler: Bench, channel: Channel) -> None:
    rattler.settings = dataclasses.replace(rattler.settings, allowed_channels=(channel.url,))

    with pytest.raises(RunFailed, match=r"sha256 of alpha-1\.0-0\.tar\.bz2 is 0000"):
        rattler.from_file("requirements.txt", explicit(channel, **{"alpha-1.0-0.tar.bz2": "0" * 64}))


def test_conda_lock_takes_what_is_for_this_machine(rattler: Bench, channel: Channel, index: PackageIndex) -> None:
    rattler.settings = dataclasses.replace(rattler.settings, allowed_channels=(channel.url,))
    files = [line.partition("#sha256:") for line in explicit(channel).splitlines()[1:]]
    packages = [
        {"name": url.rsplit("/", 1)[1].split("-")[0], "version": "?", "manager": "conda", "platform": PLATFORM,
         "url": url, "hash": {"sha256": digest}, "category": "main", "optional": False}
        for url, _, digest in files
    ]  # fmt: skip
    packages += [{**packages[0], "platform": "win-64", "url": "https://elsewhere/win-64/x-1-0.conda"}]

    ready = rattler.from_file("conda-lock.yml", yaml.safe_dump({"version": 1, "package": packages}))

    assert {"alpha==1.0", "beta==1.0"} <= set(ready.packages)


# --- Channels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dependencies", "channels", "words"),
    [
        (["alpha"], ["evil"], r"environment\.yml names the conda channel evil, .*--allow-channel evil"),
        (["alpha"], ["https://evil.example/x"], r"the conda channel https://evil\.example/x, .*--allow-channel"),
        (["alpha"], ["https://u:secret@evil.example/x"], r"the conda channel https://evil\.example/x, "),
        (["alpha"], ["../../etc"], r"'\.\./\.\./etc' is no conda channel"),
        (["evil::alpha"], [], r"the conda channel evil, which this machine does not allow"),
        (["https://evil.example/linux-64/x-1-0.conda"], [], r"is no package that can be followed"),
        (["alpha[channel=evil]"], [], r"is no package that can be followed"),
        (["--help"], [], r"'--help' is no package"),
        ([{"npm": ["x"]}], [], r"neither a package nor a `pip:` section"),
        ([{"pip": ["-i https://evil.example/simple"]}], [], r"package index https://evil\.example.*--allow-index"),
        (["gone-for-good"], [], r"gone-for-good"),
    ],
)
def test_what_may_not_or_cannot_be_followed_is_named(
    rattler: Bench, dependencies: list[object], channels: list[str], words: str
) -> None:
    with pytest.raises(RunFailed, match=words) as caught:
        rattler.from_file("environment.yml", environment(*dependencies, channels=channels))

    assert (caught.value.reason, caught.value.infrastructure) == (Reason.ENVIRONMENT, False)
    assert "secret" not in str(caught.value)


def test_names_stand_for_addresses_unless_the_operator_has_them_elsewhere() -> None:
    policy = ChannelPolicy(allowed=("mine", "https://host/t/key/private", "conda-forge=https://u:p@mirror/forge"))

    resolved = {name: policy.resolve(name, "x") for name in ("mine", "nvidia/label/cuda-12", "conda-forge")}

    assert resolved["mine"] == ("https://conda.anaconda.org/mine",)
    assert resolved["nvidia/label/cuda-12"] == ("https://conda.anaconda.org/nvidia/label/cuda-12",)
    assert resolved["conda-forge"] == ("https://u:p@mirror/forge",)
    assert policy.resolve("https://conda.anaconda.org/conda-forge", "a lock") == resolved["conda-forge"]


def test_channel_that_nobody_answers_for_is_the_fault_of_the_machine(rattler: Bench) -> None:
    gone = ("conda-forge=http://127.0.0.1:9/forge",)
    rattler.settings = dataclasses.replace(rattler.settings, allowed_channels=gone)

    with pytest.raises(RunFailed) as caught:
        rattler.provision("alpha")

    assert (caught.value.reason, caught.value.infrastructure) == (Reason.PACKAGE_INDEX, True)


def test_private_channel_is_read_with_the_operators_password_which_no_task_sees(
    rattler: Bench, channel: Channel
) -> None:
    with private(channel) as address:
        allowed = (f"conda-forge={address.replace('://', '://reader:hunter22@')}",)
        rattler.settings = dataclasses.replace(rattler.settings, allowed_channels=allowed)
        ready = rattler.provision("tool")

    notes = [file.read_text() for file in Path(ready.variables["CONDA_PREFIX"], "conda-meta").iterdir()]
    assert "tool==1.0" in ready.packages
    assert "hunter22" not in "".join([*rattler.log, *notes, *map(str, ready.variables.values())])
    assert address in "".join(notes)


class private:
    """Serves a channel to the user `reader` alone."""

    def __init__(self, channel: Channel) -> None:
        handler = partial(_Private, directory=str(channel.folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Private(http.server.SimpleHTTPRequestHandler):
    def send_head(self):  # type: ignore[no-untyped-def]
        if self.headers.get("Authorization") == f"Basic {b64encode(b'reader:hunter22').decode()}":
            return super().send_head()
        self.send_error(401)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


# --- Tools -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "verb"), [("mamba", "create"), ("conda", "env create")])
def test_program_on_the_path_is_used_with_no_secret_in_its_arguments_and_nobodys_settings(
    tmp_path: Path, channel: Channel, index: PackageIndex, name: str, verb: str
) -> None:
    program = stand_in(tmp_path / "bin" / name)
    with bench_for(Manager.CONDA, tmp_path, index.url) as bench:
        path = {**bench.settings.variables, "PATH": f"{program.parent}:{os.environ['PATH']}"}
        allowed = (f"conda-forge={channel.url}",)
        bench.settings = dataclasses.replace(bench.settings, variables=path, allowed_channels=allowed)

        ready = bench.provision("tool")

    calls = program.with_name(f"{name}.calls").read_text()
    assert "tool==1.0" in ready.packages
    assert any(line == f"conda: {program}; channels: {channel.url}" for line in bench.log)
    assert calls.startswith(f"{verb} --yes --quiet --prefix ")
    assert channel.url not in calls
    assert calls.endswith("true /dev/null\n")
    assert not list((bench.settings.root / "environments" / ready.key).glob("order.*"))


def test_program_that_the_operator_names_must_be_there(rattler: Bench) -> None:
    rattler.settings = dataclasses.replace(rattler.settings, conda_binary="/no/such/conda")

    with pytest.raises(RunFailed, match="which --conda-binary names") as caught:
        rattler.provision("tool")

    assert caught.value.infrastructure


def test_in_a_container_conda_is_refused_with_what_to_do(rattler: Bench) -> None:
    image = Image(name="image:1", id="sha256:1", digest="image@sha256:1", architecture="amd64")
    engine = Engine(socket=Path("/none"), agent="agent")
    place = Workshop(engine=engine, image=image, task="t", run="t.1", bundle=None, options={})
    request = dataclasses.replace(rattler.request(), place=place)

    with pytest.raises(RunFailed, match=r"not in a container; take an image .* `--manager inherit`, or a queue"):
        provision(request, settings=rattler.settings, log=print, cancelled=threading.Event())


def test_other_managers_name_the_one_that_reads_the_file(tmp_path: Path, index: PackageIndex) -> None:
    with bench_for(Manager.UV, tmp_path, index.url) as bench:
        with pytest.raises(RunFailed, match=r"uv does not read environment\.yml; use `--manager conda`"):
            bench.from_file("environment.yml", json.dumps({"dependencies": []}))
