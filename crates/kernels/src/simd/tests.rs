//! Sums of bytes, on every instruction set.

use super::*;

/// The sums of [`Simd::add_bytes`], or [`Simd::add_small_bytes`], for each lane.
struct AddBytes<'a> {
    a: &'a [u8; 64],
    b: &'a [u8; 64],
    start: i32,
    small: bool,
}

impl Op for AddBytes<'_> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; LANES] {
        let mut sums = [0.0; LANES];
        // SAFETY: arrays of 64 bytes.
        unsafe {
            let (a, b) = (s.load_bytes(self.a.as_ptr()), s.load_bytes(self.b.as_ptr()));
            let start = s.load_ints([self.start; LANES].as_ptr().cast());
            let v = if self.small { s.add_small_bytes(a, b, start) } else { s.add_bytes(a, b, start) };
            s.store(sums.as_mut_ptr(), s.ints_to_f32(v));
        }
        sums
    }
}

/// Every pair of bytes beside neighbours at the ends of their ranges, where 16 bits would overflow.
#[test]
fn sums_of_bytes_are_exact() {
    let ends = [(255u8, -128i8), (255, 127), (128, -128), (127, -128), (127, 127), (15, -127), (0, 0)];
    for isa in Isa::available() {
        for (ua, sb) in ends {
            for first in 0..=255u8 {
                for base in (0..=255u8).step_by(16) {
                    let mut a = [ua; 64];
                    let mut b = [sb; 64];
                    for lane in 0..LANES {
                        a[4 * lane + lane % 4] = first;
                        b[4 * lane + lane % 4] = (base + lane as u8).cast_signed();
                    }
                    let small = a.iter().all(|a| *a < 128);
                    let sum = |lane: usize| {
                        let products = (4 * lane..4 * lane + 4).map(|i| i32::from(a[i]) * i32::from(b[i]));
                        (7 + products.sum::<i32>()) as f32
                    };
                    let expected: [f32; LANES] = std::array::from_fn(sum);
                    let bytes = b.map(i8::cast_unsigned);
                    for small in [false, small] {
                        let found = isa.run(AddBytes { a: &a, b: &bytes, start: 7, small });
                        assert_eq!(found, expected, "{}: {first} beside {ua}, {base} beside {sb}", isa.name());
                    }
                }
            }
        }
    }
}
