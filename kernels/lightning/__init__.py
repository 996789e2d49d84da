from lightning_cispo.kernels.lightning.attention import lightning_attention, lightning_decode
from lightning_cispo.kernels.lightning.reference import (
    lightning_decode_reference,
    lightning_recurrent,
    lightning_reference,
)

__all__ = [
    "lightning_attention",
    "lightning_decode",
    "lightning_decode_reference",
    "lightning_recurrent",
    "lightning_reference",
]
