//! How fast disks were when they were last measured: a small file in the user's cache, one line for each device.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rheostat::{Package, measure_disk};
use serde::{Deserialize, Serialize};

/// How long a measurement is believed.
const DAY: u64 = 24 * 60 * 60;
/// How long one takes.
const PROBE: Duration = Duration::from_millis(500);

/// The rate of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DiskRate {
    pub(crate) bytes_per_second: f64,
    /// In seconds since 1970.
    measured_at: u64,
}

impl DiskRate {
    /// When it was measured, for people.
    pub(crate) fn age(&self) -> String {
        match now().saturating_sub(self.measured_at) {
            0..60 => "now".to_owned(),
            seconds @ 60..7200 => format!("{} min ago", seconds / 60),
            seconds => format!("{} h ago", seconds / 3600),
        }
    }

    fn is_fresh(&self) -> bool {
        // A clock that was set back makes nothing fresh for ever.
        let now = now();
        self.bytes_per_second > 0.0 && self.measured_at <= now && now - self.measured_at < DAY
    }
}

/// The rate of the disk that `package` is on, from the cache if it is of the last day, else measured; nothing for a model that cannot be
/// measured.
pub(crate) fn rate(package: &Package, measure: bool) -> anyhow::Result<Option<DiskRate>> {
    let device = std::fs::metadata(package.checkpoint().path()).map(|m| m.dev().to_string());
    let (Ok(device), cache) = (device, cache()) else { return Ok(None) };
    let mut known = cache.as_deref().map(load).unwrap_or_default();
    if !measure && let Some(rate) = known.get(&device).filter(|rate| rate.is_fresh()) {
        return Ok(Some(*rate));
    }
    let Some(bytes_per_second) = measure_disk(package, PROBE)? else { return Ok(None) };
    let rate = DiskRate { bytes_per_second, measured_at: now() };
    known.insert(device, rate);
    if let Some(cache) = cache {
        // A cache that cannot be written costs half a second the next time, and nothing else.
        let _ = save(&cache, &known);
    }
    Ok(Some(rate))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs())
}

/// The file, if the user has a place for such files.
fn cache() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from).filter(|p| p.is_absolute());
    let dir = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")))?;
    Some(dir.join("rheostat").join("disks.json"))
}

/// What is in it; nothing if it is not there or not as it should be.
fn load(path: &Path) -> BTreeMap<String, DiskRate> {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn save(path: &Path, known: &BTreeMap<String, DiskRate>) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&serde_json::to_vec(known)?)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_what_is_damaged_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/disks.json");
        assert!(load(&path).is_empty());
        let rate = DiskRate { bytes_per_second: 2.5e9, measured_at: now() };
        let known = BTreeMap::from([("8:1".to_owned(), rate)]);
        save(&path, &known).unwrap();
        assert_eq!(load(&path), known);
        std::fs::write(&path, "{\"8:1\": 3").unwrap();
        assert!(load(&path).is_empty());
    }

    #[test]
    fn a_rate_is_believed_for_a_day() {
        let at = |measured_at| DiskRate { bytes_per_second: 1e9, measured_at };
        assert!(at(now()).is_fresh());
        assert!(at(now() - DAY + 60).is_fresh());
        assert!(!at(now() - DAY).is_fresh());
        assert!(!at(now() + DAY).is_fresh(), "from the future");
        assert!(!DiskRate { bytes_per_second: 0.0, measured_at: now() }.is_fresh());
        assert_eq!(at(now()).age(), "now");
        assert_eq!(at(now() - 600).age(), "10 min ago");
        assert_eq!(at(now() - 3 * 3600).age(), "3 h ago");
    }
}
