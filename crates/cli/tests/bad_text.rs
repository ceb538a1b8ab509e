//! Text that cannot be given to a model: tokenizers, chat templates, messages, prompts.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod common;

use common::checkpoint::Checkpoint;
use common::refusals::{Refusal, check_all};
use serde_json::json;

const CHAT: &[&str] = &["generate", "{dir}", "Hello", "--chat"];
const PROMPT: &[&str] = &["prompt", "{dir}", "--messages", "-"];
const TOOLS: &[&str] = &["prompt", "{dir}", "--messages", "{scratch}/messages.json", "--tools", "-"];
const HELLO: &[u8] = br#"[{"role": "user", "content": "Hello"}]"#;

#[test]
fn tokenizers_that_cannot_be_used() {
    let table = [
        Refusal::checkpoint(
            "no tokenizer",
            |c| c.remove("tokenizer.json"),
            &["{dir} has no tokenizer.json", "save_pretrained", "put the tokenizer.json it writes into the folder"],
        ),
        Refusal::checkpoint(
            "sentencepiece alone",
            |c| std::fs::rename(c.path("tokenizer.json"), c.path("tokenizer.model")).unwrap(),
            &["{dir} has no tokenizer.json", "tokenizer.model", "sentencepiece", "save_pretrained"],
        ),
        Refusal::checkpoint(
            "tokenizer that is no JSON",
            |c| c.write("tokenizer.json", b"{\"version\": "),
            &["tokenizer.json", "line 1", "save the tokenizer anew"],
        ),
        Refusal::checkpoint(
            "tokenizer that is something else",
            |c| c.write("tokenizer.json", b"{\"model_type\": \"qwen3\"}"),
            &["tokenizer.json", "save the tokenizer anew"],
        ),
        Refusal::checkpoint(
            "merge of tokens that are not there",
            |c| c.edit("tokenizer.json", |map| map["model"]["merges"] = json!([["no such", "token"]])),
            &["tokenizer.json", "no such", "save the tokenizer anew"],
        ),
        Refusal::checkpoint(
            "directory in its place",
            |c| c.make_directory("tokenizer.json"),
            &["{dir}/tokenizer.json", "directory", "put the model's own file in its place"],
        ),
        Refusal::checkpoint(
            "tokenizer_config.json that is no JSON",
            |c| c.write("tokenizer_config.json", b"chat_template = 1"),
            &["tokenizer_config.json", "line 1", "save the tokenizer anew"],
        ),
        Refusal::checkpoint(
            "tokenizer with more tokens than the model",
            |c| {
                c.config("vocab_size", json!(60));
                c.tensor("model.embed_tokens.weight", |t| {
                    t.shape[0] = 60;
                    t.data.truncate(60 * 40 * 2);
                });
            },
            &["token ", "at position 0", "out of range", "60 tokens, 0 to 59"],
        ),
    ];
    check_all(&table, 8);
}

#[test]
fn templates_that_cannot_be_used() {
    let with = |name, make, told| Refusal { args: CHAT, ..Refusal::checkpoint(name, make, told) };
    let table = [
        with(
            "refusal by the template",
            |c: &Checkpoint| c.template("{{ raise_exception('only\nkettles\u{1b}[2J may speak') }}"),
            &["refuses this conversation", "only kettles\\u{1b}[2J may speak", "tokenizer_config.json"],
        ),
        with(
            "syntax error",
            |c| c.template("Hello\n{% if messages %}there"),
            &["tokenizer_config.json, line 2", "cannot be used"],
        ),
        with(
            "unknown filter",
            |c| c.template("{{ messages|sparkle }}"),
            &["tokenizer_config.json", "line 1", "sparkle"],
        ),
        with(
            "unknown function",
            |c| c.template("a\n\n{{ sparkle() }}"),
            &["tokenizer_config.json", "line 3", "sparkle"],
        ),
        with(
            "something the conversation lacks",
            |c| c.template("{{ messages[0].tool_calls[0].name }}"),
            &["tokenizer_config.json, line 1", "the conversation may lack something"],
        ),
        with(
            "number for a template",
            |c| c.edit("tokenizer_config.json", |map| map["chat_template"] = json!(3)),
            &["tokenizer_config.json", "chat_template", "correct the file"],
        ),
        with(
            "file that is not UTF-8",
            |c| c.write("chat_template.jinja", b"\xFF{{ messages }}"),
            &["chat_template.jinja", "UTF-8", "correct the file"],
        ),
        with(
            "no default among several",
            |c| {
                let named = json!([{"name": "rag", "template": "a"}, {"name": "tool_use", "template": "b"}]);
                c.edit("tokenizer_config.json", |map| map["chat_template"] = named);
            },
            &["rag, tool_use", "none named default", "chat_template.jinja"],
        ),
        Refusal {
            base: "text_opensci",
            args: CHAT,
            ..Refusal::checkpoint("no template", |_| {}, &["{dir} has no chat template", "continue plain text"])
        },
        Refusal {
            base: "text_opensci",
            ..Refusal::args(
                "no template to chat with",
                1,
                &["chat", "{dir}"],
                &["{dir} has no chat template", "generate"],
            )
        },
        Refusal {
            base: "text_opensci",
            stdin: HELLO,
            ..Refusal::args("no template to show", 1, PROMPT, &["{dir} has no chat template", "generate"])
        },
        Refusal {
            make: |c| c.template("{{ messages }}{{ tone }}{{ mood }}"),
            ..Refusal::args(
                "argument that the template does not read",
                1,
                &["generate", "{dir}", "Hello", "--template-arg", "enable_thinking=false"],
                &["never reads `enable_thinking`", "mood, tone", "correct the name or leave it out"],
            )
        },
        Refusal::args(
            "argument without a value",
            1,
            &["generate", "{dir}", "Hello", "--template-arg", "enable_thinking"],
            &["--template-arg enable_thinking", "name and a value", "enable_thinking=false"],
        ),
        Refusal::args(
            "argument given twice",
            1,
            &["generate", "{dir}", "Hello", "--template-arg", "a=1", "--template-arg", "a=2"],
            &["--template-arg", "sets a more than once", "one value"],
        ),
        Refusal::args(
            "argument in place of the conversation",
            1,
            &["generate", "{dir}", "Hello", "--template-arg", "messages=[]"],
            &["`messages` cannot be set", "leave it out"],
        ),
        Refusal::args(
            "argument for no template",
            1,
            &["generate", "{dir}", "Hello", "--raw", "--template-arg", "a=1"],
            &["--template-arg", "none is in use here", "leave it out"],
        ),
    ];
    check_all(&table, 16);
}

#[test]
fn messages_that_cannot_be_rendered() {
    let stdin = |name, stdin, told| Refusal { stdin, ..Refusal::args(name, 1, PROMPT, told) };
    let tools = |name, stdin, told| Refusal {
        make: |c| std::fs::write(c.scratch().join("messages.json"), HELLO).unwrap(),
        stdin,
        ..Refusal::args(name, 1, TOOLS, told)
    };
    let table = [
        Refusal::args(
            "no such file",
            1,
            &["prompt", "{dir}", "--messages", "{scratch}/none.json"],
            &["{scratch}/none.json", "cannot be read", "No such file"],
        ),
        Refusal::args(
            "directory",
            1,
            &["prompt", "{dir}", "--messages", "{scratch}"],
            &["{scratch} cannot be read", "Is a directory"],
        ),
        Refusal {
            make: |c| c.write("bad.json", b"[{\"role\": 'user'}]"),
            ..Refusal::args(
                "file that is no JSON",
                1,
                &["prompt", "{dir}", "--messages", "{dir}/bad.json"],
                &["{dir}/bad.json is not JSON", "line 1", "such as [{\"role\""],
            )
        },
        stdin("nothing", b"", &["standard input is not JSON", "such as [{\"role\""]),
        stdin("not UTF-8", b"[\"\xFF\"]", &["standard input is not text in UTF-8", "byte 2", "convert it"]),
        stdin("object", br#"{"role": "user"}"#, &["standard input is no JSON list", "such as [{\"role\""]),
        stdin("empty list", b"[]", &["the conversation is empty", "give at least one message"]),
        stdin("strings", br#"["Hello"]"#, &["message 0 is not an object", "such as"]),
        stdin("no role", br#"[{"content": "Hello"}]"#, &["tokenizer_config.json, line 1", "the conversation may lack"]),
        stdin("content that is no text", br#"[{"role": "user", "content": 5}]"#, &["tokenizer_config.json, line 1"]),
        tools("tools that are no JSON", b"now", &["standard input is not JSON", "\"type\": \"function\""]),
        tools("tools that are an object", b"{}", &["standard input is no JSON list", "\"type\": \"function\""]),
        tools("tool that is no object", b"[1]", &["tool 0 is not an object"]),
        Refusal::args(
            "everything from standard input",
            1,
            &["prompt", "{dir}", "--messages", "-", "--tools", "-"],
            &["--messages and --tools cannot both be standard input", "as a file"],
        ),
    ];
    check_all(&table, 14);
}

#[test]
fn prompts_that_cannot_be_read() {
    macro_rules! tokens {
        ($name:literal, $code:literal, $ids:literal, $($told:literal),+) => {
            Refusal::args($name, $code, &["logits", "{dir}", "--out", "{scratch}/out", "--tokens", $ids], &[$($told),+])
        };
    }
    let long = |name, args| Refusal { stdin: &[b'7'; 300], ..Refusal::args(name, 1, args, &["256", "shorten the "]) };
    let table = [
        Refusal::args("empty", 1, &["generate", "{dir}", ""], &["the prompt is empty", "give at least one token"]),
        Refusal::args("empty and raw", 1, &["generate", "{dir}", "", "--raw"], &["the prompt is empty"]),
        Refusal::args("nothing on standard input", 1, &["generate", "{dir}", "-"], &["the prompt is empty"]),
        Refusal::args(
            "empty for logits",
            1,
            &["logits", "{dir}", "--out", "{scratch}/out", "--prompt", ""],
            &["the prompt is empty"],
        ),
        Refusal::args(
            "none",
            1,
            &["generate", "{dir}"],
            &["there is no prompt", "give one after the model", "standard input"],
        ),
        long("longer than the context", &["generate", "{dir}", "-", "--raw"]),
        long("longer than the context, as a message", &["generate", "{dir}", "-"]),
        long("longer than the context, in a conversation", &["chat", "{dir}"]),
        Refusal {
            stdin: b"caf\xE9 au lait",
            ..Refusal::args(
                "not UTF-8",
                1,
                &["generate", "{dir}", "-"],
                &["standard input is not text in UTF-8", "byte 3", "convert it"],
            )
        },
        Refusal {
            stdin: b"caf\xE9 au lait\n",
            ..Refusal::args("not UTF-8, in a conversation", 1, &["chat", "{dir}"], &["standard input", "UTF-8"])
        },
        tokens!("token beyond the vocabulary", 1, "1,345,2", "token 345 at position 1", "345 tokens, 0 to 344"),
        tokens!("negative token", 2, "-1", "'-1'", "--tokens", "whole numbers with commas between, such as 1,2,3"),
        tokens!("word for a token", 2, "1,two", "'two'", "--tokens", "whole numbers with commas between"),
        tokens!("token beyond all numbers", 2, "4294967296", "'4294967296'", "--tokens"),
        tokens!("gap between tokens", 2, "1,,2", "--tokens", "whole numbers with commas between"),
        tokens!("no tokens", 2, "", "--tokens"),
    ];
    check_all(&table, 16);
}
