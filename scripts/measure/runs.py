"""Create runs in this process, as the command line does."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from pipeline.engine.choices import conf_folder
from pipeline.engine.config import skeleton
from pipeline.engine.overrides import prepare_overrides
from pipeline.engine.run import Run

SHARED = Path("../shared/data")
MOBILENET = (
    "model=mobilenet_v2",
    f"model.weights={SHARED}/weights/mobilenet_v2_imagenet.pth",
)
CUB = ("data=cub", f"data.root={SHARED}/cub30", *MOBILENET)
IMAGENETTE = ("data=folder", f"data.root={SHARED}/imagenette", *MOBILENET)


def compose(experiment: str, *overrides: str) -> Run:
    """Return the Run of `+experiment=<experiment> <overrides>`.

    Raises:
        FileNotFoundError: An override names ../shared/data, which is not on this machine.
    """
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig

    if any(str(SHARED) in override for override in overrides) and not SHARED.is_dir():
        raise FileNotFoundError(2, "no such folder", str(SHARED))
    ConfigStore.instance().store(name="skeleton", node=skeleton())
    with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        arguments = prepare_overrides([f"+experiment={experiment}", *overrides])
        config = hydra.compose("config", arguments, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        chosen = {str(k): str(v) for k, v in config.hydra.runtime.choices.items()}
        OmegaConf.set_struct(config, False)
        del config["hydra"]
        plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return Run.of({str(key): value for key, value in plain.items()}, chosen)
