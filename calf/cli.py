"""The `calf` command: what is done before and after training. Training itself is `python train.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

CONF = Path(__file__).resolve().parents[1] / "conf"


@app.callback()
def calf() -> None:
    """Compare segmentation losses on imbalanced medical images. Training is `python train.py` (see its --help)."""


Overrides = Annotated[list[str] | None, typer.Argument(help="as for train.py: dataset=msd data_root=...", show_default=False)]


@app.command()
def prepare(overrides: Overrides = None) -> None:
    """Read a data set, check every case, and write the store that training reads."""
    with _configured(overrides) as cfg:
        from calf import plan

        print(f"prepared: {plan.prepare(cfg, divided=False)}")


@app.command()
def inspect(
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="where the page is written; default: inspect/<data set>")] = None,
) -> None:
    """Prepare a data set where need be, and show its imbalance and what CALF makes of it, as a page and as JSON."""
    with _configured(overrides) as cfg:
        from calf import plan

        print(f"written: {plan.inspect(cfg, out)}")


@app.command()
def report(
    runs: Annotated[Path, typer.Argument(help="a folder of runs, such as runs/benchmark")],
    baseline: Annotated[
        str | None, typer.Option(help="the loss that others are compared with; default: bce, else the first by name")
    ] = None,
    metric: Annotated[str, typer.Option(help="the one declared in advance, which losses are compared in")] = "dice",
    out: Annotated[Path | None, typer.Option(help="where the report is written; default: <runs>/report")] = None,
    published: Annotated[
        Path | None, typer.Option(help="CSV of published numbers: dataset,model,loss,metric,value,source,note[,class]")
    ] = None,
    panels: Annotated[
        bool, typer.Option(help="show images of cases with every loss's prediction; no: for those who may not pass images on")
    ] = True,
) -> None:
    """Compare the losses of finished runs: tables, tests, figures, and index.html, which shows everything.

    report.json beside them lists the files. Of all else that lies there nothing is replaced or removed: the report is refused.

    In a folder without that list whose index.html is a report's, files with the names that reports give count as listed.
    """
    from calf.report import report as write_report

    try:
        print(f"written: {write_report(runs, out, baseline, metric, published, panels) / 'index.html'}")
    except ValueError as error:
        raise _stop(error) from None


@app.command()
def ui(
    runs: Annotated[Path, typer.Argument(help="a folder of runs, such as runs/benchmark")],
    port: Annotated[int, typer.Option(help="if it is in use, the next free one is taken", min=0, max=65535)] = 8080,
    host: Annotated[
        str, typer.Option(help="the address to listen on; any but this machine's own 127.0.0.1 asks for a token")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="open the browser")] = True,
    upload_limit: Annotated[
        float, typer.Option(help="gigabytes of images of one's own that one page of Try it takes, as they are sent", min=0.001)
    ] = 1.0,
) -> None:
    """Look at runs in the browser: predictions side by side, cases, curves. Nothing leaves this machine."""
    try:
        from calf.ui.app import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("nicegui", "fastapi", "uvicorn", "starlette"):
            raise
        raise _stop(ValueError(f"`calf ui` needs {error.name}: pip install -e '.[ui]' -c constraints.txt")) from None
    try:
        serve(runs, port, host, browser, round(upload_limit * 1e9))
    except ValueError as error:
        raise _stop(error) from None


@app.command()
def losses(
    names: Annotated[list[str] | None, typer.Argument(help="only these; default: all", show_default=False)] = None,
) -> None:
    """Print the catalogue of losses: formula, paper, defaults, time relative to BCE, and the laws a loss breaks by design."""
    from rich.console import Console

    from calf.catalogue import Entry, catalogue

    try:
        entries = catalogue(CONF / "loss", CONF.parent / "benchmarks" / "losses.json")
    except ValueError as error:
        raise _stop(error) from None
    unknown = set(names or []) - {entry.name for entry in entries}
    if unknown:
        known = ", ".join(sorted(entry.name for entry in entries))
        raise _stop(ValueError(f"no loss is called {', '.join(sorted(unknown))}; there are {known}"))
    console = Console(highlight=False, soft_wrap=True)

    def show(entry: Entry) -> None:
        cost = "" if entry.cost is None else f"   {entry.cost:.2f} x BCE"
        console.print(f"[bold]{entry.name}[/bold]{cost}")
        lines = [entry.summary, entry.formula, entry.paper, entry.defaults or "no arguments"]
        lines += [f"breaks {law}: {reason}" for law, reason in entry.breaks.items()]
        for line in lines:
            console.print(f"    {line}", markup=False)

    family = ""
    for entry in entries:
        if names and entry.name not in names:
            continue
        if entry.family != family:
            family = entry.family
            console.rule(family or "other", align="left")
        show(entry)


@contextmanager
def _configured(overrides: list[str] | None) -> Iterator[DictConfig]:
    """The configuration of ``python train.py OVERRIDES``; what is wrong with it, or with the data, ends the command in words."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(CONF), version_base="1.3", job_name="train"):
            cfg = compose("train", overrides or [], return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            yield cfg
    except InstantiationException as error:
        raise _stop(error.__cause__ or error) from None
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        raise _stop(error) from None


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="<run folder>/checkpoints/best.ckpt")],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="one case as modality=PATH for each modality; or paths, if the network takes one", show_default=False
        ),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="instead of images: every case of a folder laid out as the training data were")
    ] = None,
    out: Annotated[Path, typer.Option(help="where <case>.nii.gz are written")] = Path("predictions"),
    name: Annotated[str | None, typer.Option(help="the case's name; default: that of its first image's file")] = None,
    overwrite: Annotated[bool, typer.Option(help="replace masks that are there")] = False,
    mirror: Annotated[bool, typer.Option(help="average over each slice and its mirror images: four times the work")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: a GPU if there is one")] = "auto",
    batch_size: Annotated[int | None, typer.Option(help="slices at once; default: as in training", min=1)] = None,
    progress: Annotated[
        Literal["bar", "json"], typer.Option(help="bar: of cases; json: a line a batch on stdout, for programs that watch")
    ] = "bar",
    known_code: Annotated[
        bool, typer.Option("--known-code", help="build no network but calf's own, for runs of people you do not know")
    ] = False,
) -> None:
    """Segment new images with a trained network; masks are NIfTI files in the images' own grid.

    With --progress json each line of stdout is an object: {"event": "start", "device": "cpu", "cases": 1}, then
    {"event": "batch", "case": NAME, "done": 3, "total": 40}, and {"event": "end", "written": [NAME], "failed": {NAME: reason}}.
    """
    from calf.predict import cases_of
    from calf.predict import predict as write_predictions
    from calf.trained import Trained

    try:
        trained = Trained(checkpoint, known_code)
        if bool(images) == (data_root is not None):
            raise ValueError("expected images, or --data-root with a data set: one of them")
        modalities = trained.recipe.preparation.modalities
        assert modalities is not None
        cases = cases_of(images, modalities, name) if images else trained.cases(str(data_root))
        chosen, watch = _device(device), None
        if progress == "json":
            watch = _tell_batch
            _tell("start", device=str(chosen), cases=len(cases))
        bad = write_predictions(trained, cases, out, chosen, mirror, batch_size, overwrite, watch)
    except ValueError as error:
        raise _stop(error) from None
    for case, reason in bad.items():
        typer.echo(f"calf: {case}: {reason}", err=True)
    if progress == "json":
        _tell("end", written=[case.id for case in cases if case.id not in bad], failed=bad)
    else:
        typer.echo(f"{len(cases) - len(bad)} of {len(cases)} masks written to {out}; labels.json says what their values mean")
    if bad:
        raise typer.Exit(1)


def _tell(event: str, **content: object) -> None:
    typer.echo(json.dumps({"event": event, **content}))  # which flushes


def _tell_batch(case: str, done: int, total: int) -> None:
    _tell("batch", case=case, done=done, total=total)


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name} cannot be used: {error}") from None


def _stop(error: BaseException) -> typer.Exit:
    typer.echo(f"calf: {error}", err=True)
    return typer.Exit(1)
