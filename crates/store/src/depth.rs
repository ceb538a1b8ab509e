//! The queue depth: how much is asked of a disk at once, found out while it reads.
//!
//! What is best differs between disks by a tenth and more, and in both directions. Some are faster the less memory is written in turn,
//! which stays in a cache then. Others answer all that is in their queue together and then have nothing to do until they are asked anew,
//! so that they are faster the more there is in it. So all ways are tried in turns, in the midst of the work: a slower one is dropped as soon as that
//! is certain, the best is kept, and after a while they are all tried again, since disks change.
//!
//! In goes what has come, and when; out comes how to ask. What is read, and every bit that is computed from it, is the same in all ways.

use std::time::{Duration, Instant};

use crate::plan::RINGS;

/// A way to ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ask {
    /// Bytes of a request, about.
    pub(crate) request: usize,
    /// Bytes to have under way.
    pub(crate) under_way: usize,
}

/// The ways, from little to much at once.
const WAYS: [Ask; 3] = [
    Ask { request: 512 << 10, under_way: 4 << 20 },
    Ask { request: 1 << 20, under_way: 12 << 20 },
    Ask { request: 1 << 20, under_way: 32 << 20 },
];

/// A ring must hold so many times what is to be under way: what has come needs room until it has been computed with.
const RINGFUL: usize = 2;
// The largest ring has room for every way.
const _: () = assert!((RINGFUL * WAYS[WAYS.len() - 1].under_way) as u64 <= *RINGS.end());

/// Bytes that are read in a turn.
const TURN: usize = 256 << 20;
/// Rounds, of a turn each, before any way is dropped, and until the best is kept.
const ROUNDS: std::ops::Range<u32> = 8..64;
/// Turns of the best before all are tried again.
const KEPT: u32 = 2048;
/// By how many of its own standard errors a difference must be larger than nothing to be believed.
const CERTAIN: f64 = 2.0;
/// The largest logarithm of a quotient of two rates of one round that is believed: more is a disturbance, whoever was asked meanwhile.
const CREDIBLE: f64 = 0.3;

/// Finds out how to ask.
pub(crate) struct Depth {
    /// The ways that there is room for: so many of the first.
    possible: usize,
    /// Indices of those that take turns.
    trying: Vec<usize>,
    /// Turns of this round that are over.
    turn: usize,
    /// Rounds since all were tried, or turns since one was kept.
    rounds: u32,
    /// Logarithms of the rates of this round, by way.
    rates: [f64; WAYS.len()],
    /// Over the rounds, of each way against each other: the differences of the logarithms, and their squares, summed up.
    against: [[(f64, f64); WAYS.len()]; WAYS.len()],
    window: Window,
}

/// What was read in a turn.
#[derive(Default)]
struct Window {
    /// Bytes that are not counted before those that are: they were asked for in another way.
    skip: usize,
    bytes: usize,
    /// Time in which something was under way.
    time: Duration,
    /// Since when that is so.
    since: Option<Instant>,
}

impl Depth {
    /// For a disk that reads into `room` bytes in turn.
    pub(crate) fn new(room: usize) -> Depth {
        let has_room = |ask: &&Ask| RINGFUL * ask.under_way <= room;
        let mut depth = Depth {
            possible: WAYS.iter().take_while(has_room).count().max(1),
            trying: Vec::new(),
            turn: 0,
            rounds: 0,
            rates: [0.0; WAYS.len()],
            against: Default::default(),
            window: Window::default(),
        };
        depth.try_all();
        depth
    }

    /// How to ask now.
    pub(crate) fn ask(&self) -> Ask {
        WAYS[self.way()]
    }

    /// The index of the way whose turn it is.
    fn way(&self) -> usize {
        // Each round begins with another, so that whoever is first has no advantage.
        self.trying[(self.turn + self.rounds as usize) % self.trying.len()]
    }

    /// Something is under way from `now` on, after nothing was.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.window.since = Some(now);
    }

    /// Nothing is under way any more, and nothing there to ask for.
    pub(crate) fn rest(&mut self) {
        self.window.since = None;
    }

    /// `bytes` have come, and nothing more until `now`; so many are still `under_way`.
    ///
    /// What came together is to be told together: time is taken where the disk has answered all that it had answers for.
    pub(crate) fn came(&mut self, now: Instant, bytes: usize, under_way: usize) {
        let window = &mut self.window;
        if let Some(since) = window.since.replace(now) {
            window.time += now.saturating_duration_since(since);
        }
        if window.skip > 0 {
            window.skip = window.skip.saturating_sub(bytes);
            window.time = Duration::ZERO;
            return;
        }
        window.bytes += bytes;
        if window.bytes >= TURN {
            let rate = window.bytes as f64 / window.time.as_secs_f64().max(1e-9);
            self.end_turn(rate, under_way);
        }
    }

    /// What came does not count: it took time that is not the disk's.
    pub(crate) fn disturbed(&mut self, under_way: usize) {
        let skip = self.window.skip.max(under_way + self.ask().under_way);
        self.window = Window { skip, since: self.window.since, ..Window::default() };
    }

    fn end_turn(&mut self, rate: f64, under_way: usize) {
        let way = self.way();
        self.rates[way] = rate.ln();
        self.turn += 1;
        if self.turn == self.trying.len() {
            self.turn = 0;
            self.rounds += 1;
            self.judge();
        }
        self.window = Window { since: self.window.since, ..Window::default() };
        if self.way() != way {
            self.window.skip = under_way + self.ask().under_way;
        }
    }

    /// At the end of a round.
    fn judge(&mut self) {
        if self.trying.len() == 1 {
            if self.rounds >= KEPT {
                self.try_all();
            }
            return;
        }
        for &a in &self.trying {
            for &b in &self.trying {
                let difference = (self.rates[a] - self.rates[b]).clamp(-CREDIBLE, CREDIBLE);
                let (sum, squares) = &mut self.against[a][b];
                *sum += difference;
                *squares += difference * difference;
            }
        }
        if self.rounds < ROUNDS.start {
            return;
        }
        let n = f64::from(self.rounds);
        let is_slower = |a: usize, b: usize| {
            let (sum, squares) = self.against[a][b];
            let variance = (squares - sum * sum / n).max(0.0) / (n - 1.0);
            sum / n < -CERTAIN * (variance / n).sqrt()
        };
        let slower: Vec<usize> =
            self.trying.iter().copied().filter(|&a| self.trying.iter().any(|&b| is_slower(a, b))).collect();
        let ahead = |a: usize| self.trying.iter().map(|&b| self.against[a][b].0).sum::<f64>();
        let best = self.trying.iter().copied().max_by(|&a, &b| ahead(a).total_cmp(&ahead(b)));
        let is_over = self.rounds == ROUNDS.end;
        self.trying.retain(|way| Some(*way) == best || !is_over && !slower.contains(way));
        if self.trying.len() == 1 {
            self.rounds = 0;
        }
    }

    fn try_all(&mut self) {
        self.trying = (0..self.possible).collect();
        self.rounds = 0;
        self.against = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of which everything is known but the disturbances.
    struct Disk {
        /// GB/s for each way.
        rates: [f64; WAYS.len()],
        now: Instant,
        random: u64,
        /// What others leave of it: it changes slowly.
        left: f64,
    }

    impl Disk {
        fn new(rates: [f64; WAYS.len()], seed: u64) -> Disk {
            Disk { rates, now: Instant::now(), random: seed * 2 + 1, left: 1.0 }
        }

        /// Between -1 and 1.
        fn random(&mut self) -> f64 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            (self.random >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        }

        /// Reads `bytes`, in batches of what is under way, and tells how many of them in each way.
        fn read(&mut self, depth: &mut Depth, bytes: usize) -> [usize; WAYS.len()] {
            let mut by_way = [0; WAYS.len()];
            let mut read = 0;
            depth.begin(self.now);
            while read < bytes {
                let (way, ask) = (depth.way(), depth.ask());
                self.left = (self.left + 0.02 * self.random()).clamp(0.6, 1.0);
                let rate = self.rates[way] * self.left * (1.0 + 0.2 * self.random());
                self.now += Duration::from_secs_f64(ask.under_way as f64 / rate / 1e9);
                // The next batch is asked for before what came is counted.
                depth.came(self.now, ask.under_way, depth.ask().under_way);
                by_way[way] += ask.under_way;
                read += ask.under_way;
            }
            depth.rest();
            by_way
        }
    }

    const PLENTY: usize = 1 << 30;

    #[test]
    fn the_best_way_is_found_and_kept() {
        for (rates, best) in
            [([2.0, 1.85, 1.7], 0), ([1.6, 1.8, 1.6], 1), ([1.6, 1.7, 1.85], 2), ([0.15, 0.15, 0.2], 2)]
        {
            for seed in 1..=40 {
                let mut disk = Disk::new(rates, seed);
                let mut depth = Depth::new(PLENTY);
                disk.read(&mut depth, 64 << 30);
                let by_way = disk.read(&mut depth, 256 << 30);
                assert!(by_way[best] as f64 > 0.9 * (256u64 << 30) as f64, "{rates:?}, seed {seed}: {by_way:?}");
            }
        }
    }

    #[test]
    fn a_disk_that_changes_is_asked_in_another_way_then() {
        for seed in 1..=10 {
            let mut disk = Disk::new([2.0, 1.85, 1.7], seed);
            let mut depth = Depth::new(PLENTY);
            disk.read(&mut depth, 100 << 30);
            disk.rates.reverse();
            disk.read(&mut depth, TURN * KEPT as usize + (100 << 30));
            let by_way = disk.read(&mut depth, 100 << 30);
            assert!(by_way[2] > 90 << 30, "seed {seed}: {by_way:?}");
        }
    }

    #[test]
    fn where_all_are_alike_it_settles_all_the_same() {
        let mut disk = Disk::new([1.0; 3], 7);
        let mut depth = Depth::new(PLENTY);
        disk.read(&mut depth, 70 << 30);
        let mut by_way = disk.read(&mut depth, 100 << 30);
        by_way.sort_unstable();
        assert_eq!(by_way[..2], [0, 0]);
    }

    #[test]
    fn a_small_ring_is_asked_for_little() {
        for (room, most) in [(0, 0), (8 << 20, 0), (23 << 20, 0), (24 << 20, 1), (63 << 20, 1), (64 << 20, 2)] {
            let mut depth = Depth::new(room);
            let by_way = Disk::new([1.0; 3], 1).read(&mut depth, 20 << 30);
            assert_eq!(by_way.map(|bytes| bytes > 0), [0, 1, 2].map(|way| way <= most), "{room}");
        }
    }

    #[test]
    fn time_that_is_not_the_disk_s_does_not_count() {
        // The second way is better; whenever it begins a turn, something takes a second.
        let mut depth = Depth::new(24 << 20);
        let mut disk = Disk::new([1.0, 1.5, 0.0], 3);
        let mut by_way = [0; 3];
        let mut before = depth.ask();
        for _ in 0..4000 {
            let read = disk.read(&mut depth, 16 << 20);
            (0..3).for_each(|way| by_way[way] += read[way]);
            // Nothing is under way for a while.
            disk.now += Duration::from_millis(if depth.ask() == WAYS[1] { 500 } else { 10 });
            if depth.ask() != before && depth.ask() == WAYS[1] {
                // Pages have to be found.
                depth.begin(disk.now);
                disk.now += Duration::from_secs(1);
                depth.disturbed(0);
                depth.rest();
            }
            before = depth.ask();
        }
        assert!(by_way[1] > 3 * by_way[0], "{by_way:?}");
    }
}
