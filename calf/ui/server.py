"""The library and its cases by HTTP: JSON and pictures. Everything is asked for by id; no path is taken.

    GET /api/runs                          {"revision": int, "runs": [Run.public(), ...]}; looks for changes first
    GET /api/cases?runs=ID,ID              {"rows": [a row of Library.cases, ...]}
    GET /api/cases/CASE?runs=ID,...        what can be shown of a case: see ``scene``
    GET /api/cases/CASE/image?runs=&modality=    {"range": [least, largest], "window": [black, white]}, in the image's own values
    GET /api/cases/CASE/slice?runs=&panels=image,truth,ID&index=80&names=NAME    a picture: see ``calf.ui.render.sprite``;
        and plane, modality, overlay, outline, low and high (the window), threshold, side as in ``calf.ui.render.View``
    GET /api/cases/CASE/profile?runs=&name=&plane=axial&threshold=    see ``calf.ui.measures.Profile``
    GET /api/cases/CASE/sweep?run=&name=                              see ``calf.ui.measures.Sweep``

The routes from /api/cases/CASE on are ``case_routes``, which :mod:`calf.ui.pages.try_it` has once more for images of one's own.

Numbers are those of the files to the last bit; what is undefined is null. An error is ``{"error": a sentence for the user}``: 404
for an id or a name that is unknown, 422 for a request that makes no sense, 409 for what cannot be shown. Browsers keep nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from calf.report.volumes import AXES, Unreadable
from calf.ui.addresses import split_ids
from calf.ui.analyses import Analyses
from calf.ui.library import Library, Unknown
from calf.ui.measures import profile, sweep
from calf.ui.render import LETTERS, View, encoded, panel_size, sprite
from calf.ui.trials import Trials
from calf.ui.uploads import LIMIT_BYTES as UPLOAD_BYTES
from calf.ui.volumes import LIMIT_BYTES, Cases, OpenCase

log = logging.getLogger(__name__)

Ids = Annotated[str, Query(max_length=8000)]  # separated by commas


@dataclass(frozen=True)
class Explorer:
    """What every page and route works on."""

    library: Library
    cases: Cases
    trials: Trials
    analyses: Analyses

    @classmethod
    def of(cls, library: Library, limit_bytes: int = LIMIT_BYTES, upload_bytes: int = UPLOAD_BYTES) -> Explorer:
        return cls(library, Cases(library, limit_bytes), Trials(library, upload_bytes), Analyses(library))


def create_server(explorer: Explorer, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """The routes of this module and ``routers`` below /api; no page. To be put behind :class:`calf.ui.safety.Guard`.

    An address below /api that no route has answers 404 as JSON.
    """
    # the documentation that FastAPI serves loads its scripts from another host
    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for router in (_routes(explorer), case_routes(lambda request: explorer.cases), *routers, _no_route()):
        server.include_router(router, prefix="/api")
    for kind, status in ((Unknown, 404), (Unreadable, 409), (Exception, 500)):
        server.add_exception_handler(kind, _answer(status))
    server.add_exception_handler(RequestValidationError, _invalid)
    server.add_exception_handler(HTTPException, _http_error)
    return server


def plain(value: Any) -> Any:
    """As JSON can hold it: arrays become lists, numbers of NumPy Python's own, and what is not finite null."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scene(case: OpenCase) -> dict[str, Any]:
    """What can be shown of an open case; reads the truth and the predictions, and no image.

    * ``case`` (its name), ``id``, ``shape`` and ``spacing_mm`` along X, Y, Z, ``names``, ``modalities``;
    * ``plane`` (that of training) and ``planes``: for each its number of ``slices``, the ``height`` and ``width`` of a panel in
      pixels, and ``letters``, which stand at its left, right, upper and lower edge;
    * ``truth_error``: by name, why there is no truth; "" where there is one;
    * ``panels``: for each run its ``id``, ``label``, and by name ``error`` (why it cannot be shown, or ""), ``warning`` (what
      must stand beside it, or "") and ``rows`` (its numbers in cases.csv, as :meth:`calf.ui.library.Library.table` has them;
      null where it was not scored); ``probabilities``: whether it kept them.
    """
    case.load()
    panels = []
    for id, run in case.runs.items():
        errors = {name: _error(case, id, name) for name in case.names}
        panels.append(
            {
                "id": id,
                "label": run.label,
                "error": errors,
                "warning": {name: "" if errors[name] else case.warning(id, name) for name in case.names},
                "probabilities": case.has_probabilities(id),
                "rows": {name: case.row(id, name) for name in case.names},
            }
        )
    planes = {}
    for plane, axis in AXES.items():
        height, width = panel_size(case, plane)
        planes[plane] = {"slices": case.shape[axis], "height": height, "width": width, "letters": LETTERS[plane]}
    return {
        "case": case.case,
        "id": case.id,
        "shape": case.shape,
        "spacing_mm": case.spacing_mm,
        "plane": case.files.plane,
        "planes": planes,
        "names": case.names,
        "modalities": case.modalities,
        "truth_error": {name: _error(case, None, name) for name in case.names},
        "panels": panels,
    }


def _error(case: OpenCase, run: str | None, name: str) -> str:
    try:
        if run is None:
            case.truth(name)
        else:
            case.prediction(run, name)
    except Unreadable as reason:
        return str(reason)
    return ""


def _routes(explorer: Explorer) -> APIRouter:
    router = APIRouter()

    @router.get("/runs")
    def runs() -> Response:
        revision = explorer.library.refresh()
        return JSONResponse({"revision": revision, "runs": plain([run.public() for run in explorer.library.runs])})

    @router.get("/cases")
    def cases(runs: Ids) -> Response:
        return JSONResponse({"rows": plain(explorer.library.cases(split_ids(runs)).to_dict("records"))})

    return router


def case_routes(cases: Callable[[Request], Cases]) -> APIRouter:
    """What is asked of one case, of those that ``cases`` finds for a request."""
    router = APIRouter()

    @router.get("/cases/{case}")
    def one(request: Request, case: str, runs: Ids) -> Response:
        return JSONResponse(plain(scene(cases(request).open(case, split_ids(runs)))))

    @router.get("/cases/{case}/image")
    def image(request: Request, case: str, runs: Ids, modality: str) -> Response:
        scan = cases(request).open(case, split_ids(runs)).scan(modality)
        return JSONResponse(plain({"range": scan.range, "window": scan.window}))

    @router.get("/cases/{case}/slice")
    def picture(
        request: Request,
        case: str,
        runs: Ids,
        panels: Ids,
        index: int,
        names: Annotated[str, Query(max_length=1000)] = "",
        plane: str = "axial",
        modality: str | None = None,
        overlay: str = "contour",
        outline: bool = True,
        low: float | None = None,
        high: float | None = None,
        threshold: Annotated[int | None, Query(ge=1, le=255)] = None,
        side: Annotated[int | None, Query(ge=16, le=1536)] = None,
    ) -> Response:
        opened = cases(request).open(case, split_ids(runs))
        window = None if low is None or high is None else _window(low, high)
        chosen = tuple(name for name in names.split(",") if name)
        view = View(index, chosen, plane, modality or None, overlay, outline, window, threshold, side)
        content, media_type = encoded(sprite(opened, split_ids(panels), view))
        return Response(content, media_type=media_type)

    @router.get("/cases/{case}/profile")
    def along(
        request: Request,
        case: str,
        runs: Ids,
        name: str,
        plane: str = "axial",
        threshold: Annotated[int | None, Query(ge=1, le=255)] = None,
    ) -> Response:
        opened = cases(request).open(case, split_ids(runs))
        if plane not in AXES:
            raise Unknown(f"a plane is one of {', '.join(AXES)}")
        return JSONResponse(plain(asdict(profile(opened, name, list(opened.runs), plane, threshold))))

    @router.get("/cases/{case}/sweep")
    def thresholds(request: Request, case: str, run: str, name: str) -> Response:
        return JSONResponse(plain(asdict(sweep(cases(request).open(case, [run]), run, name))))

    return router


def _no_route() -> APIRouter:
    router = APIRouter()

    @router.api_route("/{rest:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
    def none(rest: str) -> Response:
        raise Unknown("there is nothing at this address")

    return router


def _window(low: float, high: float) -> tuple[float, float]:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise HTTPException(422, "a window goes from a number to a larger one")
    return low, high


def _answer(status: int) -> Any:
    def answer(request: Request, error: Exception) -> Response:
        if status == 500:
            log.error("%s %s", request.method, request.url.path, exc_info=error)
            return JSONResponse({"error": "something went wrong here; the terminal that `calf ui` runs in says what"}, 500)
        return JSONResponse({"error": str(error)}, status)

    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{entry['loc'][-1]}: {entry['msg']}" for entry in error.errors())
    return JSONResponse({"error": f"this request makes no sense: {told}"}, 422)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code)
