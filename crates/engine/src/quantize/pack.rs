//! Integers as they are stored: in 32-bit words, the first in the lowest bits, each moved up so that none is negative.
//!
//! Mirrors `compressed_tensors/compressors/pack_quantized/helpers.py::pack_to_int32`. Words are little-endian and the
//! widths divide a byte, so the words are these bytes in order.

use super::Bits;

/// Packs `integers` into `out`, which has as many bytes as they take.
pub(super) fn pack(bits: Bits, integers: &[i8], out: &mut [u8]) {
    match bits {
        Bits::Eight => {
            for (byte, q) in out.iter_mut().zip(integers) {
                *byte = (*q as u8) ^ 0x80;
            }
        }
        Bits::Four => {
            for (byte, [low, high]) in out.iter_mut().zip(integers.as_chunks::<2>().0) {
                *byte = (*low as u8 & 0xF | (*high as u8) << 4) ^ 0x88;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What compressed-tensors makes of the same integers (`tools/packing_reference.py`).
    #[test]
    fn words_are_those_of_compressed_tensors() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/packing.json");
        let recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let numbers = |row: &serde_json::Value| -> Vec<i64> {
            row.as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect()
        };
        let mut rows = 0;
        for case in recorded["cases"].as_array().unwrap() {
            let bits = if case["bits"] == 4 { Bits::Four } else { Bits::Eight };
            for (integers, words) in case["integers"].as_array().unwrap().iter().zip(case["words"].as_array().unwrap())
            {
                let integers: Vec<i8> = numbers(integers).iter().map(|n| *n as i8).collect();
                let want: Vec<u8> = numbers(words).iter().flat_map(|n| (*n as i32).to_le_bytes()).collect();
                let mut bytes = vec![0; integers.len() * bits.number() as usize / 8];
                pack(bits, &integers, &mut bytes);
                assert_eq!(bytes, want);
                rows += 1;
            }
        }
        assert_eq!(rows, 6);
    }
}
