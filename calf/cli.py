"""The `calf` command: what is done before and after training. Training itself is `python train.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

CONF = Path(__file__).resolve().parents[1] / "conf"


@app.callback()
def calf() -> None:
    """Compare segmentation losses on imbalanced medical images. Training is `python train.py` (see its --help)."""


@app.command()
def prepare(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="as for train.py: dataset=msd data_root=...", show_default=False)
    ] = None,
) -> None:
    """Read a data set, check every case, and write the store that training reads."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    from calf import run

    try:
        with initialize_config_dir(str(CONF), version_base="1.3", job_name="train"):
            cfg = compose("train", overrides or [], return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            folder = run.prepare(cfg, divided=False)
    except InstantiationException as error:
        raise _stop(error.__cause__ or error) from None
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        raise _stop(error) from None
    print(f"prepared: {folder}")


@app.command()
def report(
    runs: Annotated[Path, typer.Argument(help="a folder of runs, such as runs/benchmark")],
    out: Annotated[Path | None, typer.Option(help="where the tables are written; default: <runs>/report")] = None,
) -> None:
    """Gather finished runs into the table: mean and SD per data set, model and loss."""
    from calf.report import report as write_report

    try:
        print(f"written: {write_report(runs, out)}")
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


def _stop(error: BaseException) -> typer.Exit:
    typer.echo(f"calf: {error}", err=True)
    return typer.Exit(1)
