//! `rheostat profile`, `generate --profile`, `--trace` and `--html`: what they say of a run, and that looking changes
//! nothing. How fast anything was is nobody's promise here.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::checkpoint::Checkpoint;
use common::{dir, run, succeed};
use serde_json::{Value, json};

/// A model of 30 MiB of weights, of which a small budget holds next to nothing.
fn wide() -> Checkpoint {
    const WIDTH: usize = 1 << 16;
    let checkpoint = Checkpoint::copy("text_llama2");
    checkpoint.config("intermediate_size", json!(WIDTH));
    checkpoint.tensors("model.safetensors", |tensors| {
        for t in tensors.iter_mut().filter(|t| t.name.contains(".mlp.")) {
            let width = if t.name.contains("down_proj") { 1 } else { 0 };
            let row = t.data.len() / t.shape[width];
            t.shape[width] = WIDTH;
            let small = t.data.clone();
            t.data = small.iter().copied().cycle().take(row * WIDTH).collect();
        }
    });
    checkpoint
}

/// Its layers.
const LAYERS: usize = 2;

/// The smallest budget for these arguments.
fn smallest(args: &[&str]) -> String {
    let refused = run(&[args, &["--memory", "1M"]].concat());
    let budget = refused.stderr.trim().rsplit(" is ").next().unwrap().to_owned();
    assert!(budget.ends_with(" MiB"), "{refused:?}");
    budget
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

/// Parts make no more than the whole.
fn check_account(account: &Value) {
    let parts = ["waiting", "arithmetic", "head", "sampling", "guessing", "other"];
    let sum: f64 = parts.iter().map(|part| number(&account[format!("{part}_seconds")])).sum();
    let whole = number(&account["seconds"]);
    assert!((sum - whole).abs() <= 1e-6 * whole.max(1e-3), "{sum} of {whole}: {account}");
    let between = ["head", "sampling", "guessing"];
    let operations = account["operations"].as_object().unwrap();
    let sum: f64 = operations
        .iter()
        .filter(|(name, _)| !between.contains(&name.as_str()))
        .map(|(_, op)| number(&op["seconds"]))
        .sum();
    assert!((sum - number(&account["arithmetic_seconds"])).abs() < 1e-6, "{account}");
    assert!(account["overlap"].is_null() || (0.0..=1.0).contains(&number(&account["overlap"])), "{account}");
}

#[test]
fn a_profile_is_whole() {
    let model = wide();
    let args = ["profile", model.dir(), "-p", "20", "-n", "5", "--json"];
    let all = succeed(&args).json();
    assert_eq!((&all["plan"]["streamed"], &all["limits"]["disk_bytes_per_second"]), (&json!(0), &Value::Null));
    let small = succeed(&[&args[..], &["--memory", &smallest(&args)]].concat()).json();
    for report in [&all, &small] {
        let (prefill, decode) = (&report["phases"]["prefill"], &report["phases"]["decode"]);
        // The last token is not read.
        assert_eq!(
            (&prefill["rows"], &decode["rows"], &decode["sweeps"]),
            (&json!(20), &json!(4), &json!(4)),
            "{report}"
        );
        assert_eq!(decode["operations"]["gate, up"]["count"], 4 * LAYERS, "{report}");
        assert_eq!(decode["operations"]["head"]["count"], 4);
        assert_eq!(decode["operations"]["sampling"]["count"], 4);
        let sweeps = report["sweeps"].as_array().unwrap();
        assert_eq!(sweeps.len() as u64, report["overall"]["sweeps"].as_u64().unwrap());
        for account in sweeps.iter().chain([prefill, decode, &report["overall"]]) {
            check_account(account);
        }
        for phase in [prefill, decode] {
            assert!(phase["advice"].as_str().unwrap().ends_with('.'), "{phase}");
            assert!(phase["bottleneck"].is_string(), "{phase}");
        }
        assert!(report["limits"]["f32_flops"].as_f64().unwrap() > 0.0, "{report}");
    }
    assert_eq!(all["overall"]["bytes"]["streamed"], 0);
    assert!(number(&all["phases"]["decode"]["predicted_seconds_per_sweep"]) > 0.0);
    let streamed = number(&small["plan"]["streamed"]);
    let read = number(&small["phases"]["decode"]["bytes"]["streamed"]);
    assert!(streamed > 10e6 && read > 3.0 * streamed, "{small}");
    assert!(number(&small["phases"]["decode"]["read_bytes_per_second"]) > 0.0);
    assert!(small["reading"].as_str().unwrap().contains("page cache"), "{small}");
    let (peak, budget) = (number(&small["peak_memory_bytes"]), number(&small["plan"]["budget"]));
    assert!(peak <= budget, "{small}");
}

#[test]
fn a_table_for_people() {
    let outcome = succeed(&["profile", "embedded", "ROMEO:", "-n", "20", "-t", "2"]);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    for start in ["sweeps ", "time ", "  waiting for the disk ", "    attention ", "  head ", "  sampling ", "  other "]
    {
        assert!(lines.iter().any(|l| l.starts_with(start)), "{start:?}: {}", outcome.stdout);
    }
    for start in ["prefill: ", "decode: "] {
        assert!(lines.iter().any(|l| l.starts_with(start) && l.ends_with('.')), "{start:?}: {}", outcome.stdout);
    }
    assert!(outcome.stdout.contains("2 threads") && outcome.stdout.contains("limits measured"), "{}", outcome.stdout);
    // Sweeps one by one: the first, the last, and how many are left out.
    assert!(lines.iter().any(|l| l.trim() == "… 8"), "{}", outcome.stdout);
    assert!(outcome.stderr.is_empty(), "{outcome:?}");
    let outcome = succeed(&["profile", &dir("text_qwen3"), "-p", "7", "-n", "0"]);
    assert!(!outcome.stdout.contains("decode:"), "nothing was written: {}", outcome.stdout);
}

#[test]
fn generation_says_the_same_and_more() {
    let base = ["generate", "embedded", "ROMEO:\n", "-n", "12"];
    let plain = succeed(&base);
    let told = succeed(&[&base[..], &["--profile"]].concat());
    assert_eq!(told.stdout, plain.stdout);
    assert!(told.stderr.starts_with("12 tokens, ") && told.stderr.contains("\ndecode: "), "{told:?}");
    let json = succeed(&[&base[..], &["--profile", "--json"]].concat()).json();
    assert_eq!(json["profile"]["overall"]["sweeps"], 12, "{json}");
    assert_eq!(format!("{}\n", json["text"].as_str().unwrap()), plain.stdout);
    assert!(succeed(&[&base[..], &["--json"]].concat()).json()["profile"].is_null());
}

/// A batch is looked at as well, and its guesses.
#[test]
fn many_texts_are_looked_at() {
    let scratch = tempfile::tempdir().unwrap();
    let place = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let prompts = ["ROMEO:", "JULIET:", "O, she"].map(|p| json!({ "prompt": p }).to_string()).join("\n");
    fs::write(place("prompts"), prompts).unwrap();
    let (prompts, out, trace) = (place("prompts"), place("out"), place("trace"));
    let args = ["generate", "embedded", "--batch", &prompts, "--out", &out, "-n", "9", "--profile", "--trace", &trace];
    let outcome = succeed(&[&args[..], &["--speculate", "lookup"]].concat());
    assert!(outcome.stderr.contains("  guessing ") && outcome.stderr.contains("\ndecode: "), "{outcome:?}");
    assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 3);
    let trace: Value = serde_json::from_slice(&fs::read(&trace).unwrap()).unwrap();
    let guesses = trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["name"] == "guessing");
    assert!(guesses.count() > 0);
}

/// What a viewer needs: every event whole, none across another on its track, all tracks named.
fn check_trace(path: &Path) -> Value {
    let trace: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let mut tracks: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    let ns = |value: &Value| (number(value) * 1000.0).round() as u64;
    let mut read = 0;
    for event in events {
        assert_eq!(event["pid"], 1, "{event}");
        assert!(event["name"].is_string(), "{event}");
        match event["ph"].as_str().unwrap() {
            "X" => {
                let start = ns(&event["ts"]);
                tracks.entry(event["tid"].as_u64().unwrap()).or_default().push((start, start + ns(&event["dur"])));
                if event["cat"] == "read" {
                    read += event["args"]["bytes"].as_u64().unwrap();
                }
            }
            "M" if event["name"] == "thread_name" => {
                let name = event["args"]["name"].as_str().unwrap().to_owned();
                assert!(names.insert(event["tid"].as_u64().unwrap(), name).is_none(), "{event}");
            }
            "M" => assert!(event["args"].is_object(), "{event}"),
            "C" => assert!(number(&event["args"]["GB/s"]) >= 0.0 && number(&event["ts"]) >= 0.0, "{event}"),
            "i" => assert!(number(&event["ts"]) > 0.0, "{event}"),
            other => panic!("{other:?}: {event}"),
        }
    }
    for (tid, mut spans) in tracks {
        assert!(names.contains_key(&tid), "track {tid} has no name");
        spans.sort_by_key(|(start, end)| (*start, std::cmp::Reverse(*end)));
        let mut open: Vec<u64> = Vec::new();
        for (start, end) in spans {
            while open.last().is_some_and(|open| *open <= start) {
                open.pop();
            }
            assert!(open.last().is_none_or(|open| end <= *open), "{}: {start} to {end} crosses another", names[&tid]);
            open.push(end);
        }
    }
    assert!(names.values().any(|name| name.starts_with("thread 0")), "{names:?}");
    if trace["otherData"]["cut"].is_null() {
        assert_eq!(trace["otherData"]["bytes_read"], read);
    }
    trace
}

#[test]
fn a_trace_can_be_looked_at() {
    let model = wide();
    let path = model.scratch().join("trace.json");
    let page = model.scratch().join("page.html");
    let base = ["generate", model.dir(), "The kettle", "-n", "3", "-t", "2"];
    let plain = succeed(&base).stdout;
    let files = ["--trace", path.to_str().unwrap(), "--html", page.to_str().unwrap()];
    let args = [&base[..], &files].concat();
    let budget = smallest(&args);
    for memory in [&["--memory", budget.as_str()][..], &[]] {
        let outcome = succeed(&[&args[..], memory].concat());
        assert_eq!(outcome.stdout, plain, "looking changes nothing");
        assert_eq!(outcome.stderr.lines().count(), 1, "a profile was not asked for: {outcome:?}");
        let trace = check_trace(&path);
        let events = trace["traceEvents"].as_array().unwrap();
        let count = |name: &str| events.iter().filter(|e| e["name"] == name && e["cat"] == "operation").count();
        let sweeps = events.iter().filter(|e| e["cat"] == "sweep").count();
        assert!(sweeps >= 3, "the prompt and two tokens at least: {sweeps}");
        assert_eq!((count("attention"), count("sampling")), (sweeps * LAYERS, 3));
        assert!(
            events.iter().any(|e| e["cat"] == "read" && e["args"]["file"].as_str().unwrap().ends_with(".safetensors"))
        );
        assert!(events.iter().any(|e| e["ph"] == "C"));
        let page = fs::read_to_string(&page).unwrap();
        assert_eq!(tracks(&page).len(), threads_and_reads(events), "the page has the same tracks");
        let shown: usize = tracks(&page).iter().map(|t| t["e"].as_array().unwrap().len() / 6).sum();
        assert_eq!(shown, events.iter().filter(|e| e["ph"] == "X").count(), "and the same events");
    }
}

fn threads_and_reads(events: &[Value]) -> usize {
    events.iter().filter(|e| e["name"] == "thread_name").count()
}

/// The data in a page.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

fn tracks(page: &str) -> Vec<Value> {
    data(page)["tracks"].as_array().unwrap().clone()
}

#[test]
fn a_trace_ends_where_its_memory_does() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("trace.json");
    let place = path.to_str().unwrap();
    let args = ["profile", "embedded", "-p", "4", "-n", "30", "--trace", place, "--trace-memory", "20000"];
    let outcome = succeed(&args);
    assert!(outcome.stderr.starts_with("note: the trace ends after ") && outcome.stderr.contains("--trace-memory"));
    let trace = check_trace(&path);
    assert!(trace["otherData"]["cut"].as_str().unwrap().contains("memory was full"), "{trace}");
    assert!(trace["traceEvents"].as_array().unwrap().iter().any(|e| e["ph"] == "i"));
}

/// Whatever a model is called, it is text in the page, and the page asks nobody for anything.
#[test]
fn a_page_is_whole_and_safe() {
    let model = Checkpoint::copy("text_qwen3");
    let name = model.scratch().join("a<").join("script>&\"'<b>");
    fs::create_dir_all(name.parent().unwrap()).unwrap();
    fs::rename(model.dir(), &name).unwrap();
    let page = model.scratch().join("page.html");
    succeed(&["profile", name.to_str().unwrap(), "-n", "3", "--html", page.to_str().unwrap()]);
    let page = fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("</script").count(), 2, "the data and the script, and nothing else, end");
    assert!(!page.contains("<b>&") && !page.contains("<b>:") && page.contains("script&gt;&amp;&quot;&#39;&lt;b&gt;"));
    assert!(!page.contains("{{") && !page.contains("http"), "nothing is left open, nothing is fetched");
    let data = data(&page);
    assert!(data["model"].as_str().unwrap().ends_with("a</script>&\"'<b>"), "{}", data["model"]);
    assert!(data["files"][0].as_str().unwrap().contains("</script>"));
    for part in ["<canvas", "prefers-color-scheme: dark", "wheel", "decode", "  attention"] {
        assert!(page.contains(part), "{part}");
    }
}

/// What cannot be written is found out before anything runs; what fails later loses no text.
#[test]
fn files_that_cannot_be_written() {
    let scratch = tempfile::tempdir().unwrap();
    let missing = scratch.path().join("missing/trace.json");
    let missing = missing.to_str().unwrap();
    for (flag, path, told) in [
        ("--trace", missing, "there is no directory"),
        ("--html", missing, "there is no directory"),
        ("--trace", scratch.path().to_str().unwrap(), "is a directory"),
        ("--html", "/proc/none.html", "cannot be written"),
    ] {
        for command in [&["generate", "embedded", "ROMEO:"][..], &["profile", "embedded"]] {
            let outcome = run(&[command, &[flag, path]].concat());
            assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
            assert!(outcome.stderr.starts_with("error: ") && outcome.stderr.contains(told), "{outcome:?}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        }
    }
    let base = ["generate", "embedded", "ROMEO:\n", "-n", "12"];
    let plain = succeed(&base).stdout;
    let outcome = run(&[&base[..], &["--trace", "/dev/full"]].concat());
    assert_eq!((outcome.code, &outcome.stdout), (Some(1), &plain), "{outcome:?}");
    assert!(outcome.stderr.contains("error: /dev/full cannot be written"), "{outcome:?}");
    let outcome = run(&[&base[..], &["--json", "--trace", "/dev/full"]].concat());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(format!("{}\n", outcome.json()["text"].as_str().unwrap()), plain);
    // One file that fails does not take the other with it.
    let page = scratch.path().join("page.html");
    let outcome = run(&[&base[..], &["--trace", "/dev/full", "--html", page.to_str().unwrap()]].concat());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(fs::read_to_string(&page).unwrap().ends_with("</html>\n"));
}

/// What is there stays until something whole takes its place.
#[test]
fn a_run_that_is_refused_leaves_files_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("trace.json");
    fs::write(&path, "mine").unwrap();
    let args = ["profile", "embedded", "--trace", path.to_str().unwrap()];
    let outcome = run(&[&args[..], &["--memory", "1M"]].concat());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "nothing else is left");
    succeed(&args);
    check_trace(&path);
}

#[test]
fn arguments_that_make_no_sense() {
    for (args, told) in [
        (&["profile", "embedded", "ROMEO:", "-p", "5"][..], "cannot be used with"),
        (&["profile", "embedded", "-p", "0"], "a whole number, 1 or more"),
        (&["profile", "embedded", "-p", "5000"], "do not fit the model's context"),
        (&["profile", "embedded", "-p", "18446744073709551615"], "do not fit the model's context"),
        (&["profile", "embedded", "", "-n", "5"], "the prompt is empty"),
        (&["profile", "embedded", "--trace", "a.json", "--html", "a.json"], "name the same file"),
        (&["profile", "embedded", "--trace-memory", "1000T", "--trace", "/dev/null"], "are free"),
        (&["profile", "embedded", "--trace-memory", "much"], "such as 6GiB"),
    ] {
        let outcome = run(args);
        assert!(outcome.code == Some(2) || outcome.code == Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains(told) && outcome.stdout.is_empty(), "{outcome:?}");
    }
}
