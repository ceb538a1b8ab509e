//! Checkpoints of experts whose bytes tell where they are from, and a cache whose every byte is compared.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rheostat_store::{
    Checkpoint, Expert, ExpertPlan, Experts, Extent, Io, Record, StoreError, StoreErrorKind, TooSmall, Way,
};

pub(crate) const WAYS: [(Io, Way); 3] =
    [(Io::Uring, Way::Uring), (Io::Direct, Way::Direct), (Io::Buffered, Way::Buffered)];
pub(crate) const LAYERS: usize = 4;
pub(crate) const EXPERTS: u32 = 24;
/// Elements of an expert's gate, up and down in bf16, and of its part of the fused scales: no multiples of anything.
pub(crate) const GATE: usize = 1501;
pub(crate) const DOWN: usize = 2777;
pub(crate) const SCALES: usize = 19;

/// Numbers that look random and are the same every time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }

    /// Some experts, in increasing order: lower ones more often.
    pub(crate) fn choose(&mut self, count: usize, of: u32) -> Vec<u32> {
        let mut chosen = HashSet::new();
        while chosen.len() < count.min(of as usize) {
            let end = 1 + self.below(of as usize);
            chosen.insert(self.below(end) as u32);
        }
        let mut chosen: Vec<u32> = chosen.into_iter().collect();
        chosen.sort_unstable();
        chosen
    }
}

/// Directories where reads past the page cache are possible.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A file of tensors one after the other whose data begins at an odd offset and whose bytes tell where they are from.
pub(crate) fn file(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut at = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|(name, shape)| {
            let begin = at;
            at += 2 * shape.iter().product::<usize>();
            format!(r#""{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{begin},{at}]}}"#)
        })
        .collect();
    let mut header = format!("{{{}}}", entries.join(","));
    while header.len() % 8 != 5 {
        header.push(' ');
    }
    let mut random = Random(header.len() as u64);
    let data = (0..at).map(|_| random.below(256) as u8);
    (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes()).chain(data).collect()
}

/// Each expert has a gate and an up that touch, a down elsewhere, and a part of a fused tensor; those of the last layer have two downs.
pub(crate) fn model() -> Vec<u8> {
    let mut tensors = vec![("other".to_owned(), vec![777])];
    for l in 0..LAYERS {
        tensors.push((format!("{l}.scales"), vec![EXPERTS as usize, SCALES]));
        // Further than what is read rather than skipped.
        tensors.push((format!("{l}.other"), vec![10_000]));
        for e in 0..EXPERTS {
            tensors.push((format!("{l}.{e}.gate"), vec![GATE]));
            tensors.push((format!("{l}.{e}.up"), vec![GATE]));
        }
        let downs = if l == LAYERS - 1 { 2 } else { 1 };
        tensors.extend((0..EXPERTS).map(|e| (format!("{l}.{e}.down"), vec![downs, DOWN])));
    }
    file(&tensors)
}

pub(crate) fn checkpoint(dir: &Path) -> Checkpoint {
    fs::write(dir.join("model.safetensors"), model()).unwrap();
    Checkpoint::open(dir).unwrap()
}

/// The experts of [`model`]: down, scales, gate, up.
pub(crate) fn layers(checkpoint: &Checkpoint) -> Vec<Vec<Expert>> {
    let extent = |name: String| Extent::from(checkpoint.tensor(&name).unwrap());
    let expert = |l: usize, e: u32| {
        let scales = checkpoint.tensor(&format!("{l}.scales")).unwrap().entry(e as usize).unwrap();
        let [down, gate, up] = ["down", "gate", "up"].map(|part| extent(format!("{l}.{e}.{part}")));
        Expert { parts: vec![down, Extent::from(&scales), gate, up] }
    };
    (0..LAYERS).map(|l| (0..EXPERTS).map(|e| expert(l, e)).collect()).collect()
}

/// What is tested: experts, and what their bytes should be.
pub(crate) struct Case {
    pub(crate) experts: Experts,
    pub(crate) want: Vec<Vec<Vec<Vec<u8>>>>,
}

impl Case {
    /// Nothing where the system refuses the way of reading.
    pub(crate) fn new(checkpoint: &Checkpoint, budget: u64, io: Io) -> Option<Case> {
        Case::with(checkpoint, &layers(checkpoint), budget, io, None)
    }

    pub(crate) fn with(
        checkpoint: &Checkpoint,
        layers: &[Vec<Expert>],
        budget: u64,
        io: Io,
        record: Option<Record>,
    ) -> Option<Case> {
        let plan = ExpertPlan::new(checkpoint, layers, budget, io).unwrap();
        assert!(plan.arena_bytes() <= budget && plan.least_bytes() <= budget, "{budget}");
        let read = |extent: &Extent| {
            let mut bytes = vec![0; extent.len as usize];
            checkpoint.sources()[extent.shard].read_exact_at(extent.offset, &mut bytes).unwrap();
            bytes
        };
        let want = layers.iter().map(|l| l.iter().map(|e| e.parts.iter().map(read).collect()).collect()).collect();
        match Experts::new(checkpoint, plan, record) {
            Ok(experts) => Some(Case { experts, want }),
            // In some containers, and on some file systems.
            Err(error) if error.kind() == StoreErrorKind::IoRefused => {
                println!("not tried: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Acquires an expert and compares every byte.
    pub(crate) fn check(&self, layer: usize, expert: u32) -> Result<(), StoreError> {
        let bytes = self.experts.acquire(layer, expert)?;
        let want = &self.want[layer][expert as usize];
        assert_eq!(bytes.parts(), want.len());
        for (p, want) in want.iter().enumerate() {
            assert!(bytes.part(p) == want, "layer {layer}, expert {expert}, part {p}");
        }
        Ok(())
    }

    pub(crate) fn pass(&self, layer: usize, experts: &[u32]) {
        self.experts.request(layer, experts);
        for e in experts {
            self.check(layer, *e).unwrap();
        }
    }

    /// Until an expert is here, or a second is over.
    pub(crate) fn comes(&self, layer: usize, expert: u32) -> bool {
        let until = Instant::now() + Duration::from_secs(1);
        while !self.experts.is_here(layer, expert) && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(100));
        }
        self.experts.is_here(layer, expert)
    }
}

/// The smallest budget, some that are not enough for all, and one that is.
pub(crate) fn budgets(checkpoint: &Checkpoint, io: Io) -> [u64; 4] {
    let TooSmall { needed } = ExpertPlan::new(checkpoint, &layers(checkpoint), 0, io).unwrap_err();
    let total = checkpoint.total_bytes();
    [needed, needed + 40_000, total / 2, total * 4]
}
