//! One test of candle's qwen3 model on the CPU; prints one JSON object.
//!
//!     candle-bench CHECKPOINT f32|bf16 prefill N REPETITIONS
//!     candle-bench CHECKPOINT f32|bf16 decode N REPETITIONS [DEPTH]
//!
//! The number of threads is `RAYON_NUM_THREADS`. candle gives the logits of the last row only.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::qwen3::{Config, ModelForCausalLM};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (checkpoint, dtype, test, n, repetitions, depth) = match args[..] {
        [c, t, "prefill", n, r] => (c, t, "prefill", n, r, "0"),
        [c, t, "decode", n, r] => (c, t, "decode", n, r, "0"),
        [c, t, "decode", n, r, d] => (c, t, "decode", n, r, d),
        _ => bail!("usage: candle-bench CHECKPOINT f32|bf16 prefill|decode N REPETITIONS [DEPTH]"),
    };
    let dtype = match dtype {
        "f32" => DType::F32,
        "bf16" => DType::BF16,
        other => bail!("{other} is not a type of numbers; give f32 or bf16"),
    };
    let (n, repetitions, depth): (usize, usize, usize) = (n.parse()?, repetitions.parse()?, depth.parse()?);
    let (mut model, vocab) = load(Path::new(checkpoint), dtype)?;
    let tokens = |from: usize, count: usize| {
        let ids: Vec<u32> = (from as u64..(from + count) as u64)
            .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % vocab)
            .collect();
        Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)
    };
    let mut rates = Vec::new();
    if test == "prefill" {
        let tokens = tokens(0, n)?;
        // The first is not measured.
        for i in 0..=repetitions {
            model.clear_kv_cache();
            let start = Instant::now();
            model.forward(&tokens, 0)?;
            if i > 0 {
                rates.push(n as f64 / start.elapsed().as_secs_f64());
            }
        }
    } else {
        for at in (0..depth).step_by(512) {
            model.forward(&tokens(at, 512.min(depth - at))?, at)?;
        }
        model.clone().forward(&tokens(depth, 1)?, depth)?;
        for _ in 0..repetitions {
            // Tensors are shared; appending to the cache makes new ones.
            let mut model = model.clone();
            let start = Instant::now();
            for at in depth..depth + n {
                model.forward(&tokens(at, 1)?, at)?;
            }
            rates.push(n as f64 / start.elapsed().as_secs_f64());
        }
    }
    println!("{}", serde_json::json!({ "tokens_per_second": rates }));
    Ok(())
}

fn load(checkpoint: &Path, dtype: DType) -> anyhow::Result<(ModelForCausalLM, u32)> {
    let config = checkpoint.join("config.json");
    let text = std::fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    let config: Config =
        serde_json::from_str(&text).with_context(|| format!("{} is not of a qwen3 model", config.display()))?;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(checkpoint)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
    // SAFETY: nobody writes to the checkpoint while it is measured.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&files, dtype, &Device::Cpu)? };
    let model = ModelForCausalLM::new(&config, weights)?;
    Ok((model, config.vocab_size as u32))
}
