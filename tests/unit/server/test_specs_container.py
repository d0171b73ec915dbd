"""What a container may be."""

from __future__ import annotations

import pytest
from taskyard.wire import Command, Container, TaskChanges, TaskSpec
from taskyard_server.errors import Invalid, TooLarge
from taskyard_server.specs import changed, checked


def spec(**container: object) -> TaskSpec:
    return TaskSpec(command=Command(target="train.py"), container=Container(**container))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image",
    [
        "",
        "python",
        "python:3.12-slim",
        "ghcr.io/a/b_c:v1",
        "localhost:5000/x@sha256:" + "a" * 64,
        "nvcr.io/nvidia/x",
    ],
)
def test_images_as_docker_writes_them_are_taken(image: str) -> None:
    assert checked(spec(image=image)).container == Container(image=image)


@pytest.mark.parametrize(
    "fields",
    [
        {"image": "Not An Image"},
        {"image": "-v/:/host"},
        {"image": "x" * 501},
        {"image": "a\nb"},
        {"args": ("--env", "a\nb")},
        {"args": ("",)},
        {"args": ("alone",)},
        {"args": ("--rm",) * 201},
        {"apt": ("-y",)},
        {"apt": ("git; rm",)},
        {"apt": ("Git",)},
        {"apt": ("git",) * 201},
        {"setup_script": "a\0b"},
    ],
)
def test_what_is_malformed_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(Invalid, match="container"):
        checked(spec(**fields))


def test_a_script_has_a_largest_size() -> None:
    with pytest.raises(TooLarge, match="setup_script"):
        checked(spec(setup_script="x" * ((256 << 10) + 1)))


def test_changes_replace_the_container_and_an_empty_one_takes_it_away() -> None:
    other = changed(spec(image="a"), TaskChanges(container=Container(image="b")))

    assert other.container == Container(image="b")
    assert changed(other, TaskChanges(name="n")).container == Container(image="b")
    assert changed(other, TaskChanges(container=Container())).container is None
