//! How many tokens are worth guessing: what a row costs against a pass, and how often guesses are right.

/// What of the past counts after one more pass.
const MEMORY: f64 = 0.9;
/// What a row adds to a pass, in parts of it, while that is not known.
const ROW: f64 = 1.0 / 16.0;

/// How often guesses of a kind were right lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Luck {
    right: f64,
    tried: f64,
}

impl Luck {
    /// `right` guesses in a row were right, and then possibly one was not.
    pub(super) fn learn(&mut self, right: usize, wrong: bool) {
        self.right = MEMORY * self.right + right as f64;
        self.tried = MEMORY * self.tried + right as f64 + f64::from(u8::from(wrong));
    }

    /// The probability that the next guess is right; one half as long as nothing is known, and again when all is long ago.
    fn probability(&self) -> f64 {
        (self.right + 1.0) / (self.tried + 2.0)
    }
}

/// What passes and guesses cost.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// Sums over passes of what is needed to lay a line through their seconds by rows; of the past ever less.
    passes: f64,
    rows: f64,
    rows_squared: f64,
    seconds: f64,
    rows_seconds: f64,
    /// Seconds and guesses, likewise.
    guesses: f64,
    guess_seconds: f64,
}

impl Pace {
    /// A pass of `rows` rows took so many seconds.
    pub(super) fn passed(&mut self, rows: usize, seconds: f64) {
        let rows = rows as f64;
        for (sum, new) in [
            (&mut self.passes, 1.0),
            (&mut self.rows, rows),
            (&mut self.rows_squared, rows * rows),
            (&mut self.seconds, seconds),
            (&mut self.rows_seconds, rows * seconds),
        ] {
            *sum = MEMORY * *sum + new;
        }
    }

    /// So many guesses took so many seconds. While none are made, the price of those before is forgotten, so that they are tried again.
    pub(super) fn guessed(&mut self, guesses: usize, seconds: f64) {
        self.guess_seconds *= MEMORY;
        if guesses > 0 {
            self.guesses = MEMORY * self.guesses + guesses as f64;
            self.guess_seconds += seconds;
        }
    }

    /// Seconds of a pass without rows, and what each row adds.
    fn line(&self) -> (f64, f64) {
        if self.passes == 0.0 {
            return (1.0, ROW);
        }
        let (rows, seconds) = (self.rows / self.passes, self.seconds / self.passes);
        let variance = self.rows_squared / self.passes - rows * rows;
        let row = if variance < 0.25 {
            seconds * ROW
        } else {
            ((self.rows_seconds / self.passes - rows * seconds) / variance).max(0.0)
        };
        ((seconds - row * rows).max(0.0), row)
    }

    /// How many guesses, up to `most`, give the most tokens in a second, when `texts` texts share a pass.
    pub(super) fn worth(&self, texts: usize, luck: &Luck, most: usize) -> usize {
        let (pass, row) = self.line();
        let guess = if self.guesses > 0.0 { self.guess_seconds / self.guesses } else { 0.0 };
        let share = pass / texts as f64 + row;
        let p = luck.probability();
        // Tokens that come of a pass: the one that its logits give, and as many guesses as are right before it.
        let mut tokens = 1.0;
        let mut chance = 1.0;
        let (mut best, mut best_rate) = (0, tokens / share);
        for n in 1..=most {
            chance *= p;
            tokens += chance;
            let rate = tokens / (share + n as f64 * (row + guess));
            if rate > best_rate {
                (best, best_rate) = (n, rate);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(pass: f64, row: f64) -> Pace {
        let mut pace = Pace::default();
        for rows in (1..20).chain([1, 4, 9, 2]) {
            pace.passed(rows, pass + row * rows as f64);
        }
        pace
    }

    fn luck(right: usize, wrong: bool) -> Luck {
        let mut luck = Luck::default();
        (0..30).for_each(|_| luck.learn(right, wrong));
        luck
    }

    #[test]
    fn more_is_guessed_where_rows_are_cheap_and_guesses_good() {
        let (cheap, dear) = (pace(4.0, 0.01), pace(0.01, 1.0));
        let (good, bad) = (luck(9, true), luck(0, true));
        assert!(cheap.worth(1, &good, 32) > 15, "{}", cheap.worth(1, &good, 32));
        assert!(cheap.worth(1, &bad, 32) <= 2, "{}", cheap.worth(1, &bad, 32));
        assert_eq!(dear.worth(1, &good, 32), 0);
        assert!(cheap.worth(1, &luck(32, false), 32) == 32, "always right");
        assert!(cheap.worth(64, &good, 32) < cheap.worth(1, &good, 32), "a shared pass costs each less");
        assert_eq!(cheap.worth(1, &good, 3), 3);
        assert_eq!(cheap.worth(1, &good, 0), 0);
    }

    #[test]
    fn guesses_cost_too() {
        let mut pace = pace(1.0, 0.01);
        let before = pace.worth(1, &luck(4, true), 32);
        pace.guessed(10, 500.0);
        assert_eq!(pace.worth(1, &luck(4, true), 32), 0, "each costs as much as fifty passes");
        (0..60).for_each(|_| pace.guessed(0, 0.0));
        assert!(pace.worth(1, &luck(4, true), 32) > 0, "it is tried again");
        (0..60).for_each(|_| pace.guessed(10, 5.0));
        assert!(pace.worth(1, &luck(4, true), 32) < before);
    }

    #[test]
    fn nothing_known_still_tries_and_bad_luck_is_forgotten() {
        assert!(Pace::default().worth(1, &Luck::default(), 8) > 0);
        let mut luck = luck(0, true);
        let bad = luck.probability();
        (0..60).for_each(|_| luck.learn(0, false));
        assert!(bad < 0.1 && luck.probability() > 0.45);
    }

    #[test]
    fn passes_all_alike_give_no_slope_out_of_nothing() {
        let mut pace = Pace::default();
        (0..50).for_each(|_| pace.passed(1, 2.0));
        let (pass, row) = pace.line();
        assert!((pass + row - 2.0).abs() < 1e-9 && row > 0.0);
    }
}
