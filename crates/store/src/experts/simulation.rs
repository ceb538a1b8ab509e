//! The policy against others, on routers that behave as routers do: some experts are chosen often, which of them changes
//! slowly with the text and at once with the next text, and what was chosen for a token is likely chosen for the next.

use std::collections::HashMap;

use super::policy::Policy;

const LAYERS: usize = 6;
const EXPERTS: usize = 64;
const TOP: usize = 6;

struct Random(u64);

impl Random {
    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, end: usize) -> usize {
        (self.unit() * end as f64) as usize
    }
}

/// How a router chooses.
#[derive(Clone, Copy)]
struct Habit {
    name: &'static str,
    /// The expert at rank `r` is chosen in proportion to `1/(r + 1)^skew`.
    skew: f64,
    /// How often a choice is one of those of the token before.
    sticks: f64,
    /// How often, in a layer and a sweep, two experts change ranks.
    drifts: f64,
    /// Sweeps of a text, after which half of the experts change ranks.
    text: usize,
    /// Every so many sweeps, one uses all experts: a prompt is read.
    prompt: usize,
}

const HABITS: [Habit; 7] = [
    Habit { name: "skewed", skew: 1.0, sticks: 0.0, drifts: 0.0, text: 4000, prompt: 4000 },
    Habit { name: "skewed, drifting", skew: 1.0, sticks: 0.0, drifts: 0.5, text: 4000, prompt: 4000 },
    Habit { name: "texts", skew: 0.8, sticks: 0.2, drifts: 0.1, text: 200, prompt: 4000 },
    Habit { name: "short texts with prompts", skew: 0.8, sticks: 0.2, drifts: 0.1, text: 60, prompt: 60 },
    Habit { name: "sticky", skew: 0.5, sticks: 0.5, drifts: 0.1, text: 300, prompt: 4000 },
    Habit { name: "even", skew: 0.0, sticks: 0.0, drifts: 0.0, text: 4000, prompt: 4000 },
    Habit { name: "prompts only", skew: 0.0, sticks: 0.0, drifts: 0.0, text: 4000, prompt: 1 },
];

/// For each layer of each of `sweeps` sweeps, the experts that it uses, counted through all layers.
fn trace(habit: Habit, sweeps: usize) -> Vec<Vec<u32>> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let weights: Vec<f64> = (0..EXPERTS).map(|r| (r as f64 + 1.0).powf(-habit.skew)).collect();
    let sum: f64 = weights.iter().sum();
    let mut ranks: Vec<Vec<u32>> = (0..LAYERS).map(|_| (0..EXPERTS as u32).collect()).collect();
    let mut last: Vec<Vec<u32>> = vec![Vec::new(); LAYERS];
    for ranks in &mut ranks {
        (0..EXPERTS).for_each(|i| ranks.swap(i, random.below(EXPERTS)));
    }
    let mut trace = Vec::new();
    for sweep in 0..sweeps {
        for layer in 0..LAYERS {
            if sweep % habit.text == habit.text - 1 {
                (0..EXPERTS / 2).for_each(|i| ranks[layer].swap(2 * i, random.below(EXPERTS)));
            }
            if random.unit() < habit.drifts {
                ranks[layer].swap(random.below(EXPERTS), random.below(EXPERTS));
            }
            let mut chosen: Vec<u32> = Vec::new();
            while chosen.len() < TOP {
                let sticks = random.unit() < habit.sticks && !last[layer].is_empty();
                let expert = if sticks {
                    last[layer][random.below(last[layer].len())]
                } else {
                    let mut at = random.unit() * sum;
                    let rank = weights.iter().position(|w| {
                        at -= w;
                        at < 0.0
                    });
                    ranks[layer][rank.unwrap_or(0)]
                };
                if !chosen.contains(&expert) {
                    chosen.push(expert);
                }
            }
            chosen.sort_unstable();
            last[layer].clone_from(&chosen);
            let used = if sweep % habit.prompt == 0 { (0..EXPERTS as u32).collect() } else { chosen };
            trace.push(used.into_iter().map(|e| e + (layer * EXPERTS) as u32).collect());
        }
    }
    trace
}

/// Which expert to give up.
trait Rule {
    fn request(&mut self, layer: usize, experts: &[u32]);
    /// The larger, the sooner it goes.
    fn badness(&self, expert: u32) -> f64;
}

impl Rule for Policy {
    fn request(&mut self, layer: usize, experts: &[u32]) {
        Policy::request(self, layer, experts);
    }

    fn badness(&self, expert: u32) -> f64 {
        f64::from(self.wait(expert as usize))
    }
}

#[derive(Default)]
struct Lru {
    now: u64,
    used: HashMap<u32, u64>,
}

impl Rule for Lru {
    fn request(&mut self, _: usize, experts: &[u32]) {
        for e in experts {
            self.now += 1;
            self.used.insert(*e, self.now);
        }
    }

    fn badness(&self, expert: u32) -> f64 {
        -(self.used[&expert] as f64)
    }
}

#[derive(Default)]
struct Lfu(HashMap<u32, u64>);

impl Rule for Lfu {
    fn request(&mut self, _: usize, experts: &[u32]) {
        experts.iter().for_each(|e| *self.0.entry(*e).or_default() += 1);
    }

    fn badness(&self, expert: u32) -> f64 {
        -(self.0[&expert] as f64)
    }
}

/// The share of experts that were in a cache of `slots` when they were used.
fn hits(trace: &[Vec<u32>], slots: usize, rule: &mut dyn Rule) -> f64 {
    let mut cached: Vec<u32> = Vec::new();
    let (mut hit, mut all) = (0, 0);
    for (i, experts) in trace.iter().enumerate() {
        rule.request(i % LAYERS, experts);
        let mut waiting: Vec<u32> = experts.clone();
        for e in experts {
            all += 1;
            waiting.retain(|w| w != e);
            if cached.contains(e) {
                hit += 1;
                continue;
            }
            if cached.len() == slots {
                let free = (0..slots).filter(|s| !waiting.contains(&cached[*s]));
                let worst = free.max_by(|a, b| rule.badness(cached[*a]).total_cmp(&rule.badness(cached[*b])));
                // All others come later in this request: the last of them goes.
                let last = || (0..slots).max_by_key(|s| cached[*s]);
                cached.swap_remove(worst.or_else(last).unwrap_or(0));
            }
            cached.push(*e);
        }
    }
    f64::from(hit) / f64::from(all)
}

#[test]
#[allow(clippy::print_stdout, reason = "the figures are of interest, too")]
fn the_policy_is_not_worse_than_lru_and_lfu() {
    let layers: Vec<usize> = (0..=LAYERS).map(|l| l * EXPERTS).collect();
    for habit in HABITS {
        let trace = trace(habit, if habit.prompt == 1 { 40 } else { 500 });
        for share in [0.1, 0.25, 0.5, 0.8] {
            let slots = (share * (LAYERS * EXPERTS) as f64) as usize;
            let ours = hits(&trace, slots, &mut Policy::new(&layers));
            let lru = hits(&trace, slots, &mut Lru::default());
            let lfu = hits(&trace, slots, &mut Lfu::default());
            println!("{:26} {share:4}: {ours:.3}, LRU {lru:.3}, LFU {lfu:.3}", habit.name);
            assert!(ours >= lru - 0.005, "{}, {share}: {ours} of LRU's {lru}", habit.name);
            // Where nothing ever changes it is best to count for ever.
            assert!(ours >= lfu - 0.03, "{}, {share}: {ours} of LFU's {lfu}", habit.name);
        }
    }
}
