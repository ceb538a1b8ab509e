//! Chat templates against what transformers renders from them.
//!
//! The expectations are recorded by `tools/chat_reference.py`.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rheostat::chat::{ChatError, ChatTemplate, ChatTemplates, Clock, GenerationPrompt, RenderRequest, parse_argument};
use rheostat::tokenizer::{AddSpecial, SpecialTokens, Tokenizer, TokenizerFiles};
use serde_json::{Map, Value, json};

fn folder() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let roots = manifest.ancestors().map(|root| root.join("testdata/chat"));
    roots.into_iter().find(|path| path.is_dir()).expect("testdata/chat")
}

fn recorded(name: &str) -> Value {
    let path = folder().join(name);
    let text = fs::read_to_string(&path).expect("a recorded file");
    serde_json::from_str(&text).expect("JSON")
}

fn clock(record: &Value) -> Clock {
    let now = record["now"].as_str().expect("now");
    Clock::Fixed(now.parse().expect("a date and time"))
}

fn list<'a>(object: &'a Value, name: &str) -> Option<&'a [Value]> {
    object.get(name).and_then(Value::as_array).map(Vec::as_slice)
}

/// A request that asks for a reply to one message.
fn request<'a>(messages: &'a [Value], args: &'a Map<String, Value>) -> RenderRequest<'a> {
    RenderRequest {
        messages,
        tools: None,
        documents: None,
        args,
        generation_prompt: GenerationPrompt::Add,
        clock: Clock::Local,
    }
}

/// The files of a checkpoint with one template, or with named ones.
fn files(record: &Value, template: &str) -> TokenizerFiles {
    let mut config = record["special_tokens"].clone();
    let read = |name: &str| {
        let path = folder().join("templates").join(format!("{name}.jinja"));
        fs::read_to_string(path).expect("a template")
    };
    config["chat_template"] = match &record["sets"][template] {
        Value::Object(members) => members
            .iter()
            .map(|(name, file)| json!({"name": name, "template": read(file.as_str().expect("a file"))}))
            .collect(),
        _ => Value::from(read(template)),
    };
    TokenizerFiles { tokenizer_config: Some(Cow::Owned(config.to_string().into_bytes())), ..TokenizerFiles::default() }
}

/// Compares an outcome with the recorded one; the difference, if any.
fn difference(case: &Value, outcome: &Result<String, ChatError>) -> Option<String> {
    let expected = |name: &str| case.get(name).and_then(Value::as_str);
    match (outcome, expected("output"), expected("raised")) {
        (Ok(text), Some(output), _) if text == output => None,
        (Err(ChatError::Raised { message, .. }), _, Some(raised)) if message == raised => None,
        (Err(ChatError::Raised { .. }), None, None) => Some(format!("raised: {outcome:?}")),
        (Err(_), None, None) => None,
        _ => Some(format!("{outcome:?}\n expected {case:#}")),
    }
}

fn report(what: &str, total: usize, differences: &[String]) {
    assert!(differences.is_empty(), "{} of {total} {what} differ:\n{}", differences.len(), differences.join("\n\n"));
}

#[test]
fn templates_render_as_in_transformers() {
    let record = recorded("rendered.json");
    let conversations = recorded("conversations.json");
    let cases = list(&record, "cases").expect("cases");
    assert!(cases.len() > 250);
    let mut differences = Vec::new();
    for case in cases {
        let name = case["template"].as_str().expect("a template");
        let templates = ChatTemplates::load(&files(&record, name)).expect("loads");
        let conversation = &conversations[case["conversation"].as_str().expect("a name")];
        let generation_prompt = match conversation["add_generation_prompt"] {
            Value::Bool(false) => GenerationPrompt::Omit,
            _ => GenerationPrompt::Add,
        };
        let outcome = templates.expect("a template").render(&RenderRequest {
            messages: list(conversation, "messages").expect("messages"),
            tools: list(conversation, "tools"),
            documents: list(conversation, "documents"),
            args: case["args"].as_object().expect("arguments"),
            generation_prompt,
            clock: clock(&record),
        });
        differences.extend(difference(case, &outcome));
    }
    report("renderings", cases.len(), &differences);
}

#[test]
fn small_templates_behave_as_in_jinja() {
    let record = recorded("micro.json");
    let cases = list(&record, "cases").expect("cases");
    assert!(cases.len() > 200);
    let mut differences = Vec::new();
    for case in cases {
        let source = case["template"].as_str().expect("a template");
        let template = ChatTemplate::new("micro", source, &SpecialTokens::default());
        let mut args = case["variables"].as_object().expect("variables").clone();
        if let Ok(reads) = template.reads() {
            args.retain(|name, _| reads.contains(name));
        }
        let messages = [json!({"role": "user", "content": "hi"})];
        let outcome = template.render(&RenderRequest {
            messages: &messages,
            tools: None,
            documents: None,
            args: &args,
            generation_prompt: GenerationPrompt::Omit,
            clock: clock(&record),
        });
        differences.extend(difference(case, &outcome));
    }
    report("small templates", cases.len(), &differences);
}

fn hello() -> Vec<Value> {
    vec![json!({"role": "user", "content": "Hello"})]
}

fn template(source: &str) -> ChatTemplate {
    let special: SpecialTokens = [("bos_token", "<s>"), ("eos_token", "</s>")].into_iter().collect();
    ChatTemplate::new("chat_template.jinja", source, &special)
}

fn arguments(text: &str) -> Map<String, Value> {
    parse_argument(text).into_iter().collect()
}

/// Checkpoints elsewhere in `testdata` whose references hold conversations.
#[test]
fn checkpoints_render_as_in_transformers() {
    let testdata = folder().parent().expect("testdata").to_owned();
    for checkpoint in fs::read_dir(testdata).expect("testdata").flatten() {
        let checkpoint = checkpoint.path();
        let Ok(reference) = fs::read_to_string(checkpoint.join("reference.json")) else {
            continue;
        };
        let reference: Value = serde_json::from_str(&reference).expect("JSON");
        let Some(chats) = list(&reference, "chats") else {
            continue;
        };
        let files = TokenizerFiles::read(&checkpoint).expect("files");
        let templates = ChatTemplates::load(&files).expect("loads").expect("a template");
        let tokenizer = Tokenizer::load(&files).expect("a tokenizer");
        for chat in chats {
            let generation_prompt = match chat["add_generation_prompt"] {
                Value::Bool(false) => GenerationPrompt::Omit,
                _ => GenerationPrompt::Add,
            };
            let prompt = templates
                .render(&RenderRequest {
                    generation_prompt,
                    ..request(list(chat, "messages").expect("messages"), &Map::new())
                })
                .expect("a prompt");
            assert_eq!(chat["text"], prompt, "{}", checkpoint.display());
            let ids = tokenizer.encode(&prompt, AddSpecial::Omit).expect("ids");
            assert_eq!(chat["ids"], json!(ids), "{}", checkpoint.display());
        }
    }
}

#[test]
fn an_argument_the_template_never_reads_is_an_error() {
    let template = template(
        "{{ bos_token }}{% if enable_thinking %}{% set own = 1 %}{% endif %}\
         {% macro m(effort) %}{{ effort ~ depth }}{% endmacro %}{{ m(1) }}\
         {% for message in messages %}{{ message.content }}{% endfor %}",
    );
    let messages = hello();
    let error = template.render(&request(&messages, &arguments("reasoning_effort=high"))).expect_err("never read");
    let ChatError::UnknownArgument { argument, reads, standard, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(argument, "reasoning_effort");
    assert_eq!(reads, &["depth", "enable_thinking"]);
    assert_eq!(standard, &["bos_token", "messages"]);
    let text = error.to_string();
    for part in ["chat_template.jinja", "reasoning_effort", "depth, enable_thinking", "messages"] {
        assert!(text.contains(part), "{text}");
    }
    // Names the template has for itself are no arguments either.
    for own in ["effort=1", "message=1", "m=1", "namespace=1"] {
        let refused = template.render(&request(&messages, &arguments(own)));
        assert!(matches!(refused, Err(ChatError::UnknownArgument { .. })), "{own}");
    }
    let rendered = template.render(&request(&messages, &arguments("enable_thinking=false")));
    assert_eq!(rendered.as_deref(), Ok("<s>1Hello"));
}

#[test]
fn the_conversation_cannot_be_replaced_by_arguments() {
    let template = template("{{ messages }}{{ tools }}{{ bos_token }}");
    let messages = hello();
    for name in ["messages", "tools", "documents", "add_generation_prompt"] {
        let refused = template.render(&request(&messages, &arguments(&format!("{name}=[]"))));
        assert!(matches!(refused, Err(ChatError::ReservedArgument { .. })), "{name}");
    }
    // As in transformers, a special token can.
    let rendered = template.render(&request(&messages, &arguments("bos_token=<b>")));
    assert!(rendered.expect("a prompt").ends_with("None<b>"));
}

#[test]
fn arguments_are_json_where_they_can_be() {
    let parsed = |text| parse_argument(text).expect("an argument").1;
    assert_eq!(parsed("x=false"), json!(false));
    assert_eq!(parsed("x=3"), json!(3));
    assert_eq!(parsed("x=high"), json!("high"));
    assert_eq!(parsed("x=\"3\""), json!("3"));
    assert_eq!(parsed("x=a=b"), json!("a=b"));
    assert_eq!(parsed("x="), json!(""));
    assert_eq!(parse_argument("enable_thinking"), None);
    assert_eq!(parse_argument("=1"), None);
}

#[test]
fn template_files_win_over_the_config() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
    let load = || {
        let files = TokenizerFiles::read(dir.path()).expect("files");
        ChatTemplates::load(&files).expect("templates")
    };
    assert!(load().is_none());
    write("tokenizer_config.json", r#"{"chat_template": "config"}"#);
    let (messages, args) = (hello(), Map::new());
    let plain = request(&messages, &args);
    let with_tools = RenderRequest { tools: Some(&[]), ..plain };
    let rendered = |request| load().expect("templates").render(request);
    assert_eq!(rendered(&plain).as_deref(), Ok("config"));

    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}"#,
    );
    assert_eq!(rendered(&plain).as_deref(), Ok("d"));
    assert_eq!(rendered(&with_tools).as_deref(), Ok("t"));

    write("chat_template.jinja", "file");
    assert_eq!(rendered(&plain).as_deref(), Ok("file"));
    assert_eq!(rendered(&with_tools).as_deref(), Ok("file"));

    fs::create_dir(dir.path().join("additional_chat_templates")).expect("a folder");
    write("additional_chat_templates/tool_use.jinja", "more");
    write("additional_chat_templates/rag.jinja", "rag");
    assert_eq!(rendered(&plain).as_deref(), Ok("file"));
    assert_eq!(rendered(&with_tools).as_deref(), Ok("more"));
    let templates = load().expect("templates");
    assert_eq!(templates.names().collect::<Vec<_>>(), ["default", "rag", "tool_use"]);
    let rag = templates.named("rag").expect("a template");
    assert_eq!(rag.origin(), "additional_chat_templates/rag.jinja");
    assert!(matches!(templates.named("nope"), Err(ChatError::NoSuchTemplate { .. })));

    fs::remove_file(dir.path().join("chat_template.jinja")).expect("removed");
    assert!(matches!(rendered(&plain), Err(ChatError::NoDefault { .. })));
}

#[test]
fn errors_name_the_template_and_the_line() {
    let messages = hello();
    let error = |source: &str| {
        let error = template(source).render(&request(&messages, &Map::new()));
        error.expect_err("an error")
    };
    let text = error("one\n{{ messages[0].nope.deeper }}\n").to_string();
    assert!(text.contains("chat_template.jinja, line 2"), "{text}");
    assert!(text.contains("`messages[0].nope` is undefined"), "{text}");
    assert!(matches!(error("\n\n{% if x %}"), ChatError::Syntax { line: 3, .. }));
    assert!(matches!(error("a\n{% nope %}"), ChatError::Syntax { line: 2, .. }));
    let text = error("{{ raise_exception('Not today!') }}").to_string();
    assert!(text.ends_with("refuses this conversation: Not today!"), "{text}");

    let empty = template("x").render(&request(&[], &Map::new()));
    assert_eq!(empty, Err(ChatError::NoMessages));
    let odd = template("x").render(&request(&[json!("hi")], &Map::new()));
    assert!(matches!(odd, Err(ChatError::NotAnObject { what: "message", index: 0, .. })));
    let files = TokenizerFiles {
        tokenizer_config: Some(Cow::Borrowed(br#"{"chat_template": 5}"#)),
        ..TokenizerFiles::default()
    };
    let invalid = ChatTemplates::load(&files).expect_err("invalid");
    assert!(invalid.to_string().contains("tokenizer_config.json"));
}

#[test]
fn the_local_clock_tells_the_date() {
    let messages = hello();
    let source = "{{ strftime_now('%Y-%m-%d') }}";
    let rendered = template(source).render(&request(&messages, &Map::new()));
    let date = rendered.expect("a prompt");
    assert!(date.parse::<jiff::civil::Date>().is_ok(), "{date}");
}

/// Fragments of templates, for putting together at random.
const FRAGMENTS: [&str; 56] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "-",
    "+",
    " ",
    "\n",
    "'",
    "\"",
    "\\",
    "x",
    "messages",
    "é",
    "if",
    "else",
    "elif",
    "endif",
    "for",
    "in",
    "endfor",
    "set",
    "endset",
    "macro",
    "endmacro",
    "call",
    "endcall",
    "raw",
    "endraw",
    "generation",
    "endgeneration",
    "is",
    "not",
    "loop",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "|",
    "~",
    "*",
    "**",
    "%",
    "//",
    ",",
    ":",
    ".",
    "=",
    "==",
    "1",
    "0x",
    "1e9",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_template_panics(parts in prop::collection::vec(prop::sample::select(FRAGMENTS.to_vec()), 0..40)) {
        let messages = hello();
        let _ = template(&parts.concat()).render(&request(&messages, &Map::new()));
    }

    #[test]
    fn no_expression_panics(parts in prop::collection::vec(prop::sample::select(FRAGMENTS.to_vec()), 0..12)) {
        let messages = hello();
        for source in [format!("{{{{ {} }}}}", parts.join(" ")), format!("{{% set x = {} %}}", parts.concat())] {
            let _ = template(&source).render(&request(&messages, &Map::new()));
        }
    }

    #[test]
    fn slices_of_any_bounds_are_fine(start in -9_i64..9, stop in any::<i64>(), step in any::<i64>()) {
        let messages = hello();
        let source = format!("{{{{ 'abcdef'[{start}:{stop}:{step}] }}}}{{{{ [1, 2, 3][{stop}:{start}:{step}] }}}}");
        let _ = template(&source).render(&request(&messages, &Map::new()));
    }
}
