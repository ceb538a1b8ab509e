"""Records how compressed-tensors packs integers: testdata/packing.json.

    python tools/packing_reference.py

For each number of bits: rows of integers, the 32-bit words that
`pack_to_int32` makes of them (as signed integers, as they are stored), and the
scale that `calculate_qparams` takes for a group of which the largest magnitude
is 1, in each element type.
"""

import compressed_tensors
import torch
from compressed_tensors.compressors.pack_quantized import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams

import checkpoints
from reference import TESTDATA


def main():
    cases = []
    for bits in (4, 8):
        generator = torch.Generator().manual_seed(bits)
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
        integers = torch.randint(low, high, (3, 32), generator=generator, dtype=torch.int8)
        integers[0, :8] = torch.tensor([low, high - 1, 0, -1, 1, low, high - 1, 0])
        args = QuantizationArgs(num_bits=bits, type="int", symmetric=True, strategy="group", group_size=32)
        scales = {}
        for name, dtype in checkpoints.DTYPES.items():
            scale, _ = calculate_qparams(torch.tensor([-0.5], dtype=dtype), torch.tensor([1.0], dtype=dtype), args)
            scales[name] = float(scale)
        words = pack_to_int32(integers, bits)
        cases.append({"bits": bits, "integers": integers.tolist(), "words": words.tolist(), "scale_of_one": scales})
    checkpoints.write_json(
        TESTDATA / "packing.json", {"compressed_tensors": compressed_tensors.__version__, "cases": cases}
    )


if __name__ == "__main__":
    main()
