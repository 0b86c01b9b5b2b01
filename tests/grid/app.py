"""A tiny application with its own planner: a training run of a few milliseconds that can be told to go wrong."""

import hashlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


def runs() -> Path:
    return Path(os.environ["TINY_RUNS"])


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class TinyPlan:
    folder: Path
    finished: bool
    value: float | None
    names: dict[str, str]
    seed: int
    fold: int | None = None

    def announce(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text("names: " + json.dumps(self.names))


def plan(cfg: DictConfig) -> TinyPlan:
    if cfg.loss.name == "refused":
        raise ValueError("loss refused: expected another one")
    digest = hashlib.sha256(OmegaConf.to_yaml(cfg, resolve=True).encode()).hexdigest()[:6]
    folder = runs() / cfg.grid / cfg.dataset.name / cfg.model.name / cfg.loss.name / f"seed-{cfg.seed}-{digest}"
    result = folder / "result.json"
    value = json.loads(result.read_text())["value"] if result.exists() else None
    return TinyPlan(
        folder, result.exists(), value, {"dataset": cfg.dataset.name, "model": cfg.model.name, "loss": cfg.loss.name}, cfg.seed
    )


def prepare(cfg: DictConfig) -> None:
    if cfg.dataset.name == "spheres":
        raise ValueError("spheres are not at hand")
    with (runs() / "prepared.txt").open("a") as file:
        file.write(f"{cfg.dataset.name} {cfg.dataset.patients}\n")


def go_wrong(how: str, folder: Path) -> None:
    if how == "killed":
        print("about to be killed")
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "broken":
        print("before the error")
        raise RuntimeError("the loss is not finite")
    if how == "worker_killed":
        os.kill(json.loads((folder / "status.json").read_text())["worker"], signal.SIGKILL)
        signal.pause()
    if how == "endless":
        # the reader of the FIFO sees its end when nobody who holds it is alive; a child in the same session holds it too
        fifo = os.open(os.environ["TINY_FIFO"], os.O_WRONLY)
        if os.fork() > 0:
            os.write(fifo, b"started\n")
        while True:
            signal.pause()


@hydra.main(version_base="1.3", config_path="conf", config_name="app")
def main(cfg: DictConfig) -> float:
    folder = plan(cfg).folder
    folder.mkdir(parents=True, exist_ok=True)
    attempts = len(list(folder.glob("seen-*.json")))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    seen = {"argv": sys.argv[1:], "cwd": os.getcwd(), "mode": HydraConfig.get().mode.name} | {
        name: os.environ.get(name) for name in names
    }
    seen["nice"] = os.nice(0)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    seen["deaf"] = [one.name for one in STOP_SIGNALS if one in blocked or signal.getsignal(one) == signal.SIG_IGN]
    (folder / f"seen-{attempts}.json").write_text(json.dumps(seen | {"config": OmegaConf.to_container(cfg, resolve=True)}))
    if attempts < cfg.wrong_attempts:
        go_wrong(cfg.loss.name, folder)
    (folder / "result.json").write_text(json.dumps({"value": cfg.loss.value + cfg.seed}))
    return float(cfg.loss.value + cfg.seed)


if __name__ == "__main__":
    main()
