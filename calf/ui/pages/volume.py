"""Volume: a case in three dimensions, with the truth and what one run made of it, drawn by NiiVue in one WebGL canvas.

The address holds the whole view: ``case``, ``run``, ``class`` (the target), ``modality``, ``truth``, ``prediction`` and ``image``
(their opacities in percent), ``slices`` (the image as slices), ``cut`` (the side that is cut away), ``depth`` (how far, in
percent), ``masks`` (whether they are cut, too), ``azimuth``, ``elevation`` and ``zoom``. Without a case or a run some are chosen.
Voxels are files of :mod:`calf.ui.solid`, asked for by ids.

NiiVue lies in ``static/niivue``. It needs nothing that :data:`calf.ui.safety.PAGE_POLICY` forbids: its font and its textures are
``data:`` pictures, it starts no worker, and the decoders of Zarr that it holds as WebAssembly are never called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from nicegui import run as threads
from nicegui import ui

from calf.ui.library import Unknown
from calf.ui.pages.compare import colours, opening, scored
from calf.ui.server import Explorer, plain
from calf.ui.solid import image_file, mask_file, mask_state, sent_shape, steps
from calf.ui.volumes import OpenCase

PATH, TITLE = "/volume", "Volume"
STATIC = Path(__file__).parent / "static"
NIFTI = "application/gzip"
# A browser without a graphics card answers nobody while it draws; the page would be dropped, and load itself again and again.
PATIENCE_S = 120.0

Id = Annotated[str, Query(max_length=100)]
Name = Annotated[str, Query(max_length=1000)]


class Solid(
    ui.element,
    component="static/volume.js",
    esm={"calf-volume": "static/volume", "calf-compare": "static/compare", "calf-niivue": "static/niivue"},
):
    """What static/volume makes of the address and of what the server says."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self._props["options"] = options


async def build(explorer: Explorer, query: Mapping[str, str]) -> None:
    """The view that the address asks for."""
    asked = {"case": query.get("case", ""), "runs": query.get("run", "")}
    found = await threads.io_bound(opening, explorer.library, asked)
    if found is None:
        ui.label("No finished run yet: what a run makes of a case can be seen once one is finished.")
        return
    case, runs = found
    for sheet in ("compare.css", "volume.css"):  # the controls are those of Compare
        ui.add_css((STATIC / sheet).read_text())
    ui.context.client.page.reconnect_timeout = PATIENCE_S
    Solid({"query": dict(query) | {"case": case, "run": runs[0]}, "colours": colours()}).classes("w-full")


def router(explorer: Explorer) -> APIRouter:
    """What the page asks for; a case is always one of a run's.

    GET /api/volume/runs?case=ID                        {"runs": [{"id", "label"}, ...]}, those that tested the case
    GET /api/cases/CASE/solid?run=ID&name=NAME          see :func:`scene`; a name that the run does not have gives its first one
    GET /api/cases/CASE/image.nii.gz?run=ID&modality=NAME    see :mod:`calf.ui.solid`
    GET /api/cases/CASE/truth.nii.gz?run=ID&name=NAME
    GET /api/cases/CASE/prediction.nii.gz?run=ID&name=NAME
    """
    routes = APIRouter()

    def opened(case: str, run: str) -> OpenCase:
        return explorer.cases.open(case, [run])

    @routes.get("/volume/runs")
    def runs(case: Id) -> Response:
        library = explorer.library
        tested = [one for one, table in scored(library, library.runs) if (table["case_id"] == case).any()]
        if not tested:
            raise Unknown("there is no such case among those that were tested")
        return JSONResponse({"runs": [{"id": one.id, "label": one.label} for one in tested]})

    @routes.get("/cases/{case}/solid")
    def solid(case: str, run: Id, name: Name = "") -> Response:
        return JSONResponse(plain(scene(opened(case, run), run, name)))

    @routes.get("/cases/{case}/image.nii.gz")
    def image(case: str, run: Id, modality: Name) -> Response:
        return Response(image_file(opened(case, run), modality), media_type=NIFTI)

    @routes.get("/cases/{case}/truth.nii.gz")
    def truth(case: str, run: Id, name: Name) -> Response:
        found = opened(case, run)
        return Response(mask_file(found, found.truth(name)), media_type=NIFTI)

    @routes.get("/cases/{case}/prediction.nii.gz")
    def prediction(case: str, run: Id, name: Name) -> Response:
        found = opened(case, run)
        return Response(mask_file(found, found.prediction(run, name)), media_type=NIFTI)

    return routes


def scene(case: OpenCase, run: str, name: str) -> dict[str, Any]:
    """What can be shown of an open case of one run; reads the truth and the prediction, and no image.

    ``case`` (its name), ``label`` (of the run), ``names``, ``modalities``, ``name``; ``shape`` and ``spacing_mm`` along X, Y, Z;
    ``steps`` and ``sent`` (the shape of a file); ``truth`` and ``prediction``: :class:`calf.ui.solid.MaskState`; ``scored``:
    whether cases.csv has a row of it; ``warning``: what must stand beside the prediction, or "".
    """
    case.load()
    chosen = name if name in case.names else case.names[0]
    truth, prediction = (mask_state(case, run, chosen, truth=kind) for kind in (True, False))
    taken = steps(case)
    return {
        "case": case.case,
        "label": case.runs[run].label,
        "names": case.names,
        "modalities": case.modalities,
        "name": chosen,
        "shape": case.shape,
        "spacing_mm": case.spacing_mm,
        "steps": taken,
        "sent": sent_shape(case, taken),
        "truth": asdict(truth),
        "prediction": asdict(prediction),
        "scored": case.row(run, chosen) is not None,
        "warning": "" if prediction.error else case.warning(run, chosen),
    }
