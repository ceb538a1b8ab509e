//! The variables a template sees, put together as transformers does.

use minijinja::Value as Template;
use serde_json::{Map, Value};

use super::error::ChatError;
use super::{GenerationPrompt, RenderRequest};
use crate::tokenizer::SpecialTokens;

/// Variables filled in from the request; template arguments may not replace them.
pub(super) const FROM_REQUEST: &[&str] = &["messages", "tools", "documents", "add_generation_prompt"];

/// Where models' reasoning is found in a message, the preferred name first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The variables for one rendering.
pub(super) fn variables(
    request: &RenderRequest<'_>,
    special: &SpecialTokens,
) -> Result<Vec<(String, Template)>, ChatError> {
    if request.messages.is_empty() {
        return Err(ChatError::NoMessages);
    }
    let messages: Vec<Value> = objects("message", request.messages, r#"{"role": "user", "content": "Hello"}"#)?
        .map(|message| Value::Object(normalized(message)))
        .collect();
    let tools =
        request.tools.map(|tools| objects("tool", tools, r#"{"type": "function", "function": {…}}"#).map(|_| tools));
    let documents = request
        .documents
        .map(|documents| objects("document", documents, r#"{"title": "…", "text": "…"}"#).map(|_| documents));
    let list = |items: Option<&[Value]>| match items {
        Some(items) => items.iter().map(to_template).collect(),
        None => Template::from(()),
    };
    let mut variables: Vec<(String, Template)> =
        special.named().map(|(name, token)| (name.to_owned(), Template::from(token))).collect();
    for (name, value) in request.args {
        variables.retain(|(known, _)| known != name);
        variables.push((name.clone(), to_template(value)));
    }
    let add_generation_prompt = request.generation_prompt == GenerationPrompt::Add;
    variables.extend([
        ("messages".to_owned(), list(Some(&messages))),
        ("tools".to_owned(), list(tools.transpose()?)),
        ("documents".to_owned(), list(documents.transpose()?)),
        ("add_generation_prompt".to_owned(), Template::from(add_generation_prompt)),
    ]);
    Ok(variables)
}

fn objects<'a>(
    what: &'static str,
    values: &'a [Value],
    example: &'static str,
) -> Result<impl Iterator<Item = &'a Map<String, Value>>, ChatError> {
    match values.iter().position(|value| !value.is_object()) {
        Some(index) => Err(ChatError::NotAnObject { what, index, example }),
        None => Ok(values.iter().filter_map(Value::as_object)),
    }
}

/// A message without its null entries, and with its reasoning under the names
/// that templates read.
fn normalized(message: &Map<String, Value>) -> Map<String, Value> {
    let present = message.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone()));
    let message: Map<String, Value> = present.collect();
    let reasoning = REASONING.iter().find_map(|name| message.get(*name)).cloned();
    let Some(reasoning) = reasoning else {
        return message;
    };
    let mut aliased = Map::new();
    aliased.insert("thinking".to_owned(), reasoning.clone());
    for (key, value) in message {
        aliased.insert(key, value);
    }
    aliased.insert("reasoning_content".to_owned(), reasoning);
    aliased
}

/// JSON as a template value, keys in their order.
pub(super) fn to_template(value: &Value) -> Template {
    match value {
        Value::Null => Template::from(()),
        Value::Bool(flag) => Template::from(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Template::from(number),
            (_, Some(number)) => Template::from(number),
            _ => Template::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Template::from(text.as_str()),
        Value::Array(items) => items.iter().map(to_template).collect(),
        Value::Object(entries) => {
            Template::from_pairs(entries.iter().map(|(key, value)| (Template::from(key.as_str()), to_template(value))))
        }
    }
}
