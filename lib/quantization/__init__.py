"""Weight quantization: RTN, AWQ, GPTQ and NF4, training through the rounding, and quantized models as folders.

A *quantizer* is a callable w (out, in) -> w_hat of the same shape, e.g. functools.partial(rtn.fake_quant, bits=4,
group=64, symmetric=False). Every apply_* changes the model in place: deep-copy it first to keep the original.
"""

from lib.quantization import awq, gptq, nf4, rtn
from lib.quantization.awq import apply_awq
from lib.quantization.blocks import block_linears, check_model
from lib.quantization.export import save_quantized
from lib.quantization.format import Quantized, check_format
from lib.quantization.gptq import apply_gptq
from lib.quantization.nf4 import apply_nf4
from lib.quantization.rtn import apply_rtn
from lib.quantization.ste import codes_changed, straight_through

__all__ = [
    "Quantized",
    "apply_awq",
    "apply_gptq",
    "apply_nf4",
    "apply_rtn",
    "awq",
    "block_linears",
    "check_format",
    "check_model",
    "codes_changed",
    "gptq",
    "nf4",
    "rtn",
    "save_quantized",
    "straight_through",
]
