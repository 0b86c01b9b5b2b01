"""The explorer, ``calf ui RUNS_DIR``: the runs below a folder, looked at in the browser. Needs the extra ``ui``, and no torch.

* :mod:`calf.ui.library`: which runs there are, their state (:mod:`calf.ui.runs`) and their case rows;
* :mod:`calf.ui.volumes`: a case's images, truth, predictions and probabilities, on one grid; what it is made of lies in
  :mod:`calf.ui.files` (where they lie), :mod:`calf.ui.regions` (masks), :mod:`calf.ui.scan` (images), :mod:`calf.ui.cache`;
* :mod:`calf.ui.measures`: numbers of slices, where runs disagree, sweeps of the threshold;
* :mod:`calf.ui.render`: slices as pictures;
* :mod:`calf.ui.server`: all of this by HTTP, JSON and images;
* :mod:`calf.ui.safety`: who is answered;
* :mod:`calf.ui.app`: the server with its pages; :mod:`calf.ui.pages` says what a page is.

Runs and cases are known to a browser by ids, which are looked up in the library. No path comes from a browser.
"""
