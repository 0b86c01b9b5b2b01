"""The launcher of a grid: ``hydra/launcher=calf_grid`` runs every job of a multirun as its own process in a Ray slot.

Hydra imports every module here whose name does not begin with an underscore each time a program starts, so those two (`launcher`,
`experiments`) import nothing but Hydra; the rest is imported when a grid is launched.
"""
