"""Whether a device computes, and which CUDA devices there are. Run as a program it prints the latter as JSON."""

import json

import torch

from clip_pipeline.core.errors import ConfigurationError, EncoderUnavailableError
from clip_pipeline.embedding.device import resolve_device

_SIDE = 256


def check_device(setting: str) -> str:
    """The device that a setting stands for, by name, after having computed with it.

    Raises:
        ConfigurationError: it is not there.
        EncoderUnavailableError: it is there and does not compute.
    """
    device = resolve_device(setting)
    if setting.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError("CUDA was asked for and this torch sees none; install a CUDA build and the driver")
    try:
        ones = torch.ones(_SIDE, _SIDE, device=device)
        found = float((ones @ ones)[0, 0].item())
    except RuntimeError as error:
        raise EncoderUnavailableError(
            f"{device} is there but does not compute: {error}; look at `nvidia-smi`, at other processes on it, and at "
            "whether the driver is new enough for this torch"
        ) from error
    if found != _SIDE:
        raise EncoderUnavailableError(f"{device} computes wrong: {found} instead of {_SIDE}; take it out of service")
    return (
        f"{device}, {torch.cuda.get_device_name(device)}"
        if device.type == "cuda"
        else f"cpu, torch {torch.__version__}"
    )


def cuda_devices() -> list[str]:
    """The names of the CUDA devices that this process sees, in their order."""
    return [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]


if __name__ == "__main__":
    print(json.dumps(cuda_devices()))  # noqa: T201  for the process that started this one
