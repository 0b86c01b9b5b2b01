"""Plots of the Analysis page that read voxels: reliability diagrams and threshold sweeps, where runs kept probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nicegui import ui

from calf.report.volumes import Unreadable
from calf.ui import curves
from calf.ui.addresses import compare_address
from calf.ui.analyses import Table
from calf.ui.library import Unknown
from calf.ui.measures import Sweep, sweep
from calf.ui.pages.plots import in_thread, note, plot, problem
from calf.ui.reliability import NUM_BINS, Reliability, mean_sweep, reliability

if TYPE_CHECKING:
    from calf.ui.pages.analysis import View

FEW_MAPS = 24  # that are read without being asked for
ALL = "mean over cases"


def keeping(view: View, runs: tuple[str, ...]) -> list[str]:
    """Those of these runs that have a folder of probabilities."""
    library = view.explorer.library
    return [id for id in runs if (library.run(id).folder / "probabilities").is_dir()]


async def reliability_diagram(view: View, table: Table) -> None:
    """Of the first run of each side that kept probabilities; many are read only when asked for."""
    runs = list(dict.fromkeys(own[0] for side in view.sides if (own := keeping(view, side))))
    if not runs:
        note("Neither A nor B kept its probabilities (save_probabilities=true), so there is no reliability diagram.")
        return
    ids = {id: sorted(table.cases.loc[table.cases["run"] == id, "case_id"]) for id in runs}
    place = ui.column().classes("w-full gap-1")

    async def read() -> None:
        place.clear()
        with place:
            waiting = ui.spinner(size="lg")
            found = {}
            for id in runs:
                bins = view.explorer.library.settings(id).get("protocol.volumes.num_bins") or NUM_BINS
                made = await in_thread(reliability, view.explorer.cases, id, ids[id], table.name, int(bins))
                found[view.explorer.library.run(id).label] = made
            waiting.delete()
            _reliability(found)

    total = sum(map(len, ids.values()))
    if total <= FEW_MAPS:
        await read()
        return
    with place:
        ui.button(f"Read {total} probability maps for the reliability diagram", on_click=read).props("outline no-caps")


def _reliability(found: dict[str, Reliability]) -> None:
    for title, own in found.items():
        for text in (*own.problems, *own.remarks):
            problem(f"{title}: {text}")
    drawn = {title: own for title, own in found.items() if own.num_cases}
    if drawn:
        plot("reliability", curves.calibration(drawn), f"reliability diagram of {' and '.join(drawn)}")
        said = "; ".join(
            f"{title}: {own.num_cases} cases, ECE of all scored voxels together {own.ece:.6f}" for title, own in drawn.items()
        )
        note(f"{said}. Below the diagonal a run is too sure of foreground. Probabilities are kept in steps of 1/255.")


async def threshold(view: View, table: Table) -> None:
    """Dice, sensitivity and precision of a run as the threshold moves, for a case or on average; Compare follows."""
    kept = {id: view.explorer.library.run(id).label for ids in table.members.values() for id in keeping(view, ids)}
    if not kept:
        note("None of these runs kept its probabilities (save_probabilities=true).")
        return
    first = next((id for side in view.sides for id in side if id in kept), next(iter(kept)))
    names = {str(id): str(name) for id, name in zip(table.cases["case_id"], table.cases["case"], strict=True)}
    with ui.row().classes("gap-3"):
        runs = ui.select(kept, label="run", value=first).props("dense outlined").classes("min-w-64")
        cases = ui.select({}, label="case").props("dense outlined").classes("min-w-48")
    place = ui.column().classes("w-full gap-1")
    ready = False

    def offer() -> None:
        nonlocal ready
        own = sorted(set(table.cases.loc[table.cases["run"] == runs.value, "case_id"]), key=lambda id: names[id])
        ready = False
        value = cases.value if cases.value in own else own[0]
        cases.set_options({id: names[id] for id in own} | {ALL: f"{ALL} ({len(own)})"}, value=value)
        ready = True

    async def show() -> None:
        place.clear()
        with place:
            waiting = ui.spinner(size="lg")
            try:
                found, said = await _swept(view, table, runs.value, cases.value)
                _slider(table, found, runs.value, cases.value, f"{kept[runs.value]}, {names.get(cases.value, ALL)}", said)
            except (Unreadable, Unknown) as reason:
                problem(str(reason))
            waiting.delete()

    async def other_run() -> None:
        offer()
        await show()

    async def other_case() -> None:
        if ready:
            await show()

    offer()
    runs.on_value_change(other_run)
    cases.on_value_change(other_case)
    await show()


async def _swept(view: View, table: Table, id: str, case: str) -> tuple[Sweep, str]:
    """The curves, and what has to be said of them."""
    cases = view.explorer.cases
    if case == ALL:
        own = sorted(table.cases.loc[table.cases["run"] == id, "case_id"])
        mean, num = await in_thread(mean_sweep, cases, id, own, table.name)
        return (
            mean,
            f"Mean over {num} of {len(own)} cases, undefined values left out. A threshold chosen here has seen the test data.",
        )
    opened = cases.open(case, [id])
    found = await in_thread(sweep, opened, id, table.name)
    return found, await in_thread(opened.warning, id, table.name)


def _slider(table: Table, found: Sweep, id: str, case: str, title: str, said: str) -> None:
    plot("sweep", curves.sweep(found, title), f"Dice, sensitivity and precision by threshold: {title}", 260)
    slider = ui.slider(min=1, max=255, value=128).props("aria-label='threshold, in steps of 1/255'").classes("px-2")
    values = note("")
    link = ui.link("Show this threshold in Compare", "#") if case != ALL else None

    def move() -> None:
        step = int(slider.value)
        numbers = (f"{name} {_number(getattr(found, name)[step - 1])}" for name in ("dice", "sensitivity", "precision"))
        values.set_text(f"threshold {step}/255 = {step / 255:.3f}: {', '.join(numbers)}")
        if link is not None:
            link.props["href"] = compare_address(case, [id], table.name, step)
            link.update()

    move()
    slider.on_value_change(move)
    if found.mask_step is None:
        note("No threshold gives exactly the mask that was saved: classes exclude each other, or the image was resampled.")
    if said:
        note(said)


def _number(value: float) -> str:
    return f"{value:.4f}" if value == value else "undefined"
