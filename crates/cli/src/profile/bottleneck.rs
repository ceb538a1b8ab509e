//! What a run spent most of its time on, and what would help: rules from figures to a plain sentence.

use rheostat::profile::{Account, Op, Phase};
use rheostat::{Compute, KvFormat, Limits, Rates};

use super::table::percent;

/// What is known about the sweeps of a phase.
pub(super) struct Figures {
    pub(super) account: Account,
    pub(super) limits: Option<Limits>,
    /// Those of the limits that the mode of computing meets.
    pub(super) rates: Option<Rates>,
    /// Bytes of weights that products went through, and operations of all products.
    pub(super) bytes: f64,
    pub(super) operations: f64,
    pub(super) compute: Compute,
    pub(super) kv: KvFormat,
    /// Whether there are packed weights.
    pub(super) packed: bool,
    pub(super) threads: usize,
    pub(super) cores: usize,
}

/// What took most of the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// Weights came to stay.
    FirstRead,
    /// Weights were read that do not stay.
    Disk,
    /// Keys and values were read that are on disk.
    Cache,
    /// Products went as fast as memory gave them weights.
    Memory,
    /// Products took their multiply-adds.
    Arithmetic,
    /// Products came near neither to what memory can do nor to what the CPU can.
    HeldUp,
    /// Attention.
    Attention,
    /// The choice of tokens.
    Sampling,
    /// Guesses of tokens.
    Guessing,
    /// Everything that is small by itself.
    Rest,
}

impl Cause {
    pub(super) fn name(self) -> &'static str {
        match self {
            Cause::FirstRead => "first_read",
            Cause::Disk => "disk",
            Cause::Cache => "cache",
            Cause::Memory => "memory",
            Cause::Arithmetic => "arithmetic",
            Cause::HeldUp => "held_up",
            Cause::Attention => "attention",
            Cause::Sampling => "sampling",
            Cause::Guessing => "guessing",
            Cause::Rest => "rest",
        }
    }
}

/// What is to be said.
pub(super) struct Verdict {
    pub(super) cause: Cause,
    pub(super) sentence: String,
}

/// A disk that gives less than this share of its best is held up by something else.
const HELD_UP: f64 = 0.8;
/// A rate above this share of the limit says that the limit was measured at a bad time.
const FASTER: f64 = 1.03;
/// Products that reach less than this share of both limits are bound by neither.
const FAR: f64 = 0.35;
/// Another mode of computing is worth a try from this gain on.
const WORTH_IT: f64 = 1.3;

impl Figures {
    /// What took most of the time, and the seconds that it took.
    fn cause(&self) -> (Cause, f64) {
        let a = &self.account;
        let of = |pick: fn(Op) -> bool| a.time_of(pick).as_secs_f64();
        let waits = if a.cache > a.reads.streamed + a.reads.pinned {
            Cause::Cache
        } else if a.reads.pinned > a.reads.streamed {
            Cause::FirstRead
        } else {
            Cause::Disk
        };
        let products = match (self.memory_share(), self.arithmetic_share()) {
            (Some(memory), Some(arithmetic)) if memory.max(arithmetic) < FAR => Cause::HeldUp,
            (Some(memory), Some(arithmetic)) if memory < arithmetic => Cause::Arithmetic,
            (Some(_), _) => Cause::Memory,
            (None, _) => Cause::Arithmetic,
        };
        let small = |op: Op| !(op.is_product() || op.is_between() || op == Op::Head || op == Op::Attention);
        let candidates = [
            (waits, a.waiting.as_secs_f64()),
            (products, self.product_seconds()),
            (Cause::Attention, of(|op| op == Op::Attention)),
            (Cause::Sampling, of(|op| op == Op::Sampling)),
            (Cause::Guessing, of(|op| op == Op::Guessing)),
            (Cause::Rest, a.time_of(small).as_secs_f64() + a.other().as_secs_f64()),
        ];
        candidates.into_iter().fold((Cause::Rest, -1.0), |most, one| if one.1 > most.1 { one } else { most })
    }

    fn product_seconds(&self) -> f64 {
        self.account.time_of(|op| op.is_product() || op == Op::Head).as_secs_f64()
    }

    /// How near products came to what memory can do.
    fn memory_share(&self) -> Option<f64> {
        let limit = self.limits?.read_bytes_per_second?;
        let seconds = self.product_seconds();
        (seconds > 0.0).then(|| self.bytes / seconds / limit)
    }

    /// How near products came to what arithmetic can do.
    fn arithmetic_share(&self) -> Option<f64> {
        let limit = self.rates?.operations_per_second;
        let seconds = self.product_seconds();
        (seconds > 0.0 && limit > 0.0).then(|| self.operations / seconds / limit)
    }

    /// Bytes per second while something was read, and their share of what the disk can do.
    fn disk(&self) -> (f64, Option<f64>) {
        let reads = &self.account.reads;
        let rate = (reads.streamed + reads.pinned) as f64 / reads.reading.as_secs_f64().max(1e-9);
        let limit = self.limits.and_then(|limits| limits.disk_bytes_per_second);
        (rate, limit.map(|limit| rate / limit))
    }

    pub(super) fn verdict(&self, phase: Phase) -> Verdict {
        let (cause, seconds) = self.cause();
        let share = percent(seconds / self.account.time.as_secs_f64().max(1e-9));
        let (what, help) = self.words(cause, phase);
        Verdict { cause, sentence: format!("{what} takes {share} of the time{help}.") }
    }

    /// What took the time, and how well it went and what would help.
    fn words(&self, cause: Cause, phase: Phase) -> (&'static str, String) {
        let at = |share: Option<f64>, of: &str| {
            share.map_or(String::new(), |share| format!(", at {} of what {of} can do", percent(share.min(1.0))))
        };
        match cause {
            Cause::FirstRead => (
                "Reading the weights that stay in memory",
                "; that happens once, and later sweeps find them there".to_owned(),
            ),
            Cause::Disk => {
                let (rate, share) = self.disk();
                let held_up = share.is_some_and(|share| share < HELD_UP);
                let help = if held_up {
                    "; something else holds the disk up: another program that reads from it, or the way of --io"
                } else {
                    "; more --memory keeps more of them, and a batch or speculation carry more tokens with each sweep"
                };
                let beside = match share {
                    None => String::new(),
                    Some(share) if share > FASTER => ", more than the disk did when it was measured".to_owned(),
                    Some(share) => format!(", {} of what the disk can do", percent(share)),
                };
                ("Waiting for weights from disk", format!(", at {:.2} GB/s{beside}{help}", rate * 1e-9))
            }
            Cause::Cache => (
                "Waiting for keys and values from disk",
                "; --kv-cache bf16 halves them, and a context that fits into memory needs no --kv-disk".to_owned(),
            ),
            Cause::Memory => {
                let mode = if self.packed && self.compute != Compute::Int8 {
                    "--compute int8"
                } else {
                    "weights of fewer bits (rheostat quantize)"
                };
                let help = match phase {
                    Phase::Decode => format!(
                        "; {mode} would help, or a batch or speculation, which carry more tokens with each sweep"
                    ),
                    Phase::Prefill => format!("; {mode} would help, or more tokens in each sweep"),
                };
                ("Reading weights from memory for matrix products", at(self.memory_share(), "memory") + &help)
            }
            Cause::Arithmetic => {
                ("The arithmetic of matrix products", at(self.arithmetic_share(), "the CPU") + &self.faster())
            }
            Cause::HeldUp => {
                let shares = [self.memory_share(), self.arithmetic_share()].map(|s| percent(s.unwrap_or(0.0)));
                let [memory, cpu] = shares;
                let help = "; other programs take the processor, or the model is too small for so many threads";
                (
                    "The work of matrix products",
                    format!(", at {memory} of what memory and {cpu} of what the CPU can do{help}"),
                )
            }
            Cause::Attention => {
                let help = match self.kv {
                    KvFormat::F32 => "; --kv-cache bf16 halves what it reads",
                    KvFormat::Bf16 => "; only a shorter context or more threads would help",
                };
                ("Attention over the context", help.to_owned())
            }
            Cause::Sampling => (
                "Choosing tokens",
                "; taking the likeliest token (no --temperature, --top-p or --repetition-penalty) is faster".to_owned(),
            ),
            Cause::Guessing => {
                ("Guessing tokens ahead", "; a smaller draft model or --speculate lookup is faster".to_owned())
            }
            Cause::Rest => {
                let help = if self.threads > 1 {
                    "; so small a model may be faster with fewer --threads, or with more tokens in each sweep"
                } else {
                    "; more tokens in each sweep would help"
                };
                ("What is small by itself, and what is between passes,", help.to_owned())
            }
        }
    }

    /// What makes products faster.
    fn faster(&self) -> String {
        let gain = |rate: fn(&Limits) -> f64| self.limits.map_or(1.0, |l| rate(&l) / l.f32_flops.max(1.0));
        let (bf16, amx) = (gain(|l| l.bf16_flops), gain(|l| l.amx_flops));
        let mut ways = Vec::new();
        if self.packed && self.compute == Compute::F32 {
            ways.push("--compute int8".to_owned());
        }
        if self.threads < self.cores {
            ways.push(format!("more --threads (there are {} cores)", self.cores));
        }
        if self.compute != Compute::Amx && amx >= WORTH_IT && amx > bf16 {
            ways.push("--compute amx".to_owned());
        } else if self.compute == Compute::F32 && bf16 >= WORTH_IT {
            ways.push("--compute bf16".to_owned());
        }
        match ways.is_empty() {
            true => "; only a faster CPU would help".to_owned(),
            false => format!("; {} would help", ways.join(" or ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rheostat::profile::Spent;
    use std::time::Duration;

    /// A run of 10 s.
    fn figures(waiting: f64, ops: &[(Op, f64)]) -> Figures {
        let limits = Limits {
            disk_bytes_per_second: Some(3e9),
            read_bytes_per_second: Some(40e9),
            f32_flops: 200e9,
            bf16_flops: 400e9,
            amx_flops: 10e9,
            int8_ops: 800e9,
        };
        let seconds = Duration::from_secs_f64;
        let mut account = Account::default();
        (account.sweeps, account.heads, account.rows) = (10, 10, 10);
        (account.time, account.waiting) = (seconds(10.0), seconds(waiting));
        for (op, time) in ops {
            account.spend(*op, Spent { time: seconds(*time), count: 10 });
        }
        Figures {
            account,
            limits: Some(limits),
            rates: Some(Rates::of(&limits, Compute::F32)),
            bytes: 0.0,
            operations: 0.0,
            compute: Compute::F32,
            kv: KvFormat::F32,
            packed: false,
            threads: 2,
            cores: 8,
        }
    }

    #[track_caller]
    fn check(figures: &Figures, phase: Phase, cause: Cause, told: &[&str]) {
        let verdict = figures.verdict(phase);
        assert_eq!(verdict.cause, cause, "{}", verdict.sentence);
        for told in told {
            assert!(verdict.sentence.contains(told), "{told:?} in {:?}", verdict.sentence);
        }
        assert!(verdict.sentence.ends_with('.') && !verdict.sentence.contains("  "), "{:?}", verdict.sentence);
    }

    #[test]
    fn the_largest_part_is_the_bottleneck() {
        let mut disk = figures(9.3, &[(Op::Qkv, 0.5)]);
        disk.account.reads.streamed = 29_000_000_000;
        disk.account.reads.reading = Duration::from_secs(10);
        check(&disk, Phase::Decode, Cause::Disk, &["93 %", "2.90 GB/s", "97 % of what the disk", "--memory", "batch"]);
        disk.account.reads.streamed = 15_000_000_000;
        check(&disk, Phase::Decode, Cause::Disk, &["50 % of what the disk", "holds the disk up", "--io"]);
        disk.account.reads.streamed = 60_000_000_000;
        check(&disk, Phase::Decode, Cause::Disk, &["6.00 GB/s, more than the disk did when it was measured; more"]);
        disk.account.reads.streamed = 15_000_000_000;
        disk.limits = None;
        check(&disk, Phase::Decode, Cause::Disk, &["1.50 GB/s; more --memory"]);
        disk.account.reads.pinned = 16_000_000_000;
        check(&disk, Phase::Prefill, Cause::FirstRead, &["93 %", "once"]);

        let mut products = figures(1.0, &[(Op::GateUp, 5.0), (Op::Head, 3.0)]);
        (products.bytes, products.operations) = (0.9 * 8.0 * 40e9, 0.2 * 8.0 * 200e9);
        check(&products, Phase::Decode, Cause::Memory, &["80 %", "90 % of what memory", "quantize", "speculation"]);
        (products.bytes, products.operations) = (0.2 * 8.0 * 40e9, 0.1 * 8.0 * 200e9);
        check(&products, Phase::Decode, Cause::HeldUp, &["80 %", "20 % of what memory and 10 % of what the CPU"]);
        (products.bytes, products.operations) = (0.9 * 8.0 * 40e9, 0.2 * 8.0 * 200e9);
        products.packed = true;
        check(&products, Phase::Decode, Cause::Memory, &["--compute int8"]);
        (products.bytes, products.operations) = (0.1 * 8.0 * 40e9, 0.72 * 8.0 * 200e9);
        let bf16 = &["72 % of what the CPU", "--compute int8 or more --threads (there are 8 cores) or --compute bf16"];
        check(&products, Phase::Prefill, Cause::Arithmetic, bf16);
        (products.threads, products.compute) = (8, Compute::Bf16);
        check(&products, Phase::Prefill, Cause::Arithmetic, &["only a faster CPU"]);
        products.limits = None;
        products.rates = None;
        check(&products, Phase::Prefill, Cause::Arithmetic, &["takes 80 % of the time; only"]);

        let mut attention = figures(1.0, &[(Op::Attention, 6.0), (Op::Qkv, 2.0)]);
        check(&attention, Phase::Decode, Cause::Attention, &["60 %", "--kv-cache bf16"]);
        attention.kv = KvFormat::Bf16;
        check(&attention, Phase::Decode, Cause::Attention, &["shorter context"]);
        check(&figures(1.0, &[(Op::Sampling, 6.0), (Op::Qkv, 2.0)]), Phase::Decode, Cause::Sampling, &["likeliest"]);
        check(&figures(1.0, &[(Op::Guessing, 6.0), (Op::Qkv, 2.0)]), Phase::Decode, Cause::Guessing, &["lookup"]);
        // Nothing but what is between the passes.
        check(
            &figures(0.0, &[(Op::Norm, 3.0), (Op::Qkv, 3.0)]),
            Phase::Decode,
            Cause::Rest,
            &["70 %", "fewer --threads"],
        );
    }
}
