//! Products of tiles of bf16, by the matrix unit that some CPUs have (AMX).
//!
//! A program has to ask the system for the tiles' registers, once; a thread then says what shapes they have, uses them
//! and gives them up: [`Session`]. The compiler knows nothing of what is in them, so between two calls nothing is.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Rows and columns of a tile of sums, and pairs of a row of weights in a tile.
const TILE: usize = super::TILE;

/// Proof that the CPU has tiles of bf16, and that the system lets this process use them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tiles(());

/// Asks for the tiles, the first time; whether there are any.
pub(super) fn granted() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        const BF16: u32 = 1 << 22;
        const TILES: u32 = 1 << 24;
        // The highest leaf first: beyond it, answers mean nothing.
        let has = __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & (BF16 | TILES) == BF16 | TILES;
        has && ask()
    })
}

/// Asks the system for the tiles' registers, for all threads of the process.
fn ask() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let answer: i64;
    // SAFETY: a system call that touches no memory of ours; a system that does not know it says so.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    answer == 0
}

/// Of two tiles of weights their rows, and of two tiles of x theirs: at most sixteen each, and none for a second one that
/// is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) weights: [usize; 2],
    pub(crate) x: [usize; 2],
}

/// What the CPU is told of its eight tiles: 0 to 3 are sums, 4 and 5 weights, 6 and 7 rows of x.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row, by tile.
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shape {
    /// # Panics
    /// When there are more than sixteen rows of anything, or none of the first.
    fn configuration(self) -> Configuration {
        let Shape { weights, x } = self;
        assert!(weights[0] > 0 && x[0] > 0 && weights.iter().chain(&x).all(|n| *n <= TILE), "rows of tiles");
        let mut all = Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut set = |tile: usize, rows: usize, words: usize| {
            // A tile without rows has no bytes either.
            if rows > 0 && words > 0 {
                (all.rows[tile], all.row_bytes[tile]) = (rows as u8, 4 * words as u16);
            }
        };
        for i in 0..2 {
            set(4 + i, weights[i], TILE);
            set(6 + i, TILE, x[i]);
            for j in 0..2 {
                set(2 * i + j, weights[i], x[j]);
            }
        }
        all
    }
}

/// Four tiles of sums: that of weights `i` and rows `j` of x is `2 i + j`, each `[row of weights, row of x]` in rows of
/// sixteen.
#[repr(align(64))]
pub(crate) struct Sums(pub(crate) [[[f32; TILE]; TILE]; 4]);

/// Bytes that a step of four tiles asks for ahead of time.
pub(crate) const AHEAD: usize = 128;

/// A thread's use of the tiles, from its beginning to its end.
pub(crate) struct Session {
    shape: Option<Shape>,
    /// Of this thread alone.
    thread: PhantomData<*const ()>,
}

impl Tiles {
    /// Only where [`granted`] said yes.
    pub(super) fn new() -> Option<Tiles> {
        granted().then_some(Tiles(()))
    }

    /// Begins to use the tiles.
    pub(crate) fn begin(self) -> Session {
        Session { shape: None, thread: PhantomData }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.shape.is_some() {
            // SAFETY: a session proves the instruction; tiles are this thread's registers, in which nothing is kept.
            unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
        }
    }
}

/// A loop over steps that loads the tiles of a step and multiplies them, between zeroing and storing of its sums.
macro_rules! products {
    ($session:expr, zero [$($zero:literal),*], step [$($step:literal),*], store [$($store:literal),*]) => {{
        let (a, a_stride, b, b_strides, steps, ahead, sums) = $session;
        asm!(
            $($zero,)*
            "2:",
            $($step,)*
            "add {a0}, 64",
            "add {a1}, 64",
            "add {b0}, {step0}",
            "add {b1}, {step1}",
            "add {ahead}, 128",
            "dec {steps}",
            "jnz 2b",
            // From row to row of the sums.
            "mov {steps}, 64",
            $($store,)*
            a0 = inout(reg) a[0] => _,
            a1 = inout(reg) a[1] => _,
            b0 = inout(reg) b[0] => _,
            b1 = inout(reg) b[1] => _,
            steps = inout(reg) steps => _,
            a_stride = in(reg) a_stride,
            stride0 = in(reg) b_strides[0],
            stride1 = in(reg) b_strides[1],
            step0 = in(reg) b_strides[0] * TILE,
            step1 = in(reg) b_strides[1] * TILE,
            ahead = inout(reg) ahead => _,
            sums = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }};
}

impl Session {
    /// The sums of the products of one or two tiles of weights and one or two of x, over `steps` steps of 32 elements.
    ///
    /// A row of weights is bf16 in order, and rows lie `stride` bytes apart. The rows of x of a tile are stored together,
    /// step after step, of each step sixteen pairs, of each pair row after row. `ahead` may be any address: from there on, a product of
    /// four tiles asks for [`AHEAD`] bytes for each step, which are needed soon.
    ///
    /// # Safety
    /// `weights[i]` is valid for reading the `shape.weights[i]` rows, and `x[i]` for reading the `shape.x[i]`, as
    /// far as there are any, of `steps` steps each.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "pointers and strides of two operands")]
    pub(crate) unsafe fn multiply(
        &mut self,
        shape: Shape,
        weights: [*const u8; 2],
        stride: usize,
        x: [*const u8; 2],
        steps: usize,
        ahead: *const u8,
        sums: &mut Sums,
    ) {
        if steps == 0 {
            sums.0 = [[[0.0; TILE]; TILE]; 4];
            return;
        }
        if self.shape != Some(shape) {
            let configuration = shape.configuration();
            // SAFETY: a session proves the instruction; 64 bytes that tell of tiles as every such CPU has them.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly, preserves_flags));
            };
            self.shape = Some(shape);
        }
        let strides = [4 * shape.x[0], 4 * shape.x[1]];
        let all = (weights, stride, x, strides, steps, ahead, sums.0.as_mut_ptr());
        // SAFETY: a session proves the instructions, and the tiles have `shape`. Loads read what the caller vouches for;
        // pointers beside it are counted up and not used. Each store writes at most sixteen rows of 64 bytes within one of
        // the four tiles of sums.
        unsafe {
            match (shape.weights[1] > 0, shape.x[1] > 0) {
                (true, true) => products!(
                    all,
                    zero ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
                    step [
                        "tileloadd tmm4, [{a0} + {a_stride}]",
                        "tileloadd tmm6, [{b0} + {stride0}]",
                        "tileloadd tmm7, [{b1} + {stride1}]",
                        "prefetcht1 [{ahead}]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tileloadd tmm5, [{a1} + {a_stride}]",
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        "prefetcht1 [{ahead} + 64]",
                        "tdpbf16ps tmm2, tmm5, tmm6",
                        "tdpbf16ps tmm3, tmm5, tmm7"
                    ],
                    store [
                        "tilestored [{sums} + {steps}], tmm0",
                        "tilestored [{sums} + {steps} + 1024], tmm1",
                        "tilestored [{sums} + {steps} + 2048], tmm2",
                        "tilestored [{sums} + {steps} + 3072], tmm3"
                    ]
                ),
                (true, false) => products!(
                    all,
                    zero ["tilezero tmm0", "tilezero tmm2"],
                    step [
                        "tileloadd tmm4, [{a0} + {a_stride}]",
                        "tileloadd tmm6, [{b0} + {stride0}]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tileloadd tmm5, [{a1} + {a_stride}]",
                        "tdpbf16ps tmm2, tmm5, tmm6"
                    ],
                    store [
                        "tilestored [{sums} + {steps}], tmm0",
                        "tilestored [{sums} + {steps} + 2048], tmm2",
                        "/* {stride1} */"
                    ]
                ),
                (false, true) => products!(
                    all,
                    zero ["tilezero tmm0", "tilezero tmm1"],
                    step [
                        "tileloadd tmm4, [{a0} + {a_stride}]",
                        "tileloadd tmm6, [{b0} + {stride0}]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tileloadd tmm7, [{b1} + {stride1}]",
                        "tdpbf16ps tmm1, tmm4, tmm7"
                    ],
                    store ["tilestored [{sums} + {steps}], tmm0", "tilestored [{sums} + {steps} + 1024], tmm1"]
                ),
                (false, false) => products!(
                    all,
                    zero ["tilezero tmm0"],
                    step [
                        "tileloadd tmm4, [{a0} + {a_stride}]",
                        "tileloadd tmm6, [{b0} + {stride0}]",
                        "tdpbf16ps tmm0, tmm4, tmm6"
                    ],
                    store ["tilestored [{sums} + {steps}], tmm0", "/* {stride1} */"]
                ),
            }
        }
    }
}
