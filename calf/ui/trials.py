"""What the pages of Try it hold: images of one's own, a prediction, and what is shown of it. One :class:`Trial` a page.

Files lie in one :class:`calf.ui.uploads.PrivateFolder` a server. They are deleted when another file takes their place, when the
page is left or asks for it, and when the server ends.
"""

from __future__ import annotations

import atexit
import logging
import re
import secrets
import shutil
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from calf.report.volumes import Unreadable
from calf.ui.library import Library, Unknown
from calf.ui.networks import Network, network_of, networks
from calf.ui.own_case import OwnCase, check_truth
from calf.ui.predictions import DEVICES, Prediction, Queue
from calf.ui.render import MOST_RUNS
from calf.ui.uploads import LIMIT_BYTES, PrivateFolder, TooLarge, Upload, check, receive, remove_abandoned, shown_name

log = logging.getLogger(__name__)

MOST_PAGES = 8  # that hold files at once


class Trials:
    """The pages of one server.

    Args:
        library: where networks are looked up.
        limit_bytes: of the files of one page, as they are sent.
    """

    def __init__(self, library: Library, limit_bytes: int = LIMIT_BYTES) -> None:
        self.library, self.limit_bytes = library, limit_bytes
        remove_abandoned()
        self.folder, self.queue = PrivateFolder(), Queue()
        self.reading = threading.Lock()  # volumes are read against a truth by one page at a time: each takes much memory
        self._pages: dict[str, Trial] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)  # whatever way the server ends

    def new(self) -> Trial:
        """For a page that opens; makes no file."""
        trial = Trial(self)
        with self._lock:
            self._pages[trial.id] = trial
        return trial

    def get(self, id: str) -> Trial:
        """The trial of this id; :class:`Unknown` if there is none."""
        try:
            return self._pages[id]
        except KeyError:
            raise Unknown("this page was left: reload it") from None

    def end(self, id: str) -> None:
        """The page is gone, and so is what it held."""
        with self._lock:
            trial = self._pages.pop(id, None)
        if trial is not None:
            trial.end()

    def close(self) -> None:
        """The server ends: kills what runs and deletes every file. May be called again."""
        self.queue.close()
        self.folder.remove()
        atexit.unregister(self.close)

    def new_folder(self) -> Path:
        """For the files of one page; :class:`Unreadable` while too many pages hold some."""
        with self._lock:
            if sum(trial.holds_files for trial in self._pages.values()) >= MOST_PAGES:
                raise Unreadable(f"{MOST_PAGES} pages hold images already: close one, or remove its images")
        return self.folder.new()


class Trial:
    """What one page holds. ``id`` cannot be guessed: who knows it may see the images."""

    def __init__(self, trials: Trials) -> None:
        self.id = secrets.token_urlsafe(24)
        self.images: dict[str, Upload] = {}
        self.truth: Upload | None = None
        self.prediction: Prediction | None = None
        self.shown: OwnCase | None = None
        self.problem = ""  # of what came after the request that caused it
        self._trials = trials
        self._folder: Path | None = None
        self._ended = False
        self._arriving: dict[Path, int] = {}
        self._lock = threading.RLock()

    @property
    def holds_files(self) -> bool:
        return self._folder is not None

    def state(self) -> dict[str, Any]:
        """For the page: ``images`` by modality, ``truth``, ``room`` in bytes, ``prediction`` and ``shown``, each null if
        none, and ``problem``, why something is not as asked for, or "".
        """
        with self._lock:
            prediction, shown = self.prediction, self.shown
            return {
                "images": {modality: upload.public() for modality, upload in self.images.items()},
                "truth": self.truth and self.truth.public(),
                "room": self._trials.limit_bytes - self._bytes(),
                "prediction": prediction and self._told(prediction),
                "shown": shown and shown.public(),
                "problem": self.problem,
            }

    async def receive(self, modality: str | None, name: str, stream: AsyncIterator[bytes], announced: int = 0) -> None:
        """Take an image, or the truth (None), in the place of the one that was there; ``announced``: how many bytes it may have.

        Raises:
            TooLarge: the files of the page would be larger than is allowed.
            Unreadable: it is no volume that can be used; the truth does not fit what is shown.
            Unknown: no network is given a modality of this name.
        """
        name = shown_name(name)
        if modality is not None and not await run_in_threadpool(self._is_known, modality):
            raise Unknown("no network here is given a modality of this name")
        await run_in_threadpool(self.remove, modality)
        folder = await run_in_threadpool(self._place)
        path = folder / f"{secrets.token_hex(8)}.nii.gz"

        def admit(size: int) -> None:
            with self._lock:
                self._arriving[path] = max(size, announced)
                if self._folder != folder:
                    raise Unreadable("the images of this page were removed")
                if self._bytes() > self._trials.limit_bytes:
                    limit = f"{self._trials.limit_bytes / 1e9:g} GB"
                    raise TooLarge(f"{name}: the files of this page would be larger than {limit}: see --upload-limit of calf ui")

        try:
            admit(announced)
            size = await receive(stream, path, admit)
            grid = await run_in_threadpool(check, path, name)
            await run_in_threadpool(self._keep, modality, Upload(path, name, size, grid), folder)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            with self._lock:
                self._arriving.pop(path, None)

    def remove(self, modality: str | None) -> None:
        """Delete an image, with what was predicted of it, or the truth (None), with the scores."""
        with self._lock:
            self.problem = ""
            if modality is None:
                old, self.truth = self.truth, None
                if self.shown is not None and old is not None:
                    self.shown = self.shown.against(None)
            else:
                old = self.images.pop(modality, None)
        if old is not None:
            if modality is not None:
                self._drop_prediction()
            old.path.unlink(missing_ok=True)

    def predict(self, runs: Sequence[str], device: str) -> None:
        """Begin; what was predicted before is deleted.

        Raises:
            Unknown: there is no such run or device.
            Unreadable: no or too many runs, one that has no network, networks that need other images than are there or than each
                other, a truth that does not fit, or a prediction that is not over.
        """
        if device not in DEVICES:
            raise Unknown(f"a device is one of {', '.join(DEVICES)}")
        chosen = [network_of(self._trials.library, run) for run in dict.fromkeys(runs)]
        if not 0 < len(chosen) <= MOST_RUNS:
            raise Unreadable(f"expected 1 to {MOST_RUNS} networks, got {len(chosen)}")
        if len({frozenset(network.modalities) for network in chosen}) > 1:
            raise Unreadable("these networks need different modalities: choose those that need the same")
        with self._lock:
            if self.prediction is not None and not self.prediction.over:
                raise Unreadable("a prediction is at work: cancel it first")
            images, truth = self._needed(chosen), self.truth
        if truth is not None:
            with self._trials.reading:
                check_truth(chosen, images, truth)
        self._drop_prediction()
        names = {upload.path: upload.name for upload in images.values()}
        paths = {modality: upload.path for modality, upload in images.items()}
        place = self._place()
        folder = place / secrets.token_hex(8)
        prediction = Prediction(chosen, paths, names, folder, device, lambda ended: self._show(ended, images, truth))
        with self._lock:
            if self._folder != place:  # the prediction would make it anew
                raise Unreadable("the images of this page were removed")
            self.prediction, self.problem = prediction, ""
        self._trials.queue.add(prediction)

    def cancel(self) -> None:
        """End the prediction; masks that are finished stay."""
        if self.prediction is not None:
            self.prediction.cancel()

    def clear(self) -> None:
        """Delete everything."""
        with self._lock:
            folder, self._folder = self._folder, None
            self.images, self.truth = {}, None
        self._drop_prediction()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def end(self) -> None:
        """Delete everything, and take nothing more."""
        with self._lock:
            self._ended = True
        self.clear()

    def mask(self, run: str) -> tuple[Path, str]:
        """The mask that a run's network made, and a name for it; :class:`Unknown` if there is none."""
        shown = self.case()
        label = shown.chosen([run])[0].label
        stem = re.sub(r"\.nii(\.gz)?$", "", shown.name, flags=re.IGNORECASE)
        return shown.prediction.mask(run), re.sub(r"[^A-Za-z0-9_.=+]+", "-", f"{stem}-{label}").strip("-.") + ".nii.gz"

    def case(self) -> OwnCase:
        """What is shown; :class:`Unknown` if nothing is."""
        shown = self.shown
        if shown is None:
            raise Unknown("nothing was predicted on this page, or it was removed")
        return shown

    def _told(self, prediction: Prediction) -> dict[str, Any]:
        told = {"over": prediction.over, "ahead": self._trials.queue.ahead(prediction), "device": prediction.used_device}
        return told | {"networks": [step.public() for step in prediction.steps]}

    def _needed(self, chosen: Sequence[Network]) -> dict[str, Upload]:
        """The images that these networks are given; the one whose grid the first one's masks have comes first."""
        needed = chosen[0].modalities
        if missing := [modality for modality in needed if modality not in self.images]:
            raise Unreadable(f"these networks need {', '.join(needed)}; missing {', '.join(missing)}")
        order = sorted(needed, key=lambda modality: modality != chosen[0].onto)
        return {modality: self.images[modality] for modality in order}

    def _show(self, ended: Prediction, images: dict[str, Upload], truth: Upload | None) -> None:
        """``truth``: the one that was there, and fitted, when the prediction began."""
        try:
            with self._trials.reading:
                shown = OwnCase(ended, images, truth)
        except Exception as reason:  # in the prediction's thread: the page says it, or would wait for ever
            log.exception("masks of an image of one's own")
            self.problem = f"the masks were made, but cannot be shown: {reason}"
            return
        with self._lock:
            if self.prediction is not ended:
                return
            self.shown = shown if truth is self.truth else shown.against(None)
            if self.truth is not None and self.truth is not truth:
                self.truth = None
                self.problem = "the truth was changed while networks were at work, and was removed: choose it again"

    def _keep(self, modality: str | None, upload: Upload, folder: Path) -> None:
        before = shown = self.shown
        if modality is None and before is not None:
            with self._trials.reading:
                check_truth(before.networks, before.images, upload)
                shown = before.against(upload)
        with self._lock:
            if self._folder != folder or self.shown is not before:
                raise Unreadable("the images of this page were removed or predicted again: choose the file again")
            if modality is None:
                old, self.truth, self.shown = self.truth, upload, shown
            else:
                old, self.images[modality] = self.images.get(modality), upload
        if old is not None:  # two came at once
            old.path.unlink(missing_ok=True)

    def _drop_prediction(self) -> None:
        with self._lock:
            prediction, self.prediction, self.shown = self.prediction, None, None
        if prediction is not None:
            prediction.cancel()
            prediction.wait()  # without the lock, which its end needs
            shutil.rmtree(prediction.folder, ignore_errors=True)

    def _is_known(self, modality: str) -> bool:
        return any(modality in network.modalities for network in networks(self._trials.library)[0])

    def _place(self) -> Path:
        with self._lock:
            if self._ended:
                raise Unreadable("this page was left: reload it")
            if self._folder is None:
                self._folder = self._trials.new_folder()
            return self._folder

    def _bytes(self) -> int:
        kept = [*self.images.values(), *([self.truth] if self.truth else [])]
        return sum(upload.size for upload in kept) + sum(self._arriving.values())
