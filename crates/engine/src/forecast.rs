//! What a pass has to do, and how long it should take on a machine whose rates are known.

use std::time::Duration;

use rheostat_kernels::{Exec, KvFormat, probe};
use rheostat_store::{disk_rate, memory};

use crate::budget::MemoryPlan;
use crate::decoder::{Block, Decoder, KvShape};
use crate::error::Error;
use crate::forward::Compute;
use crate::model::{Limits, Options, isa, threads};
use crate::package::Package;

/// Bytes that are read over and over to measure the memory: far more than caches hold, if there is as much.
const MEMORY_PROBE: u64 = 192 << 20;
/// What the kernels reach of the rate at which memory is read, and of multiply-adds: `benches/README.md` has the figures.
const MEMORY_SHARE: f64 = 0.9;
const ARITHMETIC_SHARE: f64 = 0.75;

impl Decoder {
    /// Operations of a pass of `rows` rows of one sequence that has read `depth` tokens, with logits for `logit_rows`: two for each
    /// multiply-add of matrices and of attention.
    #[must_use]
    pub fn operations(&self, rows: usize, depth: usize, logit_rows: usize) -> f64 {
        let attention = |b: &Block| {
            let seen = depth as f64 + rows as f64 / 2.0;
            let seen = b.kv().and_then(|kv| kv.window).map_or(seen, |w| seen.min(w as f64));
            2.0 * rows as f64 * seen * b.mixer.attention_width() as f64
        };
        let attention: f64 = self.blocks.iter().map(attention).sum();
        self.matrix_operations(rows as f64, logit_rows as f64) + attention
    }

    /// Those of matrices alone.
    #[must_use]
    pub fn matrix_operations(&self, rows: f64, logit_rows: f64) -> f64 {
        let size = |l: &crate::decoder::Linear| (l.in_features * l.out_features) as f64;
        let routed = |b: &Block| {
            b.ffn.experts().map_or(0.0, |e| e.router.top_k as f64 * e.expert.linears().map(size).sum::<f64>())
        };
        let weights: f64 = self.blocks.iter().map(|b| b.linears().map(size).sum::<f64>() + routed(b)).sum();
        let head = (self.vocab_size * self.hidden_size) as f64;
        2.0 * (weights * rows + head * logit_rows)
    }

    /// Routed experts of all blocks, and how many of them a pass of `rows` rows should need, were every choice of a router as likely as any
    /// other. (Routers have their likings: real passes need fewer.)
    #[must_use]
    pub fn routed_experts(&self, rows: f64) -> (f64, f64) {
        let blocks = self.blocks.iter().filter_map(|b| b.ffn.experts());
        blocks.fold((0.0, 0.0), |(all, needed), experts| {
            let count = experts.n_experts as f64;
            let spared = (1.0 - experts.router.top_k as f64 / count).powf(rows);
            (all + count, needed + count * (1.0 - spared))
        })
    }

    /// Bytes of keys and values that one row reads after `depth` tokens.
    #[must_use]
    pub fn cache_bytes(&self, depth: usize, kv: KvFormat) -> f64 {
        let layer = |shape: KvShape| {
            let seen = shape.window.map_or(depth, |w| w.min(depth));
            (kv.bytes() * seen * shape.n_kv_heads * (shape.head_dim + shape.value_dim)) as f64
        };
        self.blocks.iter().filter_map(Block::kv).map(layer).sum()
    }
}

/// How fast a machine is, as far as a forecast needs it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Rates {
    /// Bytes per second from the disk that the checkpoint is on, past the page cache; `None` if unknown.
    pub disk_bytes_per_second: Option<f64>,
    /// Bytes per second from memory, all threads together.
    pub memory_bytes_per_second: f64,
    /// Operations per second in the mode of computing, all threads together.
    pub operations_per_second: f64,
}

impl Rates {
    /// Measures the machine as a model with `options` would use it, but not the disk.
    ///
    /// # Errors
    /// When the system refuses to start a thread.
    pub fn measure(options: &Options, time: Duration) -> Result<Rates, Error> {
        let exec = Exec::new(isa(options), threads(options)).map_err(Error::Threads)?;
        let free = memory::available().unwrap_or(u64::MAX);
        let memory = vec![1u8; MEMORY_PROBE.min(free / 4).max(1 << 20) as usize];
        let operations = match options.compute {
            Compute::F32 => probe::f32_rate(&exec, time / 2),
            Compute::Bf16 => probe::bf16_rate(&exec, time / 2),
            Compute::Amx => probe::tiles_rate(&exec, time / 2),
            Compute::Int8 => probe::int8_rate(&exec, time / 2),
        };
        Ok(Rates {
            disk_bytes_per_second: None,
            memory_bytes_per_second: probe::read_rate(&exec, &[&memory], time / 2),
            operations_per_second: operations,
        })
    }

    /// The rates among `limits`.
    #[must_use]
    pub fn of(limits: &Limits, compute: Compute) -> Rates {
        Rates {
            disk_bytes_per_second: limits.disk_bytes_per_second,
            memory_bytes_per_second: limits.read_bytes_per_second.unwrap_or(f64::INFINITY),
            operations_per_second: match compute {
                Compute::F32 => limits.f32_flops,
                Compute::Bf16 => limits.bf16_flops,
                Compute::Amx => limits.amx_flops,
                Compute::Int8 => limits.int8_ops,
            },
        }
    }
}

/// Measures the disk that `package` is on; nothing where that makes no sense: see [`disk_rate`].
///
/// # Errors
/// When a read fails.
pub fn measure_disk(package: &Package, time: Duration) -> Result<Option<f64>, Error> {
    Ok(disk_rate(package.checkpoint(), time)?)
}

/// How long a pass should take: the longest of what it takes the disk, the memory and the arithmetic, since they work at the same time.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Forecast {
    /// Seconds in all; at the least, when what the disk needs is unknown.
    pub seconds: f64,
    /// Seconds that the disk needs; `None` when it is needed and its rate is unknown. A cache on disk counts as if it were on that of the
    /// weights.
    pub disk_seconds: Option<f64>,
    /// Seconds that reading weights and caches from memory needs.
    pub memory_seconds: f64,
    /// Seconds that the arithmetic needs.
    pub arithmetic_seconds: f64,
}

impl Forecast {
    /// A pass in which each of `sequences` sequences reads `rows` tokens after `depth` others and gets logits for the last.
    #[must_use]
    pub fn new(
        decoder: &Decoder,
        plan: &MemoryPlan,
        kv: KvFormat,
        rates: &Rates,
        (sequences, rows, depth): (usize, usize, usize),
    ) -> Forecast {
        let many = sequences as f64;
        let cache = many * decoder.cache_bytes(depth, kv);
        let (all, needed) = decoder.routed_experts((sequences * rows) as f64);
        let experts = if all > 0.0 { plan.all_experts as f64 * needed / all } else { 0.0 };
        let absent = 1.0 - (plan.experts as f64 / (plan.all_experts as f64).max(1.0)).min(1.0);
        let disk_bytes = plan.streamed as f64 + experts * absent + if plan.kv_disk > 0 { cache } else { 0.0 };
        let disk =
            if disk_bytes == 0.0 { Some(0.0) } else { rates.disk_bytes_per_second.map(|rate| disk_bytes / rate) };
        let weights = plan.weights - plan.seldom + plan.screen_instead();
        let bytes = weights as f64 + experts + cache;
        let memory = bytes / rates.memory_bytes_per_second / MEMORY_SHARE;
        let operations = many * decoder.operations(rows, depth, 1);
        let arithmetic = operations / rates.operations_per_second / ARITHMETIC_SHARE;
        Forecast {
            seconds: disk.unwrap_or(0.0).max(memory).max(arithmetic),
            disk_seconds: disk,
            memory_seconds: memory,
            arithmetic_seconds: arithmetic,
        }
    }

    /// What takes longest.
    #[must_use]
    pub fn bottleneck(&self) -> Bottleneck {
        // A disk of which nothing is known is slower than the rest, as a rule.
        if self.disk_seconds.is_none_or(|disk| disk >= self.seconds && disk > 0.0) {
            Bottleneck::Disk
        } else if self.memory_seconds >= self.seconds {
            Bottleneck::Memory
        } else {
            Bottleneck::Arithmetic
        }
    }
}

impl MemoryPlan {
    /// How the same budget would be spent on a model of `layers` of the blocks of `decoder`, taken in turn, and that model: for a
    /// checkpoint that was cut to a few of its layers. `head` are the bytes of the output projection. Nothing is read for it.
    #[must_use]
    pub fn with_layers(&self, decoder: &Decoder, layers: usize, head: u64) -> (Decoder, MemoryPlan) {
        let mut long = decoder.clone();
        long.blocks = decoder.blocks.iter().cycle().take(layers).cloned().collect();
        let ratio = layers as f64 / decoder.blocks.len() as f64;
        let scaled = |bytes: u64| (bytes as f64 * ratio) as u64;
        let head = head.min(self.weights);
        let (weights, all_experts) = (head + scaled(self.weights - head), scaled(self.all_experts));
        let (vectors, kv_cache) = (scaled(self.vectors), scaled(self.kv_cache));
        let screen = self.screen_instead();
        let other = self.process + self.threads + self.activations + vectors + kv_cache + screen;
        let room = self.budget.saturating_sub(other);
        let routed = long.blocks.iter().filter_map(|b| b.ffn.experts()).map(|e| e.router.top_k).max().unwrap_or(0);
        let (count, _) = long.routed_experts(0.0);
        let floor = if count > 0.0 { (2 * routed) as u64 * (all_experts as f64 / count) as u64 } else { 0 };
        let pinned = (weights - self.seldom).min(room.saturating_sub(floor));
        let plan = MemoryPlan {
            vectors,
            kv_cache,
            kv_disk: scaled(self.kv_disk),
            pinned,
            streamed: weights - self.seldom - pinned,
            weights,
            experts: all_experts.min(room.saturating_sub(pinned)),
            all_experts,
            experts_fit: all_experts <= room.saturating_sub(pinned),
            screen,
            ..self.clone()
        };
        (long, plan)
    }
}

/// What a pass waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bottleneck {
    /// Weights from disk.
    Disk,
    /// Weights and caches from memory.
    Memory,
    /// Multiply-adds.
    Arithmetic,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(streamed: u64, weights: u64) -> MemoryPlan {
        MemoryPlan {
            budget: 0,
            asked: None,
            process: 0,
            threads: 0,
            vectors: 0,
            kv_cache: 0,
            kv_disk: 0,
            activations: 0,
            pinned: weights - streamed,
            ring: 0,
            screen: 0,
            seldom: 0,
            streamed,
            weights,
            experts: 0,
            all_experts: 0,
            experts_fit: true,
            tokens: 0,
            rows: 512,
        }
    }

    #[test]
    fn a_pass_takes_as_long_as_its_slowest_part() {
        let decoder = Package::embedded().unwrap().describe().unwrap();
        let rates = Rates {
            disk_bytes_per_second: Some(1e9),
            memory_bytes_per_second: 1e10 / MEMORY_SHARE,
            operations_per_second: 1e12 / ARITHMETIC_SHARE,
        };
        let forecast =
            |plan: &MemoryPlan, rates: &Rates, work| Forecast::new(&decoder, plan, KvFormat::F32, rates, work);
        let streams = plan(2_000_000_000, 4_000_000_000);
        let one = forecast(&streams, &rates, (1, 1, 0));
        assert_eq!((one.seconds, one.bottleneck()), (2.0, Bottleneck::Disk));
        assert!((one.memory_seconds - 0.4).abs() < 1e-9);
        let resident = plan(0, 4_000_000_000);
        let memory = forecast(&resident, &rates, (1, 1, 0));
        assert_eq!(memory.bottleneck(), Bottleneck::Memory);
        assert!((memory.seconds - 0.4).abs() < 1e-9);
        // Depth costs memory, rows cost arithmetic.
        assert!(forecast(&resident, &rates, (1, 1, 1000)).seconds > memory.seconds);
        let many = forecast(&resident, &rates, (1000, 1000, 0));
        assert_eq!(many.bottleneck(), Bottleneck::Arithmetic);
        let operations = decoder.operations(1000, 0, 1);
        assert!((many.seconds - operations * 1000.0 / 1e12).abs() < 1e-6 * many.seconds);
        let unknown = Rates { disk_bytes_per_second: None, ..rates };
        let unknown = forecast(&streams, &unknown, (1, 1, 0));
        assert_eq!((unknown.disk_seconds, unknown.bottleneck()), (None, Bottleneck::Disk));
        let on_disk = MemoryPlan { kv_disk: 1, ..resident };
        let cache = decoder.cache_bytes(1000, KvFormat::F32);
        assert_eq!(forecast(&on_disk, &rates, (2, 1, 1000)).disk_seconds, Some(2.0 * cache / 1e9));
    }

    #[test]
    fn a_head_that_is_seldom_used_takes_no_part() {
        let decoder = Package::embedded().unwrap().describe().unwrap();
        let (seldom, screen) = (500_000_000, 250_000_000);
        let short = MemoryPlan { budget: 2_000_000_000, seldom, screen, ..plan(0, 2_000_000_000) };
        let rates = Rates {
            disk_bytes_per_second: None,
            memory_bytes_per_second: 1e10 / MEMORY_SHARE,
            operations_per_second: 1e12,
        };
        let one = Forecast::new(&decoder, &short, KvFormat::F32, &rates, (1, 1, 0));
        assert!((one.memory_seconds - 0.175).abs() < 1e-9, "the screen in its place: {}", one.memory_seconds);
        // Of the rest there is twice as much, and what is in the head's place takes its room.
        let (_, long) = short.with_layers(&decoder, 2 * decoder.blocks.len(), seldom);
        assert_eq!((long.weights, long.pinned, long.streamed), (3_500_000_000, 1_750_000_000, 1_250_000_000));
        assert_eq!((long.seldom, long.screen), (seldom, screen));
    }

    #[test]
    fn operations_count_every_matrix_once() {
        let decoder = Package::embedded().unwrap().describe().unwrap();
        let table = decoder.vocab_size * decoder.hidden_size;
        let norms: usize =
            decoder.blocks.iter().flat_map(Block::norms).map(|n| n.width).sum::<usize>() + decoder.norm.width;
        let matrices = decoder.parameters() as usize - table - norms;
        let attention: usize = decoder.blocks.iter().map(|b| b.mixer.attention_width()).sum();
        assert_eq!(decoder.operations(1, 0, 1), (2 * (matrices + table) + attention) as f64);
        assert_eq!(decoder.operations(1, 0, 0), (2 * matrices + attention) as f64);
    }
}
