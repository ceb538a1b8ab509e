//! Sums of bytes, on every instruction set.

use super::*;

/// The sums of [`Simd::add_factors`], or eight times [`Simd::add_small_bytes`], for each lane.
struct AddBytes<'a> {
    a: &'a [u8; 64],
    b: &'a [u8; 64],
    small: bool,
}

impl Op for AddBytes<'_> {
    type Output = [f32; LANES];
    const NARROW: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; LANES] {
        let mut sums = [0.0; LANES];
        // SAFETY: arrays of 64 bytes.
        let v = unsafe {
            let b = s.load_bytes(self.b.as_ptr());
            if self.small {
                let a = s.load_bytes(self.a.as_ptr());
                let small = (0..8).fold(s.no_small_sums(), |sums, _| s.add_small_bytes(a, b, sums));
                s.finish_small_sums(small, 7)
            } else {
                let a = s.load_factors(self.a.as_ptr());
                // All lanes have the same sum of `b`, so that they begin alike.
                let of_b: i32 = self.b[..4].iter().map(|b| i32::from(b.cast_signed())).sum();
                s.add_factors(a, b, s.start_sums(-128 * of_b))
            }
        };
        // SAFETY: sixteen elements.
        unsafe { s.store(sums.as_mut_ptr(), s.ints_to_f32(v)) };
        sums
    }
}

/// Every pair of bytes beside neighbours at the ends of their ranges, where 16 bits would overflow.
#[test]
fn sums_of_bytes_are_exact() {
    let ends = [(255u8, -127i8), (255, 127), (128, -127), (127, -127), (127, 127), (15, -127), (15, 127), (0, 0)];
    for isa in Isa::available() {
        for (ua, sb) in ends {
            for first in 0..=255u8 {
                for second in -127..=127i8 {
                    let (mut a, mut b) = ([ua; 64], [sb; 64]);
                    for lane in 0..LANES {
                        a[4 * lane + lane % 4] = first;
                        b[4 * lane + second.unsigned_abs() as usize % 4] = second;
                    }
                    let bytes = b.map(i8::cast_unsigned);
                    let sum = |lane: usize, less: i32| -> i32 {
                        (4 * lane..4 * lane + 4).map(|i| (i32::from(a[i]) - less) * i32::from(b[i])).sum()
                    };
                    let context = || format!("{}: {first} beside {ua}, {second} beside {sb}", isa.name());
                    let found = isa.run(AddBytes { a: &a, b: &bytes, small: false });
                    assert_eq!(found, std::array::from_fn(|lane| sum(lane, 128) as f32), "{}", context());
                    if a.iter().all(|a| *a < 16) {
                        let found = isa.run(AddBytes { a: &a, b: &bytes, small: true });
                        assert_eq!(found, std::array::from_fn(|lane| (8 * sum(lane, 0) + 7) as f32), "{}", context());
                    }
                }
            }
        }
    }
}
