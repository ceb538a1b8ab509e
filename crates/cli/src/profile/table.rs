//! A report as text for people.

use rheostat::Way;
use rheostat::memory::format_size;
use rheostat::profile::{Account, Op, Sweep};

use super::report::{Report, arithmetic, phase_name};

/// Sweeps that are listed one by one at the beginning, and at the end.
const LISTED: usize = 6;

/// Writes a row of the table: its name, its cells, and its share of the whole.
type Row<'a> = dyn FnMut(&str, &dyn Fn(&Column) -> String, Option<f64>) + 'a;

/// A column of the table.
struct Column {
    name: String,
    account: Account,
    /// Sweeps by which everything is divided.
    of: f64,
}

impl Report {
    /// The whole report.
    pub(crate) fn text(&self) -> String {
        let mut text = self.head();
        text += "\n";
        text += &self.table();
        text += "\n";
        text += &self.sweeps();
        for p in &self.phases {
            text += &format!("\n{}: {}", phase_name(p.phase), p.verdict.sentence);
        }
        text + "\n"
    }

    /// What was run, and on what.
    pub(super) fn head(&self) -> String {
        let Report { plan, .. } = self;
        let mut text = format!(
            "{}, {:.0} million parameters, {} thread{}, {}, products in {}, cache in {}\n",
            self.name,
            self.parameters as f64 * 1e-6,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.isa,
            self.compute.name(),
            self.kv.name()
        );
        let streams = match plan.streamed {
            0 if plan.seldom == 0 => "all of them stay in memory".to_owned(),
            0 => format!("all but {} of the head stay in memory", format_size(plan.seldom)),
            bytes => format!("{} of them stream in every sweep", format_size(bytes)),
        };
        let read =
            if self.way == Way::Nothing { "part of the program".to_owned() } else { format!("read by {}", self.way) };
        text += &format!("weights: {}, {streams}; {read}\n", format_size(plan.weights));
        let peak = self.peak.map_or(String::new(), |peak| format!(", peak {}", format_size(peak)));
        text += &format!("memory: {} planned of {}{peak}\n", format_size(plan.total()), format_size(plan.budget));
        if let Some(hits) = &self.hits {
            text += &format!(
                "experts: {} in memory of {}; {}\n",
                format_size(plan.experts),
                format_size(plan.all_experts),
                crate::report::experts(hits)
            );
        }
        if let Some(limits) = self.limits {
            let giga = |rate: Option<f64>, what: &str| rate.map(|rate| format!("{what} {:.2} GB/s", rate * 1e-9));
            let mut parts: Vec<String> = Vec::new();
            parts.extend(giga(limits.disk_bytes_per_second, "disk"));
            parts.extend(giga(limits.read_bytes_per_second, "memory"));
            let rates = [limits.f32_flops, limits.bf16_flops, limits.amx_flops, limits.int8_ops];
            let [f32, bf16, amx, int8] = rates.map(|rate| rate * 1e-9);
            parts.push(format!(
                "multiply-add {f32:.0} GFLOP/s in f32, {bf16:.0} in bf16, {amx:.0} in amx, {int8:.0} in int8"
            ));
            text += &format!("limits measured after it: {}\n", parts.join(", "));
        }
        text
    }

    fn columns(&self) -> Vec<Column> {
        let mut columns: Vec<Column> = self
            .phases
            .iter()
            .map(|p| Column { name: phase_name(p.phase).to_owned(), account: p.account, of: 1.0 })
            .collect();
        for p in self.phases.iter().filter(|p| p.account.sweeps > 1) {
            let name = format!("a {} sweep", phase_name(p.phase));
            columns.push(Column { name, account: p.account, of: p.account.sweeps as f64 });
        }
        columns.push(Column { name: "overall".to_owned(), account: self.profile.overall(), of: 1.0 });
        columns
    }

    fn table(&self) -> String {
        let columns = self.columns();
        let mut text = format!("{:26}", "");
        columns.iter().for_each(|c| text += &format!("{:>17}", c.name));
        text += "\n";
        let all = self.profile.overall();
        let whole = all.time.as_secs_f64().max(1e-9);
        let mut row = |name: &str, cell: &dyn Fn(&Column) -> String, share: Option<f64>| {
            let cells: Vec<String> = columns.iter().map(|c| format!("{:>17}", cell(c))).collect();
            let share = share.map_or(String::new(), |share| format!("{:>6.1} %", 100.0 * share));
            let line = format!("{name:26}{}{share}", cells.concat());
            text += line.trim_end();
            text += "\n";
        };
        let count = |n: fn(&Account) -> u64| {
            move |c: &Column| if c.of == 1.0 { n(&c.account).to_string() } else { number(n(&c.account) as f64 / c.of) }
        };
        row("sweeps", &count(|a| a.sweeps), None);
        row("rows", &count(|a| a.rows), None);
        row("time", &|c| spent(&|a| a.time.as_secs_f64(), c), None);
        let mut part = |name: &str, of: &dyn Fn(&Account) -> f64| row(name, &|c| spent(of, c), Some(of(&all) / whole));
        part("  waiting for the disk", &|a| a.waiting.as_secs_f64());
        part("  arithmetic", &arithmetic);
        for op in Op::ALL.into_iter().filter(|op| *op != Op::Head && !op.is_between()) {
            part(&format!("    {}", op.name()), &|a| a.op(op).time.as_secs_f64());
        }
        part("  head", &|a| a.op(Op::Head).time.as_secs_f64());
        part("  sampling", &|a| a.op(Op::Sampling).time.as_secs_f64());
        if all.op(Op::Guessing).count > 0 {
            part("  guessing", &|a| a.op(Op::Guessing).time.as_secs_f64());
        }
        part("  other", &|a| a.other().as_secs_f64());
        if all.bytes() > 0 {
            self.reading(&mut row);
        }
        text + &self.predictions()
    }

    /// What was read.
    fn reading(&self, row: &mut Row<'_>) {
        let size = |bytes: fn(&Account) -> u64| move |c: &Column| format_size((bytes(&c.account) as f64 / c.of) as u64);
        row("read", &size(Account::bytes), None);
        row("  weights that stream", &size(|a| a.reads.streamed), None);
        row("  weights that stay", &size(|a| a.reads.pinned), None);
        row("  embedding rows", &size(|a| a.embedding), None);
        row("  keys and values", &size(|a| a.cache), None);
        row("time of reading weights", &|c| spent(&|a| a.reads.reading.as_secs_f64(), c), None);
        row("  while reading", &|c| rate(&c.account), None);
        if let Some(disk) = self.limits.and_then(|l| l.disk_bytes_per_second) {
            row(
                "  of what the disk can do",
                &|c| bytes_per_second(&c.account).map_or("-".to_owned(), |rate| percent(rate / disk)),
                None,
            );
        }
        row("  without waiting for it", &|c| c.account.overlap().map_or("-".to_owned(), percent), None);
    }

    /// What was predicted, beside what happened.
    fn predictions(&self) -> String {
        let mut text = String::new();
        for p in &self.phases {
            let Some(predicted) = p.predicted else { continue };
            let measured = p.account.time.as_secs_f64() / p.account.sweeps as f64;
            text += &format!(
                "a {} sweep was predicted to take {} with all weights at their place, and took {}\n",
                phase_name(p.phase),
                seconds(predicted),
                seconds(measured)
            );
        }
        text
    }

    /// Sweeps one by one.
    fn sweeps(&self) -> String {
        let all: Vec<&Sweep> = self.profile.first.iter().chain(&self.profile.last).collect();
        let total = self.profile.overall().sweeps as usize;
        let mut text = format!(
            "{:>8} {:8}{:>7}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}{:>12}\n",
            "sweep", "", "rows", "time", "waiting", "arithmetic", "head", "sampling", "other", "reading"
        );
        for (i, sweep) in all.iter().enumerate() {
            if i >= LISTED && i + LISTED < all.len() {
                if i == LISTED {
                    text += &format!("{:>8}\n", format!("… {}", total - 2 * LISTED));
                }
                continue;
            }
            let a = &sweep.account;
            let time = |s: f64| format!("{:>11}", seconds(s));
            text += &format!(
                "{:>8} {:8}{:>7}{}{}{}{}{}{}{:>12}\n",
                sweep.number,
                phase_name(sweep.phase),
                a.rows,
                time(a.time.as_secs_f64()),
                time(a.waiting.as_secs_f64()),
                time(arithmetic(a)),
                time(a.op(Op::Head).time.as_secs_f64()),
                time(a.op(Op::Sampling).time.as_secs_f64()),
                time(a.other().as_secs_f64() + a.op(Op::Guessing).time.as_secs_f64()),
                rate(a)
            );
        }
        text
    }
}

/// Seconds of `of` in a column.
fn spent(of: &dyn Fn(&Account) -> f64, c: &Column) -> String {
    seconds(of(&c.account) / c.of)
}

/// Bytes of weights per second of reading.
fn bytes_per_second(a: &Account) -> Option<f64> {
    let bytes = (a.reads.streamed + a.reads.pinned) as f64;
    let reading = a.reads.reading.as_secs_f64();
    (bytes > 0.0 && reading > 0.0).then(|| bytes / reading)
}

fn rate(a: &Account) -> String {
    bytes_per_second(a).map_or("-".to_owned(), |rate| format!("{:.2} GB/s", rate * 1e-9))
}

/// A share of one, for people.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn number(n: f64) -> String {
    if n.fract() == 0.0 { format!("{n:.0}") } else { format!("{n:.1}") }
}

/// Seconds in a unit that suits them.
fn seconds(s: f64) -> String {
    match s {
        0.0 => "-".to_owned(),
        s if s < 0.99995e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 0.99995 => format!("{:.2} ms", s * 1e3),
        s if s < 600.0 => format!("{s:.3} s"),
        s => format!("{:.1} min", s / 60.0),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_in_their_units() {
        for (s, text) in [
            (0.0, "-"),
            (1.25e-6, "1.2 µs"),
            (0.0123, "12.30 ms"),
            (0.99999, "1.000 s"),
            (59.5, "59.500 s"),
            (900.0, "15.0 min"),
        ] {
            assert_eq!(super::seconds(s), text);
        }
    }
}
