"""The network's life: loaded and run in a thread of its own, freed when the work is over.

Knows no topics: what becomes of a frame is handed in. Waiting is done in small steps, so that a signal ends even
a load that takes minutes (an engine being built).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from kdc_core.backends.base import ModelLoadError
from kdc_core.pipeline import Pipeline
from kdc_ros.inputs import Incoming
from kdc_ros.mailbox import Mailbox
from kdc_ros.parameters import Settings, model_path, pipeline_options
from kdc_ros.worker import InferenceWorker

_STEP_S = 0.1
# A frame in the network is waited for when the work ends; a native call that takes longer is abandoned.
FREE_TIMEOUT_S = 30.0


class StartupError(RuntimeError):
    """The node cannot work, for a reason that its user can mend; the message is one line."""


class Interrupted(RuntimeError):
    """The process was told to end while the network was being loaded."""


class Network:
    """Loads the pipeline, runs it on the newest frame of `mailbox`, and frees it.

    process: called in the inference thread with the pipeline and each frame, and a function that tells whether the work
        was given up meanwhile: what comes of the frame then is nobody's any more.
    settings: asked when loading, and for the rate limit between frames.
    going_on: asked while waiting; False ends the wait.
    discarded: told of each frame that nobody will look at: it waited when the work ended or was paused.
    """

    def __init__(
        self,
        process: Callable[[Pipeline, Incoming, Callable[[], bool]], None],
        settings: Callable[[], Settings],
        going_on: Callable[[], bool],
        discarded: Callable[[], None] = lambda: None,
    ) -> None:
        self._process = process
        self._settings = settings
        self._going_on = going_on
        self._discarded = discarded
        self._worker: InferenceWorker[Pipeline, Incoming] | None = None
        self._leaving: list[InferenceWorker[Pipeline, Incoming]] = []
        self._started_s: float | None = None
        self._loading = False
        # Each belongs to one mailbox: a load that was given up may still go on, and must not speak for the next one.
        self._doing: tuple[Mailbox[Incoming], str] | None = None
        self._described: tuple[Mailbox[Incoming], dict[str, str]] | None = None

    @property
    def description(self) -> dict[str, str]:
        """What is loaded: model, network input, backend; empty while nothing is."""
        described, mailbox = self._described, self.mailbox
        return described[1] if described is not None and described[0] is mailbox else {}

    @property
    def mailbox(self) -> Mailbox[Incoming] | None:
        """Where frames are left for it; None while it is not loaded."""
        return self._worker.mailbox if self._worker is not None else None

    @property
    def loaded(self) -> bool:
        """Whether it is loaded, or being loaded."""
        return self._worker is not None

    @property
    def error(self) -> Exception | None:
        """What ended the inference thread; None while it runs."""
        return self._worker.error if self._worker is not None else None

    @property
    def loading_s(self) -> float | None:
        """Seconds since loading began; None while nothing is being loaded."""
        started_s = self._started_s
        return time.monotonic() - started_s if self._loading and started_s is not None else None

    @property
    def doing(self) -> str:
        """What a long preparation is at ("building the engine: ... 40 %"); "" while there is none."""
        doing, mailbox = self._doing, self.mailbox
        return doing[1] if self._loading and doing is not None and doing[0] is mailbox else ""

    def load(self) -> None:
        """Load it, unless it is. Raises StartupError when it cannot be, Interrupted when the process ends."""
        if self._worker is not None:
            return
        mailbox: Mailbox[Incoming] = Mailbox(self._discarded)

        def process(pipeline: Pipeline, incoming: Incoming) -> None:
            self._process(pipeline, incoming, lambda: worker in self._leaving)

        worker = InferenceWorker(mailbox, lambda: self._load_pipeline(mailbox), process, self._min_interval_s)
        timeout_s = self._settings().load_timeout_s
        self._started_s = time.monotonic()
        self._worker, self._loading = worker, True
        try:
            worker.start()
            while not worker.wait_loaded(_STEP_S):
                if not self._going_on():
                    raise Interrupted
                if 0 < timeout_s < time.monotonic() - self._started_s:
                    raise StartupError(f"the network was not loaded within load_timeout_s ({timeout_s:g} s)")
            if worker.error is not None:
                raise worker.error
        except Exception:
            # Whatever still loads ends by itself, and frees what it has loaded.
            self.free(0.0)
            raise
        finally:
            self._loading = False

    def free(self, timeout_s: float = FREE_TIMEOUT_S) -> bool:
        """End the thread and free the network. Returns False when it is still in a native call by then.

        The thread is let go either way: it frees the network whenever the call returns.
        """
        worker, self._worker = self._worker, None
        if worker is None:
            return True
        self._leaving = [leaving for leaving in self._leaving if not leaving.stop(0.0)]
        deadline_s = time.monotonic() + timeout_s
        while not worker.stop(min(_STEP_S, timeout_s)):
            if time.monotonic() >= deadline_s or not self._going_on():
                self._leaving.append(worker)
                return False
        return True

    def stop(self, timeout_s: float) -> bool:
        """End every thread, the process being about to end. Returns False when one is still in a native call.

        Only a frame in hand is waited for: whatever was given up before (a load, for one) may take for ever.
        """
        ended = [leaving.stop(0.0) for leaving in self._leaving]
        if self._worker is not None:
            ended.append(self._worker.stop(0.0 if self._loading else timeout_s))
        return all(ended)

    def _min_interval_s(self) -> float:
        rate_hz = self._settings().max_rate_hz
        return 1.0 / rate_hz if rate_hz > 0 else 0.0

    def _load_pipeline(self, mailbox: Mailbox[Incoming]) -> Pipeline:
        def on_progress(doing: str, share: float) -> None:
            if not mailbox.closed:
                self._doing = (mailbox, f"{doing}, {share:.0%}")

        settings = self._settings()
        try:
            path = model_path(settings)
            pipeline = Pipeline.load(
                path,
                backend=settings.backend,
                options=pipeline_options(settings),
                threads=settings.threads,
                long_side=settings.long_side or None,
                precision=settings.precision,
                engine_dir=Path(os.path.expanduser(settings.engine_dir)) if settings.engine_dir else None,
                progress=on_progress,
            )
        except (ModelLoadError, ValueError) as error:  # ValueError: no such backend, no such input size
            raise StartupError(" ".join(str(error).split())) from error
        height, width = pipeline.spec.input_hw
        if not mailbox.closed:
            told = {"model": str(path), "network input": f"{width} x {height}", "backend": pipeline.backend_name}
            self._described = (mailbox, told)
        return pipeline
