"""From a task's wish to an image that is ready for its run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from taskyard.wire import Container

from taskyard_agent.containers import arguments, authorities
from taskyard_agent.containers.box import Box
from taskyard_agent.containers.engine import Engine
from taskyard_agent.containers.images import Image, obtain
from taskyard_agent.containers.kept import prune_with, uses_of
from taskyard_agent.containers.prepared import SetUp
from taskyard_agent.containers.records import Order
from taskyard_agent.containers.settings import ContainerSettings
from taskyard_agent.containers.workshop import Workshop, looked_into

PROXIES = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Prepares images with one engine, as its operator wants it. May be used from any thread."""

    settings: ContainerSettings
    engine: Engine
    shells: dict[str, bool] = field(default_factory=dict)
    """Whether an image has a `/bin/sh`, by its id."""

    def prepare(self, wanted: Container, order: Order) -> Box:
        """Has the image at hand, with its set-up. Raises RunFailed (phase container) or RunStopped."""
        operators = arguments.operators(self.settings.args)
        options = arguments.together(operators, wanted.args, self.settings.allowed)
        platform = options.get("platform")
        image = obtain(self.engine, wanted.image, platform=platform, log=order.log, cancelled=order.cancelled)
        order.log(f"image {image.name} ({image.digest})")
        shell = self._has_shell(image, order)
        bundle = authorities.bundle_of(self.settings.environ)
        ready, lock = self._set_up(image, wanted, operators, bundle, order)
        workshop = Workshop(
            engine=self.engine,
            image=ready,
            task=order.task,
            run=order.run,
            bundle=bundle,
            options=operators,
            shell=shell,
        )
        return Box(
            engine=self.engine,
            image=ready,
            digest=image.digest,
            task=order.task,
            run=order.run,
            options=options,
            workshop=workshop,
            lock=lock,
        )

    def _set_up(
        self, image: Image, wanted: Container, operators: arguments.Created, bundle: Path | None, order: Order
    ) -> tuple[Image, int | None]:
        if not (wanted.setup_script or wanted.apt):
            return image, None
        environ = self.settings.environ
        set_up = SetUp(
            engine=self.engine,
            image=image,
            wanted=wanted,
            task=order.task,
            run=order.run,
            uses=uses_of(self.settings),
            bundle=bundle,
            options=operators,
            proxies={name: environ[name] for name in PROXIES if name in environ},
            log=order.log,
            cancelled=order.cancelled,
        )
        ready = set_up.image_ready()
        prune_with(self.engine, self.settings, self.settings.kept_images)
        return ready

    def _has_shell(self, image: Image, order: Order) -> bool:
        """Looked up in a container that is never started, once for each image."""
        if image.id not in self.shells:
            container = self.engine.create(looked_into(self.engine, order.task, order.run, image.id))
            try:
                self.shells[image.id] = self.engine.has_file(container, "/bin/sh")
            finally:
                self.engine.remove(container)
        return self.shells[image.id]
