"""What a script's imports need: from the project's interpreter, else a question; never a stranger's package."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from taskyard.errors import UsageError
from taskyard.requirements import RequirementsPlan, plan_requirements
from taskyard.requirements.distributions import distribution_of
from taskyard.submission import Wanted, prepare
from taskyard.wire import Command, RequirementsKind

from tests.support.interpreters import install, make_environment

COMMON = {
    "absl": "absl-py",
    "accelerate": "accelerate",
    "attr": "attrs",
    "azure.storage.blob": "azure-storage-blob",
    "Bio": "biopython",
    "boto3": "boto3",
    "bs4": "beautifulsoup4",
    "Crypto.Cipher": "pycryptodome",
    "cv2": "opencv-python-headless",
    "datasets": "datasets",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "PyMuPDF",
    "git": "GitPython",
    "google.cloud.storage": "google-cloud-storage",
    "google.protobuf": "protobuf",
    "googleapiclient": "google-api-python-client",
    "grpc": "grpcio",
    "hydra": "hydra-core",
    "imblearn": "imbalanced-learn",
    "jwt": "PyJWT",
    "kafka": "kafka-python",
    "ml_collections": "ml-collections",
    "mpl_toolkits.mplot3d": "matplotlib",
    "nacl": "PyNaCl",
    "OpenSSL": "pyOpenSSL",
    "PIL.Image": "Pillow",
    "psycopg2": "psycopg2-binary",
    "pytorch_lightning": "pytorch-lightning",
    "pywt": "PyWavelets",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn.svm": "scikit-learn",
    "torch.nn": "torch",
    "umap": "umap-learn",
    "websocket": "websocket-client",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}
STRANGERS = (
    "apex",
    "clip",
    "detectron2",
    "google.nothing",
    "haiku_utils",
    "pytorch3d",
    "utils",
    "common",
    "helpers",
)


def write(root: Path, path: str, text: str = "") -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    return root / path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with an interpreter of its own."""
    (tmp_path / "repo").mkdir()
    return tmp_path / "repo"


@pytest.fixture
def site(root: Path) -> Path:
    """Its site-packages."""
    return make_environment(root / ".venv")


def plan(root: Path, text: str, script: str = "train.py", **options: object) -> RequirementsPlan:
    """The plan of a script with this text."""
    return plan_requirements(root, write(root, script, text), **{"variables": {}, **options})  # type: ignore[arg-type]


# --- Which distribution -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "distribution"), COMMON.items())
def test_common_import_names_its_own_distribution(module: str, distribution: str) -> None:
    assert distribution_of(module) == distribution


def test_table_of_common_imports_has_forty() -> None:
    assert len(COMMON) == 40


@pytest.mark.parametrize("module", STRANGERS)
def test_import_that_no_table_knows_is_a_question_and_installs_nothing(root: Path, module: str) -> None:
    with pytest.raises(UsageError) as refused:
        plan(root, f"import yaml\nimport {module}\n")

    assert f"{module} (train.py:2)" in str(refused.value)
    assert f"--package PyYAML PACKAGE-OF-{module}" in str(refused.value)


@pytest.mark.parametrize(
    "condition",
    ["sys.platform == 'win32'", "os.name == 'nt'", "platform.system() == 'Windows'", "sys.version_info < (3, 8)"],
)
def test_import_for_other_machines_is_needed_where_it_is_installed(root: Path, site: Path, condition: str) -> None:
    install(site, "alpha", "1.0", files=["alpha.py"])

    found = plan(root, f"import os, platform, sys\nif {condition}:\n    import odd\nelse:\n    import alpha\n")

    assert found.packages == ("alpha==1.0",)


def test_question_names_the_interpreter_and_a_flag_answers_it(root: Path, site: Path) -> None:
    install(site, "PyYAML", "6.0", files=["yaml/__init__.py"])

    with pytest.raises(UsageError, match=r"\.venv/bin/python does not have.*--package PyYAML==6.0 PACKAGE-OF-odd"):
        plan(root, "import yaml, odd\n")

    assert plan(root, "import yaml, odd\n", packages=["odd-one"]).packages == ("odd-one",)


def test_interpreter_says_which_distribution_holds_a_module_of_a_namespace(root: Path, site: Path) -> None:
    install(site, "protobuf", "5.0", files=["google/protobuf/__init__.py"])
    install(site, "google-cloud-core", "2.4", files=["google/cloud/client/__init__.py"])
    install(site, "company-storage", "7.1", files=["google/cloud/storage/__init__.py"])

    found = plan(root, "from google.cloud import storage\nfrom google.protobuf import message\n")

    assert found.packages == ("company-storage==7.1", "protobuf==5.0")


def test_neighbour_in_a_namespace_is_not_taken_for_a_module_that_is_absent(root: Path, site: Path) -> None:
    install(site, "protobuf", "5.0", files=["google/protobuf/__init__.py"])
    install(site, "old-base", "1.0", files={"azure/__init__.py": "__path__ = extend_path(__path__, __name__)\n"})

    found = plan(root, "from google.cloud import storage\nimport azure.storage.blob\n")

    assert found.packages == ("azure-storage-blob", "google-cloud-storage")
    assert any("google is not installed here" in note for note in found.notes)


def test_module_in_the_folder_of_temporary_files_does_not_answer_for_the_interpreter(
    root: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "shared/json.py", "raise SystemExit('a stranger was here')\n")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "shared"))
    install(site, "alpha", "1.0", files=["alpha.py"])

    assert plan(root, "import alpha\n").packages == ("alpha==1.0",)


# --- What did not come from an index -------------------------------------------------------------------------


def test_package_of_conda_keeps_its_version(root: Path, site: Path) -> None:
    built = {"url": "file:///home/conda/feedstock_root/build_artifacts/alpha_1/work", "dir_info": {}}
    install(site, "alpha", "2.3", files=["alpha/__init__.py"], origin=built, installer="conda")

    assert plan(root, "import alpha\n").packages == ("alpha==2.3",)


def test_package_of_conda_without_an_installer_is_known_by_its_record(root: Path, site: Path) -> None:
    built = {"url": "file:///croot/alpha_1/work", "dir_info": {}}
    install(site, "alpha_one", "2.3", files=["alpha/__init__.py"], origin=built, installer="")
    write(root, ".venv/conda-meta/alpha-one-2.3-py311_0.json", "{}")

    assert plan(root, "import alpha\n").packages == ("alpha_one==2.3",)


def test_repository_keeps_its_commit_and_subdirectory(root: Path, site: Path) -> None:
    commit = "1" * 40
    info = {"vcs": "git", "commit_id": commit, "requested_revision": "main"}
    origin = {"url": "https://robot:key@example.org/x.git", "vcs_info": info, "subdirectory": "python/part"}
    install(site, "part", files=["part.py"], origin=origin)

    found = plan(root, "import part\n")

    assert found.packages == (f"part @ git+https://example.org/x.git@{commit}#subdirectory=python/part",)


def test_archive_at_an_address_keeps_the_address(root: Path, site: Path) -> None:
    origin = {"url": "https://example.org/part-1.0-py3-none-any.whl", "archive_info": {"hash": "sha256=ab12"}}
    install(site, "part", files=["part.py"], origin=origin)

    assert plan(root, "import part\n").packages == (
        "part @ https://example.org/part-1.0-py3-none-any.whl#sha256=ab12",
    )


def test_wheel_of_the_repository_is_taken_from_the_repository(root: Path, site: Path) -> None:
    wheel = write(root, "wheels/part-1.0-py3-none-any.whl")
    install(site, "part", files=["part.py"], origin={"url": wheel.as_uri(), "archive_info": {}})

    assert plan(root, "import part\n").packages == ("./wheels/part-1.0-py3-none-any.whl",)


@pytest.mark.parametrize("kind", [{"dir_info": {"editable": True}}, {"dir_info": {}}, {"archive_info": {}}])
def test_local_package_from_outside_the_repository_is_refused(
    root: Path, site: Path, tmp_path: Path, kind: dict[str, object]
) -> None:
    write(tmp_path, "ours/ours/__init__.py")
    editable = kind == {"dir_info": {"editable": True}}
    origin = {"url": (tmp_path / "ours").as_uri(), **kind}
    install(site, "ours", files=[] if editable else ["ours/__init__.py"], origin=origin)
    if editable:
        write(site, "ours.pth", str(tmp_path / "ours"))

    with pytest.raises(
        UsageError, match=r"train.py:1 imports ours, which is code of this machine in .*/ours: the"
    ):
        plan(root, "import ours\n")


def test_editable_clone_is_taken_from_its_remote_at_its_commit(root: Path, site: Path, tmp_path: Path) -> None:
    clone = root / ".venv" / "src" / "part"
    write(clone, "python/part/__init__.py")
    write(clone, "python/setup.py", "import setuptools\n")
    commit = pushed(clone, tmp_path / "far.git")
    write(site, "part.pth", str(clone / "python"))
    origin = {"url": (clone / "python").as_uri(), "dir_info": {"editable": True}}
    install(site, "part", origin=origin)

    found = plan(root, "import part\n")

    assert found.packages == (f"part @ git+https://example.org/part.git@{commit}#subdirectory=python",)


def pushed(clone: Path, remote: Path) -> str:
    """Commits everything, and makes the commit look pushed to a remote of another name."""
    git = ["git", "-C", str(clone), "-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run(["git", "init", "-q", "--bare", remote], check=True)
    for words in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        ["commit", "-qm", "one"],
        ["remote", "add", "origin", str(remote)],
        ["push", "-q", "-u", "origin", "main"],
        ["remote", "set-url", "origin", "https://example.org/part.git"],
    ):
        subprocess.run([*git, *words], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


# --- The repository's own code --------------------------------------------------------------------------------


FINDER = """import importlib.util, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "tools":
            places = [PACKAGE]
            return importlib.util.spec_from_file_location(
                name, PACKAGE + "/__init__.py", submodule_search_locations=places
            )
def install():
    sys.meta_path.append(Finder)
"""
"""As setuptools writes it for a package that lies beside other things."""


def editable(root: Path, site: Path, name: str, folder: str) -> None:
    """Installs a package of the repository as `pip install -e` does."""
    write(site, f"__editable__.{name}-0.pth", str(root / folder))
    origin = {"url": root.joinpath(folder).as_uri(), "dir_info": {"editable": True}}
    install(site, name, "0", origin=origin)


def test_editable_package_of_the_repository_is_shipped_and_never_looked_for_on_an_index(
    root: Path, site: Path
) -> None:
    editable(root, site, "tools", "libs/tools/src")
    install(site, "alpha", "1.2+cpu", files=["alpha.py"])
    write(root, "libs/tools/src/tools/__init__.py", "import alpha\n")

    found = plan(root, "import tools\n", "scripts/train.py")

    assert found.packages == ("alpha==1.2",)
    assert found.import_from == ("libs/tools/src",)
    assert any("libs/tools/src" in note and ".venv/bin/python" in note for note in found.notes)


def test_copy_that_was_installed_from_the_repository_is_its_source_there(root: Path, site: Path) -> None:
    origin = {"url": (root / "libs/tools").as_uri(), "dir_info": {}}
    install(site, "tools", files=["tools/__init__.py"], origin=origin)
    write(root, "libs/tools/tools/__init__.py")

    found = plan(root, "import tools\n")

    assert (found.kind, found.import_from) == (RequirementsKind.NONE, ("libs/tools",))


def test_package_found_through_a_finder_is_the_repositorys(root: Path, site: Path) -> None:
    package = str(root / "code" / "tools")
    write(site, "__editable___tools_0_finder.py", FINDER.replace("PACKAGE", repr(package)))
    write(site, "__editable__.tools-0.pth", "import __editable___tools_0_finder as f; f.install()\n")
    write(root, "code/tools/__init__.py")

    assert plan(root, "import tools\n").import_from == ("code",)


@pytest.mark.parametrize(
    "line",
    [
        "sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'libs'))",
        "sys.path.append(str(Path(__file__).resolve().parent.parent / 'libs'))",
        "sys.path.append(str(Path(__file__).resolve().parents[1].joinpath('libs')))",
        "HERE = os.path.abspath(os.path.dirname(__file__))\nsys.path += [f'{HERE}/../libs']",
        "sys.path.extend([os.path.realpath(os.path.dirname(__file__) + '/../libs')])",
        "sys.path = [os.path.join(os.path.dirname(__file__), os.pardir, 'libs'), *sys.path]",
        "sys.path[0:0] = [os.path.join(os.getcwd(), 'libs')]",
        "sys.path.insert(0, 'libs')",
        "sys.path.insert(0, os.environ['LIBS'])",
        "site.addsitedir('libs')",
    ],
)
def test_module_on_a_path_that_the_script_adds_is_the_repositorys(root: Path, line: str) -> None:
    write(root, "libs/datasets.py", "import yaml\n")
    text = f"import os, site, sys\nfrom pathlib import Path\n{line}\nimport datasets\n"

    assert plan(root, text, "tools/train.py", start=root).packages == ("PyYAML",)


def test_module_on_the_search_path_is_the_repositorys_and_the_run_gets_that_path(root: Path, site: Path) -> None:
    write(root, "libs/datasets.py")
    variables = {"PYTHONPATH": f"libs:{root.parent}:"}

    found = plan(root, "import datasets\n", "tools/train.py", start=root, variables=variables)

    assert (found.kind, found.search_path) == (RequirementsKind.NONE, "libs:.")


def test_module_on_a_path_outside_the_repository_is_refused(root: Path, site: Path, tmp_path: Path) -> None:
    write(tmp_path, "shared/datasets.py")

    with pytest.raises(UsageError, match=r"imports datasets, which is code of this machine in .*shared"):
        plan(root, "import datasets\n", variables={"PYTHONPATH": str(tmp_path / "shared")})
    with pytest.raises(UsageError, match=r"imports datasets, which is code of this machine in .*shared"):
        plan(root, "import sys\nsys.path.append('../shared')\nimport datasets\n")


def test_package_at_the_root_is_found_where_the_interpreter_finds_it(root: Path, site: Path) -> None:
    write(root, "project/__init__.py")
    write(site, "project.pth", str(root))

    found = plan(root, "import project\n", "scripts/train.py", start=root)

    assert (found.kind, found.import_from) == (RequirementsKind.NONE, (".",))


def test_package_at_the_root_that_nothing_leads_to_comes_with_the_line_to_type(root: Path, site: Path) -> None:
    write(root, "project/__init__.py")

    found = plan(root, "import project\n", "scripts/train.py", start=root)

    assert (found.kind, found.import_from) == (RequirementsKind.NONE, ())
    assert any("scripts/train.py:1 imports project" in note for note in found.notes)
    assert any("--env PYTHONPATH=." in note for note in found.notes)


def test_installed_package_wins_over_a_folder_of_that_name_where_python_does_not_look(
    root: Path, site: Path
) -> None:
    install(site, "datasets", "3.0", files=["datasets/__init__.py"])
    write(root, "datasets/__init__.py")

    assert plan(root, "import datasets\n", "scripts/train.py", start=root).packages == ("datasets==3.0",)


def test_file_of_requirements_keeps_the_places_of_the_interpreter(root: Path, site: Path) -> None:
    editable(root, site, "tools", "src")
    write(root, "src/tools/__init__.py")
    write(root, "requirements.txt", "six\n")

    found = plan(root, "import tools, six\n", "scripts/train.py", start=root)

    assert (found.kind, found.import_from) == (RequirementsKind.REQUIREMENTS_TXT, ("src",))


def test_module_that_a_command_starts_is_found_where_the_interpreter_finds_it(root: Path, site: Path) -> None:
    write(root, "src/tools/main.py")
    write(site, "__editable___tools_0_finder.py", FINDER.replace("PACKAGE", repr(str(root / "src" / "tools"))))
    write(site, "__editable__.tools-0.pth", "import __editable___tools_0_finder as f; f.install()\n")

    found = plan_requirements(root, None, module="tools.main", start=root, variables={})

    assert (found.kind, found.import_from) == (RequirementsKind.NONE, ("src",))


def test_module_of_a_command_looks_in_the_working_folder(root: Path, site: Path) -> None:
    write(root, "project/__init__.py")
    write(root, "project/main.py", "import helpers\n")
    write(root, "helpers.py")

    found = plan_requirements(root, None, module="project.main", start=root, variables={})

    assert (found.kind, found.notes) == (RequirementsKind.NONE, ())


def test_task_is_submitted_with_the_places_of_the_interpreter(
    root: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, "scripts/train.py", "import tools, more\n")
    write(root, "src/tools.py")
    write(root, "libs/more.py")
    write(root, ".gitignore", ".venv\n")
    subprocess.run(["git", "init", "-q", root], check=True)
    write(site, "tools.pth", str(root / "src"))
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(root / "libs"))
    command = Command(target="train.py")

    with prepare(Wanted(command=command, folder=root / "scripts")) as prepared:
        by_default = prepared.spec
    with prepare(
        Wanted(command=command, folder=root / "scripts", env={"PYTHONPATH": "../libs:../src"})
    ) as prepared:
        by_flag = prepared.spec

    assert (by_default.environment.import_from, by_default.env) == (("src",), {"PYTHONPATH": "../libs"})
    assert by_flag.env == {"PYTHONPATH": "../libs:../src"}


def test_optional_import_of_code_outside_the_repository_is_left_out_and_said(
    root: Path, site: Path, tmp_path: Path
) -> None:
    write(tmp_path, "ours/ours/__init__.py")
    write(site, "ours.pth", str(tmp_path / "ours"))

    found = plan(root, "try:\n    import ours\nexcept ImportError:\n    ours = None\n")

    assert (found.kind, found.packages) == (RequirementsKind.NONE, ())
    assert any("can do without ours" in note for note in found.notes)


@pytest.mark.parametrize("line", ["-e .", "--editable=.[extra]", "./"])
def test_project_that_the_requirements_name_needs_no_line_to_type(root: Path, site: Path, line: str) -> None:
    write(root, "src/tools/__init__.py")
    write(root, "setup.py")
    write(root, "requirements/all.txt", f"six\n{line}\n")

    found = plan(root, "import tools\n", "scripts/train.py", start=root, file=root / "requirements/all.txt")

    assert (found.import_from, found.notes) == ((), ())


def test_library_of_an_environment_in_the_repository_is_not_its_code(root: Path) -> None:
    site = make_environment(root / "env")
    write(root, "env/conda-meta/history")
    (root / "env" / "pyvenv.cfg").rename(root / "env" / "bin" / "pyvenv.cfg")
    install(site, "alpha", "1.0", files=["alpha.py"], installer="conda")

    found = plan(root, "import alpha\n", variables={"CONDA_PREFIX": str(root / "env")})

    assert (found.packages, found.import_from) == (("alpha==1.0",), ())
