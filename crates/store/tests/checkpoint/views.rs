//! Parts of tensors as tensors: rows of fused projections, one expert of many.

use rheostat_store::{Checkpoint, TensorInfo};

use crate::files::{entry, raw};

/// A checkpoint of one tensor `[3, 4, 5]` in F32, whose elements count from 0, between two others.
fn fused() -> Checkpoint {
    let header = [
        entry("before", "F32", "[7]", 0, 28),
        entry("fused", "F32", "[3,4,5]", 28, 268),
        entry("after", "I32", "[1]", 268, 272),
    ];
    let header = format!("{{{}}}", header.join(","));
    let mut bytes = raw(header.len() as u64, header.as_bytes(), 28);
    bytes.extend((0..60u8).flat_map(|i| f32::from(i).to_le_bytes()));
    bytes.extend([0; 4]);
    Checkpoint::from_static("fused", bytes.leak()).unwrap()
}

/// The elements as numbers.
fn numbers(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Vec<usize> {
    checkpoint.read_tensor_f32(tensor).unwrap().iter().map(|v| *v as usize).collect()
}

#[test]
fn rows_are_those_of_the_tensor() {
    let checkpoint = fused();
    let fused = checkpoint.tensor("fused").unwrap();
    let view = fused.rows(1, 2).unwrap();
    assert_eq!((view.shape(), view.name(), view.dtype()), (&[2, 4, 5][..], "fused", fused.dtype()));
    assert_eq!((view.offset(), view.byte_len()), (fused.offset() + 80, 160));
    assert_eq!(numbers(&checkpoint, &view), (20..60).collect::<Vec<_>>());
    assert_eq!(fused.rows(0, 3).as_ref(), Some(fused), "all of them");
    // What is beyond the end of a view is beyond its end, even where the tensor goes on.
    let first = fused.rows(0, 1).unwrap();
    assert!(first.rows(1, 1).is_none());
    assert!(checkpoint.read_range(&first, 80, &mut [0]).is_err());
}

#[test]
fn an_entry_is_one_expert_and_its_rows_are_rows_of_it() {
    let checkpoint = fused();
    let fused = checkpoint.tensor("fused").unwrap();
    let expert = fused.entry(2).unwrap();
    assert_eq!(expert.shape(), [4, 5]);
    assert_eq!(numbers(&checkpoint, &expert), (40..60).collect::<Vec<_>>());
    let up = expert.rows(2, 2).unwrap();
    assert_eq!(up.shape(), [2, 5]);
    assert_eq!(numbers(&checkpoint, &up), (50..60).collect::<Vec<_>>());
    let element = up.entry(1).unwrap().entry(4).unwrap();
    assert_eq!((element.shape(), numbers(&checkpoint, &element)), (&[][..], vec![59]));
    assert!(element.entry(0).is_none() && element.rows(0, 1).is_none(), "a scalar has no rows");
}

#[test]
fn flattened_has_the_same_bytes() {
    let checkpoint = fused();
    let fused = checkpoint.tensor("fused").unwrap();
    let flat = fused.flattened().unwrap();
    assert_eq!((flat.shape(), flat.offset(), flat.byte_len()), (&[12, 5][..], fused.offset(), 240));
    assert_eq!(numbers(&checkpoint, &flat.rows(4, 4).unwrap()), numbers(&checkpoint, &fused.entry(1).unwrap()));
    assert_eq!(flat.flattened().unwrap().shape(), [60]);
    assert!(checkpoint.tensor("before").unwrap().flattened().is_none());
}

#[test]
fn what_is_not_there_is_nothing() {
    let checkpoint = fused();
    let fused = checkpoint.tensor("fused").unwrap();
    for (first, count) in [(0, 0), (0, 4), (3, 1), (2, 2), (usize::MAX, 1), (1, usize::MAX)] {
        assert!(fused.rows(first, count).is_none(), "{first}, {count}");
    }
    assert!(fused.entry(3).is_none() && fused.entry(usize::MAX).is_none());
}
