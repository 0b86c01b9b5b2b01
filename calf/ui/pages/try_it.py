"""Try it: an image of one's own, segmented by networks of finished runs, compared like a case, and the masks as NIfTI files.

What is loaded belongs to the page: it is deleted when the page is left, reloaded, or asks for it (:mod:`calf.ui.trials`). The
page is plain JavaScript (``static/try_it``) that shows masks with the panels of Compare, and asks below /api/try/ID,
where ID is the page's secret::

    GET    /                              Trial.state()
    DELETE /                              everything
    PUT    /images?modality=&name=        the body is the file; likewise DELETE
    PUT    /truth?name=                   likewise
    POST   /prediction?runs=ID,ID&device=    begins; DELETE cancels
    GET    /runs, /compare/cases, /cases/CASE...    what Compare asks for, of the masks
    GET    /masks/RUN, /labels/RUN        a mask as `calf predict` wrote it, and what its values mean

An error is told as in :mod:`calf.ui.server`; besides, 413 stands for a file that is too large and 507 for a full disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from nicegui import run, ui
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from calf.report.volumes import Unreadable
from calf.ui.addresses import split_ids
from calf.ui.library import Unknown
from calf.ui.networks import networks
from calf.ui.pages.compare import colours
from calf.ui.pages.plots import in_thread
from calf.ui.predictions import DEVICES
from calf.ui.render import MOST_RUNS
from calf.ui.server import Explorer, case_routes, plain
from calf.ui.trials import Trial
from calf.ui.uploads import TooLarge
from calf.ui.volumes import Cases

PATH, TITLE = "/try", "Try it"
RECONNECT_S = 30.0  # a page that is left says so; one that was cut off may come back
STATIC = Path(__file__).parent / "static"

Name = Annotated[str, Query(max_length=1000)]
Modality = Annotated[str, Query(min_length=1, max_length=200)]


class TryIt(ui.element, component="static/try_it.js", esm={"calf-try-it": "static/try_it"}):
    """What static/try_it makes of it."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self._props["options"] = options


async def build(explorer: Explorer, query: Mapping[str, str]) -> None:
    """A page with nothing loaded."""
    found, left_out = await in_thread(networks, explorer.library)
    if not found:
        ui.label("No finished run has a checkpoint that could be loaded: train a network first.")
        for label, why in left_out.items():
            ui.label(f"{label}: {why}").classes("text-sm")
        return
    trial = explorer.trials.new()

    async def left() -> None:
        await run.io_bound(explorer.trials.end, trial.id)

    ui.context.client.on_delete(left)
    for css in ("compare.css", "try_it.css"):
        ui.add_css((STATIC / css).read_text())
    options = {
        "base": f"/api/try/{trial.id}",
        "networks": plain([network.public() for network in found]),
        "left_out": left_out,
        "most": MOST_RUNS,
        "devices": DEVICES,
        "limit": explorer.trials.limit_bytes,
        "colours": colours(),
    }
    TryIt(options).classes("w-full")


def router(explorer: Explorer) -> APIRouter:
    """The routes of the module."""
    routes = APIRouter(prefix="/try/{trial}")
    trials = explorer.trials

    @routes.get("")
    def state(trial: str) -> Response:
        return _state(trials.get(trial))

    @routes.delete("")
    def clear(trial: str) -> Response:
        trials.get(trial).clear()
        return _state(trials.get(trial))

    @routes.put("/images")
    async def add_image(request: Request, trial: str, modality: Modality, name: Name) -> Response:
        return await _received(request, trials.get(trial), modality, name)

    @routes.delete("/images")
    def remove_image(trial: str, modality: Modality) -> Response:
        trials.get(trial).remove(modality)
        return _state(trials.get(trial))

    @routes.put("/truth")
    async def add_truth(request: Request, trial: str, name: Name) -> Response:
        return await _received(request, trials.get(trial), None, name)

    @routes.delete("/truth")
    def remove_truth(trial: str) -> Response:
        trials.get(trial).remove(None)
        return _state(trials.get(trial))

    @routes.post("/prediction")
    def predict(trial: str, runs: Annotated[str, Query(max_length=8000)], device: str = "auto") -> Response:
        trials.get(trial).predict(split_ids(runs), device)
        return _state(trials.get(trial))

    @routes.delete("/prediction")
    def cancel(trial: str) -> Response:
        trials.get(trial).cancel()
        return _state(trials.get(trial))

    @routes.get("/runs")
    def shown(trial: str) -> Response:
        return JSONResponse({"runs": plain([one.public() for one in trials.get(trial).case().runs])})

    @routes.get("/compare/cases")
    def case(trial: str) -> Response:
        shown = trials.get(trial).case()
        return JSONResponse({"cases": [{"id": shown.id, "name": shown.name}]})

    @routes.get("/masks/{run}")
    def mask(trial: str, run: str) -> Response:
        path, name = trials.get(trial).mask(run)
        return _file(path, name, "application/gzip")

    @routes.get("/labels/{run}")
    def labels(trial: str, run: str) -> Response:
        path, name = trials.get(trial).mask(run)
        return _file(path.with_name("labels.json"), name.removesuffix(".nii.gz") + "-labels.json", "application/json")

    def cases(request: Request) -> Cases:
        return trials.get(request.path_params["trial"]).case().cases

    routes.include_router(case_routes(cases))
    return routes


async def _received(request: Request, trial: Trial, modality: str | None, name: str) -> Response:
    length = request.headers.get("content-length", "")
    try:
        await trial.receive(modality, name, request.stream(), int(length) if length.isdecimal() else 0)
    except TooLarge as reason:
        raise HTTPException(413, str(reason)) from reason
    except ClientDisconnect:
        raise HTTPException(400, "the file did not arrive whole") from None
    except OSError as reason:
        raise HTTPException(507, f"the file cannot be kept: {reason.strerror}") from reason
    return _state(trial)


def _state(trial: Trial) -> Response:
    return JSONResponse(plain(trial.state()))


def _file(path: Path, name: str, media_type: str) -> Response:
    """``name`` holds nothing that would have to be quoted."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Unknown("this mask was removed") from None
    except OSError as reason:
        raise Unreadable(f"this mask cannot be read: {reason.strerror}") from reason
    return Response(content, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})
