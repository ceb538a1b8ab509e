//! How much memory there is, how much this process has used, and how people write amounts of it.

use std::fs;
use std::path::{Path, PathBuf};

/// Parses an amount of memory: a number with an optional unit `B`, `K`/`KB`/`KiB`, `M…`, `G…` or `T…`.
/// All units are powers of 1024, and case does not matter.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is not an amount of memory; write a number and a unit, such as 6GiB or 512M");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let power = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err(wrong()),
    };
    let bytes = number * 1024f64.powi(power);
    if bytes >= 1.0 && bytes < 2f64.powi(63) { Ok(bytes as u64) } else { Err(wrong()) }
}

/// An amount of memory for people: three digits or so and a unit.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return match unit {
                "B" => format!("{bytes} B"),
                _ if value < 10.0 => format!("{value:.2} {unit}"),
                _ if value < 100.0 => format!("{value:.1} {unit}"),
                _ => format!("{value:.0} {unit}"),
            };
        }
        value /= 1024.0;
    }
    unreachable!("the last unit returns")
}

/// Bytes that this process may still take: what the machine has available, or the least that a control
/// group above it leaves. `None` where the system does not say.
#[must_use]
pub fn available() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let machine = field(&meminfo, "MemAvailable:")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(groups.lines().filter_map(group_room).fold(machine, u64::min))
}

/// Bytes of this process in memory now, as the kernel counts them.
#[must_use]
pub fn resident() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The most bytes of this process that were ever in memory at once.
#[must_use]
pub fn peak() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// A line `name   123 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Room in the memory control group that a line `id:controllers:path` of `/proc/self/cgroup` names, or in
/// the tightest one above it.
fn group_room(line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (_id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (root, names) = if controllers.is_empty() {
        ("/sys/fs/cgroup", Names { limit: "memory.max", usage: "memory.current", cache: "inactive_file " })
    } else if controllers.split(',').any(|c| c == "memory") {
        let names =
            Names { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", cache: "total_inactive_file " };
        ("/sys/fs/cgroup/memory", names)
    } else {
        return None;
    };
    let mut group = PathBuf::from(root).join(path.trim_start_matches('/'));
    let mut least: Option<u64> = None;
    while group.starts_with(root) {
        if let Some(room) = names.room(&group) {
            least = Some(least.map_or(room, |l| l.min(room)));
        }
        if !group.pop() {
            break;
        }
    }
    least
}

/// The files of a control group, by version.
struct Names {
    limit: &'static str,
    usage: &'static str,
    cache: &'static str,
}

impl Names {
    /// Limit less usage, where file pages that the kernel would drop first do not count as used.
    fn room(&self, group: &Path) -> Option<u64> {
        let read = |name: &str| fs::read_to_string(group.join(name)).ok();
        let limit: u64 = read(self.limit)?.trim().parse().ok()?;
        let usage: u64 = read(self.usage)?.trim().parse().ok()?;
        let stat = read("memory.stat").unwrap_or_default();
        let cache = stat.lines().find_map(|l| l.strip_prefix(self.cache)?.trim().parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(cache)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("1", 1),
            ("512M", 512 << 20),
            ("6GiB", 6 << 30),
            ("6 gb", 6 << 30),
            ("1.5GiB", 3 << 29),
            ("2t", 2 << 40),
            (" 100k ", 100 << 10),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1G", "1Q", "0", "nan", "inf", "1e3", "9999999T", "1..2G", "5 %"] {
            assert!(parse_size(text).unwrap_err().contains("such as 6GiB"), "{text}");
        }
    }

    #[test]
    fn sizes_as_people_read_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (50 << 20, "50.0 MiB"),
            (3 << 29, "1.50 GiB"),
            (200 << 30, "200 GiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn the_kernel_tells() {
        let (now, peak) = (resident().unwrap(), peak().unwrap());
        assert!(0 < now && now <= peak);
        assert!(available().unwrap() > 0);
    }
}
